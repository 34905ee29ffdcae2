"""A server inside the test's own event loop, with a model made for the test; used where a process would be too slow."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import KeyRing
from ultramarine_server.http.connection import Connection
from ultramarine_server.http.listener import Listener
from ultramarine_server.http.routes import Routes
from ultramarine_server.inference.limits import Limits
from ultramarine_server.inference.running import Runner
from ultramarine_server.inference.service import Service
from ultramarine_server.models.model import Loaded, Model, Signature, TensorSpec
from ultramarine_server.protocol.tensors import Array, Inference, Tensor
from ultramarine_server.repository.single import Single
from ultramarine_server.telemetry import Telemetry


class Doubling:
    """Gives back twice its input, when `opened` is set, and remembers how many rows it was asked at once."""

    def __init__(self, shape: tuple[int, ...] = (-1, 2)) -> None:
        self.signature = Signature((TensorSpec("x", "FP64", shape),), (TensorSpec("y", "FP64", shape),))
        self.opened = threading.Event()
        self.opened.set()
        self.rows: list[int] = []

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self.rows.append(len(inputs["x"]))
        self.opened.wait(120)
        if (inputs["x"] == 13).any():
            raise RuntimeError("thirteen")
        return {"y": inputs["x"] * 2}


def service_of(model: Model, limits: Limits | None = None, threads: int = 1, *, scripted: bool = False) -> Service:
    """Offer a model as `double`, version `1`."""
    telemetry, loaded = Telemetry(), Loaded("double", "1", "test", model)
    runner = Runner(threads, limits or Limits(), telemetry)
    return Service(Single(loaded, lambda: loaded), runner, telemetry, controlled=False, scripted=scripted)


def rows_of(*values: float) -> Inference:
    """Ask for as many rows of two equal numbers."""
    return Inference("double", (Tensor("x", "FP64", np.array([[value, value] for value in values])),))


@dataclass
class Answer:
    """Answer as a client reads it: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


@dataclass
class Client:
    """The bytes of one connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a whole request."""
        lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """Read one answer; fail when there is none within 10 s."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            length = 0 if bodiless else int(headers["content-length"])
            return Answer(int(head[0].split()[1]), headers, await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """Read up to the end of the connection; fail when it does not end within 10 s."""
        async with asyncio.timeout(10):
            return await self.reader.read()


@dataclass
class Inside:
    """A listening server and its clients."""

    service: Service
    listener: Listener
    port: int
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        """Connect."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client


@asynccontextmanager
async def inside(service: Service, keys: KeyRing | None = None, body_limit: int = 1000) -> AsyncIterator[Inside]:
    """Serve in this event loop until the block ends."""
    listener = Listener(Routes(service, keys, AccessLog(0), body_limit), service.telemetry)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(listener), "127.0.0.1", 0)
    listener.tick()
    inside = Inside(service, listener, server.sockets[0].getsockname()[1])
    try:
        yield inside
    finally:
        server.close()
        listener.close()
        for client in inside.clients:
            client.writer.close()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail after a minute."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def question(*values: float) -> bytes:
    """The body of a request with as many rows."""
    data = [value for value in values for _ in range(2)]
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(values), 2], "data": data}]}).encode()
