"""Scores of predictions by the metrics of AutoML: probabilities for classification, values for regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

Array = np.ndarray[Any, Any]


def score(metric: str, classes: Sequence[Any], y: Array, predictions: Array, weights: Array | None = None) -> float:
    """Return the score of predictions: rows of probabilities in the order of classes, or numbers."""
    if metric in _VALUES:
        return float(_VALUES[metric](y, predictions, sample_weight=weights))
    codes = codes_of(classes, y)
    if metric == "log_loss":
        return float(metrics.log_loss(codes, predictions, labels=range(len(classes)), sample_weight=weights))
    if metric == "roc_auc":
        return _roc_auc(codes, predictions, weights)
    return float(_LABELS[metric](codes, predictions.argmax(axis=1), sample_weight=weights))


_VALUES = {
    "rmse": metrics.root_mean_squared_error,
    "mae": metrics.mean_absolute_error,
    "r2": metrics.r2_score,
}
_LABELS: dict[str, Any] = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "f1_macro": lambda y, labels, sample_weight: metrics.f1_score(
        y, labels, average="macro", sample_weight=sample_weight, zero_division=0.0
    ),
}


def codes_of(classes: Sequence[Any], y: Array) -> Array:
    """Return the place of each row's class."""
    return np.searchsorted(np.asarray(classes), np.asarray(y, dtype=np.asarray(classes).dtype))


def _roc_auc(codes: Array, chances: Array, weights: Array | None) -> float:
    """Return the mean area of each class against all others, weighted by its rows; 0.5 if there is one class."""
    if chances.shape[1] == 2:
        chances, places = chances[:, 1:], [1]
    else:
        places = list(range(chances.shape[1]))
    areas, sizes = [], []
    for column, place in enumerate(places):
        own = codes == place
        if own.any() and not own.all():
            areas.append(metrics.roc_auc_score(own, chances[:, column], sample_weight=weights))
            sizes.append(own.sum())
    return float(np.average(areas, weights=sizes)) if areas else 0.5


def is_better(goal: str, score: float, other: float) -> bool:
    """True if a score is better than another one."""
    return score > other if goal == "maximize" else score < other


def training_rows(folds: Array, fold: int, *, ordered: bool) -> Array:
    """Return the mask of the rows that a fold is predicted by."""
    return np.asarray(folds < fold if ordered else folds != fold)


def fold_scores(
    metric: str, classes: Sequence[Any], y: Array, folds: Array, predictions: Array, weights: Array | None
) -> list[float]:
    """Return the score of each fold."""
    return [
        score(metric, classes, y[rows], predictions[rows], None if weights is None else weights[rows])
        for fold in range(int(folds.max()) + 1)
        if (rows := folds == fold).any()
    ]


def baseline_score(
    metric: str, classes: Sequence[Any], y: Array, folds: Array, weights: Array | None, *, ordered: bool
) -> float:
    """Return the score of a model that knows the target alone: shares of classes, the mean, or the median for mae."""
    predictions = np.zeros((len(y), len(classes)) if classes else len(y))
    for fold in range(int(folds.max()) + 1):
        train = training_rows(folds, fold, ordered=ordered)
        predictions[folds == fold] = baseline(metric, classes, y[train])
    return float(np.mean(fold_scores(metric, classes, y, folds, predictions, weights)))


def baseline(metric: str, classes: Sequence[Any], y: Array) -> Array:
    """Return what a model without features predicts for any row."""
    if classes:
        return np.bincount(codes_of(classes, y), minlength=len(classes)) / len(y)
    return np.asarray(np.median(y) if metric == "mae" else np.mean(y))
