"""Many models behind one endpoint: each is loaded for its first request, and the least recently asked ones go first."""

from __future__ import annotations

import asyncio
import math
import sys
import time
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.catalogue import CatalogueEntry

from ultramarine_server import memory
from ultramarine_server.asking import Fetcher, Wanted
from ultramarine_server.catalogue import Catalogue
from ultramarine_server.errors import LoadError, Problem
from ultramarine_server.model import Loaded
from ultramarine_server.pool_telemetry import PoolTelemetry

LEAST = 64 * 1024  # bytes that a model counts at least, for what Python's own objects take, which is not measured
FAILED_SECONDS = 10.0  # how long a failed load is remembered, so that requests do not make it fail again and again
_FETCHES = 4  # at once
_WAITING = 1000  # requests that wait for models at once
_ROOM_SECONDS = 5.0  # how long a load waits for models that were let go, but still answer
_ROOM_TICK = 0.01
_TRIM_SHARE = 1 / 8  # of the bound: so much may be freed before it is given back to the system, which takes time

Read = Callable[[CatalogueEntry, str], Loaded]  # from an entry, and the folder of its files


@dataclass(frozen=True, slots=True)
class _Resident:
    """A model in memory, and the entry that it was loaded by."""

    loaded: Loaded
    entry: CatalogueEntry


@dataclass(frozen=True, slots=True)
class _Failure:
    """A load that failed: of which entry, until when that counts, and why."""

    entry: CatalogueEntry
    until: float
    why: str


