"""Trial: one configuration, fitted fold by fold, with its score, its costs and its out-of-fold predictions."""

from __future__ import annotations

import os
import pickle
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from joblib import parallel_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits
from ultramarine_contract.automl import FACTS_NAME, OBJECTIVE, PREDICTIONS_NAME, LeaderboardRow
from ultramarine_contract.common import EXIT_DO_NOT_RETRY
from ultramarine_data.tables import cpus

from ultramarine_trainer.automl.pipelines import build, read_params
from ultramarine_trainer.automl.plan import FOLD, AutoMLError, Plan, read_plan, search_rows, weights_of
from ultramarine_trainer.automl.scoring import Array, codes_of, score, training_rows

_LATENCY_ROWS, _LATENCY_SECONDS = 50, 1.0
_ONE_THREAD_ROWS = 10_000


def run_trial(prepared: Path, candidate: Path, arguments: list[str]) -> LeaderboardRow:
    """Fit the folds, print the running mean of the score after each, and write facts and predictions."""
    plan = read_plan(prepared)
    params = read_params(plan.task, arguments)
    model, table = build(plan, params), search_rows(prepared)
    with bounded(plan.seconds_left, "the trial"):
        scores, predictions, seconds, last = _folds(plan, model, table)
    facts = LeaderboardRow(
        str(params["algorithm"]),
        float(np.mean(scores)),
        float(np.std(scores)),
        round(seconds, 3),
        latency(plan, last, table),
        round(len(pickle.dumps(last)) / 2**20, 3),
        params,
    )
    candidate.mkdir(parents=True, exist_ok=True)
    np.save(candidate / PREDICTIONS_NAME, predictions)
    (candidate / FACTS_NAME).write_bytes(msgspec.json.encode(facts))
    print(
        f"{OBJECTIVE}={facts.score!r} std={facts.std!r} fit_seconds={facts.fit_seconds!r} "
        f"p95_milliseconds={facts.p95_milliseconds!r} mebibytes={facts.mebibytes!r}",
        flush=True,
    )
    return facts


def _folds(plan: Plan, model: Pipeline, table: pd.DataFrame) -> tuple[list[float], Array, float, Pipeline]:
    y, folds, weights = table[plan.task.target].to_numpy(), table[FOLD].to_numpy(), weights_of(plan, table)
    shape = (len(table), len(plan.classes)) if plan.classes else (len(table),)
    predictions = np.full(shape, np.nan)
    scores: list[float] = []
    seconds = longest = 0.0
    count = int(folds.max()) + 1
    for fold in range(count):
        if longest > (left := plan.seconds_left):
            raise AutoMLError(
                f"fold {fold + 1} of {count} would take {longest:.0f} s, and {max(left, 0):.0f} s are left."
            )
        train, held = training_rows(folds, fold, ordered=plan.ordered), folds == fold
        began = time.monotonic()
        fitted = fit(plan, model, table[train])
        seconds += time.monotonic() - began
        predictions[held] = predict(plan, fitted, table[held])
        longest = max(longest, time.monotonic() - began)
        held_weights = None if weights is None else weights[held]
        scores.append(score(plan.metric, plan.classes, y[held], predictions[held], held_weights))
        print(f"step={fold + 1} {OBJECTIVE}={float(np.mean(scores))!r}", flush=True)
    return scores, predictions, seconds, fitted


def fit(plan: Plan, model: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Return a fitted copy of a pipeline; estimators that cannot weight rows ignore the weights."""
    options = {}
    estimator = getattr(model[-1], "regressor", model[-1])
    if plan.task.weight and has_fit_parameter(estimator, "sample_weight"):
        options["model__sample_weight"] = weights_of(plan, rows)
    # Threads wait for each other longer than they work on a small table, most of all beside other processes.
    threads = 1 if len(rows) < _ONE_THREAD_ROWS else cpus()
    with warnings.catch_warnings(), parallel_config("threading", n_jobs=cpus()), threadpool_limits(threads):
        warnings.simplefilter("ignore")
        return clone(model).fit(rows[plan.features], rows[plan.task.target].to_numpy(), **options)


def predict(plan: Plan, model: Any, rows: pd.DataFrame) -> Array:
    """Return numbers, or the probability of each class of the plan."""
    with threadpool_limits(1 if len(rows) < _ONE_THREAD_ROWS else cpus()):
        return _predict(plan, model, rows)


def _predict(plan: Plan, model: Any, rows: pd.DataFrame) -> Array:
    if not plan.classes:
        return np.asarray(model.predict(rows[plan.features]), dtype=float)
    chances = np.zeros((len(rows), len(plan.classes)))
    chances[:, codes_of(plan.classes, model.classes_)] = model.predict_proba(rows[plan.features])
    return chances


def latency(plan: Plan, model: Any, table: pd.DataFrame) -> float:
    """Return the 95th percentile of the milliseconds that one row takes."""
    times: list[float] = []
    ends = time.monotonic() + _LATENCY_SECONDS
    for place in range(min(_LATENCY_ROWS, len(table))):
        row = table[plan.features].iloc[[place]]
        began = time.perf_counter()
        model.predict(row)
        times.append((time.perf_counter() - began) * 1000)
        if time.monotonic() > ends:
            break
    return round(float(np.percentile(times, 95)), 3)


@contextmanager
def bounded(seconds: float, noun: str) -> Iterator[None]:
    """End the process with a sentence if the block takes longer; compiled code of a fit takes no other signal."""
    if seconds == float("inf"):
        yield
        return

    def end() -> None:
        os.write(2, f"the time is over, and {noun} is ended. Raise limits.timeoutSeconds.\n".encode())
        os._exit(EXIT_DO_NOT_RETRY)

    timer = threading.Timer(max(seconds, 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
