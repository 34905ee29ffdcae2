"""Requests of the SDK and the command to a real server: bodies from signatures, and answers in the caller's types."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
import skops.io
from serving_process import LABELS, ROWS, Server, serving, task_for
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from ultramarine.serving import messages
from ultramarine.serving.reading import path_of, read_data
from ultramarine.serving.signature import DataInvalid, Signature, signature_of
from ultramarine.serving.tables import is_array, is_frame, tensors

NAMES = ["radius", "texture", "area"]
FRAME = pd.DataFrame(ROWS[:, :3], columns=NAMES)
PEOPLE = pd.DataFrame(
    {
        "age": [20.0, 30.0, 60.0, 70.0] * 5,
        "plan": ["basic", "gold", None, "gold"] * 5,
        "children": [0, 1, 2, 3] * 5,
    }
)
LEFT = ["no", "no", "yes", "yes"] * 5


def requests(signature: Signature, data: Any) -> list[tuple[dict[str, str], bytes]]:
    """Return headers and body of each request for some data."""
    return [messages.request(signature, part) for part in messages.parts(signature, tensors(signature, data))]


class Served(NamedTuple):
    """An estimator behind a server."""

    estimator: Any
    server: Server
    signature: Signature

    def ask(self, data: Any) -> dict[str, Any]:
        """Return the outputs for some data, as Endpoint.infer() does."""
        pieces = []
        for headers, body in requests(self.signature, data):
            answer = httpx.post(f"{self.server.url}/v2/models/cancer/infer", content=body, headers=headers, timeout=240)
            assert answer.status_code == 200, answer.text
            arrays = is_array(data) or is_frame(data)
            pieces.append(messages.outputs(answer.headers, answer.content, arrays=arrays))
        return messages.joined(pieces)


def served(estimator: Any, server: Server) -> Served:
    """Read the signature of what a server serves."""
    return Served(estimator, server, signature_of(server.get("/v2/models/cancer").json()))


def of_estimator(estimator: Any, folder: Path) -> Iterator[Served]:
    """Serve an estimator as a .skops file."""
    skops.io.dump(estimator, folder / "model.skops")
    with serving(folder, task_for(folder / "model.skops", format="sklearn")) as server:
        yield served(estimator, server)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model of one matrix without names."""
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS[:, :3], LABELS)
    yield from of_estimator(estimator, tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model of one matrix whose columns have names."""
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(FRAME, LABELS)
    yield from of_estimator(estimator, tmp_path_factory.mktemp("named"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model with an input for each column: numbers, text, whole numbers as categories."""
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((encoder, ["plan", "children"]), (StandardScaler(), ["age"]))
    estimator = make_pipeline(columns, LogisticRegression()).fit(PEOPLE, LEFT)
    yield from of_estimator(estimator, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An ONNX file with inputs of 32 bits and of text, each a matrix of one column."""
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((encoder, ["plan"]), (StandardScaler(), ["age"]))
    people = PEOPLE[["age", "plan"]].fillna("none")
    estimator = make_pipeline(columns, LogisticRegression()).fit(people, LEFT)
    types = [("age", FloatTensorType([None, 1])), ("plan", StringTensorType([None, 1]))]
    folder = tmp_path_factory.mktemp("onnx")
    model = to_onnx(estimator, initial_types=types, options={"zipmap": False})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with serving(folder, task_for(folder / "model.onnx", format="onnx")) as server:
        yield served(estimator, server)


def test_arrays_and_lists_get_the_answer_in_their_type(matrix: Served) -> None:
    """An array gets arrays, bit for bit; lists get lists; a single row needs no list around it."""
    rows = ROWS[:50, :3]
    answer = matrix.ask(rows)
    assert np.array_equal(answer["predict"], matrix.estimator.predict(rows))
    assert np.array_equal(answer["predict_proba"], matrix.estimator.predict_proba(rows))
    lists = matrix.ask(rows.tolist())
    assert lists["predict"] == answer["predict"].tolist()
    assert lists["predict_proba"] == answer["predict_proba"].tolist()
    assert matrix.ask(rows[0])["predict"].tolist() == lists["predict"][:1]
    assert matrix.ask(rows[0].tolist())["predict"] == lists["predict"][:1]
    assert np.array_equal(matrix.ask(rows.astype("float32"))["predict"], answer["predict"])


def test_a_data_frame_without_known_names_goes_in_its_order(matrix: Served) -> None:
    """A model that was fitted on an array takes columns as they stand; another number of columns is refused."""
    assert np.array_equal(matrix.ask(FRAME)["predict"], matrix.estimator.predict(ROWS[:, :3]))
    with pytest.raises(DataInvalid, match="takes 3 values in a row; 2 columns came"):
        matrix.ask(FRAME[NAMES[:2]])


def test_named_columns_find_their_places(named: Served) -> None:
    """The order of a frame's columns, an object's names or columns by name is of no meaning."""
    expected = named.estimator.predict(FRAME[:20]).tolist()
    turned = FRAME[:20][["area", "radius", "texture"]]
    assert named.ask(turned)["predict"].tolist() == expected
    assert named.ask(turned.to_dict("records"))["predict"] == expected
    assert named.ask(turned.to_dict("list"))["predict"] == expected
    assert named.ask(turned.iloc[0].to_dict())["predict"] == expected[:1]
    assert named.ask(FRAME[:20].to_numpy())["predict"].tolist() == expected


def test_columns_of_text_and_missing_values(mixed: Served) -> None:
    """Frames with None, pandas' own missing values and categories answer as the estimator does."""
    expected = mixed.estimator.predict(PEOPLE).tolist()
    odd = PEOPLE.astype({"plan": "category", "children": "Int64"})
    for data in (PEOPLE, odd, PEOPLE.astype({"children": float})):
        assert mixed.ask(data)["predict"].tolist() == expected
    records = PEOPLE.to_dict("records")
    assert mixed.ask(records)["predict"] == expected
    assert mixed.ask([list(row.values()) for row in records])["predict"] == expected
    assert mixed.ask({"plan": "gold", "age": 70.0, "children": 3})["predict"] == ["yes"]


def test_tensors_of_32_bits_and_of_one_column(onnx: Served) -> None:
    """Doubles become floats, and single values a matrix of one column."""
    people = PEOPLE[["age", "plan"]].fillna("none")
    expected = onnx.estimator.predict(people).tolist()
    answer = onnx.ask(people)
    assert answer[onnx.signature.outputs[0].name].tolist() == expected
    assert onnx.ask(people.to_dict("records"))[onnx.signature.outputs[0].name] == expected


def test_large_tables_go_in_parts(mixed: Served) -> None:
    """More rows than fit into one request are asked in several, and answered as one."""
    many = pd.concat([PEOPLE] * 3000, ignore_index=True)
    made = tensors(mixed.signature, many)
    assert len(list(messages.parts(mixed.signature, made))) == 3
    assert np.array_equal(mixed.ask(many)["predict"], np.array(LEFT * 3000, dtype=object))


@pytest.mark.parametrize("name", ["matrix", "named", "mixed", "onnx"])
def test_the_example_of_a_signature_is_answered(name: str, request: pytest.FixtureRequest) -> None:
    """`endpoints test` has a row for each model."""
    model: Served = request.getfixturevalue(name)
    row = model.signature.example()
    answer = model.ask(row if isinstance(row, dict) else [row])
    assert all(len(values) == 1 for values in answer.values())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("named", [{"radius": 1, "texture": 2, "aera": 3}], "column 'aera' is not an input .* Did you mean 'area'"),
        ("named", [{"radius": 1, "texture": 2, "area": 3, "diagnosis": 0}], "'diagnosis' .* Remove the column"),
        ("named", [{"radius": 1, "texture": 2}], "column 'area' is missing"),
        ("named", pd.DataFrame({"radius": ["x"], "texture": [1.0], "area": [1.0]}), "'radius' holds text"),
        ("mixed", [[20, "basic"]], "row 0 must be a list of 3 values: age, plan, children|row 0 must be"),
        ("mixed", PEOPLE.assign(plan=1.0), "'plan' is text in the model, and numbers came"),
        ("mixed", PEOPLE.assign(age=pd.Timestamp("2026-01-01")), "holds a Timestamp"),
        ("mixed", PEOPLE[:0], "there are no rows"),
        ("mixed", {"age": [1, 2], "plan": ["a"], "children": [1]}, "lists of one length"),
        ("mixed", [{"age": 1, "plan": "a", "children": 1}, {"age": 1}], "row 1 does not have the same names"),
        ("mixed", [{"age": float("inf"), "plan": "a", "children": 1}], "infinite"),
        ("mixed", 7, "rows must be a list"),
        ("mixed", np.zeros((2, 4)), r"takes 3 columns; shape \[2, 4\] came"),
    ],
)
def test_rows_that_do_not_fit_are_named(name: str, data: Any, message: str, request: pytest.FixtureRequest) -> None:
    """The column, the nearest name and the remedy, before anything is sent."""
    model: Served = request.getfixturevalue(name)
    with pytest.raises(DataInvalid, match=message):
        requests(model.signature, data)


