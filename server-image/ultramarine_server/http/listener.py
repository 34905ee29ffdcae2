"""Listener: the state that all connections of a port share, and their interface to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from email.utils import formatdate
from typing import Any, Protocol

from ultramarine_server.http.messages import Request, Response
from ultramarine_server.telemetry import Telemetry


class Application(Protocol):
    """Application that answers requests. Its methods do not raise."""

    body_limit: int

    def refuse(self, request: Request) -> Response | None:
        """Return the answer to an unacceptable head, whose body is then dropped; None to accept it."""

    def answer(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Return the answer, or a coroutine of it."""

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Record an answer that was written."""


class Client(Protocol):
    """Connection of a client."""

    deadline: float  # by the event loop's clock; a connection without progress until then is ended

    def expire(self) -> None:
        """End the connection, because it took too long."""

    def abort(self) -> None:
        """End the connection now."""


class Listener:
    """State of a port: the application, the date, and the open connections."""

    def __init__(self, app: Application, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry
        self.connections: set[Client] = set()
        self.held = 0  # bytes of bodies that are still arriving
        self.date = b""
        self._timer: asyncio.TimerHandle | None = None

    def tick(self) -> None:
        """Set the date, and end connections past their deadline; runs every second."""
        loop = asyncio.get_running_loop()
        self.date = formatdate(usegmt=True).encode()
        now = loop.time()
        for connection in [client for client in self.connections if client.deadline < now]:
            connection.expire()
        self._timer = loop.call_later(1.0, self.tick)

    def close(self) -> None:
        """End all connections."""
        if self._timer:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()