class Pool:
    """The models of a catalogue; together they take `bound` bytes at most, as far as was measured.

    What a model takes is what was allocated when it was loaded, and never less than its files. A model that is let go
    counts until the last request that it answers is through. Requests wait `seconds` for a load (0: any time).
    """

    only = ""

    def __init__(
        self, catalogue: Catalogue, fetcher: Fetcher, read: Read, bound: int, seconds: float, telemetry: PoolTelemetry
    ) -> None:
        self._catalogue, self._fetcher, self._read = catalogue, fetcher, read
        self._bound, self._seconds, self._telemetry = bound, seconds, telemetry
        self._resident: OrderedDict[str, _Resident] = OrderedDict()  # the least recently asked first
        self._failures: dict[str, _Failure] = {}
        self._loads: dict[str, asyncio.Task[Loaded]] = {}
        self._sizes: dict[str, int] = {}  # by digest, what was measured last
        self._held = 0  # bytes, of those in memory and of those that were let go and still answer
        self._waiting = 0
        self._formats: set[str] = set()  # those of which one was loaded
        self._freed = 0  # bytes that were let go, and may not be given back to the system
        self._fetching = asyncio.Semaphore(_FETCHES)
        self._turn = asyncio.Lock()  # One load at a time: else nobody knows what was allocated by which.
        telemetry.now = lambda: (len(self._resident), self._held)

    @property
    def ready(self) -> bool:
        """Whether the catalogue was read."""
        return bool(self._catalogue.entries) or self._catalogue.read

    def check(self, name: str, version: str = "") -> None:
        """Let only models of the catalogue through, in the version that it names or that still answers."""
        self._entry(name, version)

    def answers(self, name: str) -> bool:
        """Whether its last load did not fail."""
        return name in self._resident or self._failure(self._entry(name)) is None

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model, at once where it is loaded, else when awaited."""
        entry, resident = self._entry(name, version), self._resident.get(name)
        if resident is None or version not in ("", resident.loaded.version):
            return self._wait(entry)
        self._resident.move_to_end(name)
        if resident.entry is not entry and resident.entry != entry and self._failure(entry) is None:
            self._begin(entry)  # The version before answers until then.
        return resident.loaded

    def index(self) -> list[dict[str, str]]:
        """All models of the catalogue."""
        return [self._line(entry) for _, entry in sorted(self._catalogue.entries.items())]

    def _line(self, entry: CatalogueEntry) -> dict[str, str]:
        resident, failure = self._resident.get(entry.model), self._failure(entry)
        version = entry.version if resident is None else resident.loaded.version
        state = "UNAVAILABLE" if resident is None else "READY"
        why = failure.why if failure else "" if resident else "it is loaded when it is asked"
        return {"name": entry.model, "version": version, "state": state, "reason": why}

    async def load(self, name: str) -> None:
        """Load a model, again if it is there, whether or not that failed a moment ago."""
        self._failures.pop(name, None)
        await asyncio.shield(self._begin(self._entry(name)))

    def unload(self, name: str) -> None:
        """Let a model go; the next request loads it again."""
        if name in self._resident:
            self._let_go(name)

    def _entry(self, name: str, version: str = "") -> CatalogueEntry:
        entry = self._catalogue.entries.get(name)
        if entry is None:
            there = f"{len(self._catalogue.entries)} others" if self._catalogue.entries else "none"
            raise Problem(404, f"model {name!r} is unknown; this pool has {there}, and learns of a new one in a minute")
        if version not in ("", entry.version):
            resident = self._resident.get(name)
            if resident is None or resident.loaded.version != version:
                raise Problem(404, f"version {version!r} of {name!r} is not here; this is {entry.version!r}")
        return entry

    def _failure(self, entry: CatalogueEntry) -> _Failure | None:
        failure = self._failures.get(entry.model)
        if failure is None or failure.entry != entry or failure.until < time.monotonic():
            return None
        return failure

    async def _wait(self, entry: CatalogueEntry) -> Loaded:
        """Return the model when it is loaded; whoever asks for it meanwhile waits for the same load."""
        if (failure := self._failure(entry)) is not None:
            raise _unloadable(entry, failure.why, failure.until - time.monotonic())
        if self._waiting >= _WAITING:
            raise Problem(503, f"{_WAITING} requests wait for models to be loaded; try again later", 1)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds or None):
                return await asyncio.shield(self._begin(entry))
        except TimeoutError:
            message = f"model {entry.model!r} was not loaded within {self._seconds:g} s; it is on its way"
            raise Problem(504, message) from None
        except LoadError as error:
            raise _unloadable(entry, f"{error.reason}: {error.message}", FAILED_SECONDS) from error
        finally:
            self._waiting -= 1

    def _begin(self, entry: CatalogueEntry) -> asyncio.Task[Loaded]:
        name = entry.model
        task = self._loads.get(name)
        if task is None:
            task = self._loads[name] = asyncio.create_task(self._load(entry))
            task.add_done_callback(lambda done: self._ended(entry, done))
        return task

    def _ended(self, entry: CatalogueEntry, task: asyncio.Task[Loaded]) -> None:
        del self._loads[entry.model]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LoadError):
            traceback.print_exception(error)  # A bug of ours, and there may be nobody who waits.
        if isinstance(error, LoadError):
            why = f"{error.reason}: {error.message}"
            print(f"ultramarine-server: model {entry.model} cannot be loaded: {why}", file=sys.stderr, flush=True)
            self._failures[entry.model] = _Failure(entry, time.monotonic() + FAILED_SECONDS, why)
        else:
            self._failures.pop(entry.model, None)

    async def _load(self, entry: CatalogueEntry) -> Loaded:
        started = time.monotonic()
        try:
            async with self._fetching, self._fetcher.fetched(Wanted(entry.model, entry.digest)) as files, self._turn:
                await self._make_room(entry, max(files.bytes, self._sizes.get(entry.digest, LEAST)))
                loaded, taken = await asyncio.to_thread(self._measured, entry, files.folder)
                size = self._sizes[entry.digest] = max(taken, files.bytes, LEAST)
                await self._make_room(entry, size)
                self._take_in(entry, loaded, size)
        except LoadError:
            self._telemetry.failures += 1
            raise
        self._telemetry.loaded(time.monotonic() - started)
        return loaded

    def _measured(self, entry: CatalogueEntry, folder: str) -> tuple[Loaded, int]:
        """Load a model, on a thread; return it with the bytes that this took."""
        if entry.format not in self._formats:  # Its library comes with the first one, and is not the model's.
            self._read(entry, folder)
            self._formats.add(entry.format)
        if self._freed > self._bound * _TRIM_SHARE:
            self._freed = 0
            memory.give_back()
        before = memory.taken()
        return self._read(entry, folder), memory.taken() - before

    def _take_in(self, entry: CatalogueEntry, loaded: Loaded, size: int) -> None:
        if entry.model in self._resident:
            self._let_go(entry.model)
        loop = asyncio.get_running_loop()
        self._held += size
        # The last one that holds it may be a thread that computes.
        weakref.finalize(loaded.model, _tell, loop, self._released, size).atexit = False
        self._resident[entry.model] = _Resident(loaded, entry)

    def _released(self, size: int) -> None:
        self._held -= size
        self._freed += size

    def _let_go(self, name: str) -> None:
        del self._resident[name]

    async def _make_room(self, entry: CatalogueEntry, wanted: int) -> None:
        """Let the least recently asked models go until there is room for so many bytes more."""
        if wanted > self._bound:
            message = f"{entry.model} takes {_mib(wanted)} MiB, and the pool may take {_mib(self._bound)}"
            raise LoadError(f"{message}; raise maxLoadedMebibytes, or take it out of the pool", "TooLarge")
        until = time.monotonic() + _ROOM_SECONDS
        while self._held + wanted > self._bound:
            if self._resident:
                self._let_go(next(iter(self._resident)))
                self._telemetry.evictions += 1
                await asyncio.sleep(0)  # What nobody holds is released in this moment.
            elif time.monotonic() > until:
                raise LoadError("the models in memory are all being asked; try again later", "NoRoom")
            else:
                await asyncio.sleep(_ROOM_TICK)


def _tell(loop: asyncio.AbstractEventLoop, released: Callable[[int], None], size: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(released, size)


def _mib(size: int) -> int:
    return math.ceil(size / 2**20)


def _unloadable(entry: CatalogueEntry, why: str, seconds: float) -> Problem:
    return Problem(503, f"model {entry.model!r} cannot be loaded: {why}", max(1, math.ceil(seconds)))
