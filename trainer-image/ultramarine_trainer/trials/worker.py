"""A worker of a sweep: source and inputs once, then trial after trial, each in a fresh process and fresh folders."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.common import CHECKPOINTS_NAME, EXIT_DO_NOT_RETRY, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.parameters import as_text, fill
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import Fetched, WorkerTask, in_template
from ultramarine_contract.training_records import GangTask, TerminationRecord, TrainingTask

from ultramarine_trainer.attempt.child import (
    CommandNotFound,
    Stopped,
    Supervision,
    run_command,
)
from ultramarine_trainer.attempt.places import Places
from ultramarine_trainer.attempt.run import Attempt
from ultramarine_trainer.attempt.runner import ALONE, Failed, failure_of, stopped_by
from ultramarine_trainer.attempt.variables import job_variables
from ultramarine_trainer.data.checkpoints import BROKEN, fetch, look
from ultramarine_trainer.data.outputs import empty, format_of, untrusted_types
from ultramarine_trainer.gang.frameworks import launch
from ultramarine_trainer.progress.archive import Archive
from ultramarine_trainer.tracking.local import LocalRuns, take_model, with_local_runs
from ultramarine_trainer.trials.connection import Connection, Refused, Unreachable
from ultramarine_trainer.trials.trial import LOST, STOP, Heartbeat, Trial, TrialObserver

_LEASE_SECONDS, _REPORT_SECONDS = 60.0, 5.0  # for an answer; that to a lease waits for the storage
# Seconds between attempts to reach the coordinator, whose pod starts at the same time as ours, or starts again.
_WAITS = (0.05, 0.1, *(0.2,) * 15, 0.5, 1.0)
_PARAMS_LIMIT = 1000  # characters of a line in the log
_NOT_FOUND = 127  # what a shell says of a command that is not there

Document = dict[str, Any]


class Worker(Attempt):
    """An attempt that is over when the sweep is; what it leaves is at the coordinator, and its own record is empty."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        super().__init__(command, environment, places)
        self._pauses: Pauses | None = None
        self._name = f"{self._pod}/{secrets.token_hex(4)}"  # a container that starts again in the pod is another worker

    def say(self, line: str) -> None:
        super().say(in_template(line))

    def _failed(self, failed: Failed) -> tuple[int, TerminationRecord]:
        return super()._failed(Failed(failed.code, failed.reason, in_template(failed.message)))

    def _do(self, task: TrainingTask, storage: Storage) -> TerminationRecord:
        worker = self._worker_task()
        self._command = worker.command
        token = self._environment.get(contract.ENV_SWEEP_TOKEN, "")
        self._leases = Connection(worker.coordinator, token, _LEASE_SECONDS)
        self._reports = Connection(worker.coordinator, token, _REPORT_SECONDS)
        if task.output_prefix:
            prefix = f"{task.output_prefix.rstrip('/')}/{contract.LOGS_NAME}/{self._pod}/"
            self._archive = Archive(storage, prefix, self.say)
        if task.checkpoint is not None:
            self._pauses = Pauses(storage, task.output_prefix, self._places.checkpoints, self.say)
        with tempfile.TemporaryDirectory(prefix="ultramarine-source-") as source:
            self._prepare(task, storage, Path(source))
            self._has_run = True
            with self._streaming(storage):
                self._work(task, storage, Path(source))
        return TerminationRecord()

    def _worker_task(self) -> WorkerTask:
        try:
            return WorkerTask.from_json(self._environment.get(contract.ENV_SWEEP, ""))
        except ValueError as error:
            message = f"{contract.ENV_SWEEP} holds no task of a worker ({error}); this image is started by the operator"
            raise Failed(EXIT_DO_NOT_RETRY, "TaskInvalid", message) from error

    def _work(self, task: TrainingTask, storage: Storage, source: Path) -> None:
        """Run trials until there are no more. Raises Failed where this pod has to go before."""
        trial, observer, finished = Trial(0, 0, {}, ()), TrialObserver(()), None
        try:
            while True:
                answer = self._lease(finished)
                if answer.get("done"):
                    return
                if answer.get("keep") and finished is not None:
                    finished = self._keep(task, storage, trial, observer, finished)
                elif "trial" in answer:
                    trial = Trial.of(answer["trial"])
                    observer = TrialObserver(trial.objectives)
                    finished = self._run_trial(task, source, trial, observer)
                else:
                    finished = None
                    with self._signals.idle():
                        time.sleep(float(answer.get("wait", 1.0)))
        except Stopped as stopped:
            raise stopped_by(stopped.signum, "between two trials") from stopped

    def _lease(self, finished: Document | None) -> Document:
        """Ask for what comes next, for as long as it takes; to tell a result is worth the grace period."""
        attempt = 0
        while True:
            try:
                with self._waiting(finished):
                    return self._leases.post("/lease", {"worker": self._name, "finished": finished})
            except Refused as error:
                message = f"the coordinator of the sweep refused this worker: {error}"
                raise Failed(EXIT_DO_NOT_RETRY, "CoordinatorRefused", message) from error
            except Unreachable as error:
                if attempt == len(_WAITS):
                    self.say(f"the coordinator of the sweep does not answer: {error}; trying until it does")
            if self._signals.received and time.monotonic() >= self._deadline(self._verdict_reserve, 0.0):
                raise Stopped(self._signals.received)
            with self._waiting(finished):
                time.sleep(_WAITS[min(attempt, len(_WAITS) - 1)])
            attempt += 1

    def _waiting(self, finished: Document | None) -> AbstractContextManager[None]:
        return nullcontext() if finished is not None else self._signals.idle()

    def _run_trial(self, task: TrainingTask, source: Path, trial: Trial, observer: TrialObserver) -> Document | None:
        """Run one trial to its end; return what the coordinator is told, or None where it is another worker's."""
        params = ", ".join(f"{name}={as_text(value)}" for name, value in trial.params.items())
        self.say(f"trial {trial.number} begins: {params[:_PARAMS_LIMIT]}")
        began, code, problem, by_itself = time.monotonic(), _NOT_FOUND, "", False
        with Heartbeat(self._reports, self._name, trial, observer, self.say) as heartbeat:
            if not self._signals.received:
                self._renew(source)
                if self._pauses and self._patiently(self._places.input_waits, partial(self._pauses.restore, trial)):
                    observer.go_on(trial.step)
                supervision = Supervision(
                    self._signals, observer.hear, self._tee, self._grace / 2, threading.Event(), heartbeat.broken
                )
                command = fill(self._command, trial.params)
                variables = job_variables(task, self._places, self._run_id(trial)) | self._variables()
                runs = self._places.work / contract.RUNS_NAME
                environment = with_local_runs(variables, runs)
                try:
                    if not command:
                        raise CommandNotFound("all of the command refers to parameters that this trial does not have")
                    launched = launch(GangTask(), ALONE, command, environment)
                    with LocalRuns(runs, observer.take_logged):
                        code = run_command(launched, self._folder(), supervision)
                    # Whoever is to stop may have come to its end in that moment; then it has done all that it had to.
                    by_itself = code == 0 and not supervision.asked.is_set() and not observer.unmeasured
                except CommandNotFound as error:
                    problem = str(error)
        if self._signals.received:
            self._release(trial)
            raise stopped_by(self._signals.received, f"while trial {trial.number} ran")
        if heartbeat.cause == LOST:
            self.say(f"trial {trial.number} is given up: {heartbeat.why}")
            return None
        outcome, message = "Succeeded", ""
        if heartbeat.cause and not by_itself:
            outcome, message = "Stopped" if heartbeat.cause == STOP else "Failed", heartbeat.why
        elif code != 0:
            outcome, message = "Failed", in_template(problem or str(failure_of(code)))
            if not problem and (words := observer.tail.words):
                message = f"{message}: {words}"
        elif observer.unmeasured:
            outcome, message = "Failed", observer.unmeasured
        self.say(f"trial {trial.number}: {outcome}" + (f": {message}" if message else ""))
        finished = {
            "trial": trial.number,
            "attempt": trial.attempt,
            "outcome": outcome,
            "exitCode": code,
            "seconds": round(time.monotonic() - began, 3),
            "metrics": observer.metrics,
            "message": message,
            "tail": str(observer.tail) if outcome == "Failed" else "",
            "points": observer.as_points(observer.unsent()),
        }
        if self._pauses and outcome == "Stopped" and heartbeat.pauses:
            return self._pause(self._pauses, trial, observer, finished)
        return finished

    def _run_id(self, trial: Trial) -> str:
        return f"{self._context.job.rpartition('/')[2]}_{trial.number}"

    def _renew(self, source: Path) -> None:
        """Make all folders as if no trial had been before."""
        for folder in (self._places.work, *self._material.output_folders):
            empty(folder)
        try:
            for path in source.iterdir():  # not the folder itself: /workspace is a mount, whose mode is not ours to set
                if path.is_dir() and not path.is_symlink():
                    shutil.copytree(path, self._places.work / path.name, symlinks=True)
                else:
                    shutil.copy2(path, self._places.work / path.name, follow_symlinks=False)
        except (OSError, shutil.Error) as error:
            raise StorageError(
                f"the source cannot be copied to {self._places.work}: {error}", "LocalDiskError"
            ) from error

    def _release(self, trial: Trial) -> None:
        """Give a trial back at once; if the coordinator is away, the lease runs out after a while."""
        words = {"worker": self._name, "trial": trial.number, "attempt": trial.attempt, "released": True}
        try:
            self._reports.post("/report", words)
        except (Unreachable, Refused) as error:
            self.say(f"trial {trial.number} cannot be given back: {error}")

    def _pause(self, pauses: Pauses, trial: Trial, observer: TrialObserver, finished: Document) -> Document:
        """Store what a trial can go on from, and return what the coordinator is told then."""
        with Heartbeat(self._reports, self._name, trial, observer, self.say):
            try:
                stored = self._patiently(self._places.output_waits, partial(pauses.store, trial.number))
            except StorageError as error:
                self.say(f"trial {trial.number} cannot go on later: {error.message}")
                return finished
        return {**finished, "checkpoint": stored.document()} if stored else finished

    def _keep(
        self, task: TrainingTask, storage: Storage, trial: Trial, observer: TrialObserver, finished: Document
    ) -> Document:
        """Store the outputs of a trial, and return what the coordinator is told then."""
        outputs: dict[str, OutputRecord] = {}
        with Heartbeat(self._reports, self._name, trial, observer, self.say):
            try:
                for name, format_asked in task.outputs.items():
                    folder = self._places.outputs / name
                    if name in task.from_mlflow:
                        take_model(self._places.work / contract.RUNS_NAME, name, folder)
                    uri = f"{task.output_prefix.rstrip('/')}/trials/{trial.number}/{name}/"
                    format = format_of(name, folder, format_asked)
                    upload = partial(storage.upload_folder, folder, uri, format)
                    stored = self._patiently(self._places.output_waits, upload)
                    outputs[name] = structs.replace(stored, untrusted=untrusted_types(folder, format))
            except StorageError as error:
                self.say(f"trial {trial.number}: {error.message}")
                return {**finished, "outcome": "Failed", "message": error.message, "outputs": {}}
        fetched = Fetched(self._material.source, self._material.inputs).document()
        stored_outputs = {name: record.document() for name, record in outputs.items()}
        return {**finished, "outputs": stored_outputs, "fetched": fetched}


