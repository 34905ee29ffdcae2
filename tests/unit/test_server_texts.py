"""Models of tables with columns of text: what they say that they take, and what a missing text is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from asking import infer
from jsonschema import Draft202012Validator
from serving_inside import inside, service_of
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from test_server_compiling import compiled
from test_server_score import scored
from ultramarine_contract.common import COMPILED_NAME
from ultramarine_server.compiling.compile import ARTIFACT
from ultramarine_server.errors import BadRequest
from ultramarine_server.formats.onnx import OnnxModel
from ultramarine_server.http import openapi
from ultramarine_server.models.columns import Column, learned, with_examples
from ultramarine_server.models.compiled import KNOWN_TEXTS, MISSING_TEXTS, SIGNATURE, CompiledModel
from ultramarine_server.models.estimator import SklearnModel
from ultramarine_server.models.model import Loaded, TensorSpec, signature_from

PLANS, AGES, YEARS = ["a", "b", "a", "b", "c", "c"], [20.0, 30.0, 60.0, 70.0, 40.0, 50.0], [1, 2, 3, 1, 2, 3]
ANSWERS = [0, 1, 0, 1, 1, 0]
COLUMNS = [("age", "FP64", [-1]), ("plan", "BYTES", [-1]), ("year", "INT64", [-1])]


def frame(*, empty: Any = ..., place: int = 4) -> pd.DataFrame:
    """Rows of a plan, an age and a year; `empty` stands for a missing plan."""
    plans = pd.Series(PLANS, dtype=object)
    if empty is not ...:
        plans[place] = empty
    return pd.DataFrame({"age": AGES, "plan": plans, "year": YEARS})


def fitted(encoder: Any, rows: pd.DataFrame, final: Any = None) -> Any:
    """A pipeline of the encoder for plans, scaled ages, and years as categories."""
    columns = make_column_transformer(
        (encoder, ["plan"]), (StandardScaler(), ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["year"])
    )
    return make_pipeline(columns, LogisticRegression() if final is None else final).fit(rows, ANSWERS)


ENCODERS: dict[str, Callable[[], Any]] = {
    "one-hot": OneHotEncoder,
    "one-hot, unknown ignored": lambda: OneHotEncoder(handle_unknown="ignore"),
    "ordinal": lambda: OrdinalEncoder(encoded_missing_value=-1),
    "imputed": lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
    "behind a function": lambda: make_pipeline(FunctionTransformer(), OneHotEncoder()),
    "imputed by a word": lambda: make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder()),
}


def column(name: str, datatype: str, *values: Any) -> dict[str, Any]:
    """An input of the protocol."""
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": list(values)}


def asked(model: Any, *columns: dict[str, Any]) -> dict[str, Any]:
    """The data of the outputs by name."""
    answer = json.loads(infer(model, "m", "1", json.dumps({"inputs": columns}).encode()))
    return {output["name"]: output["data"] for output in answer["outputs"]}


@pytest.mark.parametrize(
    ("kind", "empty"), [*((kind, np.nan) for kind in ENCODERS), ("one-hot, unknown ignored", None), ("imputed", None)]
)
def test_a_missing_text_is_null_and_is_answered_as_in_python(kind: str, empty: Any) -> None:
    """Whatever the model was fitted with, alone or among texts, by each way in."""
    encoder = ENCODERS[kind]()
    if kind.startswith("imputed"):
        encoder.steps[0][1].set_params(missing_values=empty)
    rows = frame(empty=empty)
    estimator = fitted(encoder, rows)
    model = SklearnModel(estimator)
    expected = estimator.predict_proba(rows)

    plans = [None if plan is empty else plan for plan in rows["plan"]]
    columns = column("plan", "BYTES", *plans), column("age", "FP64", *AGES), column("year", "INT64", *YEARS)
    np.testing.assert_allclose(np.reshape(asked(model, *columns)["predict_proba"], (-1, 2)), expected)
    alone = {"dataframe_records": [{"age": AGES[4], "plan": None, "year": YEARS[4]}]}
    np.testing.assert_allclose(scored(model, alone)["probabilities"], expected[4:5])
    table = [list(row) for row in zip(AGES, plans, YEARS, strict=True)]
    for body in (table, {"dataframe_split": {"columns": ["age", "plan", "year"], "data": table}}):
        np.testing.assert_allclose(scored(model, body)["probabilities"], expected)
    np.testing.assert_allclose(scored(model, [[AGES[4], float("nan"), YEARS[4]]])["probabilities"], expected[4:5])
    given = {
        "inputs": [
            {"name": n, "datatype": d, "shape": [-1]}
            for n, d in (("age", "FP64"), ("plan", "BYTES"), ("year", "INT64"))
        ]
    }
    np.testing.assert_allclose(scored(SklearnModel(estimator, signature_from(given)), table)["probabilities"], expected)


def test_a_given_signature_of_columns_gets_examples_and_stays_strict() -> None:
    """Whoever registered it or MLflow wrote it: its datatypes are what is taken."""
    given = [("age", "FP64"), ("plan", "BYTES"), ("year", "INT64")]
    document = {"inputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in given]}
    model = SklearnModel(fitted(OneHotEncoder(), frame()), signature_from(document))

    page = openapi.document(Loaded("m", "1", "mlflow_folder", model), keyed=False)
    [request] = page["components"]["schemas"]["Request"]["examples"]
    assert asked(model, *request["inputs"])["predict"] == [0]
    with pytest.raises(BadRequest, match="input 'year': datatype INT64 expected, FP64 came"):
        asked(model, *request["inputs"][:2], column("year", "FP64", 1))


def test_an_example_of_a_boolean_is_true_or_false() -> None:
    """The example is a boolean, with values of the column or without any."""
    given = [TensorSpec(name, "BOOL", (-1,)) for name in ("paid", "open")]

    shown = [spec.parameters["example"] for spec in with_examples(given, {"paid": Column("FP64", 1.0)})]

    assert [*map(repr, shown)] == ["True", "False"]


def test_a_model_that_takes_no_missing_text_says_so_in_its_words_and_names_the_column() -> None:
    """Both a category that it never saw, and a text that a vectorizer lacks."""
    with pytest.raises(BadRequest, match=r"Found unknown categories \[nan\] in column 0.*; 'plan' had a missing value"):
        scored(SklearnModel(fitted(OneHotEncoder(), frame())), [[20, None, 1]])
    text = make_pipeline(CountVectorizer(token_pattern="."), LogisticRegression()).fit(PLANS, ANSWERS)
    with pytest.raises(BadRequest, match=r"np\.nan is an invalid document.*; 'input' had a missing value"):
        scored(SklearnModel(text), ["a", None])


def test_metadata_and_the_page_say_a_column_each() -> None:
    """Names and datatypes as fitted, and an example that is answered."""
    model = SklearnModel(fitted(OneHotEncoder(), frame()))
    loaded = Loaded("m", "1", "sklearn_skops", model)

    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in model.signature.inputs] == COLUMNS
    schemas = openapi.document(loaded, keyed=False)["components"]["schemas"]
    [request], [rows] = schemas["Request"]["examples"], schemas["Rows"]["examples"]
    assert request["inputs"][1] == column("plan", "BYTES", "a")
    assert asked(model, *request["inputs"])["predict"] == scored(model, rows)["predictions"]
    for name, example in (("Request", request), ("Rows", rows)):
        Draft202012Validator(schemas[name]).validate(example)


def test_other_estimators_tell_their_texts_too() -> None:
    """A search, a regressor of turned targets, a union, and arrays without names."""
    ignoring = fitted(OneHotEncoder(handle_unknown="ignore"), frame())
    search = GridSearchCV(ignoring, {"logisticregression__C": [1.0]}, cv=2)
    turned = TransformedTargetRegressor(regressor=fitted(OneHotEncoder(), frame(), LinearRegression()))
    union = make_pipeline(FeatureUnion([("one", OneHotEncoder())]), LogisticRegression())
    array = np.array([PLANS, YEARS], dtype=object).T
    places = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1]))

    for estimator in (search, turned):
        assert SklearnModel(estimator.fit(frame(), ANSWERS)).signature.inputs[1].datatype == "BYTES"
    single = SklearnModel(union.fit(frame()[["plan"]], ANSWERS))
    assert [(spec.name, spec.datatype) for spec in single.signature.inputs] == [("plan", "BYTES")]
    bare = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(array[:, :1], ANSWERS)
    numbered = make_pipeline(places, LogisticRegression()).fit(array, ANSWERS)
    assert [(spec.name, spec.datatype) for spec in SklearnModel(numbered).signature.inputs] == [
        ("x0", "BYTES"),
        ("x1", "FP64"),
    ]
    for model, rows in (
        (single, [["a"], ["b"]]),
        (SklearnModel(bare), [["a"], ["b"]]),
        (SklearnModel(numbered), [["a", 1], ["b", 2]]),
    ):
        assert scored(model, rows)["predictions"] == [0, 1]


class Own(LogisticRegression):
    """An estimator with names of its own for what scikit-learn has other values in."""

    transformer_list = None


def test_what_is_unknown_or_forged_tells_nothing() -> None:
    """A class of the user's own loads as before, and parts within one another end."""
    assert SklearnModel(Own().fit([[0.0], [1.0]], [0, 1])).signature.inputs[0].datatype == "FP64"
    endless: Any = make_pipeline(OneHotEncoder())
    for _ in range(40):
        endless = FeatureUnion([("one", endless), ("other", endless)])
    endless.transformer_list.append(("itself", endless))
    assert learned(endless, 1) == {}


