"""Which running trials are not worth going on, by the values of the objective that they and others have told.

asha and hyperband look at rungs: steps that lie further and further apart, at each of which the better part goes on.
median, bandit and truncation (the terms are those of Azure ML) look every `evaluationInterval` steps, from step
`delayEvaluation` on. A trial is assessed once at each such place, by all trials that have come there: running, finished
and stopped ones, whose number is bounded, and not their points. So an answer takes microseconds.

A trial that could go on later may be paused at its rung instead of stopped: it goes on once it is among the better part
of those that have come there by then.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

from ultramarine_contract.errors import InvalidSpec

TYPES = ("asha", "hyperband", "median", "bandit", "truncation")

# A longer trial is not evaluated at every step, but this often between two doublings of its steps.
_FINE = 256
_LARGE = 1e300  # a difference of two such is still a number
_LEAST = 3  # other trials that a median is taken of

_PARTS = {2: "half", 3: "third", 4: "quarter"}


@dataclass(slots=True)
class Curve:
    """Values of one trial so far, as losses."""

    step: int = -1
    place: int = -1  # the rung or evaluation of its last assessment
    judged: float = math.inf  # the last value then
    last: float = math.inf
    best: float = math.inf
    average: float = 0.0
    count: int = 0

    def add(self, step: int, loss: float) -> None:
        self.step = step
        self.last = loss
        self.best = min(self.best, loss)
        self.count += 1
        # Not by a sum: ten times 0.1 would be less than 1, and what is all the same worse than its own average.
        self.average += (min(max(loss, -_LARGE), _LARGE) - self.average) / self.count


class Rule(Protocol):
    """One policy."""

    def place(self, number: int, step: int) -> int:
        """The last rung or evaluation that a trial at this step has come to; below 0 if there was none."""

    def judge(self, number: int, place: int, curve: Curve) -> str:
        """Take what a trial has come to at a place; return why it should stop, or nothing."""


@dataclass
class Stopper:
    """Hears the first objective's values of all trials, and says which should stop.

    `early_termination` is that of a Sweep's spec, or None: then none does. Raises InvalidSpec where it is unknown.
    """

    early_termination: Mapping[str, Any] | None
    objective: Mapping[str, Any]
    _curves: dict[int, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sign = -1.0 if self.objective.get("goal") == "maximize" else 1.0
        self._rule = read_rule(self.early_termination, self._sign) if self.early_termination else None

    def add(self, number: int, step: int, value: float) -> str:
        """Take a value; return why the trial should stop, or nothing.

        Steps that a trial has been at before change nothing: it is repeated after a lost worker.
        """
        if self._rule is None or not math.isfinite(value):
            return ""
        curve = self._curves.setdefault(number, Curve())
        if step <= curve.step:
            return ""
        curve.add(step, self._sign * value)
        place = self._rule.place(number, step)
        if place <= curve.place:
            return ""
        curve.place, curve.judged = place, curve.last
        return self._rule.judge(number, place, curve)

    @property
    def pauses(self) -> bool:
        """True if trials that should stop may be promoted later."""
        return isinstance(self._rule, Halving | Hyperband)

    def pause(self, number: int) -> bool:
        """Let a trial wait at the rung that it has come to; False if there is none."""
        rung, curve = self._rung(number)
        if rung is None:
            return False
        insort(rung.paused, (curve.judged, number))
        return True

    def promoted(self) -> int | None:
        """The paused trial that should go on before all others: the best one of the highest rung that lets one go."""
        rungs = self._rule.rungs() if isinstance(self._rule, Halving | Hyperband) else ()
        best = min((number for place, rung in rungs for number in rung.promoted(place)), default=None)
        return best[-1] if best else None

    def resume(self, number: int) -> None:
        """Take a paused trial for one that goes on."""
        rung, curve = self._rung(number)
        if rung is not None:
            rung.paused.remove((curve.judged, number))

    def _rung(self, number: int) -> tuple[Rung | None, Curve]:
        """The rung that a trial has come to last."""
        curve = self._curves.get(number, Curve())
        if curve.place < 0 or not isinstance(self._rule, Halving | Hyperband):
            return None, curve
        return self._rule.rung(number, curve.place), curve


def read_rule(document: Mapping[str, Any], sign: float = 1.0) -> Rule:
    """Read spec.earlyTermination; `sign` makes values of losses again, for messages."""
    given = {name: value for name, value in document.items() if value is not None}
    name = given.get("type")
    steps = int(given.get("evaluationInterval", 1)), int(given.get("delayEvaluation", 0))
    if name in ("asha", "hyperband"):
        rungs = int(given.get("minSteps", 1)), int(given.get("reductionFactor", 3)), int(given.get("maxSteps", 0))
        return Halving(sign, *rungs) if name == "asha" else Hyperband(sign, *rungs)
    if name == "median":
        return Median(sign, *steps)
    if name == "bandit":
        return Bandit(sign, *steps, float(given.get("slackFactor", 0.0)), float(given.get("slackAmount", 0.0)))
    if name == "truncation":
        return Truncation(sign, *steps, float(given.get("truncationPercentage", 0.0)))
    raise InvalidSpec(f"spec.earlyTermination.type is {name}; choose one of {', '.join(TYPES)}")


@dataclass
class Rung:
    """Trials that reached one rung: all their losses, and those that are paused there; both sorted."""

    factor: int
    losses: array[float] = field(default_factory=lambda: array("d"))
    paused: list[tuple[float, int]] = field(default_factory=list)  # loss and number

    def add(self, loss: float) -> bool:
        """Take a trial that comes here, and say whether it may go on."""
        insort(self.losses, loss)
        return self._lets_go(loss)

    def promoted(self, place: int) -> list[tuple[int, float, int]]:
        """The best paused trial, if it may go on by now: what comes first in ascending order goes on first."""
        return [(-place, *best) for best in self.paused[:1] if self._lets_go(best[0])]

    def _lets_go(self, loss: float) -> bool:
        return bisect_left(self.losses, loss) < max(1, len(self.losses) // self.factor)


@dataclass
class Halving:
    """asha (Li et al. 2020): at rungs `least`, `least` * `factor`, ... the best of every `factor` trials go on.

    No trial waits: of the first trials at a rung the best one goes on. At `most` steps and beyond there is no rung.
    """

    sign: float
    least: int
    factor: int
    most: int = 0
    name: str = "asha"
    _rungs: dict[int, Rung] = field(default_factory=dict)

    def place(self, number: int, step: int) -> int:
        return last_rung(self.least, self.factor, self.most, step)

    def judge(self, number: int, place: int, curve: Curve) -> str:
        if self.rung(number, place).add(curve.last):
            return ""
        part = _PARTS.get(self.factor, f"{self.factor}th")
        return f"{self.name}: rung {place}, {self.sign * curve.last:.6g} is not among the best {part}"

    def rung(self, number: int, place: int) -> Rung:
        """The rung at this step."""
        return self._rungs.setdefault(place, Rung(self.factor))

    def rungs(self) -> Iterable[tuple[int, Rung]]:
        """All rungs that trials have come to, by their steps."""
        return self._rungs.items()


def last_rung(least: int, factor: int, most: int, step: int) -> int:
    """The last rung up to a step, or -1; not by a logarithm, which rounds."""
    if step < least or (most and least >= most):
        return -1
    rung = least
    while rung * factor <= step and not (most and rung * factor >= most):
        rung *= factor
    return rung


class Hyperband:
    """hyperband (Li et al. 2018): several brackets of asha, of which each begins at a later rung than the one before.

    A trial's number says which bracket it is in; of those that begin early there are more trials.
    """

    def __init__(self, sign: float, least: int, factor: int, most: int) -> None:
        starts = [least]
        while starts[-1] * factor <= most:
            starts.append(starts[-1] * factor)
        many = len(starts)
        self.brackets = [
            Halving(sign, start, factor, most, f"hyperband, bracket {place + 1} of {many}")
            for place, start in enumerate(starts)
        ]
        # As many trials as take the same number of steps together.
        self._shares = [-(-many * factor**left // (left + 1)) for left in range(many - 1, -1, -1)]

    def bracket(self, number: int) -> int:
        """Which bracket the trial with this number is in."""
        at = crc32(str(number).encode()) % sum(self._shares)
        for place, share in enumerate(self._shares):
            if at < share:
                return place
            at -= share
        raise AssertionError("beyond all shares")

    def place(self, number: int, step: int) -> int:
        return self.brackets[self.bracket(number)].place(number, step)

    def judge(self, number: int, place: int, curve: Curve) -> str:
        return self.brackets[self.bracket(number)].judge(number, place, curve)

    def rung(self, number: int, place: int) -> Rung:
        """The rung at this step of the trial's bracket."""
        return self.brackets[self.bracket(number)].rung(number, place)

    def rungs(self) -> Iterable[tuple[int, Rung]]:
        """All rungs that trials have come to, by their steps."""
        return (rung for bracket in self.brackets for rung in bracket.rungs())


