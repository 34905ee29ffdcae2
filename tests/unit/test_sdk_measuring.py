"""Metrics of a running job beside its log."""

from __future__ import annotations

from ultramarine.runs.measuring import Measurements


def test_what_the_log_prints_is_not_repeated() -> None:
    """A printed name stays with the log, also when the status lags behind; another name is shown."""
    measurements = Measurements()
    measurements.hear("step=3 loss=0.25")

    status = {"metrics": {"latest": {"loss": 0.5, "accuracy": 0.75}}, "progress": {"step": 2}}
    assert measurements.news(status) == "metrics: accuracy=0.75"
    assert measurements.news({**status, "metrics": {"latest": {"loss": 0.125, "accuracy": 0.75}}}) == ""