def test_numbers_for_a_text_are_refused_by_the_columns_name() -> None:
    """Zeros in place of words would be answered with a label that means nothing."""
    estimator = fitted(OneHotEncoder(handle_unknown="ignore"), frame())
    inferred = SklearnModel(estimator)
    whole = {"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}
    matrix = SklearnModel(
        estimator, signature_from({"inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}]})
    )
    numbers = [column(name, "FP64", 1) for name in ("age", "plan", "year")]

    for model in (inferred, matrix):
        with pytest.raises(
            BadRequest, match=r"input 'plan': .*BYTES expected, FP64 came; it is text: send its values as s"
        ):
            asked(model, *numbers)
    with pytest.raises(BadRequest, match=r"'plan' \(BYTES.*; send each column as an input of its own"):
        asked(inferred, whole)
    with pytest.raises(BadRequest, match="column 'plan' is text, and numbers came"):
        asked(matrix, whole)
    with pytest.raises(BadRequest, match=r"feature 'plan': data must be strings for BYTES, or null .*; 2 came"):
        scored(inferred, [[1, 2, 3]])
    assert asked(inferred, *[*numbers[::2], column("plan", "BYTES", "b")])["predict"] == [1]


def test_text_for_a_number_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    """The encoder does not know the year "2": its answer would be that of an unknown year."""
    estimator = fitted(OneHotEncoder(handle_unknown="ignore"), frame())
    verdict, converted = compiled(tmp_path, estimator)
    assert verdict.reason == "", verdict.message
    others = column("age", "FP64", 20), column("plan", "BYTES", "a")
    for model in (SklearnModel(estimator), converted):
        for year in ("2", "banana"):
            with pytest.raises(BadRequest, match="column 'year' holds numbers, and text came: send its values as num"):
                asked(model, *others, column("year", "BYTES", year))
            with pytest.raises(BadRequest, match="column 'year' holds numbers"):
                scored(model, [{"age": 20, "plan": "a", "year": year}])
        assert asked(model, *others, column("year", "INT8", 2)) == asked(model, *others, column("year", "INT64", 2))
    with pytest.raises(BadRequest, match="column 'age' holds numbers"):
        asked(converted, column("age", "BYTES", "20"), others[1], column("year", "INT64", 2))
    empty, unknown = column("year", "BYTES", None), column("year", "INT64", 9)
    assert asked(SklearnModel(estimator), *others, empty) == asked(SklearnModel(estimator), *others, unknown)
    with pytest.raises(BadRequest, match="INT64 expected, a missing value came"):
        asked(converted, *others, empty)

    array = np.array([PLANS, YEARS], dtype=object).T
    places = make_column_transformer((OneHotEncoder(), [0]), (OneHotEncoder(handle_unknown="ignore"), [1]))
    whole = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [-1, 2]}]}
    matrix = SklearnModel(make_pipeline(places, LogisticRegression()).fit(array, ANSWERS), signature_from(whole))
    with pytest.raises(BadRequest, match=r"column 1 holds numbers, and text came: .*; send each column as an input"):
        asked(matrix, {"name": "input", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "2"]})
    single = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [-1]}]}
    encoder = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(
        frame()[["year"]], ANSWERS
    )
    with pytest.raises(BadRequest, match="column 'year' holds numbers"):
        asked(SklearnModel(encoder, signature_from(single)), column("input", "BYTES", "2"))


