"""Types that a .skops file may build, recognized by names and loaders without building anything."""

from __future__ import annotations

import importlib
import io
import json
import operator
import os
import zipfile
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.stats
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from ultramarine_contract.trusted_types import _EVERY_NAME, SCHEMA, remedy_for, untrusted, untrusted_in

ROWS, CLASSES = np.arange(40.0).reshape(20, 2), [0, 1] * 10


def _file(schema: dict[str, Any]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(SCHEMA, json.dumps({"protocol": 2, **schema}))
    return stream


def _dumped(model: Any) -> io.BytesIO:
    return io.BytesIO(skops.io.dumps(model))


def _node(loader: str, name: str, **more: Any) -> dict[str, Any]:
    module, _, last = name.rpartition(".")
    return {"__loader__": loader, "__module__": module, "__class__": last, **more}


def test_every_trusted_name_exists_in_the_libraries_of_the_image() -> None:
    for name in _EVERY_NAME:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(2).fit(ROWS, CLASSES),
        GridSearchCV(LogisticRegression(), {"C": [1.0, 2.0]}, cv=2).fit(ROWS, CLASSES),
        FunctionTransformer(np.log1p),
        FunctionTransformer(partial(np.clip, a_min=0, a_max=1)),
    ],
    ids=["forest", "search", "ufunc", "partial"],
)
def test_what_people_store_is_trusted(model: Any) -> None:
    assert untrusted_in(_dumped(model)) == []


@pytest.mark.attack("model/skops-calls")
@pytest.mark.parametrize(
    ("held", "name"),
    [
        (os.system, f"{os.name}.system"),
        (np.load, "numpy.load"),
        (partial(os.system, "true"), f"{os.name}.system"),
        (operator.methodcaller("fit"), "operator.methodcaller"),
        (operator.attrgetter("__class__"), "operator.attrgetter"),
        (StandardScaler().fit, "sklearn.preprocessing._data.StandardScaler by MethodNode"),
        (scipy.stats.uniform(0, 1), "scipy.stats._continuous_distns.uniform_gen"),
    ],
)
def test_what_could_run_code_is_told_by_its_name(held: Any, name: str) -> None:
    assert name in untrusted_in(_dumped(FunctionTransformer(held)))


@pytest.mark.attack(
    "model/skops-calls",
    asset="the serving pod",
    threat="a `.skops` of known types that has them call a function, a method or a class with the file's "
    "arguments, or read a folder of pickles",
    control="types are known by the way in which they are built; what calls is not; method names and outputs of "
    "functions are checked, `memory` is dropped",
)
@pytest.mark.parametrize(
    "node",
    [
        _node("ConstructorFromReduceNode", "sklearn.linear_model._base.LinearRegression", content=[]),
        _node("FunctionNode", "sklearn.linear_model._base.LinearRegression"),
        _node("FunctionNode", "numpy.log1p", content={"module_path": "os", "function": "system"}),
        _node("ObjectNode", "numpy.log1p"),
        _node("NewNode", "builtins.dict"),
        {"__class__": "dict", "__module__": "builtins"},
        {"__class__": "dict", "__module__": "builtins", "__loader__": []},
    ],
    ids=["called", "class-as-function", "old-function", "function-as-object", "unknown-loader", "no-loader", "no-text"],
)
def test_a_known_name_is_trusted_by_its_own_loader_alone(node: dict[str, Any]) -> None:
    assert len(untrusted_in(_file(node))) == 1


@pytest.mark.parametrize(
    "content",
    [
        _node("DictNode", "builtins.dict", content={"__array_interface__": {}}, key_types=[]),
        _node("JsonNode", "builtins.str", content='[1, {"a": {"__array_interface__": 1, "b": 2}}]'),
        _node("JsonNode", "builtins.str", content='{"\\u005f_array_interface__": 1, "b": [{}]}'),
    ],
)
def test_an_attribute_that_numpy_would_take_for_an_address_is_not_trusted(content: dict[str, Any]) -> None:
    file = _file(_node("ObjectNode", "sklearn.linear_model._base.LinearRegression", content=content))
    assert untrusted_in(file) == ["an attribute __array_interface__"]


def test_names_without_a_file_are_judged_too() -> None:
    names = ["sklearn.tree._tree.Tree", "os.system", "builtins.dict", "mine.Model"]
    assert untrusted(names) == ["mine.Model", "os.system"]


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_a_file_that_is_no_archive_is_an_error(content: bytes) -> None:
    with pytest.raises(zipfile.BadZipFile):
        untrusted_in(io.BytesIO(content))


def test_an_archive_without_a_schema_is_an_error() -> None:
    stream = io.BytesIO()
    zipfile.ZipFile(stream, "w").close()
    with pytest.raises(ValueError, match=SCHEMA):
        untrusted_in(stream)


def test_the_remedy_is_the_one_that_helps() -> None:
    """Permission does not bring the code of a script; categories of a boosting have a way without permission."""
    categories = HistGradientBoostingClassifier(max_iter=1, categorical_features=[0]).fit(ROWS % 3, CLASSES)
    assert remedy_for(untrusted_in(_dumped(categories)), "allow it").endswith("OrdinalEncoder, or allow it")
    assert remedy_for(["a.B", "__main__.double by FunctionNode"], "allow it").startswith("no server has the code of a")
    assert remedy_for(["a.B"], "allow it") == "allow it"
    assert remedy_for(["sklearn.a.B"], "allow it").startswith("the server's scikit-learn has no such type")
    assert remedy_for(["sklearn.a.B by FunctionNode"], "allow it") == "allow it"
