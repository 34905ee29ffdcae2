"""Forged .skops files: trusted types whose attributes would let compiled code read and write outside its arrays."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import skops.io
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import Bunch
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(60, 4)).round(1)
CLASSES = RANDOM.integers(0, 3, 60)
WORDS = ["good film", "bad film", "dull play"] * 20


def _refusal(model: Any, folder: Path) -> LoadError:
    path = folder / "model.skops"
    skops.io.dump(model, path)
    return _refusal_of(path)


def _refusal_of(path: Path) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(ModelFile(path, "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)
    return caught.value


def _with_nodes(tree: Any, **fields: Any) -> None:
    """Write values into the first node of a tree, or into what stands beside the nodes."""
    state = tree.__getstate__()
    nodes = state["nodes"].copy()
    for name, value in fields.items():
        if name in nodes.dtype.names:
            nodes[name][0] = value
        else:
            state[name] = value
    tree.__setstate__({**state, "nodes": nodes})


def _tree(**fields: Any) -> Any:
    tree = DecisionTreeClassifier(random_state=0).fit(ROWS, CLASSES)
    _with_nodes(tree.tree_, **fields)
    return tree


def _forest(change: Callable[[Any], Any]) -> Any:
    forest = RandomForestClassifier(2, random_state=0).fit(ROWS, CLASSES)
    change(forest)
    return forest


def _changed(model: Any, **attributes: Any) -> Any:
    vars(model).update(attributes)
    return model


def _boosted(change: Callable[[Any], Any]) -> Any:
    model = HistGradientBoostingClassifier(max_iter=2).fit(ROWS, CLASSES)
    for trees in model._predictors:
        change(trees[0].nodes)
    return model


def _neighbours(place: int, change: Callable[[Any], Any]) -> Any:
    model = KNeighborsClassifier(algorithm="kd_tree", leaf_size=5).fit(ROWS, CLASSES)
    state = list(model._tree.__getstate__())
    state[place] = np.array(state[place])
    change(state[place])
    model._tree.__setstate__(tuple(state))
    return model


def _svm(**attributes: Any) -> Any:
    return _changed(SVC().fit(ROWS, CLASSES), **attributes)


def _sparse_neighbours(indices: int, indptr: int) -> Any:
    model = KNeighborsClassifier(algorithm="brute").fit(sparse.csr_matrix(ROWS), CLASSES)
    model._fit_X.indices[0] = indices
    model._fit_X.indptr[1] = indptr
    return model


def _encoder(**attributes: Any) -> Any:
    encoder = OneHotEncoder(min_frequency=4, handle_unknown="infrequent_if_exist", drop="first")
    model = make_pipeline(encoder, LogisticRegression()).fit(ROWS, CLASSES)
    vars(model[0]).update(attributes)
    return model


def _words(**attributes: Any) -> Any:
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(WORDS, CLASSES)
    vars(model[0]).update(attributes)
    return model


def _stacked(method: str) -> Any:
    model = StackingClassifier([("a", LogisticRegression())]).fit(ROWS, CLASSES)
    return _changed(model, stack_method_=[method])


def _generator(position: int) -> Any:
    generator = np.random.RandomState(0)
    generator.set_state(("MT19937", generator.get_state()[1], position))
    return _changed(DummyClassifier(strategy="uniform").fit(ROWS, CLASSES), random_state=generator)


def _gradient(**attributes: Any) -> Any:
    return _changed(GradientBoostingClassifier(n_estimators=2).fit(ROWS, CLASSES), **attributes)


def _set(field: str, value: Any) -> Callable[[Any], None]:
    def change(array: Any) -> None:
        array[field][0] = value

    return change


FORGED: dict[str, tuple[Callable[[], Any], str]] = {
    "left child outside": (lambda: _tree(left_child=10**6), "tree_"),
    "right child outside": (lambda: _tree(right_child=10**6), "tree_"),
    "right child negative": (lambda: _tree(right_child=-1), "tree_"),
    "circle": (lambda: _tree(left_child=0), "tree_"),
    "feature outside": (lambda: _tree(feature=4), "tree_.feature"),
    "feature negative": (lambda: _tree(feature=-7), "tree_.feature"),
    "depth too small": (lambda: _tree(max_depth=1), "max_depth"),
    "features of the tree": (lambda: _changed(_tree(), n_features_in_=2), "n_features_in_"),
    "features missing": (lambda: _forest(lambda forest: vars(forest).pop("n_features_in_")), "estimators_[0]"),
    "features of the forest": (lambda: _forest(lambda forest: _changed(forest, n_features_in_=2)), "estimators_[0]"),
    "pipeline in a forest": (
        lambda: _forest(lambda forest: forest.estimators_.append(make_pipeline(forest.estimators_[0]))),
        "estimators_[2]",
    ),
    "tree without an estimator": (lambda: make_pipeline(_tree().tree_), "outside a decision tree"),
    "isolation": (lambda: _changed(IsolationForest(n_estimators=2).fit(ROWS), _max_features=2), "estimators_features_"),
    "boosted child outside": (lambda: _boosted(_set("left", 10**6)), "_predictors"),
    "boosted circle": (lambda: _boosted(_set("right", 0)), "_predictors"),
    "boosted feature outside": (lambda: _boosted(_set("feature_idx", 10**6)), "_predictors"),
    "boosted categories": (lambda: _boosted(_set("is_categorical", 1)), "_predictors"),
    "boosted while fitting": (lambda: _changed(_boosted(lambda nodes: None), _in_fit=True), "_in_fit"),
    "boosted with another mapper": (
        lambda: _changed(_boosted(lambda nodes: None), _bin_mapper=Bunch(is_categorical_=np.zeros(4, bool))),
        "_bin_mapper",
    ),
    "sums of boosting": (lambda: _gradient(n_trees_per_iteration_=1, init_="zero"), "estimators_"),
    "start of boosting": (lambda: _gradient(init_=LogisticRegression().fit(ROWS, CLASSES)), "init_"),
    "neighbours' order": (lambda: _neighbours(1, lambda order: order.__setitem__(0, 10**6)), "idx_array"),
    "neighbours' rows": (lambda: _neighbours(2, _set("idx_end", 10**6)), "node_data"),
    "neighbours' leaves": (lambda: _neighbours(2, lambda nodes: nodes["is_leaf"].fill(0)), "node_data"),
    "neighbours' classes": (lambda: _changed(_neighbours(1, np.copy), _y=np.full(60, 10**6)), "_y"),
    "neighbours' width": (lambda: _changed(_neighbours(1, np.copy), _fit_X=ROWS[:, :2].copy()), "_fit_X"),
    "matrix of a distance": (
        lambda: _changed(_neighbours(1, np.copy), metric="mahalanobis", effective_metric_params_={"VI": np.eye(1)}),
        "effective_metric_params_",
    ),
    "sparse indices": (lambda: _sparse_neighbours(10**6, 4), "_fit_X"),
    "sparse rows": (lambda: _sparse_neighbours(0, 10**6), "_fit_X"),
    "support vectors of a class": (lambda: _svm(_n_support=np.int32([10**6, 0, 0])), "_n_support"),
    "negative support vectors": (lambda: _svm(_n_support=np.int32([10**6, -(10**6), 60])), "_n_support"),
    "classes of support vectors": (lambda: _svm(_n_support=np.int32([60])), "_n_support"),
    "support": (lambda: _svm(support_=np.arange(10**4, dtype=np.int32)), "_n_support"),
    "dual coefficients": (lambda: _svm(_dual_coef_=np.zeros((1, 1))), "_dual_coef_"),
    "intercept": (lambda: _svm(_intercept_=np.zeros(0)), "_intercept_"),
    "width of support vectors": (lambda: _svm(support_vectors_=np.zeros((60, 1))), "_"),
    "sparse vectors that are none": (
        lambda: _svm(_sparse=True, support_vectors_=Bunch(format="csr", ndim=2, shape=(60, 4), check_format=np.sum)),
        "support_vectors_",
    ),
    "probabilities": (lambda: _svm(_effective_probability=True), "_effective_probability"),
    "tree that a dictionary would make": (
        lambda: _changed(_svm(), extra=defaultdict(partial(np.sum, a=[_tree(left_child=10**6)]))),
        "tree_",
    ),
    "kernel": (lambda: _svm(kernel="precomputed"), "kernel"),
    "svm type": (lambda: _svm(_impl="epsilon_svr"), "_impl"),
    "columns of an encoder": (lambda: _encoder(_n_features_outs=[1, 1, 1, 1]), "_n_features_outs"),
    "mapping of an encoder": (
        lambda: _encoder(_default_to_infrequent_mappings=[np.array([10**6])] * 4),
        "_default_to_infrequent_mappings",
    ),
    "columns that add up to a circle": (lambda: _encoder(_n_features_outs=[2**62] * 4), "_n_features_outs"),
    "dropped of an encoder": (lambda: _encoder(_drop_idx_after_grouping=np.array([-1] * 4, object)), "_drop_idx"),
    "order of an encoder": (lambda: _encoder(categories_=[np.array([2.0, 1.0])] * 4), "categories_"),
    "vocabulary": (lambda: _words(vocabulary_={"good": 10**6}), "vocabulary_"),
    "files for texts": (lambda: _words(input="filename"), "input"),
    "hashes": (lambda: make_pipeline(HashingVectorizer(n_features=0), LogisticRegression()), "n_features"),
    "centers": (lambda: _changed(KMeans(3).fit(ROWS), cluster_centers_=np.zeros((3, 1))), "cluster_centers_"),
    "precision": (lambda: _changed(EllipticEnvelope().fit(ROWS), precision_=np.eye(1)), "precision_"),
    "position of a generator": (lambda: _generator(10**6), "random_state"),
    "name of a method": (lambda: _stacked("fit"), "stack_method_"),
    "output of a function": (lambda: make_pipeline(FunctionTransformer(np.log1p, kw_args={"out": ROWS})), "kw_args"),
    "method": (lambda: _changed(LinearRegression().fit(ROWS, CLASSES), predict=np.log1p), "predict"),
}


@pytest.mark.attack(
    "model/skops-memory",
    asset="the serving pod's memory",
    threat="a `.skops` with forged nodes, indices, sizes, or an address in `__array_interface__`",
    control="what compiled code would follow is compared with the arrays before the first prediction; such "
    "attributes are refused",
)
@pytest.mark.parametrize("name", FORGED)
def test_what_compiled_code_would_follow_is_checked_before(name: str, tmp_path: Path) -> None:
    make, attribute = FORGED[name]
    error = _refusal(make(), tmp_path)

    assert error.reason == ("ModelUnsupported" if attribute == "input" else "ModelCorrupt")
    assert attribute in error.message


def test_a_spline_with_too_few_coefficients_is_refused(tmp_path: Path) -> None:
    model = make_pipeline(SplineTransformer(), LogisticRegression()).fit(ROWS, CLASSES)
    model[0].bsplines_[0]._c = np.zeros((1, 1))
    assert "bsplines_" in _refusal(model, tmp_path).message


def _schema(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description of the objects in a file."""
    with zipfile.ZipFile(path) as made:
        members = {name: made.read(name) for name in made.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema)
    with zipfile.ZipFile(path, "w") as forged:
        for name, content in {**members, "schema.json": json.dumps(schema).encode()}.items():
            forged.writestr(name, content)