def test_a_compiled_matrix_refuses_text_by_the_columns_name(tmp_path: Path) -> None:
    """The graph has one input, whose name the client does not know; null is a missing number here, too."""
    ages, years = np.array(AGES), np.array(YEARS)
    rows = pd.DataFrame({"age": ages, "year": years})
    verdict, model = compiled(tmp_path, make_pipeline(SimpleImputer(), LogisticRegression()).fit(rows, ANSWERS))
    assert verdict.reason == "", verdict.message
    for rows_ in ([[20, "x"]], [{"year": "x", "age": 20}]):
        with pytest.raises(BadRequest, match=r"column 'year': data must hold FP|column 'year' holds numbers"):
            scored(model, rows_)
    age, mean = column("age", "FP64", 20), column("year", "FP64", years.mean())
    with pytest.raises(BadRequest, match="column 'year' holds numbers, and text came"):
        asked(model, age, column("year", "BYTES", "2"))
    assert asked(model, age, column("year", "BYTES", None)) == asked(model, age, mean)


def test_a_function_may_read_numbers_of_text() -> None:
    """The encoder behind it knows what the function gives, not what the client sends."""
    texts = pd.DataFrame({"year": [str(year) for year in YEARS]})
    model = SklearnModel(
        make_pipeline(FunctionTransformer(years), OneHotEncoder(), LogisticRegression()).fit(texts, ANSWERS)
    )
    text, number = (asked(model, column("year", *year))["predict_proba"] for year in (("BYTES", "2"), ("INT64", 2)))
    assert text == number


