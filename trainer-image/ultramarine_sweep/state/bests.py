"""The best trials of a sweep: the first ten of one objective, or the Pareto front of several."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ultramarine_contract.sweep_records import FRONT

TOP = 10  # trials that a summary has


@dataclass(frozen=True)
class Objective:
    """A metric, whether a larger value is better, and the value at which the sweep has found what it looked for."""

    metric: str
    maximize: bool = False
    stop_at: float | None = None

    @classmethod
    def of(cls, document: dict[str, Any]) -> Objective:
        """Read it as the Sweep's spec has it."""
        stop_at = document.get("stopAt")
        return cls(
            str(document["metric"]),
            document.get("goal", "minimize") == "maximize",
            float(stop_at) if stop_at is not None else None,
        )

    def cost(self, value: float) -> float:
        """The value so that less is better."""
        return -value if self.maximize else value

    @property
    def enough(self) -> float:
        """The cost at which nothing better is looked for; any will do, if no value is named."""
        return math.inf if self.stop_at is None else self.cost(self.stop_at)


@dataclass
class Bests:
    """Numbers of the best trials, the best first, kept as trials come in any order.

    With one objective the outputs of the first `keep` of them are wanted.
    """

    objectives: Sequence[Objective]
    keep: int = 1
    _ranked: list[tuple[tuple[float, ...], int]] = field(default_factory=list)  # costs, number

    @property
    def numbers(self) -> list[int]:
        """One objective: ascending costs, of equal ones the first that ended; several: the front, by the first one."""
        return [number for _, number in self._ranked]

    @property
    def has_reached(self) -> int | None:
        """The first of them with all values that are looked for; none if nothing is looked for."""
        enough = [objective.enough for objective in self.objectives]
        if all(math.isinf(cost) for cost in enough):
            return None
        numbers = (number for costs, number in self._ranked if all(a <= b for a, b in zip(costs, enough, strict=True)))
        return next(numbers, None)

    def takes(self, values: Sequence[float]) -> bool:
        """True if a trial with these values would be among the first `keep`, or on the front."""
        costs = self._costs(values)
        if len(self.objectives) == 1:
            return len(self._ranked) < self.keep or costs < self._ranked[self.keep - 1][0]
        return not any(_dominates(other, costs) for other, _ in self._ranked)

    def add(self, number: int, values: Sequence[float]) -> None:
        """Take a trial that has succeeded."""
        costs = self._costs(values)
        if len(self.objectives) > 1:
            if not self.takes(values):
                return
            self._ranked = [(other, best) for other, best in self._ranked if not _dominates(costs, other)]
        # After its equals: of these the first one was taken for the best, and has stored its outputs.
        insort(self._ranked, (costs, number), key=lambda entry: entry[0])
        del self._ranked[max(TOP, self.keep) if len(self.objectives) == 1 else FRONT :]

    def _costs(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(objective.cost(value) for objective, value in zip(self.objectives, values, strict=True))


def _dominates(costs: Sequence[float], other: Sequence[float]) -> bool:
    """True if `one` is nowhere worse and somewhere better; equal trials are both on the front."""
    return costs != other and all(a <= b for a, b in zip(costs, other, strict=True))
