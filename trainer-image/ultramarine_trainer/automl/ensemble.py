"""Ensemble: candidates that are chosen greedily, with replacement, by their out-of-fold predictions.

Source: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ultramarine_contract.automl import FACTS_NAME, PREDICTIONS_NAME, LeaderboardRow

from ultramarine_trainer.automl.plan import Plan
from ultramarine_trainer.automl.scoring import Array, fold_scores, is_better, score

MAX_CANDIDATES, MAX_STEPS = 40, 25  # that an ensemble is chosen from, and choices


@dataclass(frozen=True)
class Candidate:
    """A trial that has ended well, with its out-of-fold predictions."""

    facts: LeaderboardRow
    predictions: Array
    place: int = 0  # among the folders, in the order of their numbers


def read_candidates(plan: Plan, folder: Path) -> list[Candidate]:
    """Return the candidates at any depth below a folder, best first, each configuration once."""
    candidates: dict[str, Candidate] = {}
    for place, path in enumerate(sorted(folder.rglob(FACTS_NAME), key=_in_order)):
        try:
            facts = msgspec.json.decode(path.read_bytes(), type=LeaderboardRow)
            predictions = np.load(path.with_name(PREDICTIONS_NAME), allow_pickle=False)
        except (OSError, ValueError, msgspec.MsgspecError):
            continue  # half a candidate, of a worker that was killed
        if len(predictions) == plan.rows and np.isfinite(facts.score):
            candidates[str(sorted(facts.params.items()))] = Candidate(facts, predictions, place)
    sign = -1 if plan.goal == "maximize" else 1
    return sorted(candidates.values(), key=lambda own: (sign * own.facts.score, own.facts.fit_seconds))


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Return what sorts trial-2 before trial-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


@dataclass(frozen=True)
class Ensemble:
    """Members by their place among the candidates, with weights that sum to 1."""

    weights: dict[int, float]
    predictions: Array
    score: float
    std: float


def select(
    plan: Plan, candidates: Sequence[Candidate], y: Array, folds: Array, weights: Array | None
) -> Ensemble | None:
    """Return the best ensemble; None if it does not beat the best candidate by more than the noise between folds."""
    pool = [candidate.predictions for candidate in candidates[:MAX_CANDIDATES]]
    held = folds >= 0
    own = None if weights is None else weights[held]
    total: Any = np.zeros_like(pool[0])
    chosen: list[int] = []
    best: tuple[float, list[int]] | None = None
    for step in range(1, MAX_STEPS + 1):
        values = [
            score(plan.metric, plan.classes, y[held], ((total + predictions) / step)[held], own) for predictions in pool
        ]
        place = int(np.argmax(values) if plan.goal == "maximize" else np.argmin(values))
        chosen.append(place)
        total = total + pool[place]
        if best is None or is_better(plan.goal, values[place], best[0]):
            best = values[place], [*chosen]
    assert best is not None
    members = best[1]
    if len(set(members)) < 2:
        return None
    shares = {place: members.count(place) / len(members) for place in sorted(set(members))}
    predictions: Array = np.sum([share * pool[place] for place, share in shares.items()], axis=0)
    together = np.array(fold_scores(plan.metric, plan.classes, y, folds, predictions, weights))
    alone = np.array(fold_scores(plan.metric, plan.classes, y, folds, pool[0], weights))
    gains = together - alone if plan.goal == "maximize" else alone - together
    if gains.mean() <= gains.std(ddof=1) / np.sqrt(len(gains)):
        return None
    return Ensemble(shares, predictions, float(together.mean()), float(together.std()))
