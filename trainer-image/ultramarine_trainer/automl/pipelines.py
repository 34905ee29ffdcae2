"""Pipelines of scikit-learn: the features of a plan, and the estimator of a trial's parameters.

All parts are scikit-learn's or numpy's, so the model needs nothing else. Servers trust all of them in a .skops file
(ultramarine_contract.trusted_types). A missing value may be NaN or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy._lib.array_api_compat.numpy._aliases import asarray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR
from ultramarine_contract.automl import AutoMLTask, algorithms

from ultramarine_trainer.automl.plan import AutoMLError, Plan

Params = Mapping[str, str | int | float | bool]

TREES = ("random_forest", "extra_trees", "hist_gradient_boosting")
LINEAR = ("logistic", "ridge", "elastic_net")  # these take sparse features
MAX_ONE_HOT = 30  # categories of a column; of more, each is the mean of the target
MAX_ENCODED_CLASSES = 20  # each is a column of an encoded category
MAX_KERNEL_ROWS, KERNEL_COMPONENTS = 5000, 300  # beyond, the kernel of an SVM is approximated
TREES_OF_FOREST = 200
MAX_MLP_ITERATIONS, EARLY_STOPPING_ROWS = 200, 2000
_DAY = 86_400


def read_params(task: AutoMLTask, arguments: list[str]) -> dict[str, str | int | float | bool]:
    """Read NAME=VALUE of a trial's command. Raises AutoMLError."""
    params: dict[str, str | int | float | bool] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator:
            raise AutoMLError(f"{argument} is not a parameter. Write NAME=VALUE.")
        params[name] = _value(text)
    if params.get("algorithm") not in (names := algorithms(task)):
        raise AutoMLError(f"algorithm={params.get('algorithm', '')} is not one of {', '.join(names)}.")
    return params


def _value(text: str) -> str | int | float | bool:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def build(plan: Plan, params: Params) -> Pipeline:
    """Return the pipeline of a trial, unfitted."""
    algorithm = str(params["algorithm"])
    own = {name.removeprefix(f"{algorithm}_"): value for name, value in params.items() if name.startswith(algorithm)}
    if params.get("class_weight") == "balanced":
        own["class_weight"] = "balanced"
    return Pipeline([("features", _features(plan, algorithm)), *_estimator(plan, algorithm, own)])


# ---- Features


def _features(plan: Plan, algorithm: str) -> ColumnTransformer:
    trees, linear = algorithm in TREES, algorithm in LINEAR
    parts: list[tuple[str, Any, list[str]]] = []

    def add(name: str, transformer: Any, columns: list[str]) -> None:
        if columns:
            parts.append((name, transformer, columns))

    scale = [] if trees else [("scale", StandardScaler())]
    numbers = plan.columns_of("numeric")
    fill = Pipeline([("fill", SimpleImputer(strategy="median", add_indicator=True)), *scale])
    add("numbers", "passthrough" if algorithm == "hist_gradient_boosting" else fill, [own.name for own in numbers])
    categories = plan.columns_of("categorical")
    many = [own.name for own in categories if own.distinct > MAX_ONE_HOT]
    few = [own.name for own in categories if own.name not in many]
    if len(plan.classes) > MAX_ENCODED_CLASSES:
        few, many = few + many, []
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_ONE_HOT, sparse_output=linear)
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    add("categories", ordinal if trees else one_hot, few)
    splitter = StratifiedKFold if plan.is_classification else KFold
    encoder = TargetEncoder(cv=splitter(5, shuffle=True, random_state=plan.task.seed))
    add("means", Pipeline([("encode", encoder), *scale]), many)
    for place, column in enumerate(plan.columns_of("text")):
        add(f"text_{place}", _text(plan.task.seed, sparse=linear), [column.name])
    for place, column in enumerate(plan.columns_of("date")):
        add(f"date_{place}", _date(), [column.name])
    return ColumnTransformer(parts, sparse_threshold=1.0 if linear else 0.0)


def _filled(strategy: str, **options: Any) -> list[tuple[str, Any]]:
    return [
        ("fill", SimpleImputer(strategy=strategy, **options)),
        ("fill_none", SimpleImputer(missing_values=None, strategy=strategy, **options)),
    ]