@dataclass
class Evaluated:
    """Common part of median, bandit and truncation: when they evaluate, and the values of others by then."""

    sign: float
    interval: int
    delay: int
    _values: dict[int, array[float]] = field(default_factory=dict, kw_only=True)  # by evaluation, sorted

    def place(self, number: int, step: int) -> int:
        evaluation = step // self.interval
        coarse = 1 << max(evaluation.bit_length() - _FINE.bit_length(), 0)
        return evaluation // coarse * coarse if evaluation * self.interval >= max(self.delay, 1) else -1

    def others(self, place: int, loss: float) -> array[float]:
        """The sorted losses of all who came here before, among whom `loss` is from now on."""
        losses = self._values.setdefault(place, array("d"))
        before = losses[:]
        insort(losses, loss)
        return before

    def reason(self, curve: Curve, why: str) -> str:
        name = type(self).__name__.lower()
        return f"{name}: at step {curve.step} its best, {self.sign * curve.best:.6g}, is {why}"


@dataclass
class Median(Evaluated):
    """Stops a trial whose best value is worse than the median of the others' averages so far."""

    def judge(self, number: int, place: int, curve: Curve) -> str:
        others = self.others(place, curve.average)
        if len(others) < _LEAST:
            return ""
        middle = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        if min(curve.best, _LARGE) <= middle:  # as far as averages go
            return ""
        return self.reason(curve, f"worse than {self.sign * middle:.6g}, the median of {len(others)} trials' averages")


