"""An attempt of a TrainingJob that is a trial: its sweep hears how it goes, may end it early, and knows its result.

What is told here of an end only saves time: the job's own status says the same later. That a trial can be paused the
coordinator hears from here alone, so that is told until it is heard.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.common import EXIT_DO_NOT_RETRY, EXIT_TRY_AGAIN, METRIC_LIMIT, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import (
    STOPPED_EARLY,
    TRIAL_OVER,
    TRIAL_TIMEOUT,
    Fetched,
    TrialTask,
    trial_worker,
)
from ultramarine_contract.training_records import TerminationRecord, TrainingTask

from ultramarine_trainer.attempt.places import Places, store_result
from ultramarine_trainer.attempt.run import Attempt
from ultramarine_trainer.attempt.runner import Failed, stopped_by
from ultramarine_trainer.gang.member import Gang
from ultramarine_trainer.progress.metrics import unmeasured
from ultramarine_trainer.tracking.local import Point
from ultramarine_trainer.trials.connection import Connection, Refused, Unreachable
from ultramarine_trainer.trials.trial import LOST, STOP, TIMEOUT, Heartbeat, Trial, TrialObserver

_ANSWER_SECONDS = 3.0  # for the answer of a coordinator, which first writes its journal.
_PATIENCE = 3.0  # for one that does not answer
_RESTART = 15.0  # for one that comes back, where a trial that was paused goes on
_PAUSE = 0.2
_ASKING = 1.0  # between two questions whether a trial is still paused
_OVERDUE = 30.0  # after the word that it goes on, for this pod to be gone

_REASONS = {STOP: STOPPED_EARLY, TIMEOUT: TRIAL_TIMEOUT, LOST: TRIAL_OVER}
_OUTCOMES = {STOP: "Stopped", TIMEOUT: "Failed"}


class TrialAttempt(Attempt):
    """An attempt whose node 0 tells the coordinator of its sweep."""

    _keeps_logged_models = False  # a sweep keeps outputs, and of its best trials only

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        super().__init__(command, environment, places)
        self._trial = self._trial_task()
        self._observer = TrialObserver(self._trial.objectives)
        token = environment.get(contract.ENV_SWEEP_TOKEN, "")
        self._reports = Connection(self._trial.coordinator, token, _ANSWER_SECONDS)
        # Another one: a network that does not know this pod yet swallows the first words, and they are waited for.
        self._results = Connection(self._trial.coordinator, token, _ANSWER_SECONDS)
        self._heartbeat: Heartbeat | None = None
        self._opened: Storage | None = None  # while it works
        self._since, self._seconds, self._reported = 0.0, 0.0, False
        self._alone = True  # it is the job's only node

    def _trial_task(self) -> TrialTask:
        """Read the document; one of another release's operator may be unreadable, which must not fail a job."""
        try:
            return TrialTask.from_json(self._environment.get(contract.ENV_TRIAL, ""))
        except ValueError as error:
            self.say(f"{contract.ENV_TRIAL} holds no task of a trial: {error}")
            return TrialTask(0, ("",))

    @property
    def _speaks(self) -> bool:
        return self._index == 0 and bool(self._trial.coordinator)

    def _hear(self, line: str, is_stdout: bool) -> None:
        super()._hear(line, is_stdout)
        self._observer.hear(line, is_stdout)

    def _take_logged(self, point: Point) -> None:
        super()._take_logged(point)
        self._observer.take_logged(point)

    def _may_be_done(self, task: TrainingTask) -> bool:
        return self._speaks or super()._may_be_done(task)

    def _do(self, task: TrainingTask, storage: Storage) -> TerminationRecord:
        self._opened = storage
        record = super()._do(task, storage)
        if self._speaks and not self._reported:
            outputs = {name: output.document() for name, output in record.outputs.items()}
            self._succeeded({**record.metrics, **self._observer.metrics}, outputs)  # it may have been done before
        return record

    def _run(self, task: TrainingTask, gang: Gang | None, concluded: Callable[[], bool]) -> float:
        if not self._speaks:
            return super()._run(task, gang, concluded)
        self._alone = task.gang is None or task.gang.nodes == 1
        trial = Trial(self._trial.trial, 1, {}, self._trial.objectives, float(self._trial.timeout_seconds))
        self._since = time.monotonic()
        with Heartbeat(self._reports, trial_worker(trial.number), trial, self._observer, self.say) as heartbeat:
            self._heartbeat, self._stop = heartbeat, heartbeat.broken
            try:
                worked = super()._run(task, gang, concluded)
            except Failed as failed:
                if self._reported or not heartbeat.cause:
                    raise
                if self._signals.received:  # another pod hears it again; this one's exit must not end the job
                    raise stopped_by(self._signals.received, "while its trial was ended") from failed
        if self._reported or not heartbeat.cause:
            return worked
        self._seconds = time.monotonic() - self._since
        if self._may_go_on:
            self._pause(heartbeat.why)
        if outcome := _OUTCOMES.get(heartbeat.cause):
            tail = str(self._tail) if outcome == "Failed" else ""
            self._tell(outcome=outcome, exitCode=EXIT_DO_NOT_RETRY, message=heartbeat.why, tail=tail)
        why = "its sweep has its result already" if heartbeat.cause == LOST else heartbeat.why
        raise Failed(EXIT_DO_NOT_RETRY, _REASONS[heartbeat.cause], why)

    def _restore(self) -> None:
        """Restore the checkpoint, and ask the coordinator if the trial is still paused.

        A trial that goes on counts values without a step from those that the sweep had then.
        """
        super()._restore()
        if self._heartbeat is None or self._last_checkpoint() is None:
            return
        until = time.monotonic() + _RESTART
        while not self._signals.received:
            try:
                answer = self._results.post("/report", self._words())
            except Unreachable as error:
                if time.monotonic() >= until:
                    return self.say(f"the coordinator of the sweep is away, so the trial just goes on: {error}")
                time.sleep(_PAUSE)
            except Refused:
                return None
            else:
                self._observer.go_on(int(answer.get("step", -1)))
                return self._heartbeat.hear(answer)
        return None

    @property
    def _may_go_on(self) -> bool:
        """True if its sweep may let it run again, from its checkpoint; a gang's other nodes could not wait for that."""
        return bool(self._heartbeat and self._heartbeat.cause == STOP and self._heartbeat.pauses and self._alone)

    def _pause(self, why: str) -> None:
        """Tell what the trial can go on from, and wait for its job to be held; back where it is not to go on.

        Raises Failed when this pod has to go.
        """
        last = self._last_checkpoint()
        if last is None:
            return
        stored = OutputRecord(last.uri, last.digest, last.bytes).document()
        answer = self._tell(patience=math.inf, outcome="Stopped", exitCode=0, message=why, checkpoint=stored)
        if answer and answer.get("paused"):
            self.say(f"trial {self._trial.trial} is paused: {why}; it goes on from {last.uri}, if it does")
            self._await_hold()
        if self._signals.received:
            raise stopped_by(self._signals.received, "while its trial was paused")

    def _await_hold(self) -> None:
        """Come back when this pod has to go, or the sweep is over."""
        paused = asked = time.monotonic()
        while not self._signals.received:
            time.sleep(_PAUSE)
            if (now := time.monotonic()) - asked < _ASKING:
                continue
            asked, answer = now, {"pause": True}  # until the coordinator says otherwise
            with suppress(Refused, Unreachable):
                answer = self._reports.post("/report", self._words())
            if answer.get("pause"):
                paused = now
            elif answer.get("stop") or answer.get("lost"):
                return
            elif now - paused >= _OVERDUE:  # the trial goes on, and this pod was to be gone before that
                raise Failed(EXIT_TRY_AGAIN, "Resumed", "its sweep lets the trial go on, in a new pod")

    def _words(self, **more: Any) -> dict[str, Any]:
        number = self._trial.trial
        return {"worker": trial_worker(number), "trial": number, "attempt": 1, **more}

    def _has_worked(self, task: TrainingTask) -> None:
        self._seconds = time.monotonic() - self._since
        if self._heartbeat is None or self._heartbeat.cause:
            return
        if task.outputs:
            self._store_them()
        # Without outputs all is known now, and the next trial need not wait for what is still to be stored.
        elif self._is_kept(task):
            self._succeeded(self._observer.metrics, {})

    def _store_them(self) -> None:
        """Tell the coordinator that outputs are on their way: a sweep that ends just now waits for them."""
        with suppress(Refused, Unreachable):
            self._results.post("/report", self._words(storing=True))

    def _is_kept(self, task: TrainingTask) -> bool:
        """True if the result is stored: what a sweep counts its job must know too, also if this pod has to go now."""
        try:
            if self._opened and task.output_prefix:
                store_result(self._opened, task.output_prefix.rstrip("/"), self._record())
        except StorageError:
            return False  # it is tried again with all else, and told then
        return True

    def _succeeded(self, metrics: dict[str, float | None], outputs: dict[str, Any]) -> None:
        self._reported = True
        if why := unmeasured(self._trial.objectives, metrics):
            why = self._observer.unmeasured or why
            self.say(f"trial {self._trial.trial} counts as failed: {why}")
        fetched = Fetched(self._material.source, self._material.inputs).document()
        self._tell(outcome="Succeeded", exitCode=0, metrics=metrics, outputs=outputs, fetched=fetched, message=why)

    def _record(self) -> TerminationRecord:
        """With the objectives in any case, however many metrics there are."""
        record = super()._record()
        finite = {name: value for name, value in self._observer.metrics.items() if value is not None}
        objectives = {name: finite[name] for name in self._trial.objectives if name in finite}
        missing = {name for name, value in self._observer.metrics.items() if value is None}
        others = {name: v for name, v in record.metrics.items() if name not in objectives and name not in missing}
        return structs.replace(record, metrics=dict(list({**objectives, **others}.items())[:METRIC_LIMIT]))

    def _tell(self, patience: float = _PATIENCE, **end: Any) -> Mapping[str, Any] | None:
        """Report the end of the trial to the coordinator, within `patience` seconds; return its answer."""
        number, points = self._trial.trial, self._observer.as_points(self._observer.unsent())
        finished = {"trial": number, "attempt": 1, "seconds": round(self._seconds, 3), "points": points}
        finished |= {"metrics": self._observer.metrics, "outputs": {}, **end}
        until = time.monotonic() + patience
        while True:
            try:
                return self._results.post("/finished", {"worker": trial_worker(number), "finished": finished})
            except Refused as error:
                self.say(f"the coordinator of the sweep does not take the result: {error}")
                return None
            except Unreachable as error:
                if time.monotonic() >= until or self._signals.received:
                    self.say(f"the coordinator of the sweep is away, and learns the result later: {error}")
                    return None
                time.sleep(_PAUSE)
