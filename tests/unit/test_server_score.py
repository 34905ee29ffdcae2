"""Plain rows in, plain predictions out; and the page that describes this and the rest of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving_inside import Doubling
from serving_process import KEY, ROWS, Server, serving, task_for
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from ultramarine_server.errors import BadRequest
from ultramarine_server.http import openapi, score
from ultramarine_server.inference.service import check_inputs, select_outputs, typed
from ultramarine_server.models.estimator import SklearnModel
from ultramarine_server.models.model import Loaded, Model, signature_from


def scored(model: Model, document: Any) -> dict[str, Any]:
    """The answer's document, as lists."""
    inference = score.read(model, "m", document)
    specs = select_outputs(model, inference.outputs)
    results = model.predict(check_inputs(model, inference.inputs), [spec.name for spec in specs])
    answer = score.write(typed(specs, results))
    return {name: np.asarray(values).tolist() for name, values in answer.items()}


@pytest.fixture(scope="module")
def mixed() -> SklearnModel:
    """A classifier of a number and a word, fitted on a data frame."""
    import pandas as pd

    frame = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "plan": ["a", "b", "a", "b"]})
    words = make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough")
    return SklearnModel(make_pipeline(words, LogisticRegression()).fit(frame, ["no", "no", "yes", "yes"]))


MIXED = [[20, "b"], [70, "a"]]
TABLE = {"columns": ["age", "plan"], "index": [0, 1], "data": MIXED}
TURNED = {"columns": ["plan", "age"], "data": [["b", 20], ["a", 70]]}
OBJECTS = [{"age": 20, "plan": "b"}, {"plan": "a", "age": 70}]


@pytest.mark.parametrize(
    "document",
    [
        MIXED,
        {"data": MIXED},
        {"input_data": MIXED},
        {"input_data": TABLE},
        {"data": TABLE},
        {"input_data": TURNED},
        OBJECTS,
        {"data": OBJECTS},
        {"input_data": OBJECTS, "params": {}},
        {**TABLE},
        {"dataframe_split": TABLE},
        {"dataframe_split": TURNED},
        {"dataframe_records": OBJECTS},
        {"instances": MIXED},
        {"instances": OBJECTS},
        {"inputs": {"plan": ["b", "a"], "age": [20, 70]}},
        {"inputs": MIXED},
    ],
)
def test_rows_may_come_in_each_usual_form(mixed: SklearnModel, document: Any) -> None:
    """Lists, objects, and a table with its columns, bare or in data or input_data, say the same."""
    answer = scored(mixed, document)

    assert answer["predictions"] == ["no", "yes"]
    np.testing.assert_allclose(np.sum(answer["probabilities"], axis=1), [1, 1])


def test_a_regressor_has_no_probabilities() -> None:
    """Only what the model gives is answered."""
    model = SklearnModel(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]))

    assert list(scored(model, [[3]])) == ["predictions"]
    np.testing.assert_allclose(scored(model, [[3]])["predictions"], [6])


def test_a_text_model_takes_a_list_of_texts() -> None:
    """A row of one value is that value."""
    model = SklearnModel(make_pipeline(CountVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0]))

    assert scored(model, {"data": ["good", "bad"]})["predictions"] == [1, 0]


