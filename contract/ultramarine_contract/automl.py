"""AutoML: the task of its programs, the space that is searched, configurations to begin with, and the summary."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from .common import Count, Document, Task

ENV_AUTOML_TASK = "ULTRAMARINE_AUTOML_TASK"
TASK_NAME = "task.json"  # in the folder in which a program starts
FACTS_NAME, PREDICTIONS_NAME = "facts.json", "oof.npy"  # of a candidate
PLAN_NAME, SEARCH_NAME, TEST_NAME = "plan.json", "search.parquet", "test.parquet"  # of prepared data
MODEL_NAME, SUMMARY_NAME = "model.skops", "summary.json"
LEADERBOARD_NAME, CODE_NAME, PAGE_NAME = "leaderboard.parquet", "train.py", "report.html"
OBJECTIVE = "score"  # metric that a trial prints
MAX_LEADERBOARD = 10

# Metrics by task, the first one for `auto`, and whether more is better.
METRICS: dict[str, dict[str, bool]] = {
    "classification": {
        "log_loss": False,
        "accuracy": True,
        "balanced_accuracy": True,
        "f1_macro": True,
        "roc_auc": True,
    },
    "regression": {"rmse": False, "mae": False, "r2": True},
    "forecasting": {"mae": False, "rmse": False},
}
COLUMN_TYPES = ("numeric", "categorical", "text", "date", "id")


class AutoMLTask(Task, frozen=True):
    """Search of a model: the columns with a part of their own, the metric, the folds, and the end.

    `deadline` is the time in UNIX seconds by which all must be registered; 0 for none. `time` orders the rows: the test
    rows and those of later folds are the latest.
    """

    NOUN = "the task of an AutoML program"

    task: Literal["classification", "regression", "forecasting"]
    target: str
    metric: str = "auto"
    folds: Annotated[int, Meta(ge=2, le=20)] = 5
    seed: Count = 0
    drop: tuple[str, ...] = ()
    types: dict[str, Literal["numeric", "categorical", "text", "date", "id"]] = field(default_factory=dict)
    weight: str = ""
    group: str = ""
    block: tuple[str, ...] = ()
    ensemble: bool = True
    deadline: float = 0.0
    test_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    time: str = ""

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class Guardrail(Document, frozen=True):
    """Weakness of the data: its name, `info`, `warning` or `error`, the column if it has one, and a sentence."""

    name: str
    severity: str
    column: str = ""
    message: str = ""


class LeaderboardRow(Document, frozen=True):
    """Candidate: its cross-validated score with the deviation between folds, and its costs."""

    algorithm: str
    score: float
    std: float = 0.0
    fit_seconds: float = 0.0
    p95_milliseconds: float = 0.0
    mebibytes: float = 0.0
    params: dict[str, str | int | float | bool] = field(default_factory=dict)


class AutoMLSummary(Document, frozen=True):
    """Result for the status: the model that was chosen, the best candidates, and its score on rows never used.

    `low` and `high` bound the test score with 95 % confidence. `baseline` is the score of a model without features.
    `weights` are those of an ensemble's members, by their place in the leaderboard from 1.
    """

    NOUN = "the summary of an AutoML job"

    metric: str
    goal: str
    best: LeaderboardRow
    leaderboard: tuple[LeaderboardRow, ...] = ()
    candidates: Count = 0
    weights: dict[str, float] = field(default_factory=dict)
    test_score: float = 0.0
    low: float = 0.0
    high: float = 0.0
    baseline: float = 0.0
    rows: Count = 0
    test_rows: Count = 0
    guardrails: tuple[Guardrail, ...] = ()

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


def metric_of(task: AutoMLTask) -> str:
    """Return the metric that candidates are compared by. Raises ValueError for one that the task does not have."""
    metrics = METRICS[task.task]
    if task.metric == "auto":
        return next(iter(metrics))
    if task.metric not in metrics:
        raise ValueError(f"{task.task} has no metric {task.metric}. Choose one of {', '.join(metrics)}.")
    return task.metric


def goal_of(task: AutoMLTask) -> Literal["minimize", "maximize"]:
    """Return the direction of the metric, as a Sweep's objective has it."""
    return "maximize" if METRICS[task.task][metric_of(task)] else "minimize"


# ---- The search space. A parameter of an algorithm begins with the algorithm's name; the rest is scikit-learn's name.

Domain = dict[str, Any]


def _log(low: float, high: float) -> Domain:
    return {"logUniform": {"min": low, "max": high}}


def _log_int(low: int, high: int) -> Domain:
    return {"logInt": {"min": low, "max": high}}


def _uniform(low: float, high: float) -> Domain:
    return {"uniform": {"min": low, "max": high}}