class Pauses:
    """The checkpoints of a sweep's trials, which are stored below `prefix`. Both methods raise StorageError."""

    def __init__(self, storage: Storage, prefix: str, folder: Path, say: Callable[[str], None]) -> None:
        self._storage, self._prefix, self._folder, self._say = storage, prefix.rstrip("/"), folder, say

    def restore(self, trial: Trial) -> bool:
        """Fill the folder with what the trial goes on from, and with nothing else; say whether there is anything."""
        empty(self._folder)
        if trial.checkpoint is None:
            return False
        try:
            fetch(self._storage, trial.checkpoint.uri, trial.checkpoint.digest, self._folder)
        except StorageError as error:
            if error.reason not in BROKEN:
                raise
            self._say(f"trial {trial.number} begins again, for its checkpoint is not whole: {error.message}")
            empty(self._folder)
            return False
        self._say(f"trial {trial.number} goes on from {trial.checkpoint.uri}")
        return True

    def store(self, number: int) -> OutputRecord | None:
        """Store what a trial whose command has ended can go on from; None where it has written nothing."""
        files = {path: self._folder / path for path in look(self._folder) or ()}
        if not files:
            return None
        uri = f"{self._prefix}/trials/{number}/{CHECKPOINTS_NAME}/"
        stored = self._storage.upload_folder(self._folder, uri, files=files)
        self._say(f"trial {number} is paused: {stored.bytes} bytes to {stored.uri}")
        return stored