def test_inputs_of_one_column_each_are_the_rows_values() -> None:
    """A signature of columns takes rows in its order, or objects by its names."""
    document = {"inputs": [{"name": n, "datatype": "FP64", "shape": [-1, 1]} for n in "ab"]}
    X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    model = SklearnModel(LogisticRegression().fit(X, [0, 0, 1, 1]), signature_from(document))

    assert scored(model, [[0, 0], [3, 3]])["predictions"] == [0, 1]
    assert scored(model, [{"b": 0, "a": 0}, {"b": 3, "a": 3}])["predictions"] == [0, 1]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "the body needs exactly one of data, input_data, dataframe_split"),
        ({"data": MIXED, "input_data": MIXED}, "the body needs exactly one of data, input_data"),
        ({"data": MIXED, "params": {"temperature": 1}}, "params are not supported"),
        ({"dataframe_records": TABLE}, "dataframe_records must be a list of rows"),
        ({"dataframe_split": {"columns": ["age"]}}, "dataframe_split needs data, a list of rows"),
        ({"inputs": {"age": [1, 2], "plan": ["a"]}}, "must be lists of one length"),
        ({"inputs": {"age": 1, "plan": "a"}}, "must be lists of one length"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}, "to /v2/models/m/infer"),
        ({"data": []}, "there are no rows"),
        ({"data": "rows"}, "there are no rows"),
        (3, "there are no rows"),
        (None, "there are no rows"),
        ({"input_data": {"columns": ["age"]}}, "input_data needs data, a list of rows"),
        ({"input_data": {"columns": "age", "data": MIXED}}, "columns must be a list of names"),
        ({"input_data": {"columns": ["age", "age"], "data": MIXED}}, "names a column twice"),
        ({"input_data": {"columns": ["age"], "data": [[1]]}}, "feature 'plan' is missing; the model takes age, plan"),
        ({"input_data": {"columns": ["age", "plan", "x"], "data": [[1, "a", 2]]}}, "feature 'x' is unknown"),
        ({"input_data": {"columns": ["age", "plan"], "data": OBJECTS}}, "rows are lists where columns are named"),
        ([{"age": 20}], "feature 'plan' is missing"),
        ([{"age": 20, "plan": "b"}, {"age": 20}], "row 1 does not have the same names as row 0"),
        ([{"age": 20, "plan": "b"}, 3], "row 1 does not have the same names as row 0"),
        ([[20, "b"], [20]], "row 1 must be a list of 2 values"),
        ([[20, "b"], "a"], "row 1 must be a list of 2 values"),
        ([["x", "b"], [20, "b"]], "feature 'age': data must hold FP64 values"),
        ([[20, "b"], [20, None]], "unknown categories [nan] in column 0 during transform; 'plan' had a missing value"),
        ([[20, "unheard of"]], "the model cannot take these values"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_words(mixed: SklearnModel, document: Any, words: str) -> None:
    """The message names the row or the feature, and what is wanted."""
    with pytest.raises(BadRequest) as caught:
        scored(mixed, document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([[1, 2, 3]], "input 'x': shape [-1, 2] expected, [1, 3] came"),
        ([[1, 2], [3]], "data is nested unevenly"),
        ([[1, 2], [3, "4"]], "column 1: data must hold FP64 values"),
        ([{"a": 1, "b": 2}], "this model does not know its features' names"),
        ([1, 2], "shape [-1, 2] expected"),
    ],
)
def test_a_matrix_without_names_takes_rows_of_its_width(document: Any, words: str) -> None:
    """Without names, only the order counts."""
    with pytest.raises(BadRequest) as caught:
        scored(Doubling(), document)
    assert words in str(caught.value)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("document", [[{"x": 4}], {"columns": ["x"], "data": [[4]]}, {"inputs": {"x": [4]}}])
def test_a_single_input_of_one_column_is_known_by_its_name(shape: tuple[int, ...], document: Any) -> None:
    """A row names its only value as it names several."""
    assert np.ravel(scored(Doubling(shape), document)["predictions"]).tolist() == [8]


def test_a_single_text_is_known_by_its_name() -> None:
    """A text in a list of one value still is a row, too."""
    document = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]}
    fitted = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0])
    model = SklearnModel(fitted, signature_from(document))

    for rows in ([{"text": "good"}], [["good"]], ["good"]):
        assert scored(model, rows)["predictions"] == [1]


def test_null_is_a_missing_value_of_a_row() -> None:
    """In a matrix, in a column that the signature calls floating, and in one whose datatype is not told."""
    rows = np.array([[0.0, 1.0], [1.0, np.nan], [2.0, 1.0], [3.0, 0.0]])
    frame = pd.DataFrame(rows, columns=["a", "b"])
    fitted = make_pipeline(SimpleImputer(), LogisticRegression())
    matrix = SklearnModel(clone(fitted).fit(rows, [0, 0, 1, 1]))
    named = SklearnModel(clone(fitted).fit(frame, [0, 0, 1, 1]))
    document = {"inputs": [{"name": n, "datatype": "FP32", "shape": [-1]} for n in "ab"]}
    columns = SklearnModel(clone(fitted).fit(frame, [0, 0, 1, 1]), signature_from(document))

    assert scored(matrix, [[0, None], [None, None], [3, 1]])["predictions"][::2] == [0, 1]
    for model in (named, columns):
        assert scored(model, [{"a": 0, "b": None}, {"a": 3, "b": 1}])["predictions"] == [0, 1]
        assert scored(model, {"inputs": {"a": [0, 3], "b": [None, None]}})["predictions"] == [0, 1]