_FOREST: dict[str, Domain] = {"max_features": _uniform(0.1, 1.0), "min_samples_leaf": _log_int(1, 32)}
_BOTH: dict[str, dict[str, Domain]] = {
    "svm": {"C": _log(0.01, 1000.0), "gamma": _log(1e-4, 1.0)},
    "knn": {"n_neighbors": _log_int(1, 64), "weights": {"choice": ["uniform", "distance"]}},
    "random_forest": _FOREST,
    "extra_trees": _FOREST,
    "hist_gradient_boosting": {
        "learning_rate": _log(0.01, 0.5),
        "max_iter": _log_int(30, 600),
        "max_leaf_nodes": _log_int(4, 128),
        "min_samples_leaf": _log_int(2, 100),
        "l2_regularization": _log(1e-6, 10.0),
        "max_features": _uniform(0.3, 1.0),
    },
    "mlp": {
        "units": _log_int(16, 256),
        "layers": {"int": {"min": 1, "max": 2}},
        "alpha": _log(1e-6, 1.0),
        "learning_rate_init": _log(1e-4, 1e-2),
    },
}
_CLASSIFICATION: dict[str, dict[str, Domain]] = {
    "logistic": {"C": _log(1e-3, 1000.0)},
    "naive_bayes": {"var_smoothing": _log(1e-10, 1.0)},
    **_BOTH,
}
_REGRESSION: dict[str, dict[str, Domain]] = {
    "ridge": {"alpha": _log(1e-3, 1e4)},
    "elastic_net": {"alpha": _log(1e-4, 10.0), "l1_ratio": _uniform(0.05, 1.0)},
    **_BOTH,
}
_SPACES = {"classification": _CLASSIFICATION, "regression": _REGRESSION, "forecasting": _REGRESSION}
_WEIGHTED = ("logistic", "svm", "random_forest", "extra_trees", "hist_gradient_boosting")  # these take class_weight


def algorithms(task: AutoMLTask) -> tuple[str, ...]:
    """Return the algorithms that are tried. Raises ValueError if a blocked one does not exist, or none is left."""
    space = _SPACES[task.task]
    if unknown := [name for name in task.block if name not in space]:
        raise ValueError(f"{task.task} has no algorithm {unknown[0]} to block. It has {', '.join(space)}.")
    if not (left := tuple(name for name in space if name not in task.block)):
        raise ValueError("all algorithms are blocked. Leave at least one.")
    return left


def search_space(task: AutoMLTask) -> dict[str, Domain]:
    """Return spec.searchSpace of the Sweep: the algorithm, and the parameters that exist with each of them."""
    names = algorithms(task)
    space: dict[str, Domain] = {"algorithm": {"choice": list(names)}}
    for name in names:
        for parameter, domain in _SPACES[task.task][name].items():
            space[f"{name}_{parameter}"] = {**domain, "when": {"algorithm": [name]}}
    if weighted := [name for name in names if name in _weighted(task)]:
        space["class_weight"] = {"choice": ["none", "balanced"], "when": {"algorithm": weighted}}
    return space


def _weighted(task: AutoMLTask) -> tuple[str, ...]:
    """Return the algorithms that may weight classes; for metrics that count each class alike."""
    alike = task.task == "classification" and metric_of(task) in ("balanced_accuracy", "f1_macro")
    return _WEIGHTED if alike else ()


_HIST = {"l2_regularization": 1e-6, "max_features": 1.0, "min_samples_leaf": 20}
_STARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hist_gradient_boosting", {"learning_rate": 0.1, "max_iter": 100, "max_leaf_nodes": 31, **_HIST}),
    ("logistic", {"C": 1.0}),
    ("ridge", {"alpha": 1.0}),
    ("extra_trees", {"max_features": 0.4, "min_samples_leaf": 1}),
    ("random_forest", {"max_features": 0.4, "min_samples_leaf": 2}),
    ("svm", {"C": 10.0, "gamma": 0.02}),
    ("hist_gradient_boosting", {"learning_rate": 0.04, "max_iter": 300, "max_leaf_nodes": 12, **_HIST}),
    ("mlp", {"units": 96, "layers": 1, "alpha": 0.01, "learning_rate_init": 2e-3}),
    ("elastic_net", {"alpha": 0.05, "l1_ratio": 0.5}),
    ("knn", {"n_neighbors": 12, "weights": "distance"}),
    ("logistic", {"C": 0.03}),
    ("ridge", {"alpha": 100.0}),
    ("extra_trees", {"max_features": 0.9, "min_samples_leaf": 4}),
    ("naive_bayes", {"var_smoothing": 1e-3}),
    (
        "hist_gradient_boosting",
        {
            "learning_rate": 0.05,
            "max_iter": 400,
            "max_leaf_nodes": 64,
            "l2_regularization": 1.0,
            "max_features": 0.5,
            "min_samples_leaf": 8,
        },
    ),
    ("svm", {"C": 1.0, "gamma": 0.1}),
    ("mlp", {"units": 192, "layers": 2, "alpha": 1e-4, "learning_rate_init": 1e-3}),
)


def portfolio(task: AutoMLTask) -> list[dict[str, Any]]:
    """Return spec.algorithm.initialTrials of the Sweep: configurations that complement each other, strong ones first.

    Chosen by hand: defaults of scikit-learn, and settings on both sides of them.
    """
    names = algorithms(task)
    weighted = _weighted(task)
    return [
        {"algorithm": name}
        | {f"{name}_{parameter}": value for parameter, value in params.items()}
        | ({"class_weight": "balanced"} if name in weighted else {})
        for name, params in _STARTS
        if name in names
    ]
