"""A reverse proxy on loopback that does to requests, answers and watch events what networks and servers do."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Literal

import aiohttp
from aiohttp import web
from ultramarine_contract.meta import Manifest
from yarl import URL

Deed = Literal[
    # to a request
    "answer",  # say `code` instead of asking the server, with Retry-After where `seconds` is given
    "lose",  # let the server do it, and cut the connection instead of answering
    "delay",  # pass it on `seconds` later
    "hang",  # do not answer for `seconds`, then cut the connection
    "stale",  # give the first answer that this LIST ever had
    "kill-before",  # SIGKILL the operator instead of passing its request on
    "kill-after",  # SIGKILL the operator when the server has done what it asked
    "refuse",  # cut all connections, and refuse new ones for `seconds`
    # to an event of a watch
    "drop",
    "hold",  # pass it on `seconds` later; what comes behind it waits
    "twice",
    "swap",  # pass it on after the event that follows
    "echo",  # pass it on, and behind it the one before it of the same object once more
    "cut",  # end the watch instead
    "error",  # send an ERROR event of `code` instead, and end the watch
]
OF_EVENTS = ("drop", "hold", "twice", "swap", "echo", "cut", "error")
WRITES = ("create", "update", "patch", "delete")
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
PATH = re.compile(
    r"/api(?:s/[^/]+)?/v\w+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?"
)
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
LINE = 8 * 1024 * 1024  # bytes; one watch event is one line


@dataclass(frozen=True)
class Fault:
    """Fault of matching requests or events: all given words must match, from the `nth` match on.

    `verb` is list, watch, get, create, update, patch, delete, or write for the last four; for events ADDED, MODIFIED
    or DELETED. Renewals of the Lease count as writes only for a fault that names `leases`, and questions whose token
    something is for none.
    """

    do: Deed
    verb: str = ""
    resource: str = ""  # plural; with /status for writes of a status
    name: str = ""
    nth: int = 1
    times: int = 1
    code: int = 0
    seconds: float = 0.0

    def fits(self, call: Call) -> bool:
        """True if this request or event matches, whatever its number."""
        return (
            call.is_event == (self.do in OF_EVENTS)
            and self.verb in ("", call.verb, "write" if call.is_write else call.verb)
            and self.resource in ("", call.resource)
            and (call.resource != "leases" or self.resource == "leases" or self.do == "refuse")
            and self.name in ("", call.name)
        )

    def __str__(self) -> str:
        said = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Fault({', '.join(said)})"


@dataclass(frozen=True)
class Call:
    """One request, or one event of a watch."""

    verb: str
    resource: str
    name: str = ""
    number: int = 0  # of the writes, from 1; 0 for what is none

    @property
    def is_event(self) -> bool:
        return self.verb.isupper()

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES and self.resource not in ("leases", "tokenreviews")

    def __str__(self) -> str:
        return f"{f'#{self.number} ' if self.number else ''}{self.verb} {self.resource} {self.name}".rstrip()


def of_kubernetes(request: web.BaseRequest) -> Call:
    """A request to the API server."""
    found = PATH.fullmatch(request.path)
    if found is None:
        return Call(request.method.lower(), request.path)
    resource = found["plural"] + (f"/{found['sub']}" if found["sub"] else "")
    if request.method == "GET":
        watches = request.query.get("watch") in ("true", "1")
        return Call("watch" if watches else "get" if found["name"] else "list", resource, found["name"] or "")
    return Call(VERBS[request.method], resource, found["name"] or "")


def of_storage(request: web.BaseRequest) -> Call:
    """A request to the object storage."""
    return Call(request.method.lower(), "objects", request.path.lstrip("/"))


def nobody_to_kill() -> None:
    """Replace a kill if no operator runs behind the proxy: a fault without effect proves nothing."""
    raise RuntimeError("a kill is asked for, and nobody has said whom it ends")


def reserved() -> socket.socket:
    """A socket whose port nobody takes by chance while it lives; who asks for that port, as an operator, gets it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


