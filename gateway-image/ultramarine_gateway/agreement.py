"""Whether two deployments answer alike: their answers to the same requests, joined and compared. No I/O here."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Kinds of outputs, as the servers tell them: a word for the whole of it, a word for each row's largest column, numbers.
LABELS, LARGEST, NUMBERS = "labels", "largest", "numbers"
TOLERANCE = 1e-2  # of a number, relative to the larger of two
_NOTHING = 1e-6  # numbers that differ by no more are the same, however small they are
_HALVES, _HALF_SECONDS = 10_000, 120.0  # answers that wait for the other one

Outputs = list[tuple[str, str, Any]]  # name, kind and value
Told = tuple[str, Outputs | None]  # the name of a request, and how it was answered; None stands for an error


def answers_in(document: Any) -> list[Told]:
    """Read what a server tells. Raises ValueError for anything else."""
    try:
        return [(_text(name), None if told is None else [_output(*one) for one in told]) for name, told in document]
    except (TypeError, ValueError) as error:
        raise ValueError(f"these are no answers: {error}") from error


def _output(name: Any, kind: Any, value: Any) -> tuple[str, str, Any]:
    if kind == NUMBERS and not all(one is None or type(one) in (int, float) for one in value):
        raise TypeError("a number is something else")
    return _text(name), _text(kind), value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is something else")
    return value


def alike(champion: Outputs, candidate: Outputs | None) -> bool | None:
    """Whether both answered the same; None where nothing can be compared, as no output has the same name and kind.

    One output decides: the first that is labels, else the first.
    """
    known = {(name, kind): value for name, kind, value in candidate or ()}
    common = [(kind, value, known[name, kind]) for name, kind, value in champion if (name, kind) in known]
    if not common:
        return None
    kind, one, other = min(common, key=lambda each: each[0] != LABELS)
    if kind != NUMBERS:
        return bool(one == other)
    return len(one) == len(other) and all(map(_close, one, other))


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:  # NaN and infinity
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=_NOTHING)


@dataclass
class Compared:
    """How many copies were compared, how many of them were answered alike, and of how many nothing could be compared.

    The last are among the first, since who cannot be compared does not answer alike.
    """

    compared: int = 0
    agreed: int = 0
    unlike: int = 0


class Pairs:
    """Joins the answers of one candidate with those of its champions, and counts."""

    def __init__(self, counts: Compared) -> None:
        self._counts = counts
        self._halves: OrderedDict[str, tuple[bool, Outputs | None, float]] = OrderedDict()

    def take(self, answers: Iterable[Told], now: float, *, of_candidate: bool) -> None:
        """Take in what one server tells; `now` is a clock that never goes back, in seconds."""
        for name, outputs in answers:
            before = self._halves.get(name)
            if before is None or before[0] == of_candidate:
                self._halves[name] = (of_candidate, outputs, now)
                continue
            del self._halves[name]
            self._count(*((before[1], outputs) if of_candidate else (outputs, before[1])))
        while self._halves and (len(self._halves) > _HALVES or self._oldest() + _HALF_SECONDS < now):
            self._halves.popitem(last=False)

    def _oldest(self) -> float:
        return next(iter(self._halves.values()))[2]

    def _count(self, champion: Outputs | None, candidate: Outputs | None) -> None:
        if not champion:  # It failed itself, or gave only outputs that are too large to compare.
            return
        said = alike(champion, candidate)
        self._counts.compared += 1
        self._counts.agreed += said is True
        self._counts.unlike += said is None
