"""Checks of trees that a file has as numbers: compiled code uses children and features without a check."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAF = -1


class Corrupt(Exception):
    """Path of an attribute below its object, and the error in it."""

    reason, remedy = "ModelCorrupt", "store the model again, with the library that made it"

    def __init__(self, attribute: str, message: str) -> None:
        super().__init__(attribute, message)
        self.attribute, self.message = attribute, message


class Unsafe(Corrupt):
    """Valid attribute that the server does not serve."""

    reason, remedy = "ModelUnsupported", "set it to its default before training"


def require(right: Any, attribute: str, message: str) -> None:
    """Raise Corrupt unless `right`."""
    if not right:
        raise Corrupt(attribute, message)


def check_tree_state(arguments: Any, state: Any) -> None:
    """Check the arguments and the state of a scikit-learn Tree before its memory is allocated."""
    right = isinstance(arguments, tuple) and len(arguments) == 3
    require(right, "", "has other arguments than a tree")
    features, classes, outputs = arguments
    require(type(features) is type(outputs) is int, "", "has other arguments than a tree")
    right = type(classes) is np.ndarray and classes.dtype.kind in "iu" and classes.ndim == 1
    require(
        right and outputs == len(classes) >= 1 and bool((classes >= 1).all()), ".n_classes", "does not fit n_outputs"
    )
    require(0 < features < 2**31 and int(classes.max()) * outputs < 2**31, ".n_features", "is out of bounds")
    require(type(state) is dict and type(state.get("nodes")) is np.ndarray, ".nodes", "is not an array")
    require(type(state.get("values")) is np.ndarray, ".values", "is not an array")
    count = state.get("node_count")
    require(type(count) is int and count == len(state["nodes"]) >= 1, ".node_count", "is not the number of nodes")
    require(type(state.get("max_depth")) is int and 0 <= state["max_depth"] < count, ".max_depth", "is out of bounds")


def check_decision_tree(value: Any) -> None:
    """Check a decision tree's nodes against each other and against its features."""
    tree = vars(value).get("tree_")
    if tree is None:
        return
    name = f"{type(tree).__module__}.{type(tree).__qualname__}"
    require(name == "sklearn.tree._tree.Tree", ".tree_", "is not a tree")
    require(
        _same(vars(value).get("n_features_in_"), tree.n_features), ".n_features_in_", "is not the tree's n_features"
    )
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    depth = _depth(left, right, left == LEAF, ".tree_")
    require(depth <= tree.max_depth, ".tree_.max_depth", "is less than the depth of the nodes")
    inner = feature[left != LEAF]
    require(bool(((inner >= 0) & (inner < tree.n_features)).all()), ".tree_.feature", "is not below n_features")


def _depth(left: Any, right: Any, leaf: Any, where: str) -> int:
    """Return the depth of the nodes; require that children follow their parents, so that no cycle exists."""
    count = len(left)
    number = np.arange(count)[~leaf]
    for children, name in ((left, "left"), (right, "right")):
        inner = children[~leaf]
        require(bool(((inner > number) & (inner < count)).all()), where, f"has a {name} child out of range")
    level, depth = np.zeros(1, dtype=np.int64), 0
    while len(level := level[~leaf[level]]):
        # A node with two parents, which no library writes, counts once for each level.
        level = np.unique(np.concatenate([left[level], right[level]]).astype(np.int64))
        depth += 1
    return depth


def _same(given: Any, number: int) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool) and given == number


def check_forest(value: Any) -> None:
    """Compare each tree with the rows that the forest checks for all trees."""
    for index, tree in enumerate(vars(value).get("estimators_", ())):
        _check_member(value, tree, f".estimators_[{index}]", vars(value).get("n_features_in_"))


def _check_member(value: Any, tree: Any, where: str, features: Any) -> None:
    right = type(tree).__module__ == "sklearn.tree._classes" and hasattr(tree, "tree_")
    require(right, where, "is not a tree")  # Another estimator would not check the rows.
    require(_same(features, tree.tree_.n_features), where, f"takes other rows than {type(value).__name__}")


def check_isolation_forest(value: Any) -> None:
    """Compare each tree with the columns that it gets."""
    own = vars(value)
    if "estimators_" not in own:
        return
    width = own.get("_max_features")
    require(
        isinstance(width, int | np.integer) and width <= own.get("n_features_in_", 0),
        "._max_features",
        "is out of bounds",
    )
    features = own.get("estimators_features_", ())
    require(len(features) == len(own["estimators_"]), ".estimators_features_", "is not one for each tree")
    for index, (tree, columns) in enumerate(zip(own["estimators_"], features, strict=True)):
        right = type(columns) is np.ndarray and columns.dtype.kind in "iu" and columns.shape == (width,)
        require(right, f".estimators_features_[{index}]", "has other columns than the trees")
        _check_member(value, tree, f".estimators_[{index}]", width)