@dataclass
class Proxy:
    """One server behind one port; the operator is given that port instead of the server's."""

    upstream: str
    read: Callable[[web.BaseRequest], Call]
    session: aiohttp.ClientSession
    tls: ssl.SSLContext | None = None
    faults: tuple[Fault, ...] = ()
    kill: Callable[[], None] = nobody_to_kill  # ends the operator; returns when it is dead
    history: list[str] = field(default_factory=list)
    calls: list[tuple[float, Call]] = field(default_factory=list)  # every request that the server was asked
    fired: list[Fault] = field(default_factory=list)
    port: int = 0
    _started: float = field(default_factory=time.monotonic)
    _writes: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _met: dict[int, int] = field(default_factory=dict)  # by the fault's place: how many fitting ones came so far
    _first_lists: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _open: set[asyncio.Transport] = field(default_factory=set)
    _runner: web.ServerRunner | None = None
    _site: web.TCPSite | None = None
    _later: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[Call]:
        """The writes that reached the server, but for the Lease."""
        return [call for _, call in self.calls if call.is_write]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        """Serve until the end of the block."""
        # A watch of an operator that is gone ends with its connection.
        server = web.Server(self._serve, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        with reserved() as held:  # also while it is away
            self.port = int(held.getsockname()[1])
            await self._listen()
            try:
                yield self
            finally:
                for task in self._later:
                    task.cancel()
                self._cut_all()
                await self._runner.cleanup()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()

    async def away(self, seconds: float) -> None:
        """Cut everything, and refuse connections for a while."""
        assert self._site is not None
        self.note(f"away for {seconds} s")
        await self._site.stop()
        self._cut_all()
        await asyncio.sleep(seconds)
        await self._listen()
        self.note("back")

    def _cut_all(self) -> None:
        for transport in self._open:
            transport.abort()
        self._open.clear()

    def note(self, what: str) -> None:
        """Add a line to the history."""
        self.history.append(f"{time.monotonic() - self._started:7.3f} {what}")

    def _due(self, call: Call) -> Fault | None:
        """The first fault whose turn it is; the others have counted this one too."""
        chosen = None
        for place, fault in enumerate(self.faults):
            if fault.fits(call):
                met = self._met[place] = self._met.get(place, 0) + 1
                if chosen is None and fault.nth <= met < fault.nth + fault.times:
                    chosen = fault
        if chosen is not None:
            self.fired.append(chosen)
            self.note(f"{call}   <== {chosen}")
        return chosen

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        self._open.add(request.transport)
        body = await request.read()
        call = self.read(request)
        if call.verb == "create" and not call.name:
            call = Call(call.verb, call.resource, str(json.loads(body).get("metadata", {}).get("name", "")))
        if call.is_write:
            call = Call(call.verb, call.resource, call.name, next(self._writes))
        fault = self._due(call)
        if fault is not None:
            answer = await self._spoil(fault, request, call)
            if answer is not None:
                return answer
        try:
            if call.verb == "watch":
                return await self._watch(request, call)
            status, headers, data = await self._forward(request, call, body)
        except aiohttp.ClientError as error:
            self.note(f"{call}   the server failed: {error!r}")
            return self._cut(request)
        if call.verb == "list":
            self._first_lists.setdefault(request.path_qs, (status, data))
        if fault is not None and fault.do == "kill-after":
            self.kill()
        if fault is not None and fault.do in ("kill-after", "lose"):
            return self._cut(request)
        return web.Response(status=status, headers=headers, body=data)

    async def _spoil(self, fault: Fault, request: web.BaseRequest, call: Call) -> web.StreamResponse | None:
        """Return the replacement of the server's answer; None if the server must answer."""
        match fault.do:
            case "answer":
                return _refusal(fault)
            case "delay":
                await asyncio.sleep(fault.seconds)
            case "hang":
                await asyncio.sleep(fault.seconds)
                return self._cut(request)
            case "stale" if request.path_qs in self._first_lists:
                status, data = self._first_lists[request.path_qs]
                return web.Response(status=status, body=data, content_type="application/json")
            case "kill-before":
                self.kill()
                return self._cut(request)
            case "refuse":
                task = asyncio.create_task(self.away(fault.seconds))
                self._later.add(task)
                return self._cut(request)
        return None

    def _cut(self, request: web.BaseRequest) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _forward(self, request: web.BaseRequest, call: Call, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.calls.append((time.monotonic(), call))
        async with self._ask(request, body) as answer:
            data = b"" if request.method == "HEAD" else await answer.read()
            if call.is_write or answer.status >= 400:
                self.note(f"{call} -> {answer.status}")
            passed = {k: v for k, v in answer.headers.items() if k.lower() not in ("transfer-encoding", "connection")}
            return answer.status, passed, data

    def _ask(self, request: web.BaseRequest, body: bytes | None = None) -> aiohttp.client._RequestContextManager:
        # The storage's signatures cover the Host header; the API server does not look at it.
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("connection", "accept-encoding")}
        url = URL(self.upstream + request.raw_path, encoded=True)  # type: ignore[attr-defined]
        return self.session.request(
            request.method, url, headers=kept, data=body or None, ssl=self.tls or True, allow_redirects=False
        )

    async def _watch(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        self.calls.append((time.monotonic(), call))
        async with self._ask(request) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            held, last = b"", dict[str, bytes]()
            try:
                async for line in answer.content:
                    event = json.loads(line)
                    fault = self._due(_event_of(call.resource, event))
                    match fault.do if fault is not None else None:
                        case None:
                            await response.write(line + held)
                            held = b""
                            continue
                        case "drop":
                            continue
                        case "twice":
                            line += line
                        case "swap" if not held:
                            held = line
                            continue
                        case "echo":
                            name = str(event["object"]["metadata"]["name"])
                            line, last[name] = line + last.get(name, b""), line
                        case "hold":
                            await asyncio.sleep(fault.seconds)  # type: ignore[union-attr]
                        case "cut":
                            break
                        case "error":
                            line = json.dumps({"type": "ERROR", "object": _status(fault)}).encode() + b"\n"  # type: ignore[arg-type]
                            await response.write(line)
                            break
                    await response.write(line + held)
                    held = b""
                await response.write(held)
            except (ConnectionError, aiohttp.ClientError):
                pass  # the operator, or the server, is gone
            return response


def _event_of(resource: str, event: Manifest) -> Call:
    return Call(str(event["type"]), resource, str(event["object"].get("metadata", {}).get("name", "")))


def _status(fault: Fault) -> Manifest:
    reason = REASONS.get(fault.code, "Unknown")
    said = f"{reason}, said by the test"
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.code, "reason": reason} | {
        "message": said
    }


def _refusal(fault: Fault) -> web.Response:
    headers = {"Retry-After": str(int(fault.seconds))} if fault.seconds else {}
    return web.json_response(_status(fault), status=fault.code, headers=headers)
