"""State of the trials of a sweep, made by records: the same when they are written and when they are replayed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ultramarine_contract.common import OutputRecord, read_known
from ultramarine_contract.sweep_records import BestTrial, Fetched, SweepTask
from ultramarine_trainer.progress.metrics import NAMES

from ultramarine_sweep.state.bests import Bests, Objective
from ultramarine_sweep.state.ended import Ended
from ultramarine_sweep.state.ends import End, Reasons
from ultramarine_sweep.state.journal import Record
from ultramarine_sweep.state.points import KEPT_LIMIT
from ultramarine_sweep.state.trial import (
    FAILED,
    STOPPED,
    SUCCEEDED,
    Stopper,
    Trial,
    from_outside,
)


class Replayed:
    """State of all trials, as the records of a journal make it; `drain` gives the records of new decisions."""

    def __init__(self, task: SweepTask, stopper: Stopper | None = None) -> None:
        self._task, self._stopper = task, stopper
        self.objectives = [Objective.of(objective) for objective in task.objectives]
        self.bests = Bests(self.objectives, task.keep_outputs)
        self.live: dict[int, Trial] = {}
        self.paused: dict[int, Trial] = {}  # counted as stopped, until they go on
        self.finished = Ended()
        self.now = 0.0  # of the newest record
        self.end: End | None = None
        self._counts = dict.fromkeys((SUCCEEDED, STOPPED, FAILED), 0)
        self._spent = 0.0  # seconds of all trials that have ended or lost their worker.
        self._seen: dict[str, None] = {}  # names of metrics.
        self._reasons = Reasons()  # of failed trials.
        self._measured = False  # true once a trial has reported its objectives.
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
        trial.fetched = read_known(Fetched, record["fetched"]) if "fetched" in record else None
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
