"""An attempt of a TrainingJob that is a trial: its sweep hears how it goes, may end it early, and knows its result.

What is told here only saves time. A coordinator that is away hurts nothing: the job's own status says the same later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ultramarine.outside.storage import Storage
from ultramarine.shared import contract
from ultramarine.shared.contract import EXIT_DO_NOT_RETRY, METRIC_LIMIT
from ultramarine.shared.errors import StorageError
from ultramarine.shared.sweep_records import STOPPED_EARLY, TRIAL_OVER, TRIAL_TIMEOUT, TrialTask, trial_worker
from ultramarine.shared.training_records import TerminationRecord, TrainingTask

from ultramarine_trainer.gang import Gang
from ultramarine_trainer.leases import Connection, Refused, Unreachable
from ultramarine_trainer.metrics import unmeasured
from ultramarine_trainer.run import Attempt, Places, store_result
from ultramarine_trainer.runner import Failed
from ultramarine_trainer.trial import LOST, STOP, TIMEOUT, Ears, Heartbeat, Trial

_ANSWER_SECONDS = 3.0  # for a coordinator that is there, and writes down what it hears
_PATIENCE = 3.0  # for one that does not answer
_PAUSE = 0.2

_REASONS = {STOP: STOPPED_EARLY, TIMEOUT: TRIAL_TIMEOUT, LOST: TRIAL_OVER}
_OUTCOMES = {STOP: "Stopped", TIMEOUT: "Failed"}


class TrialAttempt(Attempt):
    """An attempt whose node 0 tells the coordinator of its sweep."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        super().__init__(command, environment, places)
        self._trial = self._trial_task()
        self._ears = Ears(self._trial.objectives)
        token = environment.get(contract.ENV_SWEEP_TOKEN, "")
        self._reports = Connection(self._trial.coordinator, token, _ANSWER_SECONDS)
        # Another one: a network that does not know this pod yet swallows the first words, and they are waited for.
        self._results = Connection(self._trial.coordinator, token, _ANSWER_SECONDS)
        self._heartbeat: Heartbeat | None = None
        self._opened: Storage | None = None  # while it works
        self._since, self._seconds, self._told = 0.0, 0.0, False

    def _trial_task(self) -> TrialTask:
        """What another release's operator wrote may be unreadable: it is not worth a job."""
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
        self._ears.hear(line, is_stdout)

    def _may_be_done(self, task: TrainingTask) -> bool:
        return self._speaks or super()._may_be_done(task)

    def _do(self, task: TrainingTask, storage: Storage) -> TerminationRecord:
        self._opened = storage
        record = super()._do(task, storage)
        if self._speaks and not self._told:
            outputs = {name: asdict(one) for name, one in record.outputs.items()}
            self._succeeded({**record.metrics, **self._ears.metrics}, outputs)  # it may have been done before
        return record

    def _run(self, task: TrainingTask, gang: Gang | None, concluded: Callable[[], bool]) -> float:
        if not self._speaks:
            return super()._run(task, gang, concluded)
        trial = Trial(self._trial.trial, 1, {}, self._trial.objectives, float(self._trial.timeout_seconds))
        self._since = time.monotonic()
        with Heartbeat(self._reports, trial_worker(trial.number), trial, self._ears, self.say) as heartbeat:
            self._heartbeat, self._stop = heartbeat, heartbeat.broken
            try:
                worked = super()._run(task, gang, concluded)
            except Failed:
                if self._told or not heartbeat.cause or self._signals.received:
                    raise
        if self._told or not heartbeat.cause:
            return worked
        self._seconds = time.monotonic() - self._since
        if outcome := _OUTCOMES.get(heartbeat.cause):
            tail = str(self._tail) if outcome == "Failed" else ""
            self._tell(outcome=outcome, exitCode=EXIT_DO_NOT_RETRY, message=heartbeat.why, tail=tail)
        why = "its sweep has its result already" if heartbeat.cause == LOST else heartbeat.why
        raise Failed(EXIT_DO_NOT_RETRY, _REASONS[heartbeat.cause], why)

    def _has_worked(self, task: TrainingTask) -> None:
        self._seconds = time.monotonic() - self._since
        if self._heartbeat is None or self._heartbeat.cause:
            return
        if task.outputs:
            self._store_them()
        # Without outputs all is known now, and the next trial need not wait for what is still to be stored.
        elif self._is_kept(task):
            self._succeeded(self._ears.metrics, {})

    def _store_them(self) -> None:
        """Tell the coordinator that outputs are on their way: a sweep that ends just now waits for them."""
        number = self._trial.trial
        words = {"worker": trial_worker(number), "trial": number, "attempt": 1, "storing": True}
        with suppress(Refused, Unreachable):
            self._results.post("/report", words)

    def _is_kept(self, task: TrainingTask) -> bool:
        """Whether the result is stored: what a sweep counts its job must know too, also if this pod has to go now."""
        try:
            if self._opened and task.output_prefix:
                store_result(self._opened, task.output_prefix.rstrip("/"), self._record())
        except StorageError:
            return False  # it is tried again with all else, and told then
        return True

    def _succeeded(self, metrics: dict[str, float | None], outputs: dict[str, Any]) -> None:
        self._told = True
        if why := unmeasured(self._trial.objectives, metrics):
            self.say(f"trial {self._trial.trial} counts as failed: {why}")
        self._tell(outcome="Succeeded", exitCode=0, metrics=metrics, outputs=outputs)

    def _record(self) -> TerminationRecord:
        """With the objectives in any case, however many metrics there are."""
        record = super()._record()
        finite = {name: value for name, value in self._ears.metrics.items() if value is not None}
        objectives = {name: finite[name] for name in self._trial.objectives if name in finite}
        missing = {name for name, value in self._ears.metrics.items() if value is None}
        others = {name: v for name, v in record.metrics.items() if name not in objectives and name not in missing}
        return replace(record, metrics=dict(list({**objectives, **others}.items())[:METRIC_LIMIT]))

    def _tell(self, **end: Any) -> None:
        """Tell the coordinator that the trial has ended; for a few seconds at most."""
        number, points = self._trial.trial, self._ears.as_points(self._ears.untold())
        finished = {"trial": number, "attempt": 1, "seconds": round(self._seconds, 3), "points": points}
        finished |= {"metrics": self._ears.metrics, "outputs": {}, **end}
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._results.post("/finished", {"worker": trial_worker(number), "finished": finished})
            except Refused as error:
                return self.say(f"the coordinator of the sweep does not take the result: {error}")
            except Unreachable as error:
                if time.monotonic() >= until or self._signals.received:
                    return self.say(f"the coordinator of the sweep is away, and learns the result later: {error}")
                time.sleep(_PAUSE)
            else:
                return None