def years(texts: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers, whatever they were."""
    return texts.astype(int)


def test_the_server_says_the_columns_and_answers_its_own_examples() -> None:
    """By HTTP: metadata, the page's examples, and null by infer, score and invocations."""
    rows = frame(empty=np.nan)
    estimator = fitted(OneHotEncoder(), rows)
    missing = {"age": 40, "plan": None, "year": 2}

    async def story() -> list[Any]:
        async with inside(service_of(SklearnModel(estimator)), body_limit=10_000) as server:
            client = await server.client()

            async def answer(method: str, path: str, document: Any = None) -> Any:
                client.ask(method, path, json.dumps(document).encode() if document else b"")
                got = await client.answer()
                assert got.status == 200, got.body
                return json.loads(got.body)

            metadata = await answer("GET", "/v2/models/double")
            schemas = (await answer("GET", "/openapi.json"))["components"]["schemas"]
            infer_body, score_body = (schemas[name]["examples"][0] for name in ("Request", "Rows"))
            assert await answer("POST", "/v2/models/double/infer", infer_body)
            assert await answer("POST", "/score", score_body)
            inputs = [{**tensor, "data": [missing[tensor["name"]]]} for tensor in infer_body["inputs"]]
            return [
                metadata["inputs"],
                (await answer("POST", "/v2/models/double/infer", {"inputs": inputs}))["outputs"][0]["data"],
                (await answer("POST", "/score", [missing]))["predictions"],
                (await answer("POST", "/invocations", {"dataframe_records": [missing]}))["predictions"],
            ]

    inputs, *answers = asyncio.run(story())
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in inputs] == COLUMNS
    assert answers == [estimator.predict(rows)[4:5].tolist()] * 3


