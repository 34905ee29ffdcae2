"""The container beside the server of a pool: it has the storage keys, and brings the models that the server asks for.

It fetches what the catalogue names, and nothing else: a model that runs code in the server can ask for no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socketserver
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ultramarine_contract.catalogue import CatalogueEntry
from ultramarine_contract.common import ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION, UNREADABLE, read_known
from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.storage import Storage

from ultramarine_server.asking import LINE_LIMIT, SOCKET_NAME, Fetched, Wanted, line
from ultramarine_server.catalogue import Catalogue

_ROOM_SECONDS = 60.0  # how long a fetch waits until the server needs no longer what fills the folder


class Shelf:
    """The fetched files, `bound` bytes at most: a folder for each artifact, the least recently asked ones go first."""

    def __init__(self, storage: Storage, folder: Path, bound: int) -> None:
        self._storage, self._folder, self._bound = storage, folder, bound
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._bringing: dict[str, threading.Lock] = {}
        self._changed = threading.Condition(threading.RLock())
        for left in folder.iterdir():  # by this container before it was started again; some of it may be half
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    @contextmanager
    def having(self, entry: CatalogueEntry) -> Iterator[Fetched]:
        """Have an artifact's files until the block ends. Raises StorageError with what to check."""
        # By the uri too: the one object of it keeps its name, which is how it is found.
        name = hashlib.sha256(f"{entry.digest} {entry.uri}".encode()).hexdigest()[:32]
        with self._changed:
            self._pins[name] += 1
            alone = self._bringing.setdefault(name, threading.Lock())
        try:
            with alone:
                size = self._bring(entry, name)
            yield Fetched(name, size)
        finally:
            with self._changed:
                self._pins[name] -= 1
                self._changed.notify_all()

    def _bring(self, entry: CatalogueEntry, name: str) -> int:
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
                    raise StorageError("no room for the model's files: all others are being loaded", "NoRoom")
            self._sizes[name] = size

    def _drop(self, name: str) -> None:
        with self._changed:
            self._sizes.pop(name, None)
            shutil.rmtree(self._folder / name, ignore_errors=True)


class _Handler(socketserver.StreamRequestHandler):
    """One connection: one model, until the server has hung up."""

    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The server has gone.
            self._answer()

    def _answer(self) -> None:
        try:
            wanted = read_known(Wanted, json.loads(self.rfile.readline(LINE_LIMIT)))
            with self.server.shelf.having(self._entry(wanted)) as files:
                self.wfile.write(line(files))
                self.rfile.read(1)
        except UltramarineError as error:
            self._refuse(error.reason, error.message)
        except (*UNREADABLE, ValueError) as error:
            self._refuse("NotUnderstood", f"not a request for a model: {error!r}")

    def _entry(self, wanted: Wanted) -> CatalogueEntry:
        entry = self.server.catalogue.entries.get(wanted.model)
        if entry is None or entry.digest != wanted.digest:
            raise StorageError(f"the catalogue does not have {wanted.model} with {wanted.digest}", "NotInCatalogue")
        return entry

    def _refuse(self, reason: str, message: str) -> None:
        print(f"ultramarine-server: {reason}: {message}", file=sys.stderr, flush=True)
        self.wfile.write(line(Fetched(reason=reason, message=message)))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, socket: Path, shelf: Shelf, catalogue: Catalogue) -> None:
        self.shelf, self.catalogue = shelf, catalogue
        super().__init__(str(socket), _Handler)


def fetch_pool(folder: Path, catalogue: Path, bound: int) -> int:
    """Fetch what the server asks for until SIGTERM, and return the exit code."""
    storage = Storage(os.environ.get(ENV_STORAGE_ENDPOINT, ""), os.environ.get(ENV_STORAGE_REGION, ""))
    with _Server(folder / SOCKET_NAME, Shelf(storage, folder, bound), Catalogue(catalogue, look_seconds=0)) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"ready to fetch models, {bound} bytes of files at most", flush=True)
        server.serve_forever()
    return 0
