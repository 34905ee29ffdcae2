"""Conversion of tree ensembles to ONNX with thresholds of 64 bits and a division after the sum, as in scikit-learn.

The converters of skl2onnx round thresholds to 32 bits and divide each leaf before the sum, which changes ties of
forests. Their converter of histogram gradient boosting fails with current onnx. They convert all other estimators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.numpy_helper import from_array
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import DoubleTensorType
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ultramarine_server.protocol.tensors import Array


@dataclass(frozen=True)
class Tree:
    """Tree as arrays over its nodes; `values` has a column for each target, and `left` is for x <= threshold."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    is_leaf: Array
    values: Array


def _forest(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    if not _is_plain(operator) or (hasattr(model, "classes_") and model.n_outputs_ > 1):
        return _otherwise(scope, operator, container)
    estimators = getattr(model, "estimators_", [model])
    node = partial(_node, scope, container)
    # scikit-learn takes numbers of 32 bits into its trees, and compares them with thresholds of 64.
    narrow = node("Cast", [operator.inputs[0].full_name], to=TensorProto.FLOAT)
    wide = node("Cast", [narrow], to=TensorProto.DOUBLE)
    sums = _sums(node, wide, [_tree_of(estimator.tree_) for estimator in estimators])
    means = node("Div", [sums, _constant(scope, container, [float(len(estimators))])])
    if hasattr(model, "classes_"):
        _classified(scope, container, operator, means)
    else:
        container.add_node("Identity", [means], [operator.outputs[0].full_name])


def _boosted(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    categorical = getattr(model, "is_categorical_", None)
    if not _is_plain(operator) or (categorical is not None and any(categorical)):
        return _otherwise(scope, operator, container)
    node = partial(_node, scope, container)
    targets = len(model._predictors[0])
    predictors = [(target, predictor) for turn in model._predictors for target, predictor in enumerate(turn)]
    trees = [_tree_of_nodes(predictor.nodes, targets, target) for target, predictor in predictors]
    baseline = _constant(scope, container, np.ravel(model._baseline_prediction))
    raw = node("Add", [_sums(node, operator.inputs[0].full_name, trees), baseline])
    if hasattr(model, "classes_"):
        if targets > 1:
            _classified(scope, container, operator, node("Softmax", [raw], axis=1))
            return
        second = node("Sigmoid", [raw])
        first = node("Sub", [_constant(scope, container, [1.0]), second])
        _classified(scope, container, operator, node("Concat", [first, second], axis=1))
        return
    link = {"IdentityLink": "Identity", "LogLink": "Exp"}[type(model._loss.link).__name__]
    container.add_node(link, [raw], [operator.outputs[0].full_name])


def _otherwise(scope: Any, operator: Any, container: Any) -> None:
    get_converter(operator.type)(scope, operator, container)


def _is_plain(operator: Any) -> bool:
    """True if the input has numbers of 64 bits, and the classes, if any, are integers or texts."""
    classes = getattr(operator.raw_operator, "classes_", np.zeros(1, np.int64))
    wide = len(operator.inputs) == 1 and isinstance(operator.inputs[0].type, DoubleTensorType)
    return wide and isinstance(classes, np.ndarray) and classes.dtype.kind in "iUO"


def _tree_of(tree: Any) -> Tree:
    is_leaf = tree.children_left < 0
    missing = np.asarray(getattr(tree, "missing_go_to_left", np.zeros(tree.node_count)), dtype=bool)
    values = tree.value[:, :, 0] if tree.max_n_classes == 1 else tree.value[:, 0, :]
    if tree.max_n_classes > 1:
        values = values / values.sum(axis=1, keepdims=True)
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, missing, is_leaf, values)


def _tree_of_nodes(nodes: Any, targets: int, target: int) -> Tree:
    values = np.zeros((len(nodes), targets))
    values[:, target] = nodes["value"]
    is_leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        nodes["feature_idx"].astype(np.int64),
        nodes["num_threshold"],
        nodes["left"].astype(np.int64),
        nodes["right"].astype(np.int64),
        nodes["missing_go_to_left"].astype(bool),
        is_leaf,
        values,
    )


