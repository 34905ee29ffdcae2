"""Ends: the outcome of a trial, the end of a sweep, and the messages of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ultramarine_contract.errors import counted
from ultramarine_contract.sweep_records import SweepTask
from ultramarine_trainer.progress.metrics import listed, unmeasured

from ultramarine_sweep.state.bests import Bests
from ultramarine_sweep.state.ended import Ended
from ultramarine_sweep.state.trial import FAILED, STOPPED, SUCCEEDED, Finished, Trial

NONE_SUCCEEDED = "NoTrialSucceeded"  # the reason of an end


@dataclass(frozen=True)
class End:
    """End of a sweep; if a trial failed it, `exit_code` is its command's, and `pod` its pod."""

    outcome: str
    reason: str
    message: str
    exit_code: int = 0
    pod: str = ""


@dataclass(frozen=True)
class Standing:
    """State of a sweep: its trials, in the order of their ends, and their cost.

    `live` says that some run or wait, and `exhausted` that there is nothing left to try. `canary` is the first trial
    that has failed by itself. `measured` says whether any has told its objectives, `silent` how many have not though
    their commands ended well, and `seen` which metrics there were.
    """

    now: float
    finished: Ended
    counts: dict[str, int]
    bests: Bests
    live: bool
    exhausted: bool
    canary: Trial | None
    measured: bool
    silent: int
    seen: Iterable[str]
    hours: tuple[float, float]  # of processors and GPUs


def due(task: SweepTask, standing: Standing) -> End | None:
    """Return the end of the sweep if it ends now."""
    counts, canary, ended = standing.counts, standing.canary, len(standing.finished)
    if task.canary_trial and canary and not counts[SUCCEEDED] + counts[STOPPED]:
        first = "trial" if counts[FAILED] == 1 else f"{counts[FAILED]} trials"
        return _failed(standing, "CanaryFailed", f"the first {first} failed", canary)
    if task.max_failed_trials and counts[FAILED] >= task.max_failed_trials:
        bound = f"{counted(counts[FAILED], 'trial')} failed, as many as spec.limits.maxFailedTrials says"
        return _failed(standing, "MaxFailedTrialsReached", bound, _last_failed(standing))
    if (number := standing.bests.has_reached) is not None:
        return End(SUCCEEDED, "ObjectiveReached", f"trial {number} has reached stopAt")
    if task.deadline_seconds and standing.now >= task.deadline_seconds:
        remedy = "raise spec.activeDeadlineSeconds, or ask for fewer trials"
        return End(FAILED, "DeadlineExceeded", f"it has run for {task.deadline_seconds} s; {remedy}")
    for word, spent, budget in zip(("cpu", "gpu"), standing.hours, (task.cpu_hours, task.gpu_hours), strict=True):
        if budget and spent >= budget:
            return _done(standing, "BudgetSpent", f"the {budget:g} hours of spec.budget.{word}Hours are spent")
    if task.budget_seconds and standing.now >= task.budget_seconds:
        return _done(standing, "BudgetSpent", f"the {task.budget_seconds} s of spec.budget.seconds are over")
    if standing.live:
        return None
    if task.max_trials and ended >= task.max_trials:
        return _done(standing, "MaxTrialsReached", f"all {ended} trials have ended")
    if standing.exhausted:
        return _done(standing, "SearchSpaceExhausted", f"all {ended} points of the search space were tried")
    return None


def _done(standing: Standing, reason: str, message: str) -> End:
    """The end of a sweep that has done what it was to do."""
    if standing.counts[SUCCEEDED]:
        return End(SUCCEEDED, reason, message)
    return _failed(standing, NONE_SUCCEEDED, f"{message}, and none has succeeded", _last_failed(standing))


def _failed(standing: Standing, reason: str, message: str, trial: Trial | None) -> End:
    """The end of a sweep that has failed, with the words of a failed trial."""
    if standing.silent * 2 > standing.counts[FAILED] and (hint := unheard(standing)):
        own = f"; trial {trial.number}: {trial.message}" if trial and trial.exit_code == 0 else ""
        return End(FAILED, "MetricNotReported", f"{message}: {hint}{own}")
    if not trial:
        return End(FAILED, reason, message)
    message = "\n".join(filter(None, (f"{message}: trial {trial.number}: {trial.message}", trial.tail)))
    pod, is_pod, _ = trial.worker.partition("/")
    return End(FAILED, reason, message, trial.exit_code, pod if is_pod else "")


def unheard(standing: Standing) -> str:
    """Return a message if no trial reported the objectives though commands succeeded, otherwise nothing."""
    if standing.measured or not standing.silent:
        return ""
    names = ", ".join(objective.metric for objective in standing.bests.objectives)
    remedy = "correct spec.objective.metric, or print the metric as NAME=VALUE"
    return f"no trial has printed {names} (they printed {listed(standing.seen)}); {remedy}"


def _last_failed(standing: Standing) -> Trial | None:
    trials = (standing.finished[number] for number in reversed(standing.finished))
    return next((trial for trial in trials if trial.outcome == FAILED), None)


def judged(finished: Finished, names: Sequence[str]) -> tuple[str, tuple[float, ...], str]:
    """The outcome of a trial, the values of the objectives with these names, and the words for it."""
    values = tuple(value for name in names if (value := finished.metrics.get(name)) is not None)
    if finished.outcome != SUCCEEDED:
        return finished.outcome, values if len(values) == len(names) else (), finished.message
    if why := unmeasured(names, finished.metrics):
        return FAILED, (), finished.message or why
    return SUCCEEDED, values, finished.message


KINDS = 50  # of reasons that are told apart; more would be a list of trials
SHOWN = 3  # in a sentence
OTHERS = "other reasons"
_LONGEST = 200  # characters of one in a sentence
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Reasons:
    """Counts failed trials by what is said of them."""

    def __init__(self) -> None:
        self._trials: dict[str, tuple[str, int, int]] = {}  # the words, how many, and the first of them

    def add(self, number: int, message: str) -> None:
        """Take a failed trial. Errors that differ by numbers alone, such as the trial's parameters, are one reason."""
        reason = message.partition("\n")[0]
        what, colon, error = reason.partition(": ")
        kind = f"{what}{colon}{_NUMBER.sub('0', error)}"
        if kind not in self._trials and len(self._trials) >= KINDS:
            kind = reason = OTHERS
        words, count, first = self._trials.get(kind, (reason, 0, number))
        self._trials[kind] = (words, count + 1, first)

    @property
    def counted(self) -> list[tuple[str, int, int]]:
        """Each reason with the count of its trials and the first of them, the most frequent first, others last."""
        return sorted(self._trials.values(), key=lambda reason: (reason[0] == OTHERS, -reason[1]))

    def __str__(self) -> str:
        """In a few words, or none if no trial has failed."""
        counted = self.counted
        parts = [f"{count} x {reason[:_LONGEST]}" for reason, count, _ in counted[:SHOWN]]
        if left := sum(count for _, count, _ in counted[SHOWN:]):
            parts.append(f"{left} x {OTHERS}")
        return f"{sum(count for _, count, _ in counted)} failed: {', '.join(parts)}" if counted else ""
