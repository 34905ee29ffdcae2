"""One training attempt from the task to the verdict."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ultramarine.outside.storage import Storage
from ultramarine.shared import contract
from ultramarine.shared.contract import (
    EXIT_DO_NOT_RETRY,
    EXIT_TRY_AGAIN,
    OutputRecord,
    SourceRecord,
    TerminationRecord,
    TrainingTask,
)
from ultramarine.shared.errors import StorageError

from ultramarine_trainer.child import CommandNotFound, Signals, Stopped, environment_for_command, run_command
from ultramarine_trainer.lines import Tail
from ultramarine_trainer.metrics import LatestMetrics
from ultramarine_trainer.outputs import format_of
from ultramarine_trainer.source import SourceError, prepare

T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """Where everything is, and how long a storage that does not answer is waited for."""

    source: Path = Path(contract.SOURCE_DIR)
    work: Path = Path(contract.WORK_DIR)
    inputs: Path = Path(contract.INPUTS_DIR)
    outputs: Path = Path(contract.OUTPUTS_DIR)
    termination_log: Path = Path(contract.TERMINATION_LOG)
    image: Path = field(default_factory=Path.cwd)  # WORKDIR of the image
    # Seconds between attempts. A result is worth more patience than a start, which another pod can make.
    input_waits: tuple[float, ...] = (2, 10)
    output_waits: tuple[float, ...] = (2, 5, 15, 30, 60, 120)


class Failed(Exception):
    """The attempt is over: with this exit code and these words."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def run(command: Sequence[str], environment: Mapping[str, str], places: Places | None = None) -> int:
    """Do everything a training pod has to do, leave the verdict in the termination log, and return the exit code."""
    places = places or Places()
    attempt = Attempt(command, environment, places)
    code, record = attempt.make()
    if code:
        say(f"{record.reason}: {record.message}")
    try:
        places.termination_log.write_text(record.to_json())
    except OSError as error:
        say(f"the verdict cannot be written to {places.termination_log}: {error}")
    return code


def say(line: str) -> None:
    """Tell the reader of the log what this program, not the user's command, does."""
    print(f"ultramarine-trainer: {line}", file=sys.stderr, flush=True)


