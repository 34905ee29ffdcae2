"""Keeping how the metrics went, not only where they are now: one Parquet file for each pod in the object storage."""

from __future__ import annotations

import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

from ultramarine_trainer.progress.metrics import metrics_in

_CGROUP = Path("/sys/fs/cgroup")
_MIB = 1024 * 1024
# pyarrow takes 16 MiB to write anything at all, and 37 MiB for the largest series. It also maps libraries of 35 MiB,
# which the kernel can evict.
_ROOM = 64 * _MIB

Columns = tuple["array[int]", "array[int]", "array[float]"]  # microseconds since 1970, step or -1, value


@dataclass(frozen=True)
class Limits:
    """Limits of a series, its times of storing, and the pause after a failure at the end (counts and seconds).

    What is there is stored after `first_store`, then after twice as long each time, up to `longest_store`.
    """

    rows: int = 200_000
    names: int = 1_000
    first_store: float = 60.0
    longest_store: float = 600.0
    pause: float = 5.0


class _Metric:
    """The values of one metric in their order: of the older ones only each `stride`-th, of the newer ones all."""

    def __init__(self) -> None:
        self._columns: Columns = (array("q"), array("q"), array("d"))
        self._stride = 1
        self._older = 0  # how many of the rows are older ones
        self._left = 0  # how many values were added before the newer ones

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, microseconds: int, step: int, value: float) -> None:
        times, steps, values = self._columns
        times.append(microseconds)
        steps.append(step)
        values.append(value)

    def copy(self) -> Columns:
        times, steps, values = self._columns
        return times[:], steps[:], values[:]

    def thin_out(self) -> None:
        """Count half of the newer rows among the older ones; where these become more than the rest, keep half."""
        newer = len(self) - self._older
        moved = (newer + 1) // 2
        skipped = -self._left % self._stride
        end = self._older + moved
        self._keep(slice(self._older, end), slice(self._older + skipped, end, self._stride))
        self._left += moved
        self._older = len(self) - (newer - moved)
        if self._older >= newer - moved:
            self._keep(slice(self._older), slice(0, self._older, 2))
            self._stride *= 2
            self._older = (self._older + 1) // 2

    def _keep(self, of: slice, kept: slice) -> None:
        times, steps, values = self._columns
        times[of] = times[kept]
        steps[of] = steps[kept]
        values[of] = values[kept]


class _NoRoom(Exception):
    """Writing would take memory that the container does not have."""


