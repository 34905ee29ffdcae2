"""End of a search: the ensemble, the model fitted on all rows, its test score, and the report."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import pandas as pd
import skops.io
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.frozen import FrozenEstimator
from ultramarine_contract.automl import (
    CODE_NAME,
    LEADERBOARD_NAME,
    MAX_LEADERBOARD,
    MODEL_NAME,
    PAGE_NAME,
    SUMMARY_NAME,
    AutoMLSummary,
    LeaderboardRow,
)
from ultramarine_contract.trusted_types import untrusted_in

from ultramarine_trainer.automl.code import script
from ultramarine_trainer.automl.ensemble import Candidate, Ensemble, read_candidates, select
from ultramarine_trainer.automl.page import Results, page
from ultramarine_trainer.automl.pipelines import build
from ultramarine_trainer.automl.plan import FOLD, AutoMLError, Plan, read_plan, search_rows, untouched_rows, weights_of
from ultramarine_trainer.automl.scoring import Array, baseline, is_better, score
from ultramarine_trainer.automl.trial import bounded, fit, latency, predict

ENSEMBLE = "ensemble"
_GRACE = 15.0  # seconds after the deadline in which what has begun may end
_RESERVE = 10.0  # seconds for all that follows the last fit, without importances
_MARGIN = 1.5  # of a fit on all rows over its estimate
_RESAMPLES = 500
_IMPORTANCE_SECONDS, _IMPORTANCE_ROWS, _REPEATS = 20.0, 1000, 3


@dataclass(frozen=True)
class Fitted:
    """Model on all search rows, with its members by their place among the candidates."""

    model: Any
    weights: dict[int, float]


def finish(prepared: Path, candidates: Path, model: Path, report: Path) -> AutoMLSummary:
    """Write the model and the report, and print the test score. Raises AutoMLError without any candidate."""
    plan = read_plan(prepared)
    with bounded(max(plan.seconds_left, 0.0) + _GRACE, "the last step"):
        return _finish(plan, prepared, candidates, model, report)


def _finish(plan: Plan, prepared: Path, folder: Path, model: Path, report: Path) -> AutoMLSummary:
    candidates = read_candidates(plan, folder)
    if not candidates:
        raise AutoMLError("no trial has ended well, so there is no model. See the failed trials, or raise the limits.")
    search, test = search_rows(prepared), untouched_rows(prepared)
    y, folds = search[plan.task.target].to_numpy(), search[FOLD].to_numpy()
    ensemble = select(plan, candidates, y, folds, weights_of(plan, search)) if plan.task.ensemble else None
    fitted = _fit_best(plan, candidates, ensemble, search)
    best = _best(plan, candidates, ensemble, fitted, search)
    _write_model(fitted.model, model)
    test_y, weights = test[plan.task.target].to_numpy(), weights_of(plan, test)
    predictions = predict(plan, fitted.model, test)
    value = score(plan.metric, plan.classes, test_y, predictions, weights)
    low, high = interval(plan, test_y, predictions, weights)
    summary = AutoMLSummary(
        plan.metric,
        plan.goal,
        best,
        tuple(candidate.facts for candidate in candidates[:MAX_LEADERBOARD]),
        len(candidates),
        {str(place + 1): round(weight, 6) for place, weight in fitted.weights.items() if len(fitted.weights) > 1},
        value,
        low,
        high,
        plan.baseline,
        plan.rows,
        plan.test_rows,
        plan.guardrails,
    )
    report.mkdir(parents=True, exist_ok=True)
    (report / SUMMARY_NAME).write_text(summary.to_json())
    members = [build(plan, candidates[place].facts.params) for place in fitted.weights]
    (report / CODE_NAME).write_text(script(plan, members, list(fitted.weights.values()), best.score))
    rows = [best] if best.algorithm == ENSEMBLE else []
    _write_leaderboard(plan, [*rows, *(candidate.facts for candidate in candidates)], report / LEADERBOARD_NAME)
    importances = permutation_importances(plan, fitted.model, test)
    simple = np.broadcast_to(baseline(plan.metric, plan.classes, y), predictions.shape)
    test_baseline = score(plan.metric, plan.classes, test_y, simple, weights)
    facts = [candidate.facts for candidate in candidates]
    scores = [candidate.facts.score for candidate in sorted(candidates, key=lambda own: own.place)]
    results = Results(plan, summary, facts, scores, test_y, predictions, importances, test_baseline)
    (report / PAGE_NAME).write_text(page(results))
    print(
        f"test_score={value!r} low={low!r} high={high!r} score={best.score!r} candidates={len(candidates)}", flush=True
    )
    return summary


# ---- The model


def _fit_best(plan: Plan, candidates: Sequence[Candidate], ensemble: Ensemble | None, search: pd.DataFrame) -> Fitted:
    """Fit the ensemble as far as the time allows, or else the best candidate that can be fitted within it."""
    if ensemble is not None and _seconds(plan, [candidates[place] for place in ensemble.weights]) <= _time(plan):
        models: dict[int, Any] = {}
        for place in sorted(ensemble.weights, key=lambda place: -ensemble.weights[place]):
            if not models or _seconds(plan, [candidates[place]]) <= _time(plan):
                models[place] = fit(plan, build(plan, candidates[place].facts.params), search)
        if len(models) == len(ensemble.weights):
            return Fitted(_voting(plan, models, ensemble.weights, search), ensemble.weights)
        place = min(models)
        return Fitted(models[place], {place: 1.0})
    place = alone(plan, candidates)
    return Fitted(fit(plan, build(plan, candidates[place].facts.params), search), {place: 1.0})


def alone(plan: Plan, candidates: Sequence[Candidate]) -> int:
    """Return the place of the best candidate that can be fitted in time, or else of the quickest.

    A candidate that is no better than the baseline is not preferred for its speed.
    """
    scores = [own.facts.score for own in candidates]
    useful = [place for place, own in enumerate(scores) if is_better(plan.goal, own, plan.baseline)] or [0]
    in_time = (place for place in useful if _seconds(plan, [candidates[place]]) <= _time(plan))
    return next(in_time, min(useful, key=lambda place: candidates[place].facts.fit_seconds))


def _time(plan: Plan) -> float:
    return plan.seconds_left - _RESERVE


def _seconds(plan: Plan, candidates: Sequence[Candidate]) -> float:
    """Return an estimate of the seconds that these take on all rows, by those that their folds took."""
    folds = plan.task.folds
    tables = folds / 2 if plan.ordered else folds - 1  # that all fits of the folds had together
    return _MARGIN * sum(candidate.facts.fit_seconds for candidate in candidates) / tables


def _voting(plan: Plan, models: dict[int, Any], weights: dict[int, float], search: pd.DataFrame) -> Any:
    """Return scikit-learn's own average of models that are fitted already."""
    parts = [(f"member_{place + 1}", FrozenEstimator(models[place])) for place in weights]
    shares = [weights[place] for place in weights]
    if plan.classes:
        voting = VotingClassifier(parts, voting="soft", weights=shares)
    else:
        voting = VotingRegressor(parts, weights=shares)
    return voting.fit(search[plan.features], search[plan.task.target].to_numpy())