def _sums(node: Callable[..., str], source: str, trees: Sequence[Tree]) -> str:
    """Sum the leaves of all trees for each target; only the sum is rounded to 32 bits."""
    sizes = [len(tree.feature) for tree in trees]
    ids = np.repeat(np.arange(len(trees)), sizes)
    numbers = np.concatenate([np.arange(size) for size in sizes])
    leaf = np.concatenate([tree.is_leaf for tree in trees])

    def branches(name: str) -> Array:
        return np.where(leaf, 0, np.concatenate([getattr(tree, name) for tree in trees]))

    values = np.concatenate([tree.values for tree in trees])
    # Zeros of a leaf are left out, except the first target's: each leaf needs a target.
    row, target = np.nonzero((values != 0) | (np.arange(values.shape[1]) == 0))
    kept = leaf[row]
    row, target = row[kept], target[kept]
    sums = node(
        "TreeEnsembleRegressor",
        [source],
        op_domain="ai.onnx.ml",
        op_version=3,
        nodes_treeids=ids.tolist(),
        nodes_nodeids=numbers.tolist(),
        nodes_featureids=branches("feature").tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values_as_tensor=from_array(branches("threshold").astype(np.float64), "nodes_values_as_tensor"),
        nodes_truenodeids=branches("left").tolist(),
        nodes_falsenodeids=branches("right").tolist(),
        nodes_missing_value_tracks_true=branches("missing_left").astype(np.int64).tolist(),
        target_treeids=ids[row].tolist(),
        target_nodeids=numbers[row].tolist(),
        target_ids=target.tolist(),
        target_weights_as_tensor=from_array(values[row, target].astype(np.float64), "target_weights_as_tensor"),
        n_targets=values.shape[1],
        aggregate_function="SUM",
        post_transform="NONE",
    )
    return node("Cast", [sums], to=TensorProto.DOUBLE)


def _classified(scope: Any, container: Any, operator: Any, probabilities: str) -> None:
    """Write the two outputs of a classifier: the most probable class, and the probabilities."""
    classes = operator.raw_operator.classes_
    words = classes.dtype.kind != "i"
    name = scope.get_unique_variable_name("classes")
    container.add_initializer(
        name,
        TensorProto.STRING if words else TensorProto.INT64,
        [len(classes)],
        [str(value).encode() for value in classes] if words else classes.tolist(),
    )
    best = _node(scope, container, "ArgMax", [probabilities], axis=1, keepdims=0)
    container.add_node(
        "Gather", [name, best], [operator.outputs[0].full_name], name=scope.get_unique_operator_name("g")
    )
    container.add_node(
        "Identity", [probabilities], [operator.outputs[1].full_name], name=scope.get_unique_operator_name("i")
    )


def _node(scope: Any, container: Any, kind: str, inputs: list[str], **attributes: Any) -> str:
    made = str(scope.get_unique_variable_name(kind.lower()))
    container.add_node(kind, inputs, [made], name=scope.get_unique_operator_name(kind), **attributes)
    return made


def _constant(scope: Any, container: Any, values: Any) -> str:
    name = str(scope.get_unique_variable_name("constant"))
    container.add_initializer(name, TensorProto.DOUBLE, [len(values)], [float(value) for value in values])
    return name


# Argument custom_conversion_functions of `convert_sklearn`.
TREE_CONVERSIONS = {
    DecisionTreeClassifier: _forest,
    DecisionTreeRegressor: _forest,
    ExtraTreesClassifier: _forest,
    ExtraTreesRegressor: _forest,
    RandomForestClassifier: _forest,
    RandomForestRegressor: _forest,
    HistGradientBoostingClassifier: _boosted,
    HistGradientBoostingRegressor: _boosted,
}
