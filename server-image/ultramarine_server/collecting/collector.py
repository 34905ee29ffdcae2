"""Sidecar that stores the server's captures in the object storage, until the server has ended."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ultramarine_contract.common import ENV_POD, ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION
from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.storage import Storage

from ultramarine_server.collecting.parquet import parquet_of, rows_in
from ultramarine_server.collecting.spool import (
    MAX_FILE,
    Waiting,
    give_back,
    pass_on,
    read_totals,
    waiting,
    write_totals,
)


@dataclass(frozen=True)
class Pace:
    """Limits of an object in captures, bytes and seconds, and the time for the last objects at the end."""

    rows: int = 1000
    bytes: int = 4 * 1024 * 1024
    seconds: float = 30.0
    look_seconds: float = 1.0
    longest_pause: float = 60.0
    last_seconds: float = 20.0


def collect(task: ServingTask, environment: Mapping[str, str], folder: Path, pace: Pace | None = None) -> int:
    """Store captures until SIGTERM, and then the rest.

    All errors are retried: a sidecar that ends makes the pod unready, and no request may fail because of the collector.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if task.collect is None:
        raise UltramarineError("the task has no data collector", "TaskInvalid")
    # Few attempts, because the collector tries again itself.
    where = environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, "")
    storage = Storage(*where, read_seconds=8, attempts=2)
    Collector(task, storage, environment.get(ENV_POD, "pod"), folder, pace or Pace()).run(ended)
    return 0


class Collector:
    """Collector that joins files of the folder into objects of the storage."""

    def __init__(self, task: ServingTask, storage: Storage, pod: str, folder: Path, pace: Pace) -> None:
        self._task, self._storage, self._pod, self._folder, self._pace = task, storage, pod, folder, pace
        self._totals = read_totals(folder)
        self._reported: set[str] = set()

    def run(self, ended: threading.Event) -> None:
        """Store until `ended`, and then the rest, within its time limit."""
        pause = self._pace.look_seconds
        give_back(self._folder)
        while not ended.wait(pause):
            stored = self._try(closing=False)
            pause = self._pace.look_seconds if stored else min(pause * 2, self._pace.longest_pause)
        ends_at = time.monotonic() + self._pace.last_seconds
        while not self._try(closing=True) and time.monotonic() < ends_at:
            time.sleep(self._pace.look_seconds)
        if left := sum(file.lines for file in waiting(self._folder)):
            print(f"ultramarine-server: {left} captures are lost with the pod: they were not stored", flush=True)

    def _try(self, *, closing: bool) -> bool:
        """Store all due files; return False after an error."""
        try:
            if closing:
                pass_on(self._folder)
            while part := self._due(closing=closing):
                self._store(part)
        except StorageError as error:
            self._fail(error.reason, error.message)
            return False
        except Exception as error:
            traceback.print_exc()
            self._fail(type(error).__name__, str(error))
            return False
        self._reported.clear()
        return True

    def _fail(self, reason: str, message: str) -> None:
        self._totals.failed_writes += 1
        if reason not in self._reported:
            self._reported.add(reason)
            print(f"ultramarine-server: cannot store captures now: {reason}: {message}", file=sys.stderr, flush=True)
        try:
            give_back(self._folder)
            write_totals(self._folder, self._totals)
        except OSError:
            traceback.print_exc()

    def _due(self, *, closing: bool) -> list[Waiting]:
        """Return the files of the next object, which are of the same hour and within the limits."""
        part: list[Waiting] = []
        rows = size = 0
        for file in waiting(self._folder):
            if part and (rows >= self._pace.rows or size >= self._pace.bytes or _hour(file) != _hour(part[0])):
                return part
            part.append(file)
            rows += file.lines
            size += file.size
        full = rows >= self._pace.rows or size >= self._pace.bytes
        old = bool(part) and time.time() - part[0].number / 1000 >= self._pace.seconds
        return part if closing or full or old else []

    def _store(self, part: list[Waiting]) -> None:
        taken, lines = [], []
        for file in part:
            path = file.path.with_suffix(".taken")
            try:
                file.path.rename(path)
            except FileNotFoundError:
                continue  # The server has dropped it to make room.
            taken.append(path)
            lines += _lines(path)
        rows, wrong = rows_in(lines)
        if rows:
            self._storage.write(self._uri(part[0]), parquet_of(rows, self._task))
        for path in taken:
            path.unlink()
        self._totals.written += len(rows)
        self._totals.unreadable += wrong
        write_totals(self._folder, self._totals)

    def _uri(self, first: Waiting) -> str:
        """Return the object's uri, named by its first file, so that a retry after a crash overwrites the first try."""
        collect = self._task.collect
        assert collect is not None
        folder = f"{collect.uri}{collect.endpoint}/{collect.deployment}/{_hour(first)}"
        return f"{folder}/{self._pod}-{first.number:013d}.parquet"


def _hour(file: Waiting) -> str:
    return datetime.fromtimestamp(file.number / 1000, UTC).strftime("%Y/%m/%d/%H")


def _lines(path: Path) -> list[bytes]:
    """Return a file's lines; none unless it is a plain file, because a model's code may write to the folder."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            return []
        return stream.read(MAX_FILE).splitlines()