@contextmanager
def _about(field: str) -> Iterator[None]:
    """Name the field of the TrainingJob that a fault of the storage is about."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{field}: {error.message}", error.reason, transient=error.transient) from error


class Attempt:
    """The steps of one attempt and what it has learnt so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        self._command, self._environment, self._places = command, environment, places
        self._signals = Signals()
        self._tail = Tail()
        self._metrics = LatestMetrics()
        self._source = SourceRecord()

    def make(self) -> tuple[int, TerminationRecord]:
        """Go through all steps; a failure of any becomes an exit code and a record."""
        try:
            self._signals.install()
            task = self._task()
            storage = self._storage()
            self._prepare(task, storage)
            self._run_command()
            return 0, self._store_outputs(task, storage)
        except Stopped as stopped:
            return self._failed(self._stop_failure(stopped.signum, "before the command ran"))
        except Failed as failed:
            return self._failed(failed)
        except StorageError as error:
            code = EXIT_TRY_AGAIN if error.transient else EXIT_DO_NOT_RETRY
            return self._failed(Failed(code, error.reason, error.message))

    def _failed(self, failed: Failed) -> tuple[int, TerminationRecord]:
        record = TerminationRecord(
            metrics=self._metrics.values, reason=failed.reason, message=failed.message, source=self._source
        )
        return failed.code, replace(record, tail=str(self._tail))

    def _task(self) -> TrainingTask:
        text = self._environment.get(contract.ENV_TASK, "")
        try:
            return TrainingTask.from_json(text)
        except (TypeError, ValueError) as error:
            message = f"{contract.ENV_TASK} holds no training task ({error}); this image is started by the operator"
            raise Failed(EXIT_DO_NOT_RETRY, "TaskInvalid", message) from error

    def _storage(self) -> Storage:
        endpoint = self._environment.get(contract.ENV_STORAGE_ENDPOINT, "")
        return Storage(endpoint, self._environment.get(contract.ENV_STORAGE_REGION, ""))

    def _prepare(self, task: TrainingTask, storage: Storage) -> None:
        if not self._command:
            raise Failed(EXIT_DO_NOT_RETRY, "CommandNotFound", "no command is given; set spec.command")
        try:
            fetch = partial(prepare, task.source, self._places.source, self._places.work, storage)
            with _about("spec.source.uri"):
                self._source = self._patiently(self._places.input_waits, fetch)
            for name in task.outputs:
                (self._places.outputs / name).mkdir(parents=True, exist_ok=True)
        except SourceError as error:
            code = EXIT_TRY_AGAIN if error.transient else EXIT_DO_NOT_RETRY
            raise Failed(code, error.reason, error.message) from error
        except OSError as error:
            raise Failed(EXIT_DO_NOT_RETRY, "LocalDiskError", f"cannot prepare the folders: {error}") from error
        if self._source.commit:
            say(f"source: commit {self._source.commit}")
        if task.outputs:
            # A storage that takes nothing is found out now, and not after hours of training.
            with _about("spec.outputs"):
                write = partial(storage.write, f"{task.output_prefix.rstrip('/')}/{contract.STARTED_NAME}", b"{}")
                self._patiently(self._places.output_waits, write)
        for name, uri in task.inputs.items():
            started = time.monotonic()
            folder = self._places.inputs / name
            with _about(f"spec.inputs.{name}.uri"):
                files = self._patiently(self._places.input_waits, partial(storage.download, uri, folder))
            size, seconds = sum(file.bytes for file in files), time.monotonic() - started
            say(f"input {name}: {len(files)} files, {size} bytes from {uri} in {seconds:.1f} s")

    def _run_command(self) -> None:
        def hear(line: str, is_stdout: bool) -> None:
            self._tail.add(line)
            if is_stdout:
                self._metrics.read(line)

        environment = environment_for_command(self._environment)
        try:
            code = run_command(self._command, self._folder(), environment, self._signals, hear)
        except CommandNotFound as error:
            raise Failed(EXIT_DO_NOT_RETRY, "CommandNotFound", str(error)) from error
        if self._signals.received:
            raise self._stop_failure(self._signals.received, "while the command ran")
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; probably out of memory: raise spec.resources" if -code == signal.SIGKILL else ""
            raise Failed(128 - code, "CommandFailed", f"command was killed by {name}{hint}")
        if code:
            raise Failed(code, "CommandFailed", f"command exited with code {code}")

    def _folder(self) -> Path:
        """Where the command starts: with its source, or, where none was given, in the image's own folder with code."""
        work, own = self._places.work, self._places.image
        has_code = own != Path(own.root) and any(own.iterdir())
        return own if has_code and not any(work.iterdir()) else work

    def _stop_failure(self, signum: int, when: str) -> Failed:
        cause = "the pod was deleted, evicted or past its deadline"
        return Failed(128 + signum, "Stopped", f"{signal.Signals(signum).name} came {when}: {cause}")

    def _store_outputs(self, task: TrainingTask, storage: Storage) -> TerminationRecord:
        folders = {name: self._places.outputs / name for name in task.outputs}
        formats = {name: format_of(name, folders[name], wanted) for name, wanted in task.outputs.items()}
        prefix = task.output_prefix.rstrip("/")
        outputs: dict[str, OutputRecord] = {}
        for name, format in formats.items():
            started = time.monotonic()
            upload = partial(storage.upload_folder, folders[name], f"{prefix}/{name}/", format)
            with _about(f"spec.outputs.{name}"):
                stored = outputs[name] = self._patiently(self._places.output_waits, upload)
            say(f"output {name}: {stored.bytes} bytes to {stored.uri} in {time.monotonic() - started:.1f} s")
        record = TerminationRecord(outputs=outputs, metrics=self._metrics.values, source=self._source)
        if prefix:
            # Whole, not shortened to what a termination log can hold.
            whole = record.to_json(limit=sys.maxsize).encode()
            self._patiently(
                self._places.output_waits, partial(storage.write, f"{prefix}/{contract.RESULT_NAME}", whole)
            )
        return record

    def _patiently(self, waits: Sequence[float], step: Callable[[], T]) -> T:
        """Do `step`, and again after each of `waits` while the storage does not answer and nobody wants us to stop."""
        for wait in waits:
            try:
                return step()
            except StorageError as error:
                if not error.transient or self._signals.received:
                    raise
                say(f"{error.message}; next attempt in {wait:g} s")
            until = time.monotonic() + wait
            while time.monotonic() < until and not self._signals.received:
                time.sleep(min(0.2, wait))
        return step()
