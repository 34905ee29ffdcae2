"""Report of a job as one HTML page with pictures: no script, no font and no address outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ultramarine_contract.automl import AutoMLSummary, LeaderboardRow

from ultramarine_trainer.automl.plan import Plan
from ultramarine_trainer.automl.scoring import Array


@dataclass(frozen=True)
class Results:
    """All that the page shows."""

    plan: Plan
    summary: AutoMLSummary
    candidates: Sequence[LeaderboardRow]
    y: Array
    predictions: Array
    importances: dict[str, tuple[float, float]]
    test_baseline: float


def page(results: Results) -> str:
    """Return the page."""
    return f"<!doctype html><title>{escape(results.plan.task.target)}</title>"
