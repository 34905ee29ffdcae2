"""The HTTP/1.1 that a sweep's workers speak: POST, JSON both ways, one connection for many requests."""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ultramarine_contract.addresses import is_of_link

Route = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_HEAD_LIMIT, _BODY_LIMIT = 16 * 1024, 4 << 20  # bytes
_STRANGER_SECONDS = 10.0  # for the first request of a connection; any pod of the namespace may open one
_STRANGERS = 256

_WORDS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Content Too Large"}


class BadRequest(Exception):
    """A body makes no sense; raised by a route."""


class _Request(NamedTuple):
    path: str
    token: str
    body: bytes


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Answers requests with the right token by `routes`, by their paths; `broken` is told what a route fails with.

    A route raises BadRequest for a body that makes no sense; any other exception is a bug.
    """

    def __init__(self, token: str, routes: Mapping[str, Route], broken: Callable[[Exception], None]) -> None:
        self._token, self._routes, self._broken = token.encode(), routes, broken
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._strangers = 0

    async def listen(self, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on all addresses, with `tls` for TLS alone, and return the port. Raises OSError where it is taken."""
        try:
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
        except (OSError, ValueError):  # a node without IPv6
            listener = socket.create_server(("", port), backlog=512)
        patience = _STRANGER_SECONDS if tls else None
        self._server = await asyncio.start_server(
            self._serve, sock=listener, limit=_HEAD_LIMIT, ssl=tls, ssl_handshake_timeout=patience
        )
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """Hang up."""
        if self._server:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._strangers >= _STRANGERS or is_of_link(writer.get_extra_info("sockname")[0]):
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            if await self._welcome(reader, writer):
                while await self._exchange(reader, writer):
                    continue
        except (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            return  # also if the whole program ends, which asyncio's streams would show as a fault
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer the first request, which must come soon."""
        self._strangers += 1
        try:
            async with asyncio.timeout(_STRANGER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        finally:
            self._strangers -= 1
        return await self._exchange(reader, writer, head)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes = b"") -> bool:
        """Answer a request; False where the connection must not go on."""
        status, answer = 200, {}
        try:
            request = await self._read(reader, head or await reader.readuntil(b"\r\n\r\n"))
            answer = await self._answer(request)
        except _Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        body = json.dumps(answer, separators=(",", ":")).encode()
        close = "" if status == 200 else "Connection: close\r\n"
        top = f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: application/json\r\n{close}"
        writer.write(f"{top}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return status == 200

    async def _read(self, reader: asyncio.StreamReader, head: bytes) -> _Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), self._token):
            raise _Refused(401, "the token is another sweep's, or none")
        length = headers.get("content-length", "")
        if method != "POST" or not length.isdecimal():
            raise _Refused(400, "only POST with a Content-Length is understood")
        if int(length) > _BODY_LIMIT:
            raise _Refused(413, f"more than {_BODY_LIMIT} bytes")
        return _Request(rest.partition(" ")[0], token, await reader.readexactly(int(length)))

    async def _answer(self, request: _Request) -> dict[str, Any]:
        if request.path not in self._routes:
            raise _Refused(404, f"there is {', '.join(self._routes)}")
        try:
            document = json.loads(request.body)
        except (ValueError, RecursionError) as error:
            raise _Refused(400, str(error)) from error
        if not isinstance(document, dict):
            raise _Refused(400, "no JSON object")
        try:
            return await self._routes[request.path](document)
        except BadRequest as error:
            raise _Refused(400, str(error)) from error
        except Exception as error:
            self._broken(error)
            raise ConnectionAbortedError(str(error)) from error
