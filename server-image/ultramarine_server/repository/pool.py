"""Pool of models behind one endpoint: a first request loads its model, and the least recently used go first."""

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

from ultramarine_server import machine
from ultramarine_server.errors import LoadError, Problem
from ultramarine_server.models.model import Loaded
from ultramarine_server.repository.fetching import Catalogue, Fetcher, FetchRequest
from ultramarine_server.telemetry import PoolTelemetry

MIN_MODEL_BYTES = 64 * 1024  # Minimum bytes of a model, for Python's own objects, which are not measured.
FAILED_SECONDS = 10.0  # Time without another try after a failed load.
_MAX_FETCHES = 4  # At once.
MAX_WAITING = 1000  # Requests that wait for models at once.
_ROOM_SECONDS = 5.0  # Time that a load waits for evicted models that still answer.
_ROOM_TICK = 0.01
_TRIM_SHARE = 1 / 8  # of the bound: freed memory that is not yet returned to the system, which takes time

Read = Callable[[CatalogueEntry, str], Loaded]  # from an entry and the folder of its files


@dataclass(frozen=True, slots=True)
class _Resident:
    """Model in memory, with its entry."""

    loaded: Loaded
    entry: CatalogueEntry


@dataclass(frozen=True, slots=True)
class _Failure:
    """Failed load of an entry, with its reason; another try may begin after `until`."""

    entry: CatalogueEntry
    until: float
    why: str


