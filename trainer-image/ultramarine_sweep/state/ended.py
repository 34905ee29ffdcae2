"""Trials that have ended, of which a sweep has many thousands, and looks at few again: each is kept as its record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ultramarine_sweep.state.trial import Trial

if TYPE_CHECKING:
    from ultramarine_sweep.state.journal import Record


def packed(trial: Trial) -> bytes:
    """A trial in a quarter of its memory."""
    return json.dumps(trial.to_record(), separators=(",", ":")).encode()


def unpacked(data: bytes) -> Trial:
    """The trial that was packed."""
    return Trial.of(json.loads(data))


class Ended(Mapping[int, Trial]):
    """Trials by number, in the order in which they ended; what is looked up is a copy each time."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def add(self, trial: Trial) -> None:
        """Take a trial that changes no more."""
        self._packed[trial.number] = packed(trial)

    def records(self) -> Iterator[Record]:
        """The records of those that have ended by now, made as they are asked for."""
        return map(json.loads, [*self._packed.values()])

    def __getitem__(self, number: int) -> Trial:
        return unpacked(self._packed[number])

    def __contains__(self, number: object) -> bool:
        return number in self._packed

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __reversed__(self) -> Iterator[int]:
        return reversed(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
