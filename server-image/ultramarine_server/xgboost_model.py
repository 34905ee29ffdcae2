"""XGBoost's own files, .ubj and .json, as its Booster or its classifiers and regressors have saved them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from ultramarine_server.frame_categories import refuse_categories
from ultramarine_server.signature import Signature
from ultramarine_server.tensors import Array
from ultramarine_server.tree_model import Run, TreeModel

Values = Callable[[Array, str], Array]  # rows and what is wanted of them: value or margin


def xgboost_model(path: Path, threads: int, given: Signature | None) -> TreeModel:
    """Return the model in a file. What it answers is what the class that saved it answers in the library."""
    booster = xgboost.Booster({"nthread": threads}, model_file=_content(path))
    booster.set_param({"nthread": threads})  # what the file says of it has overwritten ours
    refuse_categories(booster, path.name)
    run = _run(booster, json.loads(booster.save_config())["learner"])
    return TreeModel(booster, run, booster.feature_names or [], booster.num_features(), given)


def _content(path: Path) -> bytearray:
    """Return the file's bytes if they are whole: XGBoost ends the process, or never returns, over shortened ones."""
    content = bytearray(path.read_bytes())
    end = content[-128:].rstrip()
    if not content.startswith(b"{") or b"version" not in end or not end.endswith(b"}"):
        raise ValueError("it does not begin and end as XGBoost's files do")
    return content


def _run(booster: Any, config: dict[str, Any]) -> Run:
    objective = config["objective"]["name"]
    linear = config["gradient_booster"]["name"] == "gblinear"
    saved_by = json.loads(booster.attr("scikit_learn") or "{}")
    # As the library has it: its estimators stop at the best iteration, a Booster uses all.
    best = booster.attr("best_iteration") if saved_by and not linear else None
    values = _slowly(booster) if linear else _quickly(booster, 0 if best is None else int(best) + 1)
    if saved_by.get("_estimator_type") != "classifier":
        return lambda table: {"predict": values(table, "value")}
    if objective == "multi:softmax":
        return lambda table: _of_margins(values(table, "margin"))
    return lambda table: _of_probabilities(values(table, "value"), several_classes=objective == "multi:softprob")


def _quickly(booster: Any, end: int) -> Values:
    def values(table: Array, what: str) -> Array:
        return np.asarray(booster.inplace_predict(table, iteration_range=(0, end), predict_type=what))

    return values


def _slowly(booster: Any) -> Values:
    lock = threading.Lock()  # Only trees can be asked by several threads at once, and without a DMatrix.

    def values(table: Array, what: str) -> Array:
        with lock:
            return np.asarray(booster.predict(xgboost.DMatrix(table), output_margin=what == "margin"))

    return values


def _of_probabilities(values: Array, *, several_classes: bool) -> dict[str, Array]:
    if several_classes:
        return {"predict": values.argmax(axis=1), "predict_proba": values}
    labels = (values > 0.5).astype(np.int64)
    if values.ndim == 2:  # several labels for each row
        return {"predict": labels, "predict_proba": values}
    return {"predict": labels, "predict_proba": np.stack((1 - values, values), axis=1)}


def _of_margins(margins: Array) -> dict[str, Array]:
    raised = np.exp(margins - margins.max(axis=1, keepdims=True))
    return {"predict": margins.argmax(axis=1), "predict_proba": raised / raised.sum(axis=1, keepdims=True)}
