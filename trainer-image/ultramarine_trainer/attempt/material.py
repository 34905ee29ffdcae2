"""Material of an attempt: its code, packages and inputs, fetched before the command starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ultramarine_contract import common as contract
from ultramarine_contract.common import EXIT_DO_NOT_RETRY, EXIT_TRY_AGAIN
from ultramarine_contract.environments import unpack
from ultramarine_contract.errors import counted
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import InputRecord, SourceRecord, TrainingTask

from ultramarine_trainer.attempt.places import Places, about
from ultramarine_trainer.attempt.runner import Failed
from ultramarine_trainer.data.credentials import SourceError
from ultramarine_trainer.data.inputs import fetch_folder
from ultramarine_trainer.data.source import prepare

T = TypeVar("T")


class Patiently(Protocol):
    """Call of a step that is repeated after each of `waits` while the storage does not answer."""

    def __call__(self, waits: Sequence[float], step: Callable[[], T]) -> T: ...


class Material:
    """Code, packages and inputs of an attempt, as far as they were fetched."""

    def __init__(self, places: Places, say: Callable[[str], None], patiently: Patiently) -> None:
        self._places, self._say, self._patiently = places, say, patiently
        self.source = SourceRecord()
        self.inputs: dict[str, InputRecord] = {}
        self.streams: dict[str, dict[str, tuple[str, int]]] = {}  # files of an input by path: URI and size
        self.output_folders: list[Path] = []
        self.has_environment = False

    def fetch(self, task: TrainingTask, storage: Storage, work: Path) -> None:
        """Bring the code to `work`, and packages and inputs to their places. Raises Failed and StorageError."""
        self._fetch_code(task, storage, work)
        if task.outputs:
            # A storage that takes nothing is noticed now, and not after hours of training.
            with about("spec.outputs"):
                write = partial(storage.write, f"{task.output_prefix.rstrip('/')}/{contract.STARTED_NAME}", b"{}")
                self._patiently(self._places.output_waits, write)
        if task.environment is not None:
            started = time.monotonic()
            fetch_environment = partial(unpack, storage, task.environment, self._places.environment)
            count = self._patiently(self._places.input_waits, fetch_environment)
            seconds = time.monotonic() - started
            self._say(f"environment: {counted(count, 'file')} from {task.environment.uri} in {seconds:.1f} s")
            self.has_environment = True
        self._fetch_inputs(task, storage)

    def _fetch_code(self, task: TrainingTask, storage: Storage, work: Path) -> None:
        try:
            fetch = partial(prepare, task.source, self._places.source, work, storage)
            with about("spec.source.uri"):
                self.source = self._patiently(self._places.input_waits, fetch)
            for name in task.outputs:
                self.output_folders.append(self._places.outputs / name)
                self.output_folders[-1].mkdir(parents=True, exist_ok=True)
        except SourceError as error:
            code = EXIT_TRY_AGAIN if error.transient else EXIT_DO_NOT_RETRY
            raise Failed(code, error.reason, error.message) from error
        except OSError as error:
            raise Failed(EXIT_DO_NOT_RETRY, "LocalDiskError", f"cannot prepare the folders: {error}") from error
        if self.source.commit:
            self._say(f"source: commit {self.source.commit}")

    def _fetch_inputs(self, task: TrainingTask, storage: Storage) -> None:
        for name, uri in task.inputs.items():
            folder = self._places.inputs / name
            digest = task.digests.get(name, "")
            with about(f"spec.inputs.{name}{'' if digest else '.uri'}"):
                fetch_input = partial(fetch_folder, storage, name, uri, folder, self._say, digest)
                self.inputs[name] = self._patiently(self._places.input_waits, fetch_input)
        for name, uri in task.streams.items():
            with about(f"spec.inputs.{name}.uri"):
                files = self._patiently(self._places.input_waits, partial(storage.objects, uri))
            self.streams[name] = files
            self.inputs[name] = InputRecord("", sum(size for _, size in files.values()), len(files))
