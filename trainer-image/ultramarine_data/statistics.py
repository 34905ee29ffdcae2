"""Figures of each column of a table, in two queries for a group of columns, so that memory is bounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ultramarine_data.tables import NAME, Column, Table, literal

AT_ONCE = 32  # columns of one query
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_TOP, MAX_TEXT, BINS = 10, 200, 20  # values, characters of a value, bars of a histogram


@dataclass
class ColumnProfile:
    """Figures of a column. Numbers of distinct values, quantiles and the choice of top values are approximate."""

    name: str
    type: str
    kind: str
    nulls: int = 0
    distinct: int = 0
    minimum: str = ""
    maximum: str = ""
    mean: float | None = None
    deviation: float | None = None
    quantiles: list[float] = field(default_factory=list)
    shortest: int | None = None
    longest: int | None = None
    top: list[tuple[str, int]] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def document(self) -> dict[str, Any]:
        """Return the figures for JSON, without those that the column does not have."""
        values = {
            "name": self.name,
            "type": self.type,
            "nulls": self.nulls,
            "distinct": self.distinct,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "mean": self.mean,
            "standardDeviation": self.deviation,
            "quantiles": dict(zip(map(str, QUANTILES), self.quantiles, strict=False)),
            "shortest": self.shortest,
            "longest": self.longest,
            "top": [{"value": value, "count": count} for value, count in self.top],
            "histogram": {"edges": self.edges, "counts": self.counts} if self.counts else None,
        }
        return {name: value for name, value in values.items() if value not in (None, "", {}, [])}


def column_profiles(table: Table) -> Iterator[ColumnProfile]:
    """Yield the figures of each column."""
    for start in range(0, len(table.columns), AT_ONCE):
        group = table.columns[start : start + AT_ONCE]
        profiles = [_begun(table, column) for column in group]
        if table.rows:
            tops = _first_pass(table, group, profiles)
            _second_pass(table, group, profiles, tops)
        yield from profiles


def _begun(table: Table, column: Column) -> ColumnProfile:
    return ColumnProfile(column.name, column.type, column.kind, nulls=table.rows)


def _number(column: Column) -> str:
    """Return the SQL of a column as a finite number; times are seconds since 1970."""
    value = f"epoch({column.sql})" if column.kind == "time" else f"{column.sql}::DOUBLE"
    return f"CASE WHEN isfinite({value}) THEN {value} END"


def _text(column: Column) -> str:
    return f"left({column.sql}::VARCHAR, {MAX_TEXT})"


def _has_numbers(column: Column) -> bool:
    return column.kind == "number" or (column.kind == "time" and not column.type.startswith("TIME WITH"))


def _has_top(column: Column) -> bool:
    """True if the most frequent values say something: not of measurements."""
    return column.type not in ("DOUBLE", "FLOAT")


def _first_pass(table: Table, group: tuple[Column, ...], profiles: list[ColumnProfile]) -> list[list[str]]:
    """Fill in what needs no other figure, and return the most frequent values."""
    parts: list[str] = []
    for column in group:
        numbers, text = _has_numbers(column), _text(column)
        number = _number(column) if numbers else "NULL::DOUBLE"
        bound = f"{column.sql}::VARCHAR" if column.kind != "text" else text
        least = f"min({column.sql})::VARCHAR" if column.kind != "text" else f"min({bound})"
        most = f"max({column.sql})::VARCHAR" if column.kind != "text" else f"max({bound})"
        parts += [
            f"count({column.sql})",
            f"approx_count_distinct({column.sql if column.kind != 'text' else f'{column.sql}::VARCHAR'})",
            f"left({least}, {MAX_TEXT})",
            f"left({most}, {MAX_TEXT})",
            f"avg({number})" if column.kind == "number" else "NULL",
            f"stddev_samp({number})" if column.kind == "number" else "NULL",
            f"approx_quantile({number}, [{', '.join(map(str, QUANTILES))}])" if column.kind == "number" else "NULL",
            f"min({number})",
            f"max({number})",
            f"min(length({column.sql}::VARCHAR))" if column.kind == "text" else "NULL",
            f"max(length({column.sql}::VARCHAR))" if column.kind == "text" else "NULL",
            f"approx_top_k({text}, {MAX_TOP})" if _has_top(column) else "NULL",
        ]
    values = iter(table.row(f"SELECT {', '.join(parts)} FROM {NAME}"))
    tops: list[list[str]] = []
    for profile in profiles:
        count, distinct, least, most, mean, deviation, quantiles, low, high, shortest, longest, top = itertools.islice(
            values, 12
        )
        profile.nulls = table.rows - count
        profile.distinct = min(int(distinct), count)
        profile.minimum, profile.maximum = least or "", most or ""
        profile.mean, profile.deviation = _finite(mean), _finite(deviation)
        profile.quantiles = [float(value) for value in quantiles or []]
        profile.shortest, profile.longest = shortest, longest
        profile.edges = _edges(_finite(low), _finite(high), is_whole=_is_whole(profile.type))
        tops.append([value for value in top or [] if value is not None])
    return tops


def _second_pass(table: Table, group: tuple[Column, ...], profiles: list[ColumnProfile], tops: list[list[str]]) -> None:
    """Fill in histograms, and how often the most frequent values occur."""
    parts: list[str] = []
    for column, profile, top in zip(group, profiles, tops, strict=True):
        if profile.edges:
            parts.append(f"map_values(histogram({_number(column)}, [{', '.join(map(repr, profile.edges[1:]))}]))")
        if top:
            # The text is not empty, since the empty one counts all other values.
            parts.append(
                f"histogram_exact('=' || {_text(column)}, [{', '.join(literal(f'={value}') for value in top)}])"
            )
    if not parts:
        return
    values = iter(table.row(f"SELECT {', '.join(parts)} FROM {NAME}"))
    for profile, top in zip(profiles, tops, strict=True):
        if profile.edges:
            profile.counts = [int(count) for count in next(values) or []][: len(profile.edges) - 1]
        counts = next(values) if top else {}
        counted = [(value, int(counts[f"={value}"])) for value in top]
        profile.top = sorted(counted, key=lambda item: (-item[1], item[0]))


def _is_whole(type: str) -> bool:
    return type.endswith(("INT", "INTEGER"))


def _edges(low: float | None, high: float | None, *, is_whole: bool) -> list[float]:
    """Return the edges of a histogram; a bar has the values up to its right edge."""
    if low is None or high is None:
        return []
    if low == high:
        return [low, high]
    bins = min(BINS, int(high - low) + 1) if is_whole else BINS
    first = low - 1 if is_whole and bins == int(high - low) + 1 else low
    width = (high - first) / bins
    if not math.isfinite(width):
        return []
    edges = [first + width * index for index in range(bins)] + [high]
    return edges if len(set(edges)) == len(edges) else []


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
