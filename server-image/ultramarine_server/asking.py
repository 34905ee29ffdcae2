"""How the server of a pool gets a model's files: it asks the container beside it, which has the storage keys.

One connection over a Unix socket for each model: the server sends a line with the model's name and the digest that it
expects, and gets a line with the folder and its size, or with what is wrong. The files stay while it is connected.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ultramarine_contract.common import UNREADABLE, read_known

from ultramarine_server.errors import LoadError

SOCKET_NAME = "fetch.sock"  # in the folder of the models
LINE_LIMIT = 64 * 1024  # bytes
_CONNECT_SECONDS = 10.0  # for a container that is being started, or started again


@dataclass(frozen=True)
class Wanted:
    """What the server asks for. The uri is not among it: the other side looks that up, and fetches nothing else."""

    model: str
    digest: str


@dataclass(frozen=True)
class Fetched:
    """Where the files are, below the folder of the models, and their size; or a word and a sentence why not."""

    folder: str = ""
    bytes: int = 0
    reason: str = ""
    message: str = ""


def line(message: Wanted | Fetched) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(asdict(message)).encode() + b"\n"


class Fetcher:
    """Asks over the socket in the folder of the models."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / SOCKET_NAME

    @asynccontextmanager
    async def fetched(self, wanted: Wanted) -> AsyncIterator[Fetched]:
        """Have the files until the block ends. Raises LoadError with what the other side says."""
        reader, writer = await self._connected()
        try:
            writer.write(line(wanted))
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
                return await asyncio.open_unix_connection(str(self._socket), limit=LINE_LIMIT)
            except OSError as error:
                if loop.time() > until:
                    message = f"the container that fetches models does not answer ({error}); see its log"
                    raise LoadError(message, "FetcherGone") from error
                await asyncio.sleep(0.1)


def _read(text: bytes) -> Fetched:
    try:
        return read_known(Fetched, json.loads(text))
    except (*UNREADABLE, ValueError) as error:
        message = "the container that fetches models has ended while it was asked; see its log"
        raise LoadError(message, "FetcherGone") from error