@pytest.mark.parametrize("shape", [[-1], [-1, 1]])
def test_the_only_column_must_have_its_name(shape: list[int]) -> None:
    """A wrong name is refused, as by the server; a model that was fitted without names takes any."""
    tensor = {"name": "amount", "datatype": "FP64", "shape": shape}
    signature = signature_of({"name": "m", "inputs": [tensor], "outputs": []})
    for right in ({"amount": [1.0]}, [{"amount": 1.0}], pd.DataFrame({"amount": [1.0]}), [1.0], [[1.0]]):
        assert tensors(signature, right)[0].rows == 1
    for wrong in ({"amonut": [1.0]}, [{"amonut": 1.0}], {"amonut": 1.0}, pd.DataFrame({"amonut": [1.0]})):
        with pytest.raises(DataInvalid, match=r"'amonut' is not an input of model m: amount\. Did you mean 'amount'"):
            tensors(signature, wrong)
    nameless = signature_of({"name": "m", "inputs": [tensor | {"name": "input"}], "outputs": []})
    assert tensors(nameless, pd.DataFrame({"review": [1.0]}))[0].rows == 1


def test_whole_numbers_are_not_rounded() -> None:
    """A column of fractions for an input of whole numbers is refused; whole doubles are converted."""
    tensor = {"name": "count", "datatype": "INT64", "shape": [-1]}
    signature = signature_of({"name": "m", "inputs": [tensor, {**tensor, "name": "other"}], "outputs": []})
    [made, _] = tensors(signature, {"count": np.array([1.0, 2.0]), "other": np.array([1, 2])})
    assert made.values.dtype == np.int64
    with pytest.raises(DataInvalid, match="'count' has missing values or fractions; the model takes INT64"):
        tensors(signature, {"count": np.array([1.5, 2.0]), "other": np.array([1, 2])})


