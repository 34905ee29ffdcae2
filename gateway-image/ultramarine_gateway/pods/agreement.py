"""Agreement of two deployments: their answers to the same requests, joined and compared."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Kinds of outputs in the servers' reports: one text for all labels, one for the largest column of each row, numbers.
LABELS, LARGEST, NUMBERS = "labels", "largest", "numbers"
TOLERANCE = 1e-2  # relative difference of equal numbers
_ABSOLUTE_TOLERANCE = 1e-6
_MAX_HALVES, _HALF_SECONDS = 10_000, 120.0  # answers that wait for their counterpart

Outputs = list[tuple[str, str, Any]]  # name, kind and value
Answer = tuple[str, Outputs | None]  # the id of a request, and its outputs; None for an error


def answers_in(document: Any) -> list[Answer]:
    """Read the answers that a server reports. Raises ValueError for anything else."""
    try:
        return [(_text(id), None if outputs is None else [_output(*o) for o in outputs]) for id, outputs in document]
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected answers: {error}") from error


def _output(name: Any, kind: Any, value: Any) -> tuple[str, str, Any]:
    if kind == NUMBERS and not all(number is None or type(number) in (int, float) for number in value):
        raise TypeError("expected numbers")
    return _text(name), _text(kind), value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return value


def alike(champion: Outputs, candidate: Outputs | None) -> bool | None:
    """True if both answered the same; None if no output has the same name and kind.

    One output decides: the first with labels, otherwise the first.
    """
    others = {(name, kind): value for name, kind, value in candidate or ()}
    common = [(kind, value, others[name, kind]) for name, kind, value in champion if (name, kind) in others]
    if not common:
        return None
    kind, old, new = min(common, key=lambda output: output[0] != LABELS)
    if kind != NUMBERS:
        return bool(old == new)
    return len(old) == len(new) and all(map(_close, old, new))


def _close(old: float | None, new: float | None) -> bool:
    if old is None or new is None:  # NaN and infinity
        return old is new
    return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=_ABSOLUTE_TOLERANCE)


@dataclass
class Agreement:
    """Counts of compared copies, of those with the same answer, and of those that could not be compared.

    The last ones are among the compared copies, since they do not agree.
    """

    compared: int = 0
    agreed: int = 0
    unlike: int = 0


class Pairs:
    """Joins the answers of one candidate with those of its champions, and counts."""

    def __init__(self, counts: Agreement) -> None:
        self._counts = counts
        self._halves: OrderedDict[str, tuple[bool, Outputs | None, float]] = OrderedDict()

    def take(self, answers: Iterable[Answer], now: float, *, of_candidate: bool) -> None:
        """Add the answers of one server; `now` is a clock that never goes back, in seconds."""
        for name, outputs in answers:
            before = self._halves.get(name)
            if before is None or before[0] == of_candidate:
                self._halves[name] = (of_candidate, outputs, now)
                continue
            del self._halves[name]
            self._count(*((before[1], outputs) if of_candidate else (outputs, before[1])))
        while self._halves and (len(self._halves) > _MAX_HALVES or self._oldest() + _HALF_SECONDS < now):
            self._halves.popitem(last=False)

    def _oldest(self) -> float:
        return next(iter(self._halves.values()))[2]

    def _count(self, champion: Outputs | None, candidate: Outputs | None) -> None:
        if not champion:  # The champion failed, or its outputs are too large to compare.
            return
        agrees = alike(champion, candidate)
        self._counts.compared += 1
        self._counts.agreed += agrees is True
        self._counts.unlike += agrees is None
