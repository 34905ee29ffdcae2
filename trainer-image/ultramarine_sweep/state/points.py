"""The values that a metric took in one trial, of which few are kept: as many for early steps as for late ones."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator

LIVE_LIMIT, KEPT_LIMIT = 256, 64  # points of a trial that runs, and of one that has ended


class Points:
    """Steps and values in ascending order of the steps, in 16 bytes each; never more than LIVE_LIMIT of them."""

    __slots__ = ("_steps", "_values")

    def __init__(self, points: Iterable[tuple[int, float]] = ()) -> None:
        self._steps, self._values = array("q"), array("d")
        for step, value in points:
            self.add(step, value)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self._steps, self._values, strict=True)

    @property
    def last_step(self) -> int:
        """The newest step, or -1."""
        return self._steps[-1] if self._steps else -1

    def add(self, step: int, value: float) -> None:
        """Take a point; one that is not newer than the last one is a repetition, and left out."""
        if step <= self.last_step:
            return
        self._steps.append(step)
        self._values.append(value)
        if len(self) > LIVE_LIMIT:
            self.thin(LIVE_LIMIT // 2)

    def thin(self, limit: int) -> None:
        """Leave out points until there are at most `limit`: where the steps are large, the gaps may be too."""
        width = 1 / 64
        while len(self) > limit:
            width *= 2
            kept = list(self._one_of_each(width))
            self._steps = array("q", (step for step, _ in kept))
            self._values = array("d", (value for _, value in kept))

    def _one_of_each(self, width: float) -> Iterator[tuple[int, float]]:
        """The first point of each stretch of the logarithm of the steps, and the last point of all.

        Wider stretches are made of narrower ones: what is thinned again and again is not thinner than what is thinned
        once.
        """
        newest, before = len(self) - 1, -1
        for i, (step, value) in enumerate(self):
            stretch = math.floor(math.log(step + 1) / width)
            if stretch != before or i == newest:
                before = stretch
                yield step, value
