"""Code: a script of plain scikit-learn that fits the chosen model and repeats its cross-validated score."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ultramarine_trainer.automl.plan import FOLD, Plan

_WIDTH = 100


class Writer:
    """Writes estimators as expressions, and remembers what the script has to import."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {}

    def expression(self, value: Any, indent: int = 0) -> str:
        """Return an expression that makes an equal object; estimators with the parameters that are not defaults."""
        if isinstance(value, BaseEstimator) or type(value).__module__.startswith("sklearn."):
            return self._call(value, indent)
        if isinstance(value, np.ufunc) or inspect.isroutine(value):
            return f"np.{value.__name__}"
        if isinstance(value, list):
            return _wrapped("[", [self.expression(item, indent + 4) for item in value], "]", indent)
        if isinstance(value, tuple):
            items = [self.expression(item, indent + 4) for item in value]
            return _wrapped("(", items, ",)" if len(items) == 1 else ")", indent)
        if isinstance(value, float) and np.isnan(value):
            return "np.nan"
        return repr(value)

    def _call(self, value: Any, indent: int) -> str:
        kind = type(value)
        module = kind.__module__.split("._")[0]
        self.imports.setdefault(module, set()).add(kind.__name__)
        arguments = []
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if name == "self" or not hasattr(value, name):
                continue
            own = getattr(value, name)
            if not _equal(own, parameter.default):
                arguments.append(f"{name}={self.expression(own, indent + 4)}")
        return _wrapped(f"{kind.__name__}(", arguments, ")", indent)


def _equal(value: Any, default: Any) -> bool:
    if value is default:
        return True
    both_nan = isinstance(value, float) and isinstance(default, float) and np.isnan(value) and np.isnan(default)
    return both_nan or (type(value) is type(default) and bool(value == default))


def _wrapped(opening: str, items: list[str], closing: str, indent: int) -> str:
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) + indent <= _WIDTH and "\n" not in line:
        return line
    inner = " " * (indent + 4)
    return opening + "".join(f"\n{inner}{item}," for item in items) + f"\n{' ' * indent}{closing.lstrip(',')}"


_METRICS = {
    "log_loss": "log_loss(y, predictions, labels=CLASSES, sample_weight=weights)",
    "accuracy": "accuracy_score(y, labels(predictions), sample_weight=weights)",
    "balanced_accuracy": "balanced_accuracy_score(y, labels(predictions), sample_weight=weights)",
    "f1_macro": 'f1_score(y, labels(predictions), average="macro", sample_weight=weights, zero_division=0.0)',
    "rmse": "root_mean_squared_error(y, predictions, sample_weight=weights)",
    "mae": "mean_absolute_error(y, predictions, sample_weight=weights)",
    "r2": "r2_score(y, predictions, sample_weight=weights)",
}
_AREAS = """areas, sizes = [], []
    for place, name in enumerate(CLASSES):
        if (place or len(CLASSES) > 2) and (y == name).any() and not (y == name).all():
            areas.append(roc_auc_score(y == name, predictions[:, place], sample_weight=weights))
            sizes.append((y == name).sum())
    return np.average(areas, weights=sizes) if areas else 0.5"""
_SCRIPT = '''"""Fits a model that AutoML has chosen, and prints its cross-validated score ({score:.6g} in the search).

    python train.py FOLDER/search.parquet    # FOLDER: the prepared data of the job
"""

import sys
import warnings

import numpy as np
import pandas as pd
{imports}

warnings.simplefilter("ignore")
TARGET = {target!r}
FEATURES = {features}
CLASSES = np.array({classes!r})
MODELS = {models}
SHARES = {shares!r}  # of the models in a prediction


def predict(model, rows):
{predict}


def score(y, predictions, weights):
    {metric}


def labels(predictions):
    return CLASSES[predictions.argmax(axis=1)]


table = pd.read_parquet(sys.argv[1])
y, folds = table[TARGET].to_numpy(), table[{fold!r}].to_numpy()
weights = {weights}
scores = []
for fold in range(folds.max() + 1):
    train, held = folds {comparison} fold, folds == fold
    predictions = 0
    for model, share in zip(MODELS, SHARES):
        options = {options}
        fitted = clone(model).fit(table[train][FEATURES], y[train], **options)
        predictions = predictions + share * predict(fitted, table[held][FEATURES])
    scores.append(score(y[held], predictions, None if weights is None else weights[held]))
print(f"score={{float(np.mean(scores))!r}}")
'''


def script(plan: Plan, models: Sequence[Any], shares: Sequence[float], score: float) -> str:
    """Return the script of a model, or of the members of an ensemble with their shares."""
    writer = Writer()
    expressions = writer.expression(list(models))
    writer.imports.setdefault("sklearn.base", set()).add("clone")
    metric = _METRICS.get(plan.metric, "")
    writer.imports.setdefault("sklearn.metrics", set()).add(metric.partition("(")[0] or "roc_auc_score")
    task = plan.task
    options = "{}"
    if task.weight:
        writer.imports.setdefault("sklearn.utils.validation", set()).add("has_fit_parameter")
        options = (
            '{"model__sample_weight": weights[train]} '
            'if has_fit_parameter(getattr(model[-1], "regressor", model[-1]), "sample_weight") else {}'
        )
    chances = """    chances = np.zeros((len(rows), len(CLASSES)))
    chances[:, np.searchsorted(CLASSES, model.classes_)] = model.predict_proba(rows)
    return chances"""
    return _SCRIPT.format(
        score=score,
        imports="\n".join(
            f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(writer.imports.items())
        ),
        target=task.target,
        features=writer.expression(plan.features),
        classes=list(plan.classes),
        models=expressions,
        shares=[float(share) for share in shares],
        predict=chances if plan.classes else "    return model.predict(rows)",
        metric=f"return {metric}" if metric else _AREAS,
        fold=FOLD,
        weights=f"table[{task.weight!r}].to_numpy(dtype=float)" if task.weight else "None",
        comparison="<" if plan.ordered else "!=",
        options=options,
    )
