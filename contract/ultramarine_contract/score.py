"""Metrics as one column of `kubectl get`."""

from __future__ import annotations

from collections.abc import Mapping

MAX_SCORE = 64  # characters


def score(metrics: Mapping[str, float]) -> str:
    """The first metrics as `name=value`, as many as the column has room for; never half a number."""
    shown = ""
    for name, value in metrics.items():
        longer = f"{shown} {name}={value:.4g}".strip()
        if len(longer) > MAX_SCORE:
            break
        shown = longer
    return shown