def _best(
    plan: Plan, candidates: Sequence[Candidate], ensemble: Ensemble | None, fitted: Fitted, search: pd.DataFrame
) -> LeaderboardRow:
    if ensemble is None or len(fitted.weights) == 1:
        return candidates[min(fitted.weights)].facts
    return LeaderboardRow(
        ENSEMBLE,
        ensemble.score,
        ensemble.std,
        round(sum(candidates[place].facts.fit_seconds for place in fitted.weights), 3),
        latency(plan, fitted.model, search),
        round(len(pickle.dumps(fitted.model)) / 2**20, 3),
    )


def _write_model(model: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_NAME
    skops.io.dump(model, path, compression=ZIP_DEFLATED)
    if names := untrusted_in(path):
        raise AutoMLError(f"the model has types that servers do not trust: {', '.join(names)}. Block its algorithm.")


def _write_leaderboard(plan: Plan, rows: Sequence[LeaderboardRow], path: Path) -> None:
    names = ("algorithm", "score", "std", "fit_seconds", "p95_milliseconds", "mebibytes")
    records = [
        {name: getattr(row, name) for name in names} | {f"params.{name}": str(own) for name, own in row.params.items()}
        for row in rows
    ]
    pd.DataFrame([*records, {"algorithm": "baseline", "score": plan.baseline}]).to_parquet(path, index=False)


# ---- The test


def interval(plan: Plan, y: Array, predictions: Array, weights: Array | None) -> tuple[float, float]:
    """Return the bounds of 95 % of the scores of resampled test rows."""
    random = np.random.default_rng(plan.task.seed)
    scores = []
    ends = time.monotonic() + min(_RESERVE / 3, max(plan.seconds_left / 4, 0.5))
    for _ in range(_RESAMPLES):
        rows = random.integers(0, len(y), len(y))
        own = None if weights is None else weights[rows]
        scores.append(score(plan.metric, plan.classes, y[rows], predictions[rows], own))
        if time.monotonic() > ends:
            break
    low, high = np.nanquantile(scores, [0.025, 0.975])
    return float(low), float(high)


def permutation_importances(plan: Plan, model: Any, test: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return how much worse the score gets without the order of a column's values, with the deviation; most first."""
    rows = test.sample(min(len(test), _IMPORTANCE_ROWS), random_state=plan.task.seed).reset_index(drop=True)
    y, weights = rows[plan.task.target].to_numpy(), weights_of(plan, rows)
    sign = 1 if plan.goal == "maximize" else -1
    usual = score(plan.metric, plan.classes, y, predict(plan, model, rows), weights)
    random = np.random.default_rng(plan.task.seed)
    ends = time.monotonic() + min(_IMPORTANCE_SECONDS, (plan.seconds_left - 3) / 2)
    importances: dict[str, tuple[float, float]] = {}
    for name in plan.features:
        losses = []
        for _ in range(_REPEATS):
            shuffled = rows.assign(**{name: rows[name].to_numpy()[random.permutation(len(rows))]})
            value = score(plan.metric, plan.classes, y, predict(plan, model, shuffled), weights)
            losses.append(sign * (usual - value))
        importances[name] = float(np.mean(losses)), float(np.std(losses))
        if time.monotonic() > ends:
            break
    return dict(sorted(importances.items(), key=lambda item: -item[1][0]))
