"""Keeping all that a pod prints in the object storage, in segments, for when the pod and its log are gone."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage


@dataclass(frozen=True)
class Limits:
    """When a segment is sent, how much may wait for that, and the pauses after failures (bytes and seconds).

    What is there is sent after `first_send`, then after twice as long each time, up to `longest_send`: a pod that is
    killed soon loses little, and one that lives long does not leave thousands of small objects.
    """

    segment: int = 16 * 1024 * 1024
    waiting: int = 256 * 1024 * 1024
    first_send: float = 30.0
    longest_send: float = 600.0
    first_pause: float = 5.0
    longest_pause: float = 300.0


class _Segment:
    """A stretch of the log in a file without a name, of which nothing is left when we are killed."""

    def __init__(self, began: float) -> None:
        self.began = began  # monotonic seconds
        self.size = 0
        self.whole = False
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed when nobody holds us

    def append(self, chunk: bytes) -> None:
        """Add all of `chunk` or, where OSError is raised, nothing."""
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._file.fileno(), chunk[written:], self.size + written)
        self.size += len(chunk)

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read(self.size)


class Archive:
    """The log of one pod as NNNNN.log objects below `uri`, which ends in a slash: `add` what comes, then `close`."""

    def __init__(self, storage: Storage, uri: str, say: Callable[[str], None], limits: Limits | None = None) -> None:
        self._storage, self._uri, self._say, self._limits = storage, uri, say, limits or Limits()
        self._waiting: deque[_Segment] = deque()
        self._dropped = 0  # bytes that are missing before the first segment that waits
        self._unwritten = 0  # bytes that are missing after the last one
        self._number = 1
        self._after = self._limits.first_send
        self._reported: set[str] = set()  # kinds of failures since the last success
        self._closing = self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def add(self, chunk: bytes) -> None:
        """Take a piece of output. It never waits for the storage, and never raises: output must flow."""
        with self._changed:
            if self._closing or not chunk:
                return
            try:
                is_open = bool(self._waiting) and not self._waiting[-1].whole
                segment = self._waiting[-1] if is_open else _Segment(time.monotonic())
                segment.append(_missing(self._unwritten) + chunk)
            except OSError:  # such as a full disk
                self._unwritten += len(chunk)
                return
            self._unwritten = 0
            segment.whole = segment.size >= self._limits.segment
            if not is_open:
                self._waiting.append(segment)
            if segment.whole or not is_open:
                self._changed.notify()
            while sum(waiting.size for waiting in self._waiting) > self._limits.waiting and len(self._waiting) > 1:
                self._dropped += self._waiting.popleft().size

    def close(self, deadline: float) -> bool:
        """Send the rest, until `deadline` (monotonic) at most, and say whether all of it is stored."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._given_up = True
            self._changed.notify()
            left = self._dropped + sum(segment.size for segment in self._waiting) + self._unwritten
        if left:
            self._say(f"{left} bytes of the log are not stored below {self._uri}")
        return not left

    def _run(self) -> None:
        pause = 0.0
        while segment := self._next():
            try:
                self._send(segment)
            except StorageError as error:
                if error.reason not in self._reported:
                    self._reported.add(error.reason)
                    self._say(f"the log cannot be stored now: {error.message}")
                pause = min(max(2 * pause, self._limits.first_pause), self._limits.longest_pause)
                if not self._may_go_on(pause, error.transient):
                    return
            else:
                pause = 0.0
                self._reported.clear()

    def _next(self) -> _Segment | None:
        """Wait until a segment is to be sent; None when all have been, and nothing more comes."""
        with self._changed:
            while not self._given_up:
                first = self._waiting[0] if self._waiting else None
                if first is None:
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                seconds_left = first.began + self._after - time.monotonic()
                if first.whole or self._closing or seconds_left <= 0:
                    first.whole = True
                    return first
                self._changed.wait(seconds_left)
            return None

    def _may_go_on(self, pause: float, transient: bool) -> bool:
        """Wait after a failure. When the log is being closed there is time only for what may pass."""
        with self._changed:
            was_closing = self._closing
            if was_closing and not transient:
                return False
            self._changed.wait_for(lambda: self._given_up or self._closing != was_closing, pause)
            return not self._given_up

    def _send(self, segment: _Segment) -> None:
        with self._changed:
            if self._waiting[0] is not segment:
                return  # it has just been dropped
            dropped = self._dropped
        self._storage.write(f"{self._uri}{self._number:05}.log", _missing(dropped) + segment.read())
        with self._changed:
            self._dropped -= dropped
            if self._waiting[0] is segment:
                self._waiting.popleft()
            else:
                self._dropped -= segment.size  # it was dropped while it was on its way
        self._number += 1
        self._after = min(2 * self._after, self._limits.longest_send)


def _missing(count: int) -> bytes:
    """Return the line that stands in the place of what is missing."""
    if not count:
        return b""
    return f"\nultramarine-trainer: {count} bytes of the log are missing here; they could not be kept\n".encode()