def test_nan_as_mlflow_writes_it_is_understood() -> None:
    """Its own examples are not JSON where a value is missing."""
    assert np.isnan(score.parse(b'{"inputs": [[NaN, 1]]}')["inputs"][0][0])
    for body in (b"[NaN", b"NaN]", b"["):
        with pytest.raises(BadRequest, match="not JSON"):
            score.parse(body)


# The whole server


@pytest.fixture(scope="module")
def server(models: Path, keys: Path) -> Iterator[Server]:
    """The ONNX model behind a key."""
    with serving(models, task_for(models / "plain.onnx", auth="key"), "--keys-dir", str(keys)) as started:
        yield started


def test_score_is_answered_and_guarded(server: Server, estimator: Pipeline) -> None:
    """The path takes a key, counts by its own name, and gives the model's own answers."""
    document = {"data": ROWS.tolist()}
    answer = httpx.post(server.url + "/score", json=document, headers=KEY, timeout=240)

    assert answer.json()["predictions"] == estimator.predict(ROWS).tolist()
    np.testing.assert_allclose(answer.json()["probabilities"], estimator.predict_proba(ROWS), atol=1e-5)
    asked = httpx.post(server.url + "/invocations", json={"instances": ROWS.tolist()}, headers=KEY, timeout=240)
    assert asked.json() == {"predictions": answer.json()["predictions"]}
    for path in ("/score", "/invocations"):
        assert httpx.post(server.url + path, json=document).status_code == 401
    assert httpx.post(server.url + "/score", content=b"[", headers=KEY).status_code == 400
    assert 'ultramarine_server_requests_total{code="200",route="score"}' in server.get("/metrics").text


# The page


def validator(page: dict[str, Any], name: str) -> Draft202012Validator:
    """A validator of one of the page's schemas."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": page["components"]})


def test_the_page_is_openapi_and_describes_this_model(server: Server) -> None:
    """The page is valid OpenAPI 3.1, and real requests and answers are what it says."""
    page = server.get("/openapi.json", headers=KEY).json()
    OpenAPIV31SpecValidator(page).validate()
    rows = ROWS[:2].astype(np.float32)
    tensor = {"name": "X", "datatype": "FP32", "shape": [2, 30], "data": rows.tolist()}
    answer = server.infer(rows, "X", "FP32", headers=KEY).json()
    scores = httpx.post(server.url + "/score", json=rows.tolist(), headers=KEY).json()

    assert page["security"] == [{"bearer": []}, {"apiKey": []}]
    invoked = httpx.post(server.url + "/invocations", json={"inputs": rows.tolist()}, headers=KEY).json()
    assert validator(page, "Predictions").is_valid(invoked)
    assert {"/score", "/invocations", "/v2/models/cancer/infer"} <= set(page["paths"])
    assert validator(page, "Request").is_valid({"inputs": [tensor]})
    assert validator(page, "Answer").is_valid(answer)
    assert validator(page, "Rows").is_valid({"data": rows.tolist()})
    assert validator(page, "Scores").is_valid(scores)
    assert not validator(page, "Request").is_valid({"inputs": [tensor | {"name": "Y"}]})
    assert not validator(page, "Rows").is_valid({"data": rows[:, :29].tolist()})
    assert not validator(page, "Answer").is_valid(answer | {"model_name": "other"})


def test_the_page_knows_features_by_name(mixed: SklearnModel) -> None:
    """A model with names takes objects with exactly these."""
    page = openapi.document(Loaded("double", "1", "test", mixed), keyed=False)
    OpenAPIV31SpecValidator(page).validate()
    rows = validator(page, "Rows")

    invoked = ({"dataframe_split": TABLE}, {"dataframe_records": OBJECTS}, {"inputs": {"age": [1], "plan": ["a"]}})
    for document in (MIXED, {"data": MIXED}, {"input_data": TABLE}, OBJECTS, *invoked):
        assert rows.is_valid(document), json.dumps(document)
    assert not rows.is_valid([{"age": 20}])
    assert not rows.is_valid([{"age": 20, "plan": "b", "x": 1}])
    assert "security" not in page
