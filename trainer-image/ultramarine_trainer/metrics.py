"""Metrics as people print them: `epoch=3 loss=0.12` on a line of stdout, no library needed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from ultramarine.shared.contract import METRIC_LIMIT

PROGRESS_WORDS = ("step", "total_steps", "percent")
NAMES = 50  # of metrics that were seen, for a message

_TOKEN = re.compile(r"([A-Za-z_][A-Za-z0-9_./-]{0,62})=([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")


def metrics_in(line: str) -> dict[str, float]:
    """Return the `name=value` words of a line whose value is a finite number; a comma after them does not matter."""
    found = {}
    for word in line.split():
        if match := _TOKEN.fullmatch(word.rstrip(",;")):
            value = float(match[2])
            if math.isfinite(value):
                found[match[1]] = value
    return found


def not_finite_in(line: str) -> set[str]:
    """Return the names of a line's `name=value` words whose value is a number, but no finite one."""
    found = set()
    for word in line.split():
        name, _, value = word.rstrip(",;").partition("=")
        try:
            if value and not math.isfinite(float(value)):
                found.add(name)
        except ValueError:
            continue
    return found


def listed(names: Iterable[str]) -> str:
    """Names of metrics, for a message."""
    return ", ".join(itertools.islice(names, NAMES)) or "no metric at all"


def unmeasured(objectives: Sequence[str], metrics: Mapping[str, float | None]) -> str:
    """Why a command that ended well was no measurement of these objectives, or nothing; None is no finite number."""
    if absent := [name for name in objectives if name not in metrics]:
        printed = listed(metrics)
        return f"the command ended well, but never printed {', '.join(absent)} to stdout (it printed {printed})"
    if odd := [name for name in objectives if metrics[name] is None]:
        return f"the last value of {', '.join(odd)} is no finite number"
    return ""


class LatestMetrics:
    """The newest value of each metric, for the first METRIC_LIMIT names that appear."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def read(self, line: str) -> None:
        """Take over what `line` says."""
        if "=" not in line:
            return
        self.take(metrics_in(line))

    def take(self, metrics: Mapping[str, float]) -> None:
        """Take over these values."""
        for name, value in metrics.items():
            if name in PROGRESS_WORDS:  # they are shown as what they are, and would take a metric's place
                continue
            if name in self.values or len(self.values) < METRIC_LIMIT:
                self.values[name] = value
