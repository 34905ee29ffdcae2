"""What the connections of one port have in common, and what they ask of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from email.utils import formatdate
from typing import Any, Protocol

from ultramarine_server.messages import Request, Response
from ultramarine_server.telemetry import Telemetry


class Application(Protocol):
    """What answers requests. Nothing of it raises."""

    body_limit: int

    def refuse(self, request: Request) -> Response | None:
        """Answer by the head alone, if it is not acceptable; the body is then thrown away as it comes."""

    def answer(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Answer now, or say what has to be awaited for it."""

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Take note of an answer that was written."""


class Client(Protocol):
    """One connection."""

    deadline: float  # by the event loop's clock; what has not gone on until then is ended

    def expire(self) -> None:
        """End what has taken too long."""

    def abort(self) -> None:
        """End now."""


class Listener:
    """What all connections of one port share: the application, the clock, and who is connected."""

    def __init__(self, app: Application, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry
        self.connections: set[Client] = set()
        self.held = 0  # bytes of bodies that have not come to their end
        self.date = b""
        self._timer: asyncio.TimerHandle | None = None

    def tick(self) -> None:
        """Once a second: set the date, and end what has taken too long."""
        loop = asyncio.get_running_loop()
        self.date = formatdate(usegmt=True).encode()
        now = loop.time()
        for connection in [one for one in self.connections if one.deadline < now]:
            connection.expire()
        self._timer = loop.call_later(1.0, self.tick)

    def close(self) -> None:
        """End all connections."""
        if self._timer:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()
