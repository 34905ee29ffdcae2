"""Difference of two versions of a table, by their profiles."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ColumnDifference:
    """Difference of a column: type and share of missing values before and after, and the drift from 0 to 1.

    `drift` is None if one of the versions has no figures to compare.
    """

    name: str
    types: tuple[str, str]
    missing: tuple[float, float]
    drift: float | None


@dataclass(frozen=True)
class Difference:
    """Numbers of rows before and after, columns that came and went, and the others, the largest drift first."""

    rows: tuple[int, int]
    added: list[str]
    removed: list[str]
    columns: list[ColumnDifference]

    def document(self) -> dict[str, Any]:
        """Return the difference for JSON or YAML."""
        return asdict(self)


def compare(old: dict[str, Any], new: dict[str, Any]) -> Difference:
    """Return the difference of two profiles, as `Datasets.profile` returns them."""
    before = {column["name"]: column for column in old["columns"]}
    after = {column["name"]: column for column in new["columns"]}
    rows = int(old["rows"]), int(new["rows"])
    columns = [_column(name, before[name], after[name], rows) for name in before if name in after]
    return Difference(
        rows,
        [name for name in after if name not in before],
        [name for name in before if name not in after],
        sorted(columns, key=lambda column: (-(column.drift or 0.0), column.name)),
    )


def _column(name: str, old: dict[str, Any], new: dict[str, Any], rows: tuple[int, int]) -> ColumnDifference:
    missing = tuple(
        column.get("nulls", 0) / count if count else 0.0 for column, count in zip((old, new), rows, strict=True)
    )
    types = str(old.get("type", "")), str(new.get("type", ""))
    return ColumnDifference(name, types, (missing[0], missing[1]), _drift(old, new, rows))


def _drift(old: dict[str, Any], new: dict[str, Any], rows: tuple[int, int]) -> float | None:
    """Return the Kolmogorov-Smirnov distance of two histograms, or half the sum of differences of shares of values."""
    if "histogram" in old and "histogram" in new:
        return _distance(old["histogram"], new["histogram"])
    shares = [_shares(column, count) for column, count in zip((old, new), rows, strict=True)]
    if not shares[0] or not shares[1]:
        return None
    values = shares[0].keys() | shares[1].keys()
    changed = sum(abs(shares[0].get(value, 0.0) - shares[1].get(value, 0.0)) for value in values)
    others = abs(sum(shares[0].values()) - sum(shares[1].values()))  # values that are too rare to be named
    return min((changed + others) / 2, 1.0)


def _shares(column: dict[str, Any], rows: int) -> dict[str, float]:
    there = rows - int(column.get("nulls", 0))
    return {entry["value"]: entry["count"] / there for entry in column.get("top", [])} if there else {}


def _distance(old: dict[str, Any], new: dict[str, Any]) -> float:
    points = sorted({*old["edges"], *new["edges"]})
    return max(abs(_cumulated(old, point) - _cumulated(new, point)) for point in points)


def _cumulated(histogram: dict[str, Any], point: float) -> float:
    """Return the share of values up to a point; within a bar they are taken to be spread evenly."""
    edges, counts = histogram["edges"], histogram["counts"]
    total = sum(counts)
    if not total or point < edges[0]:
        return 0.0
    if point >= edges[-1]:
        return 1.0
    bar = max(bisect_left(edges, point) - 1, 0)
    width = edges[bar + 1] - edges[bar]
    part = (point - edges[bar]) / width if width else 1.0
    share: float = (sum(counts[:bar]) + counts[bar] * part) / total
    return share
