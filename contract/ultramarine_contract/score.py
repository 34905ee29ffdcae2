"""Metrics as one column of `kubectl get`."""

from __future__ import annotations

from collections.abc import Mapping

MAX_SCORE = 64  # characters
AUTOLOG = "training_"  # beginning of the names by which mlflow.autolog logs what a fit reached on its own data


def score(metrics: Mapping[str, float]) -> str:
    """Metrics as `name=value`, as many as the column has room for, those of autolog last; never half a number."""
    shown = ""
    for name in sorted(metrics, key=lambda name: name.startswith(AUTOLOG)):
        longer = f"{shown} {name}={metrics[name]:.4g}".strip()
        if len(longer) <= MAX_SCORE:
            shown = longer
    return shown
