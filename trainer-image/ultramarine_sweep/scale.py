"""Which values a picture has room for, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FURTHEST = 1e300  # that is drawn: the width of an axis must be a float too
FEWEST = 4  # values, of which some can be far off
FINER = 4.0  # times as fine is what most values are drawn in, or all of them are shown


@dataclass(frozen=True)
class Scale:
    """From where to where values are drawn; those beyond are drawn at its edges."""

    bottom: float
    top: float
    whole: bool  # the picture is as large as what is in it

    def side(self, value: float) -> int:
        """1 for what is above the scale, -1 for what is below, else 0."""
        return (value > self.top) - (value < self.bottom)

    def drawn(self, values: Sequence[float] | Any) -> list[float]:
        """Where values are drawn."""
        return [min(max(float(value), self.bottom), self.top) for value in values]

    def set(self, axes: Any) -> None:
        """Let the axis end where the scale does, where anything lies beyond."""
        if not self.whole:
            axes.set_ylim(self.bottom, self.top)

    def caption(self, values: Sequence[float]) -> str:
        """How many of these values lie beyond, or nothing."""
        sides = [self.side(value) for value in values]
        told = [
            f"{many} above {bound:.4g}" if side > 0 else f"{many} below {bound:.4g}"
            for side, bound in ((1, self.top), (-1, self.bottom))
            if (many := sides.count(side))
        ]
        if not told:
            return ""
        return f"{' and '.join(told)}, of {len(values)} values: drawn as triangles at the edge"


def far(values: Sequence[float]) -> list[float]:
    """The values, as far as they can be drawn."""
    return [min(max(value, -FURTHEST), FURTHEST) for value in values]


def scale_of(values: Sequence[float]) -> Scale:
    """Where most of these values lie: a few that are far off would press all others together."""
    if len(values) >= FEWEST:
        bounded = far(values)
        low, high = np.quantile(bounded, [0.25, 0.75])
        reach = 3 * (high - low)
        near = [value for value in bounded if low - reach <= value <= high + reach]
        width = max(near) - min(near)
        if 0 < FINER * width <= max(bounded) - min(bounded):
            return Scale(min(near) - 0.05 * width, max(near) + 0.05 * width, False)
    return Scale(-FURTHEST, FURTHEST, True)
