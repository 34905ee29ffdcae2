"""Catalogue of a pool, and requests for its models' files to the sidecar, which has the storage's keys.

A Unix socket has a connection for each model. The server sends a line with the model's name and digest. The sidecar
answers with a line that has the folder and its size, or an error. The files stay while the connection is open.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec
from ultramarine_contract.catalogue import CatalogueEntry, unpack
from ultramarine_contract.common import CATALOGUE_NAME, built

from ultramarine_server.errors import LoadError

SOCKET_NAME = "fetch.sock"  # in the folder of the models
MAX_LINE = 64 * 1024  # bytes
_CONNECT_SECONDS = 10.0  # time for a sidecar that starts, or starts again


class _Message(msgspec.Struct, frozen=True):
    def to_line(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        return msgspec.json.decode(text, type=built(cls))


class FetchRequest(_Message, frozen=True):
    """Request of the server. It has no uri: the sidecar takes that from the catalogue, and fetches nothing else."""

    model: str
    digest: str


class Fetched(_Message, frozen=True):
    """Folder of the files, below that of all models, and their size; or a reason and a message of an error."""

    folder: str = ""
    bytes: int = 0
    reason: str = ""
    message: str = ""


class Fetcher:
    """Client of the sidecar, over the socket in the folder of the models."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / SOCKET_NAME

    @asynccontextmanager
    async def fetched(self, request: FetchRequest) -> AsyncIterator[Fetched]:
        """Keep the files until the block ends. Raises LoadError with the sidecar's reason."""
        reader, writer = await self._connected()
        try:
            writer.write(request.to_line())
            answer = _read(await reader.readline())
            if answer.reason:
                raise LoadError(answer.message, answer.reason)
            yield answer
        finally:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _CONNECT_SECONDS
        while True:
            try:
                return await asyncio.open_unix_connection(str(self._socket), limit=MAX_LINE)
            except OSError as error:
                if loop.time() > until:
                    message = f"the container that fetches models does not answer ({error}); see its log"
                    raise LoadError(message, "FetcherGone") from error
                await asyncio.sleep(0.1)


def _read(text: bytes) -> Fetched:
    try:
        return Fetched.from_json(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = "the container that fetches models ended before it answered; see its log"
        raise LoadError(message, "FetcherGone") from error


LOOK_SECONDS = 1.0  # between two looks at the file, which the kubelet changes within a minute


class Catalogue:
    """Models of the pool, as the mounted file has them now."""

    def __init__(
        self, folder: Path, look_seconds: float = LOOK_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._look_seconds, self._clock = folder / CATALOGUE_NAME, look_seconds, clock
        self._identity: tuple[int, int, int] | None = None
        self._entries: Mapping[str, CatalogueEntry] = {}
        self._look_at = clock()
        self.read = False  # True after the first read

    @property
    def entries(self) -> Mapping[str, CatalogueEntry]:
        """Entries by the names of their Models; the previous entries while the file cannot be read."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + self._look_seconds
            self._refresh()
        return self._entries

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._identity:
                return
            self._entries = unpack(self._file.read_bytes())
            self._identity, self.read = identity, True
        except (OSError, ValueError) as error:
            print(f"ultramarine-server: cannot read {self._file}: {error}", file=sys.stderr, flush=True)
