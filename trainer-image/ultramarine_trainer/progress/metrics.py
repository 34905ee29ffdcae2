"""Metrics as programs print them: `epoch=3 loss=0.12` on a line of stdout, no library needed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from ultramarine_contract.common import METRIC_LIMIT

PROGRESS_WORDS = ("step", "total_steps", "percent")
NAMES = 50  # of metrics that were seen, for a message

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TOKEN = re.compile(rf"([A-Za-z_][A-Za-z0-9_./-]{{0,62}})=({_NUMBER})")
# A line of its own with a fraction: `accuracy: 0.93`, `f1 = 0.5`. A whole number is a count or a seed, as a rule.
_UNREAD = re.compile(r"\s*([A-Za-z_][\w /.-]{0,60}?)\s*[:=]+\s*([+-]?\d*\.\d+(?:[eE][+-]?\d+)?)\s*%?\s*")
_PLACE = re.compile(r".* \d\S* ")  # what comes before the name: `Epoch 1/3 loss: 0.3`
_METRIC = re.compile(
    r"(?:.*_)?(?:acc|accuracy|loss|logloss|f1|auc|rmse|mae|mse|r2|precision|recall|score|error)(?:_.*)?"
    r"|(?:val|test|train)_(?!.*(?:time|size|split|ratio)).*",
    re.IGNORECASE,
)
UNREAD = "print metrics as name=value words, such as loss=0.12"  # of lines whose names look like no metric's
# What LightGBM and XGBoost print of themselves: `[LightGBM] [Info] [binary:BoostFromScore]: pavg=0.5 -> initscore=0.0`.
_CHATTER = re.compile(r"\[LightGBM\] \[|\[\d\d:\d\d:\d\d\] [A-Z]+: \S+\.(?:cc|cu|h):\d+:")


def metrics_in(line: str) -> dict[str, float]:
    """Return the `name=value` words of a line whose value is a finite number; a comma after them does not matter."""
    values: dict[str, float] = {}
    if _CHATTER.match(line):
        return values
    for word in line.split():
        if match := _TOKEN.fullmatch(word.rstrip(",;")):
            value = float(match[2])
            if math.isfinite(value):
                values[match[1]] = value
    return values


def unread_in(line: str) -> str:
    """Return what a line should be for a metric that it has in another form, UNREAD for another number, or nothing."""
    if not (match := _UNREAD.fullmatch(line)):
        return ""
    name = re.sub("[ /]+", "_", _PLACE.sub("", match[1]))
    if not _METRIC.fullmatch(re.sub("[.-]+", "_", name)):
        return UNREAD
    return f'"{line.strip()}" is not read as a metric: print {name}={match[2]}'


def unread_of(objectives: Iterable[str], line: str) -> str:
    """The same for a line that has one of these metrics among other words."""
    for name in objectives:
        if name.lower() in line.lower() and name not in metrics_in(line):
            match = re.search(rf"(?<![\w.]){re.escape(name)}[\"']?\s*[:=]+\s*({_NUMBER})", line, re.IGNORECASE)
            if match:
                return f'stdout had "{match[0]}": print {name}={match[1]}'
    return ""


def not_finite_in(line: str) -> set[str]:
    """Return the names of a line's `name=value` words whose value is a number, but no finite one."""
    names = set()
    for word in line.split():
        name, _, value = word.rstrip(",;").partition("=")
        try:
            if value and not math.isfinite(float(value)):
                names.add(name)
        except ValueError:
            continue
    return names


def listed(names: Iterable[str]) -> str:
    """Names of metrics, for a message."""
    return ", ".join(itertools.islice(names, NAMES)) or "no metric at all"


def unmeasured(objectives: Sequence[str], metrics: Mapping[str, float | None]) -> str:
    """Return why a successful command did not measure these objectives, or nothing; None is not a finite number."""
    if absent := [name for name in objectives if name not in metrics]:
        printed = listed(metrics)
        return f"the command ended well, but never printed {', '.join(absent)} to stdout (it printed {printed})"
    if odd := [name for name in objectives if metrics[name] is None]:
        return f"the last value of {', '.join(odd)} is not a finite number"
    return ""


class LatestMetrics:
    """The newest value of each metric, for the first METRIC_LIMIT names that appear."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._unread = ""

    @property
    def unread(self) -> str:
        """Return a hint about the last line with a metric (or a number) in another form, if there are no metrics."""
        return "" if self.values else self._unread

    def read(self, line: str) -> None:
        """Take over what `line` says."""
        if "=" in line:
            self.take(metrics_in(line))
        if not self.values:
            hint = unread_in(line)
            self._unread = self._unread or hint if hint == UNREAD else hint or self._unread

    def take(self, metrics: Mapping[str, float]) -> None:
        """Take over these values."""
        for name, value in metrics.items():
            if name in PROGRESS_WORDS:  # they are shown as what they are, and would take a metric's place
                continue
            if name in self.values or len(self.values) < METRIC_LIMIT:
                self.values[name] = value
