"""XGBoost's files, .ubj and .json, as its Booster, classifiers and regressors save them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from ultramarine_server.formats.loading import Options
from ultramarine_server.models.boosted import Run, TreeModel
from ultramarine_server.models.categories import refuse_categories
from ultramarine_server.protocol.tensors import Array

PLATFORM = "xgboost_native"
Values = Callable[[Array, str], Array]  # from rows, and the kind of prediction: value or margin


def load(path: Path, options: Options) -> TreeModel:
    """Return the model in a file. It answers as the class that saved it does in the library."""
    threads = {"nthread": options.threads}
    booster = xgboost.Booster(threads, model_file=_content(path))
    booster.set_param(threads)  # The file has overwritten the parameter.
    refuse_categories(booster, path.name)
    run = _run(booster, json.loads(booster.save_config())["learner"])
    return TreeModel(booster, run, booster.feature_names or [], booster.num_features(), options.signature)


def _content(path: Path) -> bytearray:
    """Return the bytes of a complete file: XGBoost ends the process, or never returns, over a shortened file."""
    content = bytearray(path.read_bytes())
    end = content[-128:].rstrip()
    if not content.startswith(b"{") or b"version" not in end or not end.endswith(b"}"):
        raise ValueError("it does not begin and end as XGBoost's files do")
    return content


def _run(booster: Any, config: dict[str, Any]) -> Run:
    objective = config["objective"]["name"]
    linear = config["gradient_booster"]["name"] == "gblinear"
    saved_by = json.loads(booster.attr("scikit_learn") or "{}")
    # As in the library, estimators stop at the best iteration, and a Booster uses all.
    best = booster.attr("best_iteration") if saved_by and not linear else None
    values = _by_matrix(booster) if linear else _in_place(booster, 0 if best is None else int(best) + 1)
    if saved_by.get("_estimator_type") != "classifier":
        return lambda table: {"predict": values(table, "value")}
    if objective == "multi:softmax":
        return lambda table: _of_margins(values(table, "margin"))
    return lambda table: _of_probabilities(values(table, "value"), several_classes=objective == "multi:softprob")


def _in_place(booster: Any, end: int) -> Values:
    def values(table: Array, kind: str) -> Array:
        return np.asarray(booster.inplace_predict(table, iteration_range=(0, end), predict_type=kind))

    return values


def _by_matrix(booster: Any) -> Values:
    lock = threading.Lock()  # Only trees predict in several threads at once, and without a DMatrix.

    def values(table: Array, kind: str) -> Array:
        with lock:
            return np.asarray(booster.predict(xgboost.DMatrix(table), output_margin=kind == "margin"))

    return values


def _of_probabilities(values: Array, *, several_classes: bool) -> dict[str, Array]:
    if several_classes:
        return {"predict": values.argmax(axis=1), "predict_proba": values}
    labels = (values > 0.5).astype(np.int64)
    if values.ndim == 2:  # multiple labels for each row
        return {"predict": labels, "predict_proba": values}
    return {"predict": labels, "predict_proba": np.stack((1 - values, values), axis=1)}


def _of_margins(margins: Array) -> dict[str, Array]:
    raised = np.exp(margins - margins.max(axis=1, keepdims=True))
    return {"predict": margins.argmax(axis=1), "predict_proba": raised / raised.sum(axis=1, keepdims=True)}
