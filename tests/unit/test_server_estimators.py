"""Every estimator of scikit-learn, and usual pipelines of them, is served from .skops without allowCodeExecution.

What is refused stands in docs/formats.md, by name and with a reason.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from scipy.stats import loguniform
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load

assert enable_halving_search_cv
assert enable_iterative_imputer
RANDOM = np.random.default_rng(0)
ROWS = np.abs(RANDOM.normal(size=(80, 6)))
CLASSES = (ROWS[:, 0] + ROWS[:, 1] > 1.4).astype(int)
ESTIMATORS = dict(all_estimators())
WORDS = np.array(["good film", "bad film", "good play", "dull play"] * 20)

TREES = [("a", DecisionTreeClassifier(max_depth=2)), ("b", LogisticRegression())]
NUMBERS = [("a", DecisionTreeRegressor(max_depth=2)), ("b", DecisionTreeRegressor(max_depth=3))]
# Those that cannot be made with their defaults.
MAKERS: dict[str, Callable[[], Any]] = {
    name: partial(ESTIMATORS[name], LogisticRegression())
    for name in (
        "ClassifierChain",
        "FixedThresholdClassifier",
        "MultiOutputClassifier",
        "OneVsOneClassifier",
        "OneVsRestClassifier",
        "OutputCodeClassifier",
        "RFE",
        "RFECV",
        "SelectFromModel",
        "SelfTrainingClassifier",
        "TunedThresholdClassifierCV",
    )
} | {
    "ColumnTransformer": lambda: ColumnTransformer([("scaled", StandardScaler(), [0, 1])], remainder="passthrough"),
    "FeatureUnion": lambda: ESTIMATORS["FeatureUnion"]([("scaled", StandardScaler())]),
    "FrozenEstimator": lambda: ESTIMATORS["FrozenEstimator"](LogisticRegression().fit(ROWS, CLASSES)),
    "GammaRegressor": lambda: make_pipeline(ESTIMATORS["GammaRegressor"]()),
    "GaussianRandomProjection": lambda: ESTIMATORS["GaussianRandomProjection"](3),
    "GridSearchCV": lambda: GridSearchCV(RandomForestClassifier(3), {"max_depth": [1, 2]}),
    "HalvingGridSearchCV": lambda: ESTIMATORS["HalvingGridSearchCV"](LogisticRegression(), {"C": [1, 2]}),
    "HalvingRandomSearchCV": lambda: ESTIMATORS["HalvingRandomSearchCV"](LogisticRegression(), {"C": [1, 2]}),
    "MultiOutputRegressor": lambda: ESTIMATORS["MultiOutputRegressor"](DecisionTreeRegressor()),
    "Pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "RandomizedSearchCV": lambda: RandomizedSearchCV(RandomForestClassifier(3), {"max_depth": [1, 2]}, n_iter=2),
    "RegressorChain": lambda: ESTIMATORS["RegressorChain"](DecisionTreeRegressor()),
    "HistGradientBoostingClassifier": lambda: HistGradientBoostingClassifier(max_iter=5),
    "HistGradientBoostingRegressor": lambda: ESTIMATORS["HistGradientBoostingRegressor"](max_iter=5),
    "LogisticRegressionCV": lambda: ESTIMATORS["LogisticRegressionCV"](Cs=2),
    "MissingIndicator": lambda: ESTIMATORS["MissingIndicator"](features="all"),
    "SequentialFeatureSelector": lambda: ESTIMATORS["SequentialFeatureSelector"](
        DecisionTreeClassifier(max_depth=1), n_features_to_select=1
    ),
    "SparseCoder": lambda: ESTIMATORS["SparseCoder"](np.eye(6)),
    "SparseRandomProjection": lambda: ESTIMATORS["SparseRandomProjection"](3),
    "StackingClassifier": lambda: StackingClassifier(TREES),
    "StackingRegressor": lambda: ESTIMATORS["StackingRegressor"](NUMBERS),
    "VotingClassifier": lambda: VotingClassifier(TREES),
    "VotingRegressor": lambda: ESTIMATORS["VotingRegressor"](NUMBERS),
    "LocalOutlierFactor": lambda: ESTIMATORS["LocalOutlierFactor"](novelty=True),
}
# Those that take no table of numbers, whose kind is tried below, and those that change what is to be predicted.
OTHER_ROWS = {
    "CountVectorizer",
    "DictVectorizer",
    "FeatureHasher",
    "HashingVectorizer",
    "TfidfVectorizer",
    "KernelCenterer",
    "LabelBinarizer",
    "LabelEncoder",
    "MultiLabelBinarizer",
    "PLSSVD",  # changes what is to be predicted as well
    "PatchExtractor",
}
PREDICTING = sorted(name for name, kind in ESTIMATORS.items() if hasattr(kind, "predict"))
CHANGING = sorted(
    name for name, kind in ESTIMATORS.items() if hasattr(kind, "transform") and name not in {*PREDICTING, *OTHER_ROWS}
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refused() -> dict[str, str]:
    """Return the estimators that the documentation says are refused, with their reasons."""
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    [table] = re.findall(r"\| estimator \| why it is refused \|\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    return {name: row[1] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def _served(estimator: Any, folder: Path) -> Any:
    path = folder / "model.skops"
    skops.io.dump(estimator, path)
    model: Any = load(ModelFile(path, "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)
    return model.estimator


def _fitted(name: str) -> Any:
    estimator = MAKERS.get(name, ESTIMATORS[name])()
    targets = np.c_[CLASSES, 1 - CLASSES]
    if name == "IsotonicRegression":
        return estimator.fit(ROWS[:, 0], CLASSES)
    if name in ("GammaRegressor", "PoissonRegressor"):
        return estimator.fit(ROWS, CLASSES + 1)
    if name == "RadiusNeighborsClassifier":
        return estimator.set_params(radius=10).fit(ROWS, CLASSES)
    several = name.startswith(("MultiOutput", "MultiTask")) or name in ("ClassifierChain", "RegressorChain")
    if several or name in ("CCA", "PLSCanonical"):
        return estimator.fit(
            ROWS, targets + RANDOM.normal(size=targets.shape) if name[0] in "CP" and "PLS" in name else targets
        )
    return estimator.fit(ROWS, CLASSES)


@pytest.mark.parametrize("name", PREDICTING)
def test_what_predicts_is_served_or_stands_among_the_refused(name: str, tmp_path: Path) -> None:
    fitted = _fitted(name)
    if name in _refused():
        with pytest.raises((LoadError, skops.io.exceptions.UnsupportedTypeException)):
            _served(fitted, tmp_path)
        return
    served = _served(fitted, tmp_path)
    rows = ROWS[:, 0] if name == "IsotonicRegression" else ROWS
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(fitted, method):
            np.testing.assert_allclose(getattr(served, method)(rows), getattr(fitted, method)(rows), rtol=1e-9)


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_rows_is_served_in_a_pipeline(name: str, tmp_path: Path) -> None:
    fitted = make_pipeline(MAKERS.get(name, ESTIMATORS[name])(), LogisticRegression()).fit(ROWS, CLASSES)
    served = _served(fitted, tmp_path)
    np.testing.assert_allclose(served.predict_proba(ROWS), fitted.predict_proba(ROWS), rtol=1e-9)


def test_the_refused_exist() -> None:
    assert set(_refused()) <= set(ESTIMATORS)


def _frame() -> pd.DataFrame:
    frame = pd.DataFrame({"age": ROWS[:, 0], "income": ROWS[:, 1], "city": ["Bonn", "Kiel"] * 40})
    frame.loc[3, "age"] = np.nan
    return frame


def _columns(last: Any) -> Any:
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    columns = [
        ("numbers", numeric, make_column_selector(dtype_include="number")),
        ("words", OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=2), ["city"]),
    ]
    return Pipeline([("columns", ColumnTransformer(columns)), ("last", last)])


FRAMED = [
    RandomForestClassifier(5),
    GridSearchCV(RandomForestClassifier(3), {"max_depth": [1, 2]}, scoring=make_scorer(roc_auc_score)),
    HistGradientBoostingClassifier(max_iter=5),
    CalibratedClassifierCV(RandomForestClassifier(3), method="isotonic"),
    KNeighborsClassifier(),
    SVC(),
    xgboost.XGBClassifier(n_estimators=3),
    lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
]


@pytest.mark.parametrize("last", FRAMED, ids=lambda last: type(last).__name__)
def test_a_pipeline_of_columns_is_served(last: Any, tmp_path: Path) -> None:
    fitted = _columns(last).fit(_frame(), CLASSES)
    np.testing.assert_array_equal(_served(fitted, tmp_path).predict(_frame()), fitted.predict(_frame()))


@pytest.mark.parametrize("last", [LogisticRegression(), SVC(), KNeighborsClassifier(), RandomForestClassifier(3)])
@pytest.mark.parametrize(
    "first", [CountVectorizer(), TfidfVectorizer(ngram_range=(1, 2)), HashingVectorizer(n_features=64)]
)
def test_a_model_of_texts_is_served(first: Any, last: Any, tmp_path: Path) -> None:
    fitted = make_pipeline(first, last).fit(WORDS, CLASSES)
    np.testing.assert_array_equal(_served(fitted, tmp_path).predict(WORDS), fitted.predict(WORDS))


@pytest.mark.parametrize(
    "first",
    [FunctionTransformer(np.log1p), FunctionTransformer(partial(np.clip, a_min=0, a_max=1))]
    + [
        SelectKBest(partial(mutual_info_classif, random_state=0), k=2),
        OneHotEncoder(handle_unknown="ignore", drop="first"),
    ],
    ids=["log1p", "clip", "mutual", "dropped"],
)
def test_functions_of_numpy_and_scikit_learn_are_served(first: Any, tmp_path: Path) -> None:
    rows = ROWS.round()
    fitted = make_pipeline(first, RandomForestRegressor(3)).fit(rows, CLASSES)
    np.testing.assert_array_equal(_served(fitted, tmp_path).predict(rows), fitted.predict(rows))


def test_a_search_over_distributions_is_refused_and_what_it_found_is_not(tmp_path: Path) -> None:
    """The distributions of scipy run a text of the file when they are built."""
    search = RandomizedSearchCV(LogisticRegression(), {"C": loguniform(0.1, 10)}, n_iter=2).fit(ROWS, CLASSES)
    with pytest.raises(LoadError, match=r"scipy\.stats") as caught:
        _served(search, tmp_path)
    assert caught.value.reason == "CodeExecutionRefused"
    assert _served(search.best_estimator_, tmp_path)


@pytest.mark.attack("model/skops-calls")
def test_a_pipeline_is_served_without_its_folder_of_pickles(tmp_path: Path) -> None:
    """`memory` is read by fit alone, and would be unpickled."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression(), memory=str(tmp_path / "m")).fit(ROWS, CLASSES)
    assert _served(fitted, tmp_path).memory is None
