"""Sidecar between gateway and a container: bytes pass unchanged, and a sample of the exchanges is captured."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import cast

import uvloop
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server.collecting.captures import Captures
from ultramarine_server.collecting.passing import ConnectionParser, Removal, Room

Address = tuple[str, int]

_CONNECT_SECONDS = 4.0
_REPORT_SECONDS = 60.0


def relay(task: ServingTask, port: int, server: Address, folder: Path) -> int:
    """Pass connections at `port` to the server until SIGTERM, which comes when the server has ended."""
    if task.collect is None:
        raise UltramarineError("the task has no data collector", "TaskInvalid")
    captures = Captures(task.collect.sampling_rate, Removal(task.collect.redact), folder)
    uvloop.run(_serve(captures, port, server))
    captures.close()
    return 0


async def _serve(captures: Captures, port: int, server: Address) -> None:
    loop, ended, room = asyncio.get_running_loop(), asyncio.Event(), Room()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    listening = await loop.create_server(lambda: _Client(captures, room, server), None, port)
    report = loop.create_task(_report(captures))
    await ended.wait()
    report.cancel()
    listening.close()
    _print_losses(captures, {})


async def _report(captures: Captures) -> None:
    before: dict[str, int] = {}
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        before = _print_losses(captures, before)


def _print_losses(captures: Captures, before: dict[str, int]) -> dict[str, int]:
    """Print the captures that were dropped, by reason, if there are more than before."""
    losses = captures.losses()
    if losses and losses != before:
        print(f"ultramarine-server: captures dropped since the start, by reason: {losses}", flush=True)
    return losses


class _Side(asyncio.Protocol):
    """One of two connections; it reads no faster than the other one writes."""

    transport: asyncio.Transport | None = None
    other: _Side
    has_ended = False  # its peer sends no more

    @property
    def open(self) -> asyncio.Transport | None:
        """Transport that can still be used."""
        return self.transport if self.transport is not None and not self.transport.is_closing() else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if (transport := self.other.open) is not None:
            transport.abort() if error else transport.close()

    def data_received(self, data: bytes) -> None:
        if (transport := self.other.open) is not None:
            transport.write(data)

    def eof_received(self) -> bool:
        self.has_ended = True
        if (transport := self.other.open) is not None and transport.can_write_eof():
            transport.write_eof()
        return not self.other.has_ended  # The other direction stays open.

    def pause_writing(self) -> None:
        if (transport := self.other.open) is not None:
            transport.pause_reading()

    def resume_writing(self) -> None:
        if (transport := self.other.open) is not None:
            transport.resume_reading()


class _Client(_Side):
    """Connection of the gateway, which leads to a connection of its own to the server."""

    def __init__(self, captures: Captures, room: Room, server: Address) -> None:
        self._parser, self._address = ConnectionParser(captures, room), server
        self.other = _Server(self, self._parser)
        self._connecting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # bytes that came before the connection to the server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.create_connection(lambda: self.other, *self._address), _CONNECT_SECONDS)
        except OSError:  # The gateway repeats a request whose connection was reset before it was read.
            self.transport.abort()
            return
        server = cast("asyncio.Transport", self.other.transport)
        if self.transport.is_closing():
            server.abort()
            return
        for data in self._early:
            server.write(data)
        if self.has_ended:
            server.write_eof()
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is None:
            self._early.append(data)
            cast("asyncio.Transport", self.transport).pause_reading()
        super().data_received(data)
        self._parser.ask(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._parser.close()


class _Server(_Side):
    """Connection to the container."""

    def __init__(self, client: _Client, parser: ConnectionParser) -> None:
        self.other, self._parser = client, parser

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._parser.answer(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._parser.close()
        super().connection_lost(error)