class Pool:
    """Models of a catalogue; together they take at most `bound` bytes, as far as these are measured.

    The size of a model is the memory that its load allocated, and at least the size of its files. An evicted model
    counts until its last request is answered. Requests wait `seconds` for a load (0: without limit).
    """

    only = ""

    def __init__(
        self, catalogue: Catalogue, fetcher: Fetcher, read: Read, bound: int, seconds: float, telemetry: PoolTelemetry
    ) -> None:
        self._catalogue, self._fetcher, self._read = catalogue, fetcher, read
        self._bound, self._seconds, self._telemetry = bound, seconds, telemetry
        self._resident: OrderedDict[str, _Resident] = OrderedDict()  # the least recently used first
        self._failures: dict[str, _Failure] = {}
        self._loads: dict[str, asyncio.Task[Loaded]] = {}
        self._sizes: dict[str, int] = {}  # by digest, as measured last
        self._held = 0  # bytes of models in memory, and of evicted models that still answer
        self._waiting = 0
        self._formats: set[str] = set()  # of models that were loaded
        self._freed = 0  # bytes of evicted models that may not yet be returned to the system
        self._fetching = asyncio.Semaphore(_MAX_FETCHES)
        self._turn = asyncio.Lock()  # A load at a time, because each measures what it allocates.
        telemetry.now = lambda: (len(self._resident), self._held)

    @property
    def ready(self) -> bool:
        """True if the catalogue was read."""
        return bool(self._catalogue.entries) or self._catalogue.read

    def check(self, name: str, version: str = "") -> None:
        """Raise Problem 404 unless the catalogue has the model, and the version is current or still answers."""
        self._entry(name, version)

    def answers(self, name: str) -> bool:
        """True if the model is loaded, or its last load did not fail."""
        return name in self._resident or self._failure(self._entry(name)) is None

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model if it is loaded, otherwise a coroutine that loads it."""
        entry, resident = self._entry(name, version), self._resident.get(name)
        if resident is None or version not in ("", resident.loaded.version):
            return self._wait(entry)
        self._resident.move_to_end(name)
        if resident.entry is not entry and resident.entry != entry and self._failure(entry) is None:
            self._begin(entry)  # The previous version answers until then.
        return resident.loaded

    def index(self) -> list[dict[str, str]]:
        """Return all models of the catalogue."""
        return [self._line(entry) for _, entry in sorted(self._catalogue.entries.items())]

    def _line(self, entry: CatalogueEntry) -> dict[str, str]:
        resident, failure = self._resident.get(entry.model), self._failure(entry)
        version = entry.version if resident is None else resident.loaded.version
        state = "UNAVAILABLE" if resident is None else "READY"
        why = failure.why if failure else "" if resident else "its first request loads it"
        return {"name": entry.model, "version": version, "state": state, "reason": why}

    async def load(self, name: str) -> None:
        """Load a model again, even if it is loaded, or if its load has just failed."""
        self._failures.pop(name, None)
        await asyncio.shield(self._begin(self._entry(name)))

    def unload(self, name: str) -> None:
        """Evict a model; the next request loads it again."""
        if name in self._resident:
            self._evict(name)

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
        """Return the model when it is loaded; concurrent requests wait for the same load."""
        if (failure := self._failure(entry)) is not None:
            raise _unloadable(entry, failure.why, failure.until - time.monotonic())
        if self._waiting >= MAX_WAITING:
            raise Problem(503, f"{MAX_WAITING} requests wait for models to be loaded; try again later", 1)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds or None):
                return await asyncio.shield(self._begin(entry))
        except TimeoutError:
            message = f"model {entry.model!r} was not loaded within {self._seconds:g} s; try again, its load goes on"
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
            traceback.print_exception(error)  # A bug of the server, and no request may be waiting for this load.
        if isinstance(error, LoadError):
            why = f"{error.reason}: {error.message}"
            print(f"ultramarine-server: cannot load model {entry.model}: {why}", file=sys.stderr, flush=True)
            self._failures[entry.model] = _Failure(entry, time.monotonic() + FAILED_SECONDS, why)
        else:
            self._failures.pop(entry.model, None)

    async def _load(self, entry: CatalogueEntry) -> Loaded:
        started = time.monotonic()
        try:
            async with (
                self._fetching,
                self._fetcher.fetched(FetchRequest(entry.model, entry.digest)) as files,
                self._turn,
            ):
                await self._make_room(entry, max(files.bytes, self._sizes.get(entry.digest, MIN_MODEL_BYTES)))
                loaded, taken = await asyncio.to_thread(self._measured, entry, files.folder)
                size = self._sizes[entry.digest] = max(taken, files.bytes, MIN_MODEL_BYTES)
                await self._make_room(entry, size)
                self._take_in(entry, loaded, size)
        except LoadError:
            self._telemetry.failures += 1
            raise
        self._telemetry.loaded(time.monotonic() - started)
        return loaded

    def _measured(self, entry: CatalogueEntry, folder: str) -> tuple[Loaded, int]:
        """Load a model, on a thread; return it with the bytes that the load allocated."""
        if entry.format not in self._formats:  # The first load imports a library, whose memory is not the model's.
            self._read(entry, folder)
            self._formats.add(entry.format)
        if self._freed > self._bound * _TRIM_SHARE:
            self._freed = 0
            machine.give_back()
        before = machine.taken()
        return self._read(entry, folder), machine.taken() - before

    def _take_in(self, entry: CatalogueEntry, loaded: Loaded, size: int) -> None:
        if entry.model in self._resident:
            self._evict(entry.model)
        loop = asyncio.get_running_loop()
        self._held += size
        # A computing thread may hold the model last.
        weakref.finalize(loaded.model, _call_soon, loop, self._released, size).atexit = False
        self._resident[entry.model] = _Resident(loaded, entry)

    def _released(self, size: int) -> None:
        self._held -= size
        self._freed += size

    def _evict(self, name: str) -> None:
        del self._resident[name]

    async def _make_room(self, entry: CatalogueEntry, size: int) -> None:
        """Evict the least recently used models until `size` more bytes fit."""
        if size > self._bound:
            message = f"{entry.model} takes {_mib(size)} MiB, and the pool may take {_mib(self._bound)}"
            raise LoadError(f"{message}; raise maxLoadedMebibytes, or take it out of the pool", "TooLarge")
        until = time.monotonic() + _ROOM_SECONDS
        while self._held + size > self._bound:
            if self._resident:
                self._evict(next(iter(self._resident)))
                self._telemetry.evictions += 1
                await asyncio.sleep(0)  # A model without requests is released in this moment.
            elif time.monotonic() > until:
                raise LoadError("all models in memory are answering requests; try again later", "NoRoom")
            else:
                await asyncio.sleep(_ROOM_TICK)


def _call_soon(loop: asyncio.AbstractEventLoop, released: Callable[[int], None], size: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(released, size)


def _mib(size: int) -> int:
    return math.ceil(size / 2**20)


def _unloadable(entry: CatalogueEntry, why: str, seconds: float) -> Problem:
    return Problem(503, f"model {entry.model!r} cannot be loaded: {why}", max(1, math.ceil(seconds)))