class Series:
    """All values of a pod's metrics as one object at `uri`: `add` what comes, then `close`.

    A row is a value: time, step (null if none was told), name, value; the rows of a metric follow each other.
    """

    def __init__(self, storage: Storage, uri: str, say: Callable[[str], None], limits: Limits | None = None) -> None:
        self._storage, self._uri, self._say, self._limits = storage, uri, say, limits or Limits()
        self.stored = ""  # the URI, once anything is stored there
        self._metrics: dict[str, _Metric] = {}
        self._rows = 0
        self._since: float | None = None  # when the first value came that is not stored, monotonic
        self._reported: set[str] = set()  # kinds of failures
        self._closing = self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="series", daemon=True)
        self._thread.start()

    def read(self, line: str, step: int) -> None:
        """Take the metrics that a printed line tells."""
        if "=" in line:
            self.add(metrics_in(line), step)

    def add(self, metrics: Mapping[str, float], step: int, at: int = 0) -> None:
        """Take new values at `step`, or -1. It never waits for the storage, and never raises: output must flow.

        `at` is their time in microseconds since 1970, if it is not now.
        """
        now, problems = at or time.time_ns() // 1000, {}
        with self._changed:
            if self._closing:
                return
            for name, value in metrics.items():
                if name == "step":  # it is a column
                    continue
                if name not in self._metrics and len(self._metrics) >= self._limits.names:
                    problems["names"] = f"only the first {self._limits.names} metrics are kept; {name} is not"
                    continue
                self._metrics.setdefault(name, _Metric()).add(now, step, value)
                self._rows += 1
                if self._since is None:
                    self._since = time.monotonic()
                    self._changed.notify()
            if self._rows >= self._limits.rows:
                self._thin_out()
                problems["rows"] = (
                    f"more than {self._limits.rows} values of metrics came; the older ones are thinned out"
                )
        for kind, problem in problems.items():
            self._say_once(kind, problem)

    def close(self, deadline: float) -> None:
        """Store the last state, until `deadline` (monotonic) at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._given_up = True
            self._changed.notify()
            is_left = self._thread.is_alive() or self._since is not None
        if is_left:
            self._say(f"the last values of the metrics are not stored in {self._uri}")

    def _thin_out(self) -> None:
        while self._rows > self._limits.rows * 3 // 4:
            longest = max(self._metrics.values(), key=len)
            before = len(longest)
            longest.thin_out()
            self._rows -= before - len(longest)

    def _say_once(self, kind: str, line: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._say(line)

    def _run(self) -> None:
        after = self._limits.first_store
        while self._is_due(after):
            was_closing = self._closing
            try:
                self._store()
                after = min(2 * after, self._limits.longest_store)
            except StorageError as error:
                self._say_once(error.reason, f"the metrics cannot be stored now: {error.message}")
                if was_closing and not self._may_try_again(error.transient):
                    return
            except (ImportError, MemoryError, _NoRoom) as error:
                self._say_once(type(error).__name__, f"the metrics cannot be stored: {error!r}")
                if was_closing:
                    return

    def _is_due(self, after: float) -> bool:
        """Wait until there is something to store; false when nothing is left, and nothing more comes."""
        with self._changed:
            while not self._given_up:
                left = None if self._since is None else self._since + after - time.monotonic()
                if left is not None and (self._closing or left <= 0):
                    return True
                if self._closing:
                    return False
                self._changed.wait(left)
            return False

    def _may_try_again(self, may_pass: bool) -> bool:
        with self._changed:
            return may_pass and not self._changed.wait_for(lambda: self._given_up, self._limits.pause)

    def _store(self) -> None:
        with self._changed:
            rows = {name: metric.copy() for name, metric in self._metrics.items()}
            self._since = None
        try:
            self._storage.write(self._uri, _parquet(rows))
        except BaseException:
            with self._changed:
                self._since = time.monotonic()
            raise
        self.stored = self._uri


def _parquet(metrics: Mapping[str, Columns]) -> bytes:
    if "pyarrow" not in sys.modules and (room := _room()) < _ROOM:
        raise _NoRoom(f"the container has {room // _MIB} MiB of memory left, and {_ROOM // _MIB} are needed")
    # Not above: a job without metrics need not have the 0.1 s and the 50 MiB.
    import pyarrow
    from pyarrow.parquet import write_table

    numbers, times, steps, values = array("i"), array("q"), array("q"), array("d")
    for number, (its_times, its_steps, its_values) in enumerate(metrics.values()):
        numbers.extend(array("i", [number]) * len(its_times))
        times.extend(its_times)
        steps.extend(its_steps)
        values.extend(its_values)

    # Of buffers, because pyarrow.array() imports pandas, which takes as much memory again.
    def column(type: Any, data: array[Any], valid: bytes | None = None) -> Any:
        buffers = [pyarrow.py_buffer(valid) if valid else None, pyarrow.py_buffer(data)]
        return pyarrow.Array.from_buffers(type, len(data), buffers)

    words = [name.encode() for name in metrics]
    ends = array("i", accumulate(map(len, words), initial=0))
    text = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(words))]
    names = pyarrow.Array.from_buffers(pyarrow.string(), len(words), text)
    columns = {
        "time": column(pyarrow.timestamp("us", "UTC"), times),
        "step": column(pyarrow.int64(), steps, _bits([step >= 0 for step in steps])),
        "name": pyarrow.DictionaryArray.from_arrays(column(pyarrow.int32(), numbers), names),
        "value": column(pyarrow.float64(), values),
    }
    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    sink = pyarrow.BufferOutputStream()
    # Dictionaries of numbers that hardly ever come twice would double the memory.
    write_table(table, sink, compression="zstd", use_dictionary=["name"])
    return bytes(sink.getvalue())


def _bits(flags: list[bool]) -> bytes:
    """Eight to a byte, the first one lowest, as Arrow has them."""
    return bytes(sum(flag << bit for bit, flag in enumerate(flags[at : at + 8])) for at in range(0, len(flags), 8))


def _room() -> float:
    """Return the bytes of memory that the container may still take, without what is merely cached."""
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit
        return float("inf")
    return most - used + int(stat["inactive_file"]) + int(stat["active_file"])
