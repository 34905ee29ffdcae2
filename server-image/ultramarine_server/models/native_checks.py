"""Checks of a loaded estimator, before it predicts: values that compiled code would use without a check.

A .skops file has trusted types only, but its author sets their attributes. Most attributes end in numpy, which checks
shapes. Trees, neighbours, libsvm, sparse matrices and encoders index memory by numbers of the file. A few attributes
name a method, a file or a function's output. `check` walks the objects once and raises LoadError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from ultramarine_server.errors import LoadError
from ultramarine_server.models.native_trees import (
    Corrupt,
    Unsafe,
    check_boosting,
    check_decision_tree,
    check_forest,
    check_histogram_boosting,
    check_isolation_forest,
    check_neighbour_tree,
    require,
)

# Attributes with the name of a method that scikit-learn calls with the request's rows.
_METHOD_NAMES = (
    "response_method",
    "_response_method",
    "stack_method",
    "stack_method_",
    "chain_method",
    "chain_method_",
)
_METHODS = frozenset(
    {
        "predict",
        "predict_proba",
        "predict_log_proba",
        "decision_function",
        "score_samples",
        "transform",
        "auto",
        "passthrough",
    }
)
# Attributes with keywords of a function; `out` would let it write into any array of the model.
_KEYWORDS = ("kw_args", "inv_kw_args", "_kwargs", "kernel_params", "pairwise_kernels_kwargs", "metric_params")
_SCALARS: tuple[type, ...] = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    type,
    slice,
    np.generic,
    np.dtype,
    np.ufunc,
    FunctionType,
)


def check(model: Any) -> None:
    """Raise LoadError, which names the attribute, for a model that is unsafe for compiled code."""
    seen: dict[int, Any] = {}
    pending: list[tuple[str, Any, Any]] = [(type(model).__name__, model, None)]
    last: list[Callable[[], None]] = []  # checks that call methods of the model, after all others have passed
    path = ""
    try:
        while pending:
            path, value, holder = pending.pop()
            if isinstance(value, _SCALARS) or type(value).__name__ == "_ArrayFunctionDispatcher":  # numpy's functions
                continue
            _check_place(path, value, holder)
            if id(value) not in seen:
                seen[id(value)] = value
                _check_object(value, last)
                pending.extend(_inside(path, value))
        path = type(model).__name__
        for late in last:
            late()
    except Corrupt as error:
        message = f"{path}{error.attribute} {error.message}"
        raise LoadError(f"{message}; {error.remedy}", error.reason) from error


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}[{key!r:.40}]", item, value
            if not isinstance(key, _SCALARS):
                yield f"{path} key", key, value
        yield f"{path} factory", getattr(value, "default_factory", None), value
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{path}[{index}]", item, value) for index, item in enumerate(value))
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            yield from ((f"{path}[{index}]", item, value) for index, item in enumerate(value.flat))
    elif isinstance(value, partial):
        yield from ((f"{path}.{name}", getattr(value, name), value) for name in ("func", "args", "keywords"))
    if not isinstance(value, type):
        yield from ((f"{path}.{name}", item, value) for name, item in getattr(value, "__dict__", {}).items())


def _check_place(path: str, value: Any, holder: Any) -> None:
    """Require that a compiled tree is in an estimator that checks rows for it."""
    if _is(value, "sklearn.tree._tree.Tree"):
        right = _is(holder, "sklearn.tree._classes.BaseDecisionTree") and path.endswith(".tree_")
        require(right, "", "holds a tree outside a decision tree")
    elif _is(value, "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"):
        require(type(holder) is list and "._predictors[" in path, "", "holds a tree outside its boosting model")


def _is(value: Any, name: str) -> bool:
    return name in _lineage(type(value))


def _lineage(kind: type) -> Iterable[str]:
    return (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)


def _check_object(value: Any, last: list[Callable[[], None]]) -> None:
    if isinstance(value, partial):
        require(not value.args and "out" not in value.keywords, "", "is a partial function with an output of its own")
    if type(value) in (dict, list, tuple, np.ndarray):
        return
    attributes = getattr(value, "__dict__", {})
    for name, item in attributes.items():
        _check_attribute(value, str(name), item)
    if attributes.get("memory") is not None:
        value.memory = None  # a folder of pickles, which only `fit` reads
    for name in _lineage(type(value)):
        if name in _RULES:
            _RULES[name](value)
        if name in _LATE_RULES:
            last.append(partial(_LATE_RULES[name], value))


def _check_attribute(value: Any, name: str, item: Any) -> None:
    require(not name.startswith("__"), f".{name}", "is not an attribute of a model")
    in_class = next((vars(base)[name] for base in type(value).__mro__ if name in vars(base)), None)
    hides = hasattr(type(in_class), "__get__") and not hasattr(type(in_class), "__set__")
    require(not hides, f".{name}", f"stands in the place of a method of {type(value).__name__}")
    if name in _METHOD_NAMES:
        names = item if isinstance(item, list | tuple) else [item]
        predicts = all(method is None or (type(method) is str and method in _METHODS) for method in names)
        require(predicts, f".{name}", "names a method that does not predict")
    if name in _KEYWORDS and item is not None:
        require(type(item) is dict and "out" not in item, f".{name}", "gives a function an output")


def _check_generator(value: Any) -> None:
    """Compare the position in the generator's buffer with its length, because numpy does not."""
    state = value.get_state(legacy=False) if hasattr(value, "get_state") else value.bit_generator.state
    kind = state["bit_generator"]
    if kind == "MT19937":
        require(0 <= state["state"]["pos"] <= 624, "", "has a position outside its buffer")
    if kind == "Philox":
        require(0 <= state["buffer_pos"] <= 4, "", "has a position outside its buffer")