def check_boosting(value: Any) -> None:
    """Compare the trees of a boosting model with each other and with the sums to which they add."""
    own = vars(value)
    if "estimators_" not in own:
        return
    trees, features = own["estimators_"], own.get("n_features_in_")
    right = type(trees) is np.ndarray and trees.dtype == object and trees.ndim == 2 and trees.size
    require(right, ".estimators_", "is not a table of trees")
    for index, tree in enumerate(trees.flat):
        where = f".estimators_[{index}]"
        _check_member(value, tree, where, features)
        require(tree.tree_.value.shape[1:] == (1, 1), where, "has more than one value in a leaf")
    start = own.get("init_")
    dummy = type(start).__module__ == "sklearn.dummy"
    # The number of another estimator's columns may depend on the row.
    require(dummy or (type(start) is str and start == "zero"), ".init_", "is another estimator")
    loss = own.get("_loss")
    require(type(loss).__module__ == "sklearn._loss.loss", "._loss", "is not a loss")
    require(type(vars(loss).get("link")).__module__ == "sklearn._loss.link", "._loss.link", "is not a link")
    try:
        sums = value._raw_predict_init(np.zeros((1, int(features)), dtype=np.float32))
    except Exception as error:  # An exception of the first estimate would come with each request.
        raise Corrupt(".init_", f"does not answer: {error}") from error
    right = type(sums) is np.ndarray and sums.dtype == np.float64 and sums.shape == (1, trees.shape[1])
    require(right, ".estimators_", "has another number of trees than there are sums")


def check_histogram_boosting(value: Any) -> None:
    """Check the nodes of a histogram boosting model's trees; the model checks the rows."""
    own = vars(value)
    if "_predictors" not in own:
        return
    require(not own.get("_in_fit"), "._in_fit", "says that the model is being fitted")
    require(own.get("_preprocessor") is None, "._preprocessor", "encodes categories, which are not served from .skops")
    features = own.get("n_features_in_")
    require(isinstance(features, int | np.integer) and features > 0, ".n_features_in_", "is not a number of features")
    mapper = own.get("_bin_mapper")
    categorical: Any = getattr(mapper, "is_categorical_", None)
    right = type(mapper).__name__ == "_BinMapper" and type(categorical) is np.ndarray
    right = right and categorical.shape == (features,) and categorical.dtype.kind in "bu"
    require(right, "._bin_mapper", "has other features than the model")
    require(type(own["_predictors"]) is list, "._predictors", "is not a list")
    for index, trees in enumerate(own["_predictors"]):
        right = type(trees) is list and len(trees) == own.get("n_trees_per_iteration_")
        require(right, f"._predictors[{index}]", "is not a list of n_trees_per_iteration_ trees")
        for tree in trees:
            _check_predictor(tree, f"._predictors[{index}]", int(features), categorical.astype(bool))


def _check_predictor(tree: Any, where: str, features: int, categorical: Any) -> None:
    require(type(tree).__name__ == "TreePredictor", where, "is not a tree")
    own = vars(tree)
    nodes, sets = own.get("nodes"), own.get("raw_left_cat_bitsets")
    right = type(nodes) is np.ndarray and nodes.ndim == 1 and len(nodes) and nodes.dtype.names
    require(right, f"{where}.nodes", "is not a list of nodes")
    leaf = nodes["is_leaf"] != 0
    _depth(nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), leaf, f"{where}.nodes")
    feature = nodes["feature_idx"]
    right = bool(((feature >= 0) & (feature < features))[~leaf].all())
    require(right, f"{where}.nodes", "has a feature that is not below n_features_in_")
    splits = ~leaf & (nodes["is_categorical"] != 0)
    require(type(sets) is np.ndarray and sets.ndim == 2, f"{where}.raw_left_cat_bitsets", "is not a table")
    require(sets.shape[1] == 8 or not splits.any(), f"{where}.raw_left_cat_bitsets", "has rows of another length")
    right = bool((nodes["bitset_idx"][splits] < len(sets)).all() and categorical[feature[splits]].all())
    require(right, f"{where}.nodes", "has categories that the model does not know")


def check_neighbour_tree(tree: Any) -> None:
    """Check the nodes of a KDTree or BallTree, and give it copies of arrays that other objects may share."""
    state = list(tree.__getstate__())
    data, order, nodes, bounds = (np.array(array) for array in state[:4])
    count, width = data.shape
    require(len(order) == count and bool(((order >= 0) & (order < count)).all()), ".idx_array", "is out of range")
    total = len(nodes)
    right = (
        total >= 1
        and bounds.shape[1:] == (total, width)
        and bounds.shape[0] == (2 if "KD" in type(tree).__name__ else 1)
    )
    require(right and state[6] == total, ".node_bounds", "has other nodes than node_data")
    start, end, inner = nodes["idx_start"], nodes["idx_end"], np.flatnonzero(nodes["is_leaf"] == 0)
    require(bool((2 * inner + 2 < total).all()), ".node_data", "has children outside the nodes")
    left, last = 2 * inner + 1, 2 * inner + 2
    parts = (start[left] == start[inner]) & (end[left] == start[last]) & (end[last] == end[inner])
    right = start[0] == 0 and end[0] == count and bool((start <= end).all() and parts.all())
    reached = bool((start >= 0).all() and (end <= count).all())
    require(right and reached, ".node_data", "does not divide the rows")
    metric = state[11]
    size = len(np.asarray(metric.__getstate__()[1]))
    weighted = type(metric).__name__.startswith("Minkowski")
    require(not weighted or size in (0, width), ".dist_metric", "has another number of weights than features")
    require(
        type(metric).__name__.endswith("64") == (data.dtype == np.float64), ".dist_metric", "is of another precision"
    )
    tree.__setstate__((data, order, nodes, bounds, *state[4:]))