def _text(seed: int, *, sparse: bool) -> Pipeline:
    """Return TF-IDF of hashed words and pairs of words, with 40 components for estimators that want few columns."""
    hashing = HashingVectorizer(n_features=2**13, ngram_range=(1, 2), alternate_sign=False, norm=None)
    steps = [
        *_filled("constant", fill_value=""),
        ("flatten", FunctionTransformer(np.sum, kw_args={"axis": 1})),  # of one text: the text
        ("hash", hashing),
        ("tfidf", TfidfTransformer(sublinear_tf=True)),
    ]
    return Pipeline(steps if sparse else [*steps, ("components", TruncatedSVD(40, random_state=seed))])


def _date() -> Pipeline:
    """Return the time, the day of the week, and the part of the year as six waves."""

    def circle(seconds: float, parts: int, degree: int) -> SplineTransformer:
        knots = [[round(seconds * part / parts, 3)] for part in range(parts + 1)]
        return SplineTransformer(degree=degree, knots=knots, extrapolation="periodic")

    parts = [("time", StandardScaler()), ("week", circle(7 * _DAY, 7, 1)), ("year", circle(365.2425 * _DAY, 6, 3))]
    return Pipeline(
        [
            *_filled("most_frequent"),
            ("parse", FunctionTransformer(asarray, kw_args={"dtype": "datetime64[s]"})),
            ("seconds", FunctionTransformer(asarray, kw_args={"dtype": "float64"})),
            ("calendar", FeatureUnion(parts)),
        ]
    )


# ---- Estimators


def _estimator(plan: Plan, algorithm: str, own: dict[str, Any]) -> list[tuple[str, Any]]:
    classified, seed = plan.is_classification, plan.task.seed
    if algorithm == "svm":
        return _svm(plan, own)
    if algorithm == "mlp":
        own["hidden_layer_sizes"] = (own.pop("units"),) * own.pop("layers")
        own |= {"max_iter": MAX_MLP_ITERATIONS, "early_stopping": plan.rows > EARLY_STOPPING_ROWS}
        mlp = (MLPClassifier if classified else MLPRegressor)(random_state=seed, **own)
        return [("model", mlp if classified else _scaled(mlp))]
    if algorithm in ("random_forest", "extra_trees"):
        own |= {"n_estimators": TREES_OF_FOREST, "random_state": seed}
    if algorithm == "hist_gradient_boosting":
        own |= {"early_stopping": False, "random_state": seed}
        if plan.metric == "mae":
            own["loss"] = "absolute_error"
    if algorithm == "logistic":
        own["max_iter"] = 1000
    return [("model", _ESTIMATORS[algorithm][not classified](**own))]


_ESTIMATORS: dict[str, tuple[Any, Any]] = {
    "logistic": (LogisticRegression, None),
    "naive_bayes": (GaussianNB, None),
    "ridge": (None, Ridge),
    "elastic_net": (None, ElasticNet),
    "knn": (KNeighborsClassifier, KNeighborsRegressor),
    "random_forest": (RandomForestClassifier, RandomForestRegressor),
    "extra_trees": (ExtraTreesClassifier, ExtraTreesRegressor),
    "hist_gradient_boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
}


def _svm(plan: Plan, own: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return an SVM with calibrated probabilities; of many rows or classes, a linear model of its kernel."""
    small = plan.rows <= MAX_KERNEL_ROWS
    kernel = Nystroem(gamma=own["gamma"], n_components=KERNEL_COMPONENTS, random_state=plan.task.seed)
    if not plan.is_classification:
        return [("model", _scaled(SVR(**own)))] if small else [("kernel", kernel), ("model", Ridge(1 / own["C"]))]
    if small and plan.least >= 6 and len(plan.classes) <= MAX_ENCODED_CLASSES:
        return [("model", CalibratedClassifierCV(SVC(**own), ensemble=False, cv=3))]
    del own["gamma"]
    return [("kernel", kernel), ("model", LogisticRegression(max_iter=1000, **own))]


def _scaled(regressor: Any) -> TransformedTargetRegressor:
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())