# Compiled


@pytest.mark.parametrize("empty", [None, np.nan], ids=["None", "NaN"])
def test_a_compiled_model_takes_the_texts_that_the_native_one_takes(tmp_path: Path, empty: Any) -> None:
    """Missing texts have their answers, and the converter's word for them, as a text, has none; so for unknown ones."""
    rows = frame(empty=empty)
    encoders = OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder(encoded_missing_value=-1)
    for encoder in encoders[: 1 if empty is None else 2]:
        estimator = fitted(encoder, rows)
        verdict, model = compiled(tmp_path, estimator)
        native = SklearnModel(estimator)
        assert (verdict.reason, model.signature) == ("", native.signature), verdict.message
        for plan in ("a", None, "nan", "None", "unheard of"):
            columns = column("plan", "BYTES", plan, "b"), column("age", "FP64", 20, 30), column("year", "INT64", 1, 2)
            try:
                expected = asked(native, *columns)["predict_proba"]
            except BadRequest:
                with pytest.raises(BadRequest, match="feature 'plan' has unknown categories"):
                    asked(model, *columns)
            else:
                np.testing.assert_allclose(asked(model, *columns)["predict_proba"], expected, rtol=1e-5)


def test_a_compiled_model_refuses_a_missing_text_and_numbers_as_the_native_one_does(tmp_path: Path) -> None:
    """By the column's name; also one that an earlier release compiled, which showed a matrix of numbers."""
    verdict, model = compiled(tmp_path, fitted(OneHotEncoder(), frame()))
    assert verdict.reason == "", verdict.message
    columns = [column("age", "FP64", 20), column("year", "FP64", 2)]
    with pytest.raises(BadRequest, match="feature 'plan' has a missing value"):
        asked(model, *columns, column("plan", "BYTES", None))
    with pytest.raises(BadRequest, match="input 'plan': datatype BYTES expected, FP64 came; it is text"):
        asked(model, *columns, column("plan", "FP64", 0))

    session = OnnxModel(tmp_path / "out" / ARTIFACT / COMPILED_NAME, 1)
    shown = {"name": "input", "datatype": "FP64", "shape": [-1, 3], "parameters": {"feature_names": "age, plan, year"}}
    session.metadata[SIGNATURE] = json.dumps({**model.signature.to_dict(), "inputs": [shown]})
    for name in (MISSING_TEXTS, KNOWN_TEXTS):
        session.metadata.pop(name, None)
    earlier = CompiledModel(session)
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in earlier.signature.inputs] == COLUMNS
    assert asked(earlier, *columns, column("plan", "BYTES", "a"))["predict"] == [0]
    with pytest.raises(BadRequest, match="feature 'plan' has a missing value"):
        asked(earlier, *columns, column("plan", "BYTES", None))
    bare = {"age": np.ones((1, 1)), "year": np.ones((1, 1), np.int64), "plan": np.array([[None]], dtype=object)}
    with pytest.raises(BadRequest, match="null came, and ONNX has no missing text"):
        session.predict(bare, ["predict"])
