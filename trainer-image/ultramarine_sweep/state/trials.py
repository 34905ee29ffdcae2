"""Trials of a sweep, and the decisions that follow from reports of workers: no clock, storage, network or chance.

Everything that happens is a record. A decision makes records, which change the state when they are made and again when
they are replayed: that is all the state there is, except when a worker was last heard. `now` is the sweep's own time,
in seconds in which it had a coordinator.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from msgspec import structs
from ultramarine_contract.sweep_records import FRONT, BestTrial, SweepSummary, SweepTask
from ultramarine_trainer.progress.metrics import NAMES

from ultramarine_sweep.state.bests import TOP
from ultramarine_sweep.state.ends import NONE_SUCCEEDED, End, Standing, due, judged, unheard
from ultramarine_sweep.state.journal import Record
from ultramarine_sweep.state.replay import Replayed
from ultramarine_sweep.state.trial import (
    FAILED,
    MESSAGE_LIMIT,
    STOPPED,
    SUCCEEDED,
    Ask,
    Done,
    Finished,
    Lease,
    Stopper,
    Trial,
    Wait,
)

SILENCE = 15.0  # seconds without a report, after which a trial goes to another worker.
LOSSES = 5  # of its workers, after which a trial has failed: it may kill them.
DOUBTED = 3  # trials without objectives, after which the summary says so.
CLOCK = 60.0  # seconds after which the journal says what time it is, if it says nothing else


class Trials(Replayed):
    """All trials of one sweep. `drain` the decisions into the journal before a worker hears of them.

    `stopper` decides which trials stop, and has no values yet.
    """

    def __init__(self, task: SweepTask, records: Iterable[Record] = (), stopper: Stopper | None = None) -> None:
        super().__init__(task, stopper)
        for record in records:
            self.apply(record)
        self._heard = {number: self.now for number, trial in self.live.items() if trial.is_running}
        # They may have gone together with an earlier coordinator, as in a sweep that was suspended.
        self._inherited = set(self._heard)
        if stopper:
            for number, step, value in self.points():
                stopper.add(number, step, value)
            for number in self.paused:
                stopper.pause(number)

    def lease(self, worker: str, now: float) -> Lease | Ask | Wait | Done:
        """Say what a worker does next, which has nothing to do."""
        if self.end:
            return Done()
        for trial in self.live.values():
            if trial.is_running and trial.worker == worker:  # that answer was lost, so it has not begun
                self._heard[trial.number] = now
                return _lease(trial)
        if self.is_alone and any(trial.is_running for trial in self.live.values()):
            return Wait()
        waiting = [trial for trial in self.live.values() if trial.waiting]
        if waiting:
            trial = min(waiting, key=lambda trial: trial.number)
            self._begin(worker, trial.number, trial.attempt + 1, now)
            return _lease(trial)
        if (number := self.promoted) is not None:
            return self.go_on(worker, number, self.paused[number].attempt + 1, now)
        return Wait() if self._is_used_up else Ask(self._next)

    @property
    def may_pause(self) -> bool:
        """True if a trial that should stop may go on later."""
        return self.end is None and self._stopper is not None and self._stopper.pauses

    def go_on(self, worker: str, number: int, attempt: int, now: float) -> Lease:
        """Let a paused trial run again."""
        if self._stopper:
            self._stopper.resume(number)
        self._begin(worker, number, attempt, now)
        return _lease(self.live[number])

    @property
    def promoted(self) -> int | None:
        """The paused trial that goes on next, if any does."""
        return self._stopper.promoted() if self._stopper and self.paused else None

    @property
    def _is_used_up(self) -> bool:
        """True if there is no new trial to try."""
        return self._exhausted or bool(self._task.max_trials and self._next >= self._task.max_trials)

    def start(self, worker: str, number: int, params: Mapping[str, Any] | None, now: float) -> Lease | Wait | Done:
        """Begin the trial that was to be asked for; without parameters there is nothing left to try."""
        if self.end:
            return Done()
        if params is None:
            self._exhausted = True
            self._judge(now)
            return Wait()
        self._begin(worker, number, 1, now, params=dict(params))
        return _lease(self.live[number])

    def _begin(self, worker: str, number: int, attempt: int, now: float, **fields: Any) -> None:
        self._decide("started", now, trial=number, attempt=attempt, worker=worker, **fields)
        self._heard[number] = now

    def renew(self, number: int, now: float) -> None:
        """Count the silence of a trial's worker from now."""
        if number in self._heard:
            self._heard[number] = now

    def renew_all(self, now: float) -> None:
        """Forgive all silence: it was this side that did not listen."""
        self._heard = dict.fromkeys(self._heard, now)

    def report(
        self,
        worker: str,
        number: int,
        attempt: int,
        points: Sequence[tuple[str, int, float]],
        now: float,
    ) -> str | None:
        """Hear the worker of a trial: return why it should stop, or nothing, or None when the trial is not its own."""
        trial = self._own(worker, number, attempt, now)
        if trial is None:
            return None
        self._heard[number] = now
        self._inherited.discard(number)
        metric = self.objectives[0].metric
        fresh: list[tuple[int, float]] = []
        for name, step, value in points:
            newest = fresh[-1][0] if fresh else trial.points.last_step
            if name == metric and step > newest and math.isfinite(value):
                fresh.append((step, value))
        if fresh:
            self._decide("points", now, trial=number, points=fresh)
        for step, value in fresh:
            if self._stopper and (why := self._stopper.add(number, step, value)):
                self._stops.setdefault(number, why)
        if self.end:
            return f"the sweep is over: {self.end.message}"
        return self._stops.get(number, "")

    def store(self, number: int) -> None:
        """Hear that a live trial's command has ended well, and that its outputs are on their way."""
        self._storing.add(number)

    def _own(self, worker: str, number: int, attempt: int, now: float) -> Trial | None:
        """Return the live trial of this worker; a trial that no other worker took over is its own again."""
        trial = self.live.get(number)
        if trial is None or trial.attempt != attempt or trial.worker != worker:
            return None
        if trial.waiting or trial.runs_since is None:
            self._decide("resumed", now, trial=number, worker=worker)
        return trial

    def release(self, worker: str, number: int, attempt: int, now: float) -> None:
        """Hear that a worker has to go before its trial has ended, through no fault of the trial's."""
        trial = self.live.get(number)
        if trial and trial.is_running and (trial.worker, trial.attempt) == (worker, attempt):
            self._decide("requeued", now, trial=number, losses=0, spent=trial.spent(now))

    def finish(self, worker: str, finished: Finished, now: float) -> bool:
        """Take a trial that has ended, once; say True, and take nothing yet, where its outputs should be stored first.

        What is told of a trial that has another worker by now, or has finished, changes nothing.
        """
        trial = self._own(worker, finished.trial, finished.attempt, now)
        if trial is None:
            return False
        outcome, values, message = judged(finished, [objective.metric for objective in self.objectives])
        if outcome == SUCCEEDED and self._task.outputs and finished.outputs is None and self.bests.takes(values):
            self._heard[trial.number] = now
            self.store(trial.number)
            return True
        checkpoint = finished.checkpoint if outcome == STOPPED and not self.end else None
        pauses = checkpoint is not None and self._stopper is not None and self._stopper.pause(trial.number)
        self._decide(
            "paused" if pauses else "finished",
            now,
            trial=trial.number,
            attempt=trial.attempt,
            outcome=outcome,
            values=values,
            exitCode=finished.exit_code,
            seconds=trial.seconds + finished.seconds,
            spent=max(finished.seconds, trial.spent(now)),
            message=message[:MESSAGE_LIMIT],
            tail=finished.tail if outcome == FAILED else "",
            outputs={name: output.document() for name, output in (finished.outputs or {}).items()},
            seen=[name for name in itertools.islice(finished.metrics, NAMES) if name not in self._seen],
            measured=all(objective.metric in finished.metrics for objective in self.objectives),
            **({"checkpoint": checkpoint.document()} if pauses and checkpoint else {}),
            **({"fetched": finished.fetched.document()} if finished.fetched and finished.outputs else {}),
        )
        self._judge(now)
        return False

    # What time brings

    def tick(self, now: float) -> None:
        """Give the trials of silent workers back, end a sweep that is due to end, and keep the journal's time."""
        for number, heard in list(self._heard.items()):
            if now - heard > SILENCE and not self._task.pod_per_trial:  # what becomes of a pod the operator tells
                self._lose(self.live[number], now)
        self._judge(now)
        if now - self.now >= CLOCK:
            self._decide("clock", now)

    def _lose(self, trial: Trial, now: float) -> None:
        spent = trial.spent(now)
        losses = 0 if trial.number in self._inherited else 1
        if trial.losses + losses < LOSSES:
            self._decide("requeued", now, trial=trial.number, losses=losses, spent=spent)
            return
        remedy = "raise spec.trialTemplate.spec.resources, or narrow the search space"
        message = f"{LOSSES} of its workers were lost while they ran it; it may need more memory: {remedy}"
        self._close(trial, FAILED, message, spent, now)

    def _close(self, trial: Trial, outcome: str, message: str, spent: float, now: float) -> None:
        """End a trial of which its worker says nothing."""
        words: Record = {"outcome": outcome, "message": message[:MESSAGE_LIMIT], "tail": "", "outputs": {}}
        words |= {"exitCode": trial.exit_code or -signal.SIGKILL, "values": trial.values}
        record = {"seen": [], "measured": False, "seconds": trial.seconds + spent, "spent": spent}
        self._decide("finished", now, trial=trial.number, attempt=trial.attempt, **words, **record)

    def abandon(self, now: float, *, spare_storing: bool = False) -> None:
        """The sweep is over, and what still runs is not waited for; those that store their outputs have ended well."""
        for trial in list(self.live.values()):
            if spare_storing and trial.is_running and trial.number in self._storing:
                continue
            spent = trial.spent(now) if trial.is_running else 0.0
            self._close(trial, STOPPED, "the sweep was over before it ended", spent, now)

    # The end

    @property
    def is_alone(self) -> bool:
        """True if no other trial runs beside the canary."""
        return self._task.canary_trial and not (self._counts[SUCCEEDED] or self._counts[STOPPED] or self._canary)

    def _judge(self, now: float) -> None:
        """End the sweep where it is due, and with it all trials that are paused."""
        if self.end:
            # Where it ended by its budget a trial may have run still, and have succeeded since.
            late = self.end.reason == NONE_SUCCEEDED and self._counts[SUCCEEDED]
            if late and (end := self._due(now)) and end.outcome == SUCCEEDED:
                self._decide("end", now, **asdict(end))
            return
        if not self.live and self._is_used_up and self.promoted is None:
            self._give_up(now)
        if end := self._due(now):
            self._decide("end", now, **asdict(end))
            self._give_up(now)

    def _due(self, now: float) -> End | None:
        end = due(self._task, self._standing(now))
        if end and end.outcome == SUCCEEDED:  # one that failed has the words of a trial already
            return replace(end, message="; ".join(filter(None, (end.message, str(self._reasons)))))
        return end

    def _standing(self, now: float) -> Standing:
        return Standing(
            now,
            self.finished,
            self._counts,
            self.bests,
            bool(self.live),
            self._exhausted,
            self._canary,
            self._measured,
            self._silent,
            self._seen,
            self.hours(now),
        )

    def _give_up(self, now: float) -> None:
        """No paused trial goes on any more."""
        for trial in list(self.paused.values()):
            self._close(trial, STOPPED, f"{trial.message}; paused there, it did not go on", 0.0, now)

    def hours(self, now: float) -> tuple[float, float]:
        """Hours of processors and of GPUs that all trials have taken, with those that run."""
        running = sum(trial.spent(now) for trial in self.live.values() if trial.is_running)
        hours = (self._spent + running) / 3600
        return hours * self._task.trial_cpus, hours * self._task.trial_gpus

    def summary(self, now: float) -> SweepSummary:
        """Return the summary; until the end its message is what the author should know."""
        doubt = unheard(self._standing(now)) if not self.end and self._silent >= DOUBTED else ""
        end, (cpu_hours, gpu_hours) = self.end or End("", "", doubt), self.hours(now)
        numbers = self.bests.numbers[: TOP if len(self.objectives) == 1 else FRONT]
        self._best = {n: self._best.get(n) or _best(self.finished[n]) for n in numbers}
        return SweepSummary(
            end.outcome,
            end.reason,
            end.message,
            end.exit_code,
            end.pod,
            running=sum(trial.is_running for trial in self.live.values()),
            succeeded=self._counts[SUCCEEDED],
            stopped=self._counts[STOPPED],
            failed=self._counts[FAILED],
            cpu_hours=cpu_hours,
            gpu_hours=gpu_hours,
            best=tuple(
                best if n == numbers[0] else structs.replace(best, fetched=None) for n, best in self._best.items()
            ),
        )

    @property
    def kept(self) -> set[str]:
        """URIs of the outputs that stay when the sweep is over."""
        return {output.uri for number in self.bests.numbers for output in self.finished[number].outputs.values()}

    def points(self) -> Iterator[tuple[int, int, float]]:
        """All points that are kept, for a stopper that begins again: number, step and value."""
        for trial in self:
            for step, value in trial.points:
                yield trial.number, step, value


def _lease(trial: Trial) -> Lease:
    return Lease(trial.number, trial.attempt, trial.params, trial.checkpoint, trial.step)


def _best(trial: Trial) -> BestTrial:
    return BestTrial(trial.number, trial.values, trial.params, trial.outputs, trial.fetched)