@dataclass
class Bandit(Evaluated):
    """Stops a trial whose best value is farther from the best of all than the slack allows.

    A factor of 0.2 allows 20 % more than the best where it is minimised; maximised, the best is 20 % more than that.
    """

    factor: float = 0.0
    amount: float = 0.0

    def judge(self, number: int, place: int, curve: Curve) -> str:
        others = self.others(place, curve.best)
        if not others:
            return ""
        best = others[0]
        share = self.factor if self.sign > 0 else self.factor / (1 + self.factor)
        # By the size of the best: of a negative one a factor would allow less than nothing.
        allowed = best + (abs(best) * share if self.factor else self.amount)
        if curve.best <= allowed:
            return ""
        return self.reason(
            curve, f"beyond {self.sign * allowed:.6g}, which the best trial's {self.sign * best:.6g} allows"
        )


@dataclass
class Truncation(Evaluated):
    """Stops the worst `percentage` of the trials that have come so far."""

    percentage: float = 0.0

    def judge(self, number: int, place: int, curve: Curve) -> str:
        others = self.others(place, curve.best)
        not_better = len(others) - bisect_left(others, curve.best)
        if not_better >= int((len(others) + 1) * self.percentage / 100):
            return ""
        return self.reason(curve, f"among the worst {self.percentage:g} % of {len(others) + 1} trials")
