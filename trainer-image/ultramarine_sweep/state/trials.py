"""The state of all trials of a sweep, and what follows from what workers say: no clock, storage, network or chance.

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

from ultramarine_contract.common import OutputRecord, read_known
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, SweepTask
from ultramarine_trainer.progress.metrics import NAMES

from ultramarine_sweep.state.bests import Bests, Objective
from ultramarine_sweep.state.ended import Ended
from ultramarine_sweep.state.ends import NONE_SUCCEEDED, End, Reasons, Standing, due, judged, unheard
from ultramarine_sweep.state.journal import Record
from ultramarine_sweep.state.points import KEPT_LIMIT
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
    from_outside,
)

SILENCE = 15.0  # seconds without a word from its worker, after which a trial is given to another
LOSSES = 5  # of its workers, after which a trial has failed: it may well be what kills them
DOUBTED = 3  # trials that have not told the objectives, after which that is said while the sweep goes on
CLOCK = 60.0  # seconds after which the journal says what time it is, if it says nothing else


class Trials:
    """All trials of one sweep. `drain` what was decided into the journal before anybody is told of it.

    `stopper` says who should stop, and has been told of no value yet.
    """

    def __init__(self, task: SweepTask, records: Iterable[Record] = (), stopper: Stopper | None = None) -> None:
        self._task, self._stopper = task, stopper
        self.objectives = [Objective.of(objective) for objective in task.objectives]
        self.bests = Bests(self.objectives)
        self.live: dict[int, Trial] = {}
        self.paused: dict[int, Trial] = {}  # counted as stopped, until they go on
        self.finished = Ended()
        self.now = 0.0  # of the newest record
        self.end: End | None = None
        self._counts = dict.fromkeys((SUCCEEDED, STOPPED, FAILED), 0)
        self._spent = 0.0  # seconds of all trials that have ended or lost their worker
        self._seen: dict[str, None] = {}  # names of metrics
        self._reasons = Reasons()  # of failed trials
        self._measured = False  # whether any trial has told its objectives
        self._silent = 0  # trials that have not, though their commands ended well
        self._canary: Trial | None = None  # the first one that has failed by itself
        self._heard: dict[int, float] = {}
        self._inherited: set[int] = set()  # trials whose workers have not been heard in this life
        self._stops: dict[int, str] = {}
        self._storing: set[int] = set()  # trials that have ended well, whose workers store their outputs
        self._best: dict[int, BestTrial] = {}  # as they were told last
        self._exhausted = False
        self._next = 0
        self._decided: list[Record] = []
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

    # What has happened

    def apply(self, record: Record) -> None:
        """Change the state as a record says; of a kind that is not known here, not at all."""
        self.now = max(self.now, record.get("at", 0.0))
        match record["kind"]:
            case "started":
                self._started(record)
            case "points":
                for step, value in record["points"]:
                    self.live[record["trial"]].points.add(step, value)
            case "requeued":
                trial = self.live[record["trial"]]
                trial.waiting = True
                trial.losses += record["losses"]
                self._spent += record["spent"]
                self._forget(trial.number)
            case "resumed":
                trial = self.live[record["trial"]]
                trial.waiting, trial.worker = False, record["worker"]
                trial.began = trial.runs_since = record["at"]
            case "finished" | "paused":
                number = record["trial"]
                self._ended(self._resumed(number) if number in self.paused else self.live.pop(number), record)
            case "end":
                end_fields = (record["outcome"], record["reason"], record["message"])
                self.end = End(*end_fields, record.get("exit_code", 0), record.get("pod", ""))
            case "state":
                self._spent, self._measured = record["spent"], record["measured"]
                self._seen = dict.fromkeys(record["seen"])
            case "trial":
                self._take(Trial.of(record))

    def _started(self, record: Record) -> None:
        number = record["trial"]
        if number in self.paused:
            trial = self.live[number] = self._resumed(number)
        elif number in self.live:
            # Its points stay, as the stopper's do: what it repeats after a lost worker says nothing new.
            trial = self.live[number]
        else:
            trial = self.live[number] = Trial(number, record["params"])
            self._next = max(self._next, number + 1)
        for other in self.live.values():
            if other.worker == record["worker"]:  # it has gone on, so a late word of it does not take that one back
                other.worker = ""
        trial.attempt, trial.worker = record["attempt"], record["worker"]
        trial.waiting, trial.began = False, record["at"]
        # A pod of its own may wait for a node long; its first report tells that it runs.
        trial.runs_since = None if self._task.pod_per_trial else trial.began

    def _resumed(self, number: int) -> Trial:
        """Take a trial out of those that are paused."""
        trial = self.paused.pop(number)
        trial.paused, trial.outcome = False, ""
        self._counts[STOPPED] -= 1
        return trial

    def _ended(self, trial: Trial, record: Record) -> None:
        trial.paused = record["kind"] == "paused"
        trial.checkpoint = read_known(OutputRecord, record["checkpoint"]) if trial.paused else None
        trial.step = trial.points.last_step if trial.paused else -1
        trial.outcome, trial.exit_code, trial.seconds = record["outcome"], record["exitCode"], record["seconds"]
        trial.values, trial.message, trial.tail = tuple(record["values"]), record["message"], record["tail"]
        trial.outputs = {name: read_known(OutputRecord, output) for name, output in record["outputs"].items()}
        trial.waiting, trial.ended = False, record.get("at", 0.0)
        trial.points.thin(KEPT_LIMIT)
        self._spent += record["spent"]
        self._measured |= record["measured"]
        for name in itertools.islice(record["seen"], NAMES - min(len(self._seen), NAMES)):
            self._seen[name] = None
        self._forget(trial.number)
        self._take(trial)

    def _take(self, trial: Trial) -> None:
        self._next = max(self._next, trial.number + 1)
        if not trial.outcome:
            self.live[trial.number] = trial
            return
        if trial.paused:
            self.paused[trial.number] = trial
        else:
            self.finished.add(trial)
        self._counts[trial.outcome] += 1
        if trial.outcome == SUCCEEDED:
            self.bests.add(trial.number, trial.values)
        elif trial.outcome == FAILED:
            self._reasons.add(trial.number, trial.message)
            self._silent += trial.exit_code == 0
            # To be killed once may be an accident.
            if self._canary is None and (self._counts[FAILED] > 1 or not from_outside(trial.exit_code)):
                self._canary = trial

    def _forget(self, number: int) -> None:
        self._inherited.discard(number)
        self._heard.pop(number, None)
        self._stops.pop(number, None)
        self._storing.discard(number)

    def snapshot(self) -> Iterator[Record]:
        """Records that make this very state, whatever happens while they are taken."""
        state = {"spent": self._spent, "measured": self._measured, "seen": list(self._seen)}
        others = [trial.to_record() for trial in (*self.paused.values(), *self.live.values())]
        end = [{"kind": "end", **asdict(self.end)}] if self.end else []
        return itertools.chain([{"kind": "state", "at": self.now, **state}], self.finished.records(), others, end)

    def drain(self) -> list[Record]:
        """Return what was decided since the last call, in its order."""
        decided, self._decided = self._decided, []
        return decided

    def _decide(self, kind: str, now: float, **fields: Any) -> None:
        record = {"kind": kind, "at": round(now, 3), **fields}
        self._decided.append(record)
        self.apply(record)

    def __getitem__(self, number: int) -> Trial:
        """The trial with this number, whatever has become of it."""
        return next(some[number] for some in (self.live, self.paused, self.finished) if number in some)

    def __iter__(self) -> Iterator[Trial]:
        """All trials: those that have ended first, in that order."""
        return itertools.chain(self.finished.values(), self.paused.values(), self.live.values())

    # What workers say

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
        self._best = {n: self._best.get(n) or _best(self.finished[n]) for n in self.bests.numbers}
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
            best=tuple(self._best.values()),
        )

    def points(self) -> Iterator[tuple[int, int, float]]:
        """All points that are kept, for a stopper that begins again: number, step and value."""
        for trial in self:
            for step, value in trial.points:
                yield trial.number, step, value


def _lease(trial: Trial) -> Lease:
    return Lease(trial.number, trial.attempt, trial.params, trial.checkpoint, trial.step)


def _best(trial: Trial) -> BestTrial:
    return BestTrial(trial.number, trial.values, trial.params, trial.outputs)
