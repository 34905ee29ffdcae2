"""One training attempt from the task to the verdict."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.common import EXIT_DO_NOT_RETRY, EXIT_TRY_AGAIN, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.retry import patiently
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import (
    CheckpointRecord,
    GangTask,
    TerminationRecord,
    TrainingContext,
    TrainingTask,
)

from ultramarine_trainer.attempt import provenance
from ultramarine_trainer.attempt import resources as cgroup
from ultramarine_trainer.attempt.caching import store_records
from ultramarine_trainer.attempt.child import Signals, Stopped, activated, environment_for_command
from ultramarine_trainer.attempt.lines import Tail
from ultramarine_trainer.attempt.material import Material
from ultramarine_trainer.attempt.places import Places, about, store_result
from ultramarine_trainer.attempt.repeats import Repeats
from ultramarine_trainer.attempt.resources import DiskWatch
from ultramarine_trainer.attempt.runner import Ending, Failed, Part, Persistence, Runner, stopped_by
from ultramarine_trainer.attempt.variables import job_variables
from ultramarine_trainer.data.checkpoints import Checkpoints
from ultramarine_trainer.data.inputs import StreamServer
from ultramarine_trainer.data.outputs import empty, format_of, is_empty, untrusted_types
from ultramarine_trainer.gang.member import Concluded, Gang, GangError
from ultramarine_trainer.progress.archive import Archive
from ultramarine_trainer.progress.listeners import Listeners, series_of
from ultramarine_trainer.progress.reporter import resolved_image
from ultramarine_trainer.progress.series import Series
from ultramarine_trainer.tracking.api import account_in
from ultramarine_trainer.tracking.local import Point

_GRACE = 30.0  # seconds from SIGTERM to the end of the pod, unless a checkpoint needs more.
_LOG_RESERVE = 1.0  # of these for the last part of the log.

T = TypeVar("T")


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    places: Places | None = None,
    make: type[Attempt] | None = None,
) -> int:
    """Make the attempt of a pod, write its verdict into the termination log, and return the exit code."""
    places = places or Places()
    attempt = (make or Attempt)(command, environment, places)
    code, record = attempt.make()
    if code:
        attempt.say(f"{record.reason}: {record.message}")
    try:
        places.termination_log.write_text(record.to_json())
    except OSError as error:
        attempt.say(f"the verdict cannot be written to {places.termination_log}: {error}")
    attempt.close(code, record)
    return code


class Attempt:
    """Steps of one attempt, and what they have found out so far."""

    _keeps_logged_models = True  # beside the runs of mlflow, unless they are outputs

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        self._command, self._environment, self._places = command, environment, places
        self._signals = Signals()
        self._tail = Tail()
        self._material = Material(places, self.say, self._patiently)
        self._has_run = False
        self._repeats: Repeats | None = None
        self._ran = 0.0  # seconds of the last run of the command
        self._stop = threading.Event()  # no result is wanted any more
        self._began = datetime.now(UTC)
        self._index = int(environment.get("JOB_COMPLETION_INDEX", "0"))
        self._pod = environment.get(contract.ENV_POD, "pod")
        self._grace = _GRACE
        self._attest: Callable[[int, TerminationRecord], None] | None = None
        self._archive: Archive | None = None
        self._checkpoints: Checkpoints | None = None
        self._context = self._read_context()
        self._listeners = self._listen(None)

    def say(self, line: str) -> None:
        """Print a line of this program to the log, in which the lines of the command are too."""
        text = f"ultramarine-trainer: {line}\n"
        print(text, end="", file=sys.stderr, flush=True)
        self._tee(text.encode())

    def make(self) -> tuple[int, TerminationRecord]:
        """Go through all steps; a failure of any becomes an exit code and a record."""
        try:
            self._signals.install()
            task = self._task()
            storage = self._storage()
            return 0, self._do(task, storage)
        except Stopped as stopped:
            return self._failed(stopped_by(stopped.signum, "before the command ran"))
        except Failed as failed:
            return self._failed(failed)
        except GangError as error:
            return self._failed(Failed(EXIT_DO_NOT_RETRY, "GangFailed", str(error)))
        except StorageError as error:
            code = EXIT_TRY_AGAIN if error.transient else EXIT_DO_NOT_RETRY
            return self._failed(Failed(code, error.reason, error.message))

    def close(self, code: int, record: TerminationRecord) -> None:
        """Send the last reports, and the log after them; what is not sent in time is lost with the pod."""
        self._signals.finish()
        self._listeners.close_run(code, record, partial(self._deadline, _LOG_RESERVE))
        if self._archive is not None:
            if self._has_run and self._attest is not None:
                self._attest(code, record)
            deadline = self._deadline(_LOG_RESERVE, self._places.log_patience)
            self._archive.close(deadline if self._has_run else min(deadline, time.monotonic() + _LOG_RESERVE))

    def _store_statement(self, task: TrainingTask, storage: Storage, code: int, record: TerminationRecord) -> None:
        ended = datetime.now(UTC)
        image = resolved_image(self._context.progress, Path(contract.PROGRESS_TOKEN))
        text = provenance.statement(
            task, self._context, self._pod, image, self._command, record, code, self._began, ended
        )
        try:
            storage.write(f"{task.output_prefix.rstrip('/')}/{contract.ATTEMPTS_NAME}/{self._pod}.json", text)
        except StorageError as error:
            self.say(f"the provenance of this attempt is not stored: {error.message}")

    def _listen(self, series: Series | None) -> Listeners:
        return Listeners(self._context, self._index == 0, series, self.say, self._last_checkpoint)

    def _read_context(self) -> TrainingContext:
        """Return the context; empty if an operator of another release wrote it in a form that cannot be read."""
        try:
            return TrainingContext.from_json(self._environment.get(contract.ENV_CONTEXT, "{}"))
        except ValueError:
            return TrainingContext()

    def _do(self, task: TrainingTask, storage: Storage) -> TerminationRecord:
        prefix = f"{task.output_prefix.rstrip('/')}/"
        if task.output_prefix:
            self._archive = Archive(storage, f"{prefix}{contract.LOGS_NAME}/{self._pod}/", self.say)
            failure_uri = f"{prefix}{contract.FAILED_NAME.format(index=self._index)}"
            self._repeats = Repeats(storage, failure_uri, self._context.worth_retrying, self.say)
            if self._index == 0:
                self._listeners = self._listen(series_of(storage, prefix, self._pod, self.say))
        if task.checkpoint is not None:
            self._grace = float(task.checkpoint.grace_seconds)
        if self._may_be_done(task) and (done := self._result(storage, prefix)) is not None:
            self.say("this job is done already: its result is stored")
            return done
        self._prepare(task, storage, self._places.work)
        source, account = task.source or SourceTask(), account_in(self._environment)
        self._listeners.open_run(self._pod, source, self._material.source.commit, self._command, account)
        if task.checkpoint is not None:
            self._checkpoints = Checkpoints(
                storage, prefix, task.checkpoint, self._places.checkpoints, self.say, lambda: self._listeners.step
            )
        if self._index == 0:
            self._attest = partial(self._store_statement, task, storage)
        gang = self._gang(task.gang)
        try:
            with self._streaming(storage):
                seconds = self._run(task, gang, lambda: self._result(storage, prefix) is not None)
            if self._index:
                return self._record()
            record = self._store_outputs(task, storage, seconds)
            if gang:
                gang.conclude()
            return record
        except Concluded:
            self.say("this job is done already: its result is stored")
            return self._record() if self._index else self._stored_result(storage, prefix)
        finally:
            if gang:
                gang.close()

    def _may_be_done(self, task: TrainingTask) -> bool:
        """True if an earlier attempt may have stored a result that this one must not repeat."""
        return bool(task.outputs or task.checkpoint or task.gang)

    def _gang(self, task: GangTask | None) -> Gang | None:
        if task is None or task.nodes == 1:
            return None
        return Gang(task, self._index, task.leader.partition(".")[0].removesuffix("-0"), self.say)

    @contextmanager
    def _streaming(self, storage: Storage) -> Iterator[None]:
        streams = self._material.streams
        server = StreamServer(storage, streams) if streams else None
        try:
            yield
        finally:
            if server:
                server.close()

    def _run(self, task: TrainingTask, gang: Gang | None, concluded: Callable[[], bool]) -> float:
        """Run the command, with the other nodes if there are any, and return the seconds that it has worked."""
        disk = DiskWatch(self._places.outputs, self.say)
        try:
            run_id = self._listeners.run_id or self._context.job.rpartition("/")[2]
            variables = job_variables(task, self._places, run_id) | self._variables()
            environment = self._listeners.start(variables, self._places.work / contract.RUNS_NAME)
            reserve = min(max(self._grace / 3, 3.0), 60.0)  # for the last checkpoint's and the log's way to the storage
            runner = Runner(
                task.gang or GangTask(),
                Part(self._command, self._folder(), environment, self._hear, self._tee, self.say),
                gang,
                Persistence(self._checkpoints, self._restore, self._index == 0, self._checkpoint_deadline),
                Ending(self._signals, self._grace - reserve, concluded, self._stop),
            )
            self._has_run = True
            try:
                with self._listeners.reading(self._take_logged):
                    runner.run()
            finally:
                self._ran = runner.ran
            self._has_worked(task)
            return runner.worked
        finally:
            disk.close()
            # Before the verdict, which says what is stored.
            self._listeners.stop(partial(self._deadline, self._verdict_reserve))

    def _variables(self) -> dict[str, str]:
        """Return the command's environment variables, those of its virtual environment included."""
        variables = environment_for_command(self._environment)
        return activated(variables, self._places.environment) if self._material.has_environment else variables

    def _has_worked(self, task: TrainingTask) -> None:
        """Do what a trial needs between the end of a command that succeeded and the upload of its outputs."""

    def _hear(self, line: str, is_stdout: bool) -> None:
        self._tail.add(line, is_stdout)
        if is_stdout:
            self._listeners.hear(line)

    def _take_logged(self, point: Point) -> None:
        self._listeners.take_logged(point)

    def _restore(self) -> None:
        """Empty the outputs of a former start of the command, and restore the newest checkpoint."""
        for folder in self._material.output_folders:
            empty(folder)
        if self._checkpoints is not None:
            self._patiently(self._places.output_waits, self._checkpoints.restore)

    def _deadline(self, reserve: float, patience: float) -> float:
        """Return the time `reserve` before the pod is killed or, without a signal, `patience` from now (monotonic)."""
        if self._signals.received:
            return self._signals.received_at + self._grace - reserve
        return time.monotonic() + patience

    def _checkpoint_deadline(self) -> float:
        """Return the time until which the last checkpoint must be stored (monotonic): now if no result is wanted."""
        if self._stop.is_set() and not self._may_go_on:
            return time.monotonic()
        return self._deadline(self._verdict_reserve, sum(self._places.output_waits))

    @property
    def _may_go_on(self) -> bool:
        """True if an attempt whose result is not wanted now may be wanted again."""
        return False

    @property
    def _verdict_reserve(self) -> float:
        """Seconds of the grace period that are kept for the verdict, after the last checkpoint."""
        return min(6.0, self._grace / 5)

    def _last_checkpoint(self) -> CheckpointRecord | None:
        return self._checkpoints.last if self._checkpoints else None

    def _tee(self, chunk: bytes) -> None:
        if self._archive is not None:
            self._archive.add(chunk)

    def _result(self, storage: Storage, prefix: str) -> TerminationRecord | None:
        """Return the record of a job that is done; None without one, or if the storage does not answer."""
        try:
            return TerminationRecord.from_json(storage.read(prefix + contract.RESULT_NAME).decode())
        except (StorageError, ValueError):
            return None

    def _stored_result(self, storage: Storage, prefix: str) -> TerminationRecord:
        """Return the record of an earlier attempt: the operator believes node 0's, so it must not be empty."""
        data = self._patiently(self._places.output_waits, partial(storage.read, prefix + contract.RESULT_NAME))
        return TerminationRecord.from_json(data.decode())

    def _record(self) -> TerminationRecord:
        checkpoint = self._last_checkpoint() if self._index == 0 else None
        return structs.replace(
            self._listeners.record(),
            source=self._material.source,
            inputs=self._material.inputs,
            checkpoint=checkpoint,
            cpu_seconds=round(cgroup.cpu_seconds(), 2),
        )

    def _failed(self, failed: Failed) -> tuple[int, TerminationRecord]:
        if self._repeats is not None and not self._signals.received:
            failed = self._repeats.judge(failed, self._tail.words, self._tail.own_line, self._ran)
        record = structs.replace(self._record(), reason=failed.reason, message=failed.message, tail=str(self._tail))
        words = self._tail.words if failed.reason == "CommandFailed" else ""
        record = structs.replace(record, words=words, exit_code=failed.of_command)
        kept = record.checkpoint.productive_seconds if record.checkpoint else 0.0
        return failed.code, structs.replace(record, productive_seconds=kept)

    def _task(self) -> TrainingTask:
        text = self._environment.get(contract.ENV_TASK, "")
        try:
            return TrainingTask.from_json(text)
        except ValueError as error:
            message = f"{contract.ENV_TASK} holds no training task ({error}); this image is started by the operator"
            raise Failed(EXIT_DO_NOT_RETRY, "TaskInvalid", message) from error

    def _storage(self) -> Storage:
        endpoint = self._environment.get(contract.ENV_STORAGE_ENDPOINT, "")
        return Storage(endpoint, self._environment.get(contract.ENV_STORAGE_REGION, ""))

    def _prepare(self, task: TrainingTask, storage: Storage, work: Path) -> None:
        """Bring the code to `work`, and the inputs to where they belong."""
        if not self._command:
            raise Failed(EXIT_DO_NOT_RETRY, "CommandNotFound", "no command is given; set spec.command")
        self._material.fetch(task, storage, work)

    def _folder(self) -> Path:
        """Return the folder of the command: that of its source or, without a source, the image's own with code."""
        work, own = self._places.work, self._places.image
        has_code = own != Path(own.root) and any(own.iterdir())
        return own if has_code and not any(work.iterdir()) else work

    def _store_outputs(self, task: TrainingTask, storage: Storage, seconds: float) -> TerminationRecord:
        folders = {name: self._places.outputs / name for name in task.outputs}
        for name in task.from_mlflow:
            self._patiently(self._places.output_waits, partial(self._listeners.take_model, name, folders[name]))
        without = {name for name in task.optional if is_empty(folders[name])}
        formats = {
            name: format_of(name, folders[name], format) for name, format in task.outputs.items() if name not in without
        }
        prefix = task.output_prefix.rstrip("/")
        outputs: dict[str, OutputRecord] = {}
        for name, format in formats.items():
            started = time.monotonic()
            upload = partial(storage.upload_folder, folders[name], f"{prefix}/{name}/", format)
            with about(f"spec.outputs.{name}"):
                stored = self._patiently(self._places.output_waits, upload)
            outputs[name] = structs.replace(stored, untrusted=untrusted_types(folders[name], format))
            self.say(f"output {name}: {stored.bytes} bytes to {stored.uri} in {time.monotonic() - started:.1f} s")
        record = structs.replace(self._record(), outputs=outputs, productive_seconds=seconds)
        if prefix:
            folder = f"{prefix}/{contract.ATTEMPTS_NAME}/{self._pod}/{contract.RUNS_NAME}/"
            self._listeners.store_runs(storage, folder, with_models=self._keeps_logged_models)
            # Before the result, with which the job is done: an attempt that ended between them would leave no record.
            self._store_records(storage, prefix, record)
            self._patiently(self._places.output_waits, partial(store_result, storage, prefix, record))
        return record

    def _store_records(self, storage: Storage, prefix: str, record: TerminationRecord) -> None:
        """Store the outcome of a pipeline's step in the cache; without it, a later run repeats the step."""
        try:
            store = partial(store_records, storage, f"{prefix}/", self._context, record)
            self._patiently(self._places.input_waits, store)
        except StorageError as error:
            self.say(f"the outcome is not stored for reuse: {error.message}")

    def _patiently(self, waits: Sequence[float], step: Callable[[], T]) -> T:
        """Do `step`, and again after each of `waits` while the storage does not answer and the pod may go on."""

        def retry(error: StorageError) -> bool:
            # A bucket that existed when the command began may come back, and the result is worth the wait.
            lost = self._has_run and error.reason == "BucketNotFound"
            return (error.transient or lost) and not self._signals.received

        def say(error: StorageError, wait: float) -> None:
            self.say(f"{error.message}; next attempt in {wait:g} s")

        def pause(wait: float) -> None:
            until = time.monotonic() + wait
            while time.monotonic() < until and not self._signals.received:
                time.sleep(min(0.2, wait))

        return patiently(step, waits, say, retry=retry, pause=pause)