def test_images_keep_their_shape() -> None:
    """A tensor of four dimensions goes as it is, and a single image gets a dimension for rows."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 3]}
    signature = signature_of({"name": "m", "inputs": [tensor], "outputs": []})
    for data in (np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 3)).tolist()):
        assert tensors(signature, data)[0].shape == [2, 8, 8, 3]
    assert tensors(signature, np.zeros((8, 8, 3)))[0].shape == [1, 8, 8, 3]
    assert np.array(signature.example()).shape == (8, 8, 3)


def test_files_are_read_in_the_types_of_the_signature(mixed: Served, tmp_path: Path) -> None:
    """CSV, TSV, Parquet, JSON and JSON lines of the same rows give the same answers."""
    expected = mixed.estimator.predict(PEOPLE).tolist()
    PEOPLE.to_csv(tmp_path / "rows.csv", index=False)
    PEOPLE.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    PEOPLE.to_parquet(tmp_path / "rows.parquet")
    PEOPLE.to_json(tmp_path / "rows.json", orient="records")
    PEOPLE.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    for suffix in ("csv", "tsv", "parquet", "json", "jsonl"):
        rows = read_data(f"@{tmp_path / f'rows.{suffix}'}", mixed.signature)
        assert mixed.ask(rows)["predict"] == expected, suffix


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rows.csv", "age,plan,children\nold,basic,1\n", r"rows.csv:2: column 'age' has 'old'; the model takes FP64"),
        ("rows.csv", "age,plan,children\n20,basic\n", "rows.csv:2: 2 values; the first line has 3"),
        ("rows.csv", "age,age\n1,2\n", "different names"),
        ("rows.csv", "", "needs a first line"),
        ("rows.json", "[[1,", "is not JSON"),
        ("rows.parquet", "no", "is not Parquet"),
    ],
)
def test_wrong_files_are_named(mixed: Served, tmp_path: Path, file: str, content: str, message: str) -> None:
    """File, line, column and cause."""
    (tmp_path / file).write_text(content)
    with pytest.raises(DataInvalid, match=message):
        read_data(f"@{tmp_path / file}", mixed.signature)
    with pytest.raises(DataInvalid, match="the file does not exist"):
        read_data(f"@{tmp_path / 'absent'}", mixed.signature)


def test_documents_of_the_protocol_go_as_they_are(mixed: Served, named: Served) -> None:
    """Whole requests are recognised, and rows are not mistaken for them."""
    whole = {"inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "data": [1]}]}
    assert path_of(whole, mixed.signature) == "/v2/models/cancer/infer"
    assert path_of({"dataframe_records": [{"age": 1}]}, mixed.signature) == "/score"
    assert path_of({"data": [[1, "a", 1]]}, mixed.signature) == "/score"
    assert path_of({"age": [1], "plan": ["a"], "children": [1]}, mixed.signature) == ""
    assert path_of(json.loads("[[1, 2, 3]]"), named.signature) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rows.csv", r"rows.csv has semicolons between its columns\. Save it with commas, or tabs as \.tsv\."),
        ("rows.xlsx", r"rows.xlsx is a spreadsheet\. Save it as \.csv"),
    ],
)
def test_tables_of_spreadsheets_are_refused_with_what_to_save(tmp_path: Path, name: str, sentence: str) -> None:
    """By the first line of a .csv, and by the suffix of another file."""
    (tmp_path / name).write_text("radius;texture\n1;2\n")
    with pytest.raises(DataInvalid, match=sentence):
        read_data(f"@{tmp_path / name}", None)


def test_standard_input_is_json_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CSV there is refused in these words."""
    monkeypatch.setattr("sys.stdin", io.StringIO("radius,texture\n1,2\n"))
    with pytest.raises(DataInvalid, match="standard input, which takes no CSV, is not JSON"):
        read_data("@-", None)


def test_a_file_without_an_at_sign_is_named(tmp_path: Path) -> None:
    """The message has the option to write, and that of a file of another sort names the suffixes."""
    file = tmp_path / "train.py"
    file.write_text("import sys\n")

    with pytest.raises(DataInvalid, match=f"is a file. Write --data @{file} "):
        read_data(str(file), None)
    with pytest.raises(
        DataInvalid, match=r"is not JSON: .* with the suffix \.json, \.jsonl, \.csv, \.tsv or \.parquet\."
    ):
        read_data(f"@{file}", None)
    with pytest.raises(DataInvalid, match="or @FILE"):
        read_data("x" * 10_000, None)