def _check_sparse(matrix: Any) -> None:
    try:
        if matrix.format == "coo":
            matrix._check()
        else:
            matrix.check_format(full_check=True)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise Corrupt("", f"has indices outside the matrix: {error}") from error


def _is_csr(value: Any) -> bool:
    return _is(value, "scipy.sparse._base._spbase") and bool(value.format == "csr")


def _check_svm(value: Any) -> None:
    """Compare the sizes of arrays that libsvm indexes by each other."""
    own = vars(value)
    if "support_" not in own:
        return
    require("_impl" not in own and "_sparse_kernels" not in own, "._impl", "is not the estimator's own")
    kernels = ("linear", "poly", "rbf", "sigmoid")
    require(own.get("kernel") in kernels, ".kernel", "is not one that takes rows (linear, poly, rbf, sigmoid)")
    classifies = value._impl in ("c_svc", "nu_svc")
    vectors, support, coefficients = own["support_vectors_"], own["support_"], own["_dual_coef_"]
    counts, intercept = own["_n_support"], own["_intercept_"]
    for name in ("support_", "_n_support", "_intercept_", "_probA", "_probB"):
        require(type(own.get(name)) is np.ndarray and own[name].ndim == 1, f".{name}", "is not a row of numbers")
    count = len(support)
    classes = len(value.classes_) if classifies else 2
    rows, pairs = (classes - 1, classes * (classes - 1) // 2) if classifies else (1, 1)
    require(classes >= 2 and len(counts) == classes, "._n_support", "has another number of classes")
    total = int(counts.astype(np.int64).sum()) if classifies else count
    require(bool((counts >= 0).all()) and total == count, "._n_support", "does not add up to the support vectors")
    require(intercept.shape == (pairs,), "._intercept_", "has another size than the classes ask for")
    for name in ("_probA", "_probB"):
        require(len(own[name]) in (0, pairs), f".{name}", "has another size than the classes ask for")
    require(len(own["_probA"]) == len(own["_probB"]) or not classifies, "._probB", "has another size than _probA")
    trained = not own.get("_effective_probability") or (classifies and len(own["_probA"]) == pairs)
    require(trained, "._effective_probability", "is set without _probA")
    width = own.get("n_features_in_")
    require(
        vectors.ndim == 2 and vectors.shape == (count, width), ".support_vectors_", "has another shape than support_"
    )
    require(coefficients.shape == (rows, count), "._dual_coef_", "has another shape than the support vectors")
    sparse = own.get("_sparse")
    for name in ("support_vectors_", "_dual_coef_"):
        kind = _is_csr(own[name]) if sparse else type(own[name]) is np.ndarray
        require(kind, f".{name}", "is neither all dense nor all sparse")
    if sparse:
        require(coefficients.data.shape == (rows * count,), "._dual_coef_", "leaves coefficients out")
        _check_sparse(vectors)
        _check_sparse(coefficients)


def _check_neighbours(value: Any) -> None:
    own = vars(value)
    for name in ("effective_metric_params_", "metric_params"):
        given = own.get(name) or {}
        require(type(given) is dict and set(given) <= {"p", "w"}, f".{name}", "has more than p and w")
    for name in ("metric", "effective_metric_"):
        require(type(own.get(name, "")) is str, f".{name}", "is not a name")
    rows, width = own.get("_fit_X"), own.get("n_features_in_")
    if rows is None:
        return
    right = (type(rows) is np.ndarray or _is_csr(rows)) and rows.ndim == 2
    require(right and rows.shape[1] == width, "._fit_X", "has another width than n_features_in_")
    require(own.get("n_samples_fit_") == rows.shape[0], ".n_samples_fit_", "is not the number of rows")
    tree = own.get("_tree")
    if tree is not None:
        shape = np.asarray(tree.__getstate__()[0]).shape
        require(shape == rows.shape, "._tree", "was built of other rows")
    labels, classes = own.get("_y"), own.get("classes_")
    if labels is None:
        return
    count = own.get("n_neighbors")
    right = count is None or (isinstance(count, int | np.integer) and 0 < count <= rows.shape[0])
    require(right, ".n_neighbors", "is more than the rows")
    require(type(labels) is np.ndarray and len(labels) == rows.shape[0], "._y", "has another length than _fit_X")
    if classes is not None:
        columns = classes if isinstance(classes, list) else [classes]
        table = labels.reshape(len(labels), -1)
        require(table.dtype.kind in "iu" and table.shape[1] == len(columns), "._y", "has other columns than classes_")
        for column, names in enumerate(columns):
            right = bool(((table[:, column] >= 0) & (table[:, column] < len(names))).all())
            require(right, "._y", "has a class outside classes_")


def _check_clusters(value: Any) -> None:
    own = vars(value)
    if "_n_threads" in own:  # of the training machine; OpenMP would get it unchecked
        count = own["_n_threads"]
        value._n_threads = min(max(count, 1), os.cpu_count() or 1) if type(count) is int else 1
    centers = own.get("cluster_centers_")
    if centers is not None:
        right = type(centers) is np.ndarray and centers.ndim == 2 and len(centers) > 0
        require(right and centers.shape[1] == own.get("n_features_in_"), ".cluster_centers_", "has another width")


def _check_covariance(value: Any) -> None:
    """Compare the matrix of scipy's distance, which does not check it, with the features."""
    width = vars(value).get("n_features_in_")
    for name in ("precision_", "covariance_"):
        matrix = vars(value).get(name)
        right = matrix is None or (type(matrix) is np.ndarray and matrix.shape == (width, width))
        require(right, f".{name}", "is not square in the features")


def _check_one_hot(value: Any) -> None:
    """Compare the columns that an encoder fills with those that it has."""
    own = vars(value)
    if "categories_" not in own:
        return
    categories, widths, drops = own["categories_"], own.get("_n_features_outs"), own.get("_drop_idx_after_grouping")
    mappings = own.get("_default_to_infrequent_mappings") if own.get("_infrequent_enabled") else None
    require(
        type(categories) is list and len(categories) == own.get("n_features_in_"),
        ".categories_",
        "is not one for each feature",
    )
    require(type(widths) is list and len(widths) == len(categories), "._n_features_outs", "is not one for each feature")
    for name, given in (("_default_to_infrequent_mappings", mappings), ("_drop_idx_after_grouping", drops)):
        right = given is None or (type(given) in (list, np.ndarray) and len(given) == len(categories))
        require(right, f".{name}", "is not one for each feature")
    for index, names in enumerate(categories):
        require(type(names) is np.ndarray and names.ndim == 1, f".categories_[{index}]", "is not an array")
        numbers = names[~np.isnan(names)] if names.dtype.kind == "f" else names
        ordered = names.dtype.kind in "OUS" or bool((numbers[:-1] <= numbers[1:]).all())
        require(ordered and len(names), f".categories_[{index}]", "is not sorted")
        filled = len(names)
        if mappings is not None and mappings[index] is not None:
            mapping = np.asarray(mappings[index])
            right = mapping.shape == (len(names),) and mapping.dtype.kind in "iu"
            right = right and bool(((mapping >= 0) & (mapping < len(names))).all())
            require(right, f"._default_to_infrequent_mappings[{index}]", "does not map the categories")
            filled = int(mapping.max()) + 1
        if drops is not None and drops[index] is not None:
            right = isinstance(drops[index], int | np.integer) and 0 <= drops[index] < filled
            require(right, f"._drop_idx_after_grouping[{index}]", "is not one of the categories")
            filled -= 1
        width = widths[index]
        enough = isinstance(width, int | np.integer) and filled == width
        require(enough, f"._n_features_outs[{index}]", "is not the number of the categories")


def _check_vocabulary(value: Any) -> None:
    own = vars(value)
    _check_input(own)
    words = own.get("vocabulary_")
    if words is not None:
        numbers = (
            sorted(words.values())
            if type(words) is dict and all(type(number) is int for number in words.values())
            else []
        )
        require(bool(words) and numbers == list(range(len(words))), ".vocabulary_", "does not number its words from 0")


def _check_hashing(value: Any) -> None:
    width = vars(value).get("n_features")
    require(isinstance(width, int | np.integer) and 1 <= width < 2**31, ".n_features", "is not a number of features")
    _check_input(vars(value))


def _check_input(own: dict[str, Any]) -> None:
    if own.get("input", "content") != "content":
        raise Unsafe(".input", "has the server open files that a request names: it must be 'content'")


def _check_spline(value: Any) -> None:
    own = vars(value)
    knots, coefficients, degree = own.get("_t", own.get("t")), own.get("_c", own.get("c")), own.get("k")
    right = type(knots) is type(coefficients) is np.ndarray and knots.ndim == 1 and isinstance(degree, int | np.integer)
    require(right and 0 <= degree <= 100, ".k", "is not a degree with knots and coefficients")
    require(
        len(knots) >= 2 * degree + 2 and len(coefficients) >= len(knots) - degree - 1, ".c", "has too few coefficients"
    )
    require(bool((knots[:-1] <= knots[1:]).all()), ".t", "is not sorted")


_RULES: dict[str, Callable[[Any], None]] = {
    "numpy.random.mtrand.RandomState": _check_generator,
    "numpy.random._generator.Generator": _check_generator,
    "scipy.sparse._base._spbase": _check_sparse,
    "scipy.interpolate._bsplines.BSpline": _check_spline,
    "sklearn.svm._base.BaseLibSVM": _check_svm,
    "sklearn.neighbors._base.NeighborsBase": _check_neighbours,
    "sklearn.neighbors._kd_tree.KDTree": check_neighbour_tree,
    "sklearn.neighbors._kd_tree.KDTree32": check_neighbour_tree,
    "sklearn.neighbors._ball_tree.BallTree": check_neighbour_tree,
    "sklearn.neighbors._ball_tree.BallTree32": check_neighbour_tree,
    "sklearn.cluster._kmeans._BaseKMeans": _check_clusters,
    "sklearn.covariance._empirical_covariance.EmpiricalCovariance": _check_covariance,
    "sklearn.preprocessing._encoders.OneHotEncoder": _check_one_hot,
    "sklearn.feature_extraction.text.CountVectorizer": _check_vocabulary,
    "sklearn.feature_extraction._dict_vectorizer.DictVectorizer": _check_vocabulary,
    "sklearn.feature_extraction.text.HashingVectorizer": _check_hashing,
    "sklearn.feature_extraction._hash.FeatureHasher": _check_hashing,
    "sklearn.tree._classes.BaseDecisionTree": check_decision_tree,
    "sklearn.ensemble._forest.BaseForest": check_forest,
    "sklearn.ensemble._iforest.IsolationForest": check_isolation_forest,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.BaseHistGradientBoosting": check_histogram_boosting,
}
# Rules that call objects of the file, and so run after all others.
_LATE_RULES: dict[str, Callable[[Any], None]] = {"sklearn.ensemble._gb.BaseGradientBoosting": check_boosting}