def _plain(value: Any) -> dict[str, Any]:
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}


@pytest.mark.attack("model/skops-memory")
def test_an_object_that_says_where_its_memory_is_is_refused(tmp_path: Path) -> None:
    """numpy takes `__array_interface__` of any object for an address."""
    path = tmp_path / "model.skops"
    skops.io.dump(LinearRegression().fit(ROWS, CLASSES), path)
    place = {"data": [4096, False], "shape": [4], "typestr": "<f8", "version": 3}
    _schema(path, lambda schema: schema["content"]["content"].update({"__array_interface__": _plain(place)}))

    error = _refusal_of(path)
    assert error.reason == "CodeExecutionRefused"
    assert "__array_interface__" in error.message


def test_attributes_come_with_names(tmp_path: Path) -> None:
    """dict.update takes pairs too, whose names no description of a dictionary shows."""
    path = tmp_path / "model.skops"
    skops.io.dump(KNeighborsClassifier().fit(ROWS, CLASSES), path)
    _schema(path, lambda schema: schema.update(content=_plain([["__array_interface__", 1]])))

    assert "attributes without names" in _refusal_of(path).message


@pytest.mark.parametrize("sizes", [(10**12, 1), (3, 10**9), (0, 1), (-1, 1)])
def test_a_trees_memory_is_not_taken_at_the_files_word(sizes: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(DecisionTreeClassifier().fit(ROWS, CLASSES), path)

    def change(schema: dict[str, Any]) -> None:
        arguments = schema["content"]["content"]["tree_"]["__reduce__"]["args"]["content"]
        arguments[0], arguments[2] = (_plain(size) for size in sizes)

    _schema(path, change)
    assert _refusal_of(path).reason == "ModelCorrupt"


def test_a_tree_of_another_release_says_which_it_was(tmp_path: Path) -> None:
    """Releases before 1.3 wrote nodes without a field, which none after takes."""
    path = tmp_path / "model.skops"
    tree = DecisionTreeClassifier(max_depth=2).fit(ROWS, CLASSES)
    skops.io.dump(tree, path)
    nodes = tree.tree_.__getstate__()["nodes"]
    stream = io.BytesIO()
    np.save(stream, np.array(nodes[[name for name in nodes.dtype.names if name != "missing_go_to_left"]].tolist()))

    def change(schema: dict[str, Any]) -> None:
        attributes = schema["content"]["content"]
        attributes["_sklearn_version"] = _plain("1.2.2")
        attributes["tree_"]["content"]["content"]["nodes"]["file"] = "nodes.npy"

    _schema(path, change)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("nodes.npy", stream.getvalue())
    error = _refusal_of(path)
    assert error.reason == "DependencyMissing"
    assert (
        f"was written by scikit-learn 1.2.2 and does not fit the image's {sklearn.__version__} (ValueError"
        in error.message
    )


def test_a_generators_pool_is_not_filled_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    model = HistGradientBoostingClassifier(max_iter=1).fit(ROWS, CLASSES)
    skops.io.dump(_changed(model, random_state=np.random.default_rng(0)), path)

    def change(schema: dict[str, Any]) -> None:
        seeds = schema["content"]["content"]["random_state"]["content"]["seed_seq"]["content"]
        seeds["pool_size"] = _plain(10**9)

    _schema(path, change)
    assert "pool" in _refusal_of(path).message


@pytest.mark.attack("model/skops-memory")
def test_damaged_numbers_end_no_process(tmp_path: Path) -> None:
    """Models with random bytes in their arrays are loaded and asked in a process of their own, which lives."""
    command = [sys.executable, Path(__file__).with_name("forging.py"), tmp_path]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=paths)

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "refused" in ran.stdout
    assert "answered" in ran.stdout
