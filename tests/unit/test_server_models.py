"""Signatures of models, and their comparison with the registered ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from asking import infer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.models.estimator import SklearnModel
from ultramarine_server.models.model import TensorSpec, signature_from


def ask(request: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the model's answer to a request document."""
    answer: dict[str, Any] = json.loads(infer(model, "m", "1", json.dumps(request).encode()))
    return answer


def matrix(**changes: Any) -> dict[str, Any]:
    """Return an input of two rows, with `changes`."""
    return {"name": "input", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]} | changes


# Signature


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"inputs": [{"name": "x"}]}, "inputs[0] needs name, datatype and shape"),
        ({"outputs": [{"name": "y", "datatype": "FP64", "shape": ["a"]}]}, "outputs[0] needs"),
        ({"inputs": [{"name": "x", "datatype": "double", "shape": [-1]}]}, "inputs[0].datatype is 'double'"),
    ],
)
def test_a_broken_signature_names_its_field(document: dict[str, Any], words: str) -> None:
    """The message leads to the line of the ModelVersion."""
    with pytest.raises(LoadError) as caught:
        signature_from(document)

    assert caught.value.reason == "SignatureInvalid"
    assert words in caught.value.message


# scikit-learn

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def test_a_classifiers_signature_is_found() -> None:
    """Features, classes and their datatype come from the estimator."""
    model = SklearnModel(LogisticRegression().fit(X, ["no", "no", "yes", "yes"]))

    assert model.signature.to_dict() == {
        "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 2]}],
        "outputs": [
            {"name": "predict", "datatype": "BYTES", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]},
        ],
    }
    request = {"inputs": [matrix(data=[-9, 0, 9, 0])], "outputs": [{"name": "predict"}]}
    assert ask(request, model)["outputs"] == [
        {"name": "predict", "datatype": "BYTES", "shape": [2], "data": ["no", "yes"]}
    ]


def test_several_targets_keep_their_shape() -> None:
    """A regressor of two targets gives a matrix."""
    model = SklearnModel(LinearRegression().fit(X, X))

    assert model.signature.outputs == (TensorSpec("predict", "FP64", (-1, 2)),)


def test_a_text_model_takes_strings() -> None:
    """A pipeline that begins with a vectorizer is asked with one string a row."""
    model = SklearnModel(make_pipeline(CountVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0]))

    answer = ask({"inputs": [{"name": "input", "shape": [2], "datatype": "BYTES", "data": ["good", "bad"]}]}, model)

    assert answer["outputs"][0]["data"] == [1, 0]


@pytest.mark.filterwarnings("error")
def test_columns_may_come_by_name() -> None:
    """A model fitted on a data frame takes each column by name, in any order, words too, without warnings."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "plan": ["a", "b", "a", "b"]})
    encode_words = make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough")
    estimator = make_pipeline(encode_words, LogisticRegression()).fit(frame, [0, 0, 1, 1])
    model = SklearnModel(estimator)
    columns = [
        {"name": "plan", "shape": [2, 1], "datatype": "BYTES", "data": ["b", "a"]},
        {"name": "age", "shape": [2], "datatype": "INT64", "data": [20, 70]},
    ]

    assert [spec.datatype for spec in model.signature.inputs] == ["FP64", "BYTES"]
    assert ask({"inputs": columns}, model)["outputs"][0]["data"] == [0, 1]
    with pytest.raises(BadRequest, match="input 'age' is missing"):
        ask({"inputs": columns[:1]}, model)
    with pytest.raises(BadRequest, match="same number of rows"):
        ask({"inputs": [columns[0], columns[1] | {"shape": [1], "data": [1]}]}, model)


def test_a_registered_signature_of_columns_is_kept() -> None:
    """Names and datatypes of the ModelVersion are what the metadata shows and what is checked."""
    document = {"inputs": [{"name": n, "datatype": "FP64", "shape": [-1]} for n in ("a", "b")]}
    model = SklearnModel(LogisticRegression().fit(X, [0, 0, 1, 1]), signature_from(document))
    columns = [{"name": n, "shape": [2], "datatype": "FP64", "data": [0.0, 3.0]} for n in ("b", "a")]

    assert [spec.name for spec in model.signature.inputs] == ["a", "b"]
    assert ask({"inputs": columns}, model)["outputs"][0]["data"] == [0, 1]


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}]},
        {"inputs": [{"name": n, "datatype": "FP64", "shape": [-1]} for n in "abc"]},
        {"outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}]},
        {"outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1, 2]}]},
    ],
)
def test_a_signature_that_is_not_the_models_is_refused(document: dict[str, Any]) -> None:
    """A promise of the ModelVersion that the estimator cannot keep fails the load."""
    with pytest.raises(LoadError) as caught:
        SklearnModel(LogisticRegression().fit(X, [0, 0, 1, 1]), signature_from(document))

    assert caught.value.reason == "SignatureMismatch"


def test_no_rows_are_refused() -> None:
    """scikit-learn cannot predict an empty table, and the client has to fix that."""
    with pytest.raises(BadRequest, match="no rows"):
        ask(
            {"inputs": [matrix(shape=[0, 2], data=[])]},
            SklearnModel(LogisticRegression().fit(X, [0, 0, 1, 1])),
        )


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "predict_proba", "datatype": "INT64", "shape": [-1, 2]}], "gives FP64, which does not fit into it"),
        ([{"name": "predict", "datatype": "INT8", "shape": [-1]}], "gives INT64, which does not fit into it"),
    ],
)
def test_a_signature_that_would_cut_values_off_is_refused(outputs: list[Any], words: str) -> None:
    """A probability of 0.97 must not be answered as 0 because an integer was registered."""
    estimator = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(LoadError, match=words) as caught:
        SklearnModel(estimator, signature_from({"outputs": outputs}))
    assert caught.value.reason == "SignatureMismatch"


def test_columns_may_be_declared_as_matrices_of_one_column() -> None:
    """A signature of `[-1, 1]` for each column, the usual way to write it, serves a model that knows its columns."""
    import pandas as pd

    frame = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "income": [1.0, 2.0, 3.0, 4.0]})
    estimator = LogisticRegression().fit(frame, [0, 0, 1, 1])
    declared = [{"name": name, "datatype": "FP64", "shape": [-1, 1]} for name in frame]
    model = SklearnModel(estimator, signature_from({"inputs": declared}))
    asked = [{"name": name, "shape": [2, 1], "datatype": "FP64", "data": [20, 70]} for name in frame]

    assert ask({"inputs": asked}, model)["outputs"][0]["data"] == [0, 1]


def test_values_that_a_model_cannot_take_are_a_bad_request() -> None:
    """A word for a number, or a category that it has never seen, is told as the caller's fault, with the reason."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "plan": ["a", "b", "a", "b"]})
    encode_words = make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough")
    model = SklearnModel(make_pipeline(encode_words, LogisticRegression()).fit(frame, [0, 0, 1, 1]))
    age = {"name": "age", "shape": [1], "datatype": "FP64", "data": [20]}
    plan = {"name": "plan", "shape": [1], "datatype": "BYTES", "data": ["unheard of"]}

    with pytest.raises(BadRequest, match="the model cannot take these values: Found unknown categories"):
        ask({"inputs": [age, plan]}, model)
    many = {"shape": [60], "data": [20] * 60}, {"shape": [60], "data": [f"unheard of {number}" for number in range(60)]}
    with pytest.raises(BadRequest, match=r"\.\.\. .* in column 0 during transform$"):  # behind what is cut
        ask({"inputs": [age | many[0], plan | many[1]]}, model)
