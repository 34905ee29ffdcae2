"""Programs that have the storage's keys: fetch a model, fetch the models of a pool, and delete an artifact.

The sidecar of a pool fetches only models of the catalogue, so that a model that runs code in the server gets no others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socketserver
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from ultramarine_contract.catalogue import CatalogueEntry
from ultramarine_contract.common import ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION
from ultramarine_contract.errors import StorageError, UltramarineError, counted
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.version_records import DeleteTask

from ultramarine_server.repository.fetching import MAX_LINE, SOCKET_NAME, Catalogue, Fetched, FetchRequest

_ROOM_SECONDS = 60.0  # time that a fetch waits for room in a folder full of files in use


class Shelf:
    """Folder of fetched artifacts, `bound` bytes at most; the least recently used artifacts go first."""

    def __init__(self, storage: Storage, folder: Path, bound: int) -> None:
        self._storage, self._folder, self._bound = storage, folder, bound
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._fetches: dict[str, threading.Lock] = {}
        self._changed = threading.Condition(threading.RLock())
        for path in folder.iterdir():  # rests of a previous run of this container, which may be incomplete
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def fetched(self, entry: CatalogueEntry) -> Iterator[Fetched]:
        """Fetch an artifact and keep its files until the block ends. Raises StorageError with the remedy."""
        # The uri counts too, because an artifact of a single object is found by the object's name.
        name = hashlib.sha256(f"{entry.digest} {entry.uri}".encode()).hexdigest()[:32]
        with self._changed:
            self._pins[name] += 1
            lock = self._fetches.setdefault(name, threading.Lock())
        try:
            with lock:
                size = self._fetch(entry, name)
            yield Fetched(name, size)
        finally:
            with self._changed:
                self._pins[name] -= 1
                self._changed.notify_all()

    def _fetch(self, entry: CatalogueEntry, name: str) -> int:
        with self._changed:
            if name in self._sizes:
                self._sizes.move_to_end(name)
                return self._sizes[name]
        started = time.monotonic()
        size = self._storage.artifact_digest(entry.uri).bytes
        self._make_room(entry, name, size)
        try:
            self._storage.fetch_artifact(entry.uri, entry.digest, self._folder / name)
        except BaseException:
            self._drop(name)
            raise
        print(f"fetched {entry.model}, {size} bytes, in {time.monotonic() - started:.2f} s", flush=True)
        return size

    def _make_room(self, entry: CatalogueEntry, name: str, size: int) -> None:
        if size > self._bound:
            raise StorageError(f"{entry.uri} has {size} bytes, and all models may have {self._bound}", "TooLarge")
        until = time.monotonic() + _ROOM_SECONDS
        with self._changed:
            while sum(self._sizes.values()) + size > self._bound:
                free = next((other for other in self._sizes if not self._pins[other]), None)
                if free is not None:
                    self._drop(free)
                elif not self._changed.wait(until - time.monotonic()):
                    raise StorageError("no room for the model's files: all other files are being loaded", "NoRoom")
            self._sizes[name] = size

    def _drop(self, name: str) -> None:
        with self._changed:
            self._sizes.pop(name, None)
            shutil.rmtree(self._folder / name, ignore_errors=True)


class _Handler(socketserver.StreamRequestHandler):
    """Connection for a model, open until the server closes it."""

    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The server has closed it.
            self._answer()

    def _answer(self) -> None:
        try:
            request = FetchRequest.from_json(self.rfile.readline(MAX_LINE))
            with self.server.shelf.fetched(self._entry(request)) as files:
                self.wfile.write(files.to_line())
                self.rfile.read(1)
        except UltramarineError as error:
            self._refuse(error.reason, error.message)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._refuse("NotUnderstood", f"not a request for a model: {error!r}")

    def _entry(self, request: FetchRequest) -> CatalogueEntry:
        entry = self.server.catalogue.entries.get(request.model)
        if entry is None or entry.digest != request.digest:
            raise StorageError(f"the catalogue does not have {request.model} with {request.digest}", "NotInCatalogue")
        return entry

    def _refuse(self, reason: str, message: str) -> None:
        print(f"ultramarine-server: {reason}: {message}", file=sys.stderr, flush=True)
        self.wfile.write(Fetched(reason=reason, message=message).to_line())


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, socket: Path, shelf: Shelf, catalogue: Catalogue) -> None:
        self.shelf, self.catalogue = shelf, catalogue
        super().__init__(str(socket), _Handler)


def fetch_pool(folder: Path, catalogue: Path, bound: int) -> int:
    """Fetch models for the server of a pool until SIGTERM, and return the exit code."""
    storage = Storage(os.environ.get(ENV_STORAGE_ENDPOINT, ""), os.environ.get(ENV_STORAGE_REGION, ""))
    with _Server(folder / SOCKET_NAME, Shelf(storage, folder, bound), Catalogue(catalogue, look_seconds=0)) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"ready to fetch models, {bound} bytes of files at most", flush=True)
        server.serve_forever()
    return 0


def fetch(task: ServingTask, environment: Mapping[str, str], folder: Path, environment_dir: Path) -> None:
    """Fetch and check the task's artifact, and its environment if it has one. Raises StorageError with the remedy."""
    started = time.monotonic()
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    manifest = storage.fetch_artifact(task.uri, task.digest, folder)
    seconds = time.monotonic() - started
    files = counted(len(manifest.files), "file")
    print(f"fetched {files}, {manifest.bytes} bytes from {task.uri} in {seconds:.1f} s", flush=True)
    if task.environment is not None:
        from ultramarine_contract.environments import unpack

        started = time.monotonic()
        count = unpack(storage, task.environment, environment_dir)
        print(f"environment: {counted(count, 'file')} in {time.monotonic() - started:.1f} s", flush=True)


def delete(task: DeleteTask, environment: Mapping[str, str]) -> None:
    """Delete the task's artifact, manifest first; a missing artifact is not an error. Raises StorageError."""
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    storage.delete_artifact(task.uri)
    print(f"deleted {task.uri}", flush=True)
