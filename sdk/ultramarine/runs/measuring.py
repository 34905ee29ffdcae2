"""Metrics and progress of a running job that no line of its log shows, such as those that mlflow logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultramarine_trainer.progress.metrics import PROGRESS_WORDS, metrics_in

from ..results import latest

_WORDS = {"step": "step", "total_steps": "totalSteps", "percent": "percent"}  # as printed, and in the status


class Measurements:
    """Values that were shown. Names that the log prints stay with the log, whose values are newer."""

    def __init__(self) -> None:
        self._printed: set[str] = set()
        self._shown: dict[str, float] = {}

    def hear(self, line: str) -> None:
        """Take a line of the log."""
        if "=" in line:
            self._printed.update(metrics_in(line))

    def news(self, status: Mapping[str, Any]) -> str:
        """Return one line with the metrics and the progress that changed in a status; empty without any."""
        current = latest(dict(status))
        metrics = self._new({name: value for name, value in current.items() if name not in self._printed})
        progress = status.get("progress") or {}
        counts = {word: progress[field] for word, field in _WORDS.items() if progress.get(field) is not None}
        steps = {} if self._printed.intersection(PROGRESS_WORDS) else counts
        moved = self._new(steps)
        if not metrics and not moved:
            return ""
        values = " ".join(f"{name}={value:g}" for name, value in metrics.items())
        place = " ".join(f"{word}={count}" for word, count in steps.items())
        return f"{'metrics' if metrics else 'progress'}: {' '.join(filter(None, (values, place)))}"

    def _new(self, values: Mapping[str, float]) -> dict[str, float]:
        changed = {name: value for name, value in values.items() if self._shown.get(name) != value}
        self._shown.update(changed)
        return changed
