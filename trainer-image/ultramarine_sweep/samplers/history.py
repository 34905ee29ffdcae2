"""Knowledge of samplers: running and finished trials, those of other sweeps, and which of them are good."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ultramarine_contract.searchdomains import Value
from ultramarine_contract.searchspace import Space

SUCCEEDED, STOPPED, FAILED = "Succeeded", "Stopped", "Failed"

RUNNING = ""


Rank = tuple[float, ...]  # the better, the smaller


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its parameters, how it ended (or RUNNING), and what it came to.

    `values` are the objectives in their order, of one that succeeded. `points` are the first objective's values with
    their steps; of one that was stopped the last of them suffices.
    """

    number: int
    params: Mapping[str, Value]
    outcome: str = RUNNING
    values: tuple[float, ...] = ()
    points: tuple[tuple[int, float], ...] = ()


class Told(Protocol):
    """Whatever has the fields of a Trial."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, Value]: ...
    @property
    def outcome(self) -> str: ...
    @property
    def values(self) -> tuple[float, ...]: ...
    @property
    def points(self) -> Iterable[tuple[int, float]]: ...


def as_trial(source: Told) -> Trial:
    """Return a trial as samplers need it, without intermediate points and without values that are not numbers.

    One that succeeded with such a value has failed: nothing can be compared with it.
    """
    finite = all(math.isfinite(value) for value in source.values)
    outcome = FAILED if source.outcome == SUCCEEDED and not finite else source.outcome
    values = source.values if outcome == SUCCEEDED else ()
    points = tuple(point for point in source.points if math.isfinite(point[1]))[-1:] if outcome == STOPPED else ()
    return Trial(source.number, source.params, outcome, values, points)


@dataclass(frozen=True)
class Suggestion:
    """The parameters that a trial should have."""

    number: int
    params: dict[str, Value]


def signs_of(objectives: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return the factors that turn each objective into one to minimise."""
    return tuple(-1.0 if objective.get("goal") == "maximize" else 1.0 for objective in objectives)


@dataclass
class History:
    """All trials by number, and the finished ones from the best to the worst.

    One that succeeded is better than one that was stopped, and that is better than one that failed: so samplers leave
    a region that fails. Of those that were stopped the one that came further is better.
    Trials of other sweeps have numbers below 0. Nothing depends on the order in which trials were told.
    """

    signs: tuple[float, ...] = (1.0,)
    trials: dict[int, Trial] = field(default_factory=dict)
    running: dict[int, Trial] = field(default_factory=dict)
    version: int = 0  # another one for each change among the finished trials
    _ranked: list[tuple[Rank, int]] = field(default_factory=list)
    _numbers: list[int] = field(default_factory=list)  # of finished trials
    _informative: int = 0
    _elite: tuple[tuple[int, int], list[Trial]] = field(default=((-1, 0), []))

    def tell(self, trial: Trial) -> None:
        """Take over a trial, in place of what was known of the same number."""
        if (before := self.trials.get(trial.number)) == trial:
            return
        if before is not None and before.outcome != RUNNING:
            self._ranked.pop(bisect_left(self._ranked, (self.rank(before), before.number)))
            self._numbers.pop(bisect_left(self._numbers, before.number))
            self._informative -= self.is_informative(before)
            self.version += 1
        self.running.pop(trial.number, None)
        self.trials[trial.number] = trial
        if trial.outcome == RUNNING:
            self.running[trial.number] = trial
            return
        insort(self._ranked, (self.rank(trial), trial.number))
        insort(self._numbers, trial.number)
        self._informative += self.is_informative(trial)
        self.version += 1

    def losses(self, trial: Trial) -> tuple[float, ...]:
        """The objectives of a trial that succeeded, all to be minimised."""
        return tuple(sign * value for sign, value in zip(self.signs, trial.values, strict=True))

    def last_loss(self, trial: Trial) -> float:
        """The first objective as it was last told, to be minimised; infinite where it never was."""
        return self.signs[0] * trial.points[-1][1] if trial.points else math.inf

    def rank(self, trial: Trial) -> Rank:
        """By what finished trials are compared; with several objectives, those that succeeded by the first of them."""
        if trial.outcome == SUCCEEDED:
            return (0.0, *self.losses(trial))
        if trial.outcome == STOPPED and trial.points:
            return (1.0, -trial.points[-1][0], self.last_loss(trial))
        return (2.0,)

    def is_informative(self, trial: Trial) -> bool:
        """Say whether something was measured."""
        return trial.outcome != FAILED and self.rank(trial) < (2.0,)

    @property
    def informative(self) -> int:
        """Number of trials with a measured value."""
        return self._informative

    def finished(self) -> list[Trial]:
        """All finished trials, by number."""
        return [self.trials[number] for number in self._numbers]

    def succeeded(self) -> list[Trial]:
        """All that succeeded, the best first."""
        return [self.trials[number] for _, number in self._ranked[: bisect_left(self._ranked, ((1.0,), 0))]]

    def elite(self, many: int) -> list[Trial]:
        """Those that succeeded and that few others are better than in all objectives; the best of one objective."""
        if len(self.signs) == 1:
            return self.succeeded()[:many]
        key = (self.version, many)
        if self._elite[0] != key:
            from ultramarine_sweep.samplers.dominance import elite

            trials = sorted(self.succeeded(), key=lambda trial: trial.number)
            self._elite = (key, [trials[place] for place in elite([self.losses(trial) for trial in trials], many)])
        return self._elite[1]

    def selection(self, elite: int, newest: int) -> list[Trial]:
        """The best trials and besides them the newest, by number, for what cannot look at all of them.

        Failed ones are no more than the others, or a sweep that fails often would learn nothing else.
        """
        chosen = {trial.number for trial in self.elite(elite)}
        most = len(chosen) + newest
        failed = 0
        for number in reversed(self._numbers):
            if len(chosen) >= most:
                break
            if not self.is_informative(self.trials[number]):
                if failed >= self._informative:
                    continue
                failed += 1
            chosen.add(number)
        return [self.trials[number] for number in sorted(chosen)]


def adopt(
    space: Space, trials: Iterable[Told], objectives: Sequence[Mapping[str, Any]]
) -> tuple[list[Trial], list[str]]:
    """Choose the succeeded trials of another sweep that this one could have made; say of the others why not.

    They get numbers below 0, by their order.
    """
    chosen, reasons = [], []
    for trial in map(as_trial, trials):
        if trial.outcome != SUCCEEDED:
            continue
        why = space.refusal(trial.params)
        if not why and len(trial.values) != len(objectives):
            why = f"it has {len(trial.values)} objectives, and this sweep {len(objectives)}"
        if why:
            reasons.append(f"trial {trial.number} is left out: {why}")
        else:
            chosen.append(trial)
    return [replace(trial, number=place - len(chosen)) for place, trial in enumerate(chosen)], reasons
