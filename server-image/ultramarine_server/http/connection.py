"""HTTP/1.1 on one connection: requests are answered in their order, with limits of size and time."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
import traceback
from collections import deque
from typing import Any

import httptools
import msgspec

from ultramarine_server.errors import Problem
from ultramarine_server.http.listener import Listener
from ultramarine_server.http.messages import Request, Response, problem_response

HEAD_LIMIT = 32 * 1024  # bytes
HEAD_SECONDS = 10.0
BODY_STALL_SECONDS = 20.0
BODY_BYTES_A_SECOND = 4096  # minimum average; a slow client holds memory, as an attacker does
WRITE_STALL_SECONDS = 60.0
# Longer than the idle time of client pools, so that a client closes first and never uses a closing connection.
IDLE_SECONDS = 75.0
HELD_BODIES = 4  # times the body limit: memory of all bodies that are still arriving
LINGER_SECONDS = 2.0
_PATIENCE = 16  # times the body limit; a client that sends more is disconnected
_REMEMBERED, _REMEMBERED_BYTES = 256, 64  # limits of the header names in _NAMES, and of a name's length
_NAMES: dict[bytes, str] = {}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class _Exchange(msgspec.Struct, eq=False):
    request: Request
    response: Response | None = None  # set before the body has come
    whole: bool = False
    waits: bool = False  # the client sends the body after `100 Continue`


class Connection(asyncio.Protocol):
    """Connection of a client."""

    def __init__(self, listener: Listener) -> None:
        self.deadline = float("inf")
        self._listener, self._app, self._telemetry = listener, listener.app, listener.telemetry
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._pipeline: deque[_Exchange] = deque()
        self._incoming: _Exchange | None = None
        self._answering: Request | None = None  # by the task
        self._task: asyncio.Task[Response] | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_size = self._fields_size = self._body_size = self._unsent = 0
        self._body: list[bytes] = []
        self._body_started = 0.0
        self._closing = self._paused = self._in_head = False
        self._reading = True

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._listener.connections.add(self)
        self.deadline = self._loop.time() + IDLE_SECONDS

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._telemetry.in_flight -= len(self._pipeline) + (self._task is not None)
        self._pipeline.clear()
        self._drop_body()
        self._closing = True
        if self._task:
            self._answering = None  # It is no longer in flight.
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return  # After the last answer bytes are read and dropped, so that the client can read that answer.
        if self._incoming is None and not self._in_head:
            self._in_head, self._head_size = True, 0
            self.deadline = self._loop.time() + HEAD_SECONDS
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # The server has no other protocol; this request is answered as it is, and is the last.
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            self._end(Problem(400, f"this is not an HTTP request: {error}"))
            return
        if self._in_head and self._head_size > HEAD_LIMIT:
            self._end(_head_too_large())

    def pause_writing(self) -> None:
        self._paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + WRITE_STALL_SECONDS

    def resume_writing(self) -> None:
        self._paused = False
        self._rest()
        self._advance()

    # Called by the parser

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._fields_size = len(self._url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None:
            return  # A trailer behind a chunked body must not become a header of the next request.
        key, text, headers = _NAMES.get(name) or _lower(name), value.decode("latin-1"), self._headers
        self._fields_size += len(name) + len(value)
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, {}
        url, self._url = self._url, b""
        self._in_head = False
        self._head_size = self._body_size = 0
        self._body_started = self._loop.time()
        self.deadline = self._body_started + BODY_STALL_SECONDS
        exchange = self._incoming = _Exchange(self._request(url, headers))
        if self._closing:
            exchange.response = Response()  # The connection is closing, so the request is dropped.
            return
        if self._fields_size > HEAD_LIMIT:
            exchange.request.keep_alive = False
            exchange.response = problem_response(_head_too_large())
        else:
            exchange.response = self._app.refuse(exchange.request) or self._too_large(exchange.request)
        if "expect" in headers:
            self._expect(exchange, headers["expect"])
        self._telemetry.in_flight += 1
        self._pipeline.append(exchange)
        if exchange.response is not None or exchange.waits:
            self._advance()

    def _request(self, url: bytes, headers: dict[str, str]) -> Request:
        text = url.decode("latin-1")
        if not text.startswith("/") and "://" in text:  # the form that proxies get
            text = "/" + text.partition("://")[2].partition("/")[2]
        path, _, query = text.partition("?")
        given = headers.get("x-request-id", "")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        parser = self._parser
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        method, now = parser.get_method().decode(), time.perf_counter()
        return Request(method, path, headers, request_id, now, keep_alive, query=query)

    def on_body(self, data: bytes) -> None:
        exchange = self._incoming
        assert exchange is not None
        self._body_size += len(data)
        now = self._loop.time()
        slowest = self._body_started + BODY_STALL_SECONDS + self._body_size / BODY_BYTES_A_SECOND
        self.deadline = min(now + BODY_STALL_SECONDS, slowest)
        if exchange.response is None:
            if self._body_size <= self._app.body_limit and self._listener.held < HELD_BODIES * self._app.body_limit:
                self._body.append(data)
                self._listener.held += len(data)
                return
            if self._body_size <= self._app.body_limit:
                message = "the server holds as many unfinished requests as it can"
                exchange.response = problem_response(Problem(503, f"{message}; try again", retry_after=1))
            self._drop_body()
            if self._body_size > self._app.body_limit * _PATIENCE:
                exchange.request.keep_alive = False
                exchange.response = problem_response(too_large(self._app.body_limit))
            if exchange.response is not None:
                self._advance()
        elif self._body_size > self._app.body_limit * _PATIENCE:
            self._linger()

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        assert exchange is not None
        exchange.whole = True
        if exchange.response is None and self._body_size > self._app.body_limit:
            exchange.response = problem_response(too_large(self._app.body_limit))
        exchange.request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._drop_body()
        self._rest()
        self._advance()

    # Answers

    def _too_large(self, request: Request) -> Response | None:
        announced = request.headers.get("content-length", "")
        limit = self._app.body_limit
        if not announced.isdigit() or int(announced) <= limit:
            return None
        # The answer goes out before the body is read, and the rest of the body is dropped. Closing the connection would
        # reset it while the client still sends, and the client would never read the answer.
        request.keep_alive &= int(announced) <= limit * _PATIENCE
        return problem_response(too_large(limit))

    def _expect(self, exchange: _Exchange, expectation: str) -> None:
        if exchange.response is not None:
            exchange.request.keep_alive = False  # The client may send the body or not.
        elif expectation.lower() == "100-continue":
            exchange.waits = True
        else:
            exchange.response = problem_response(Problem(417, f"expectation {expectation!r} cannot be met"))
            exchange.request.keep_alive = False

    def _advance(self) -> None:
        """Answer the first requests in line that can be answered now."""
        while self._pipeline and self._task is None and not self._paused and not self._closing:
            exchange = self._pipeline[0]
            if exchange.response is None and not exchange.whole:
                if exchange.waits:
                    exchange.waits = False
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            self._pipeline.popleft()
            answer = exchange.response or self._app.answer(exchange.request)
            if isinstance(answer, Response):
                self._write(exchange.request, answer)
            else:
                self._answering = exchange.request
                self._task = self._loop.create_task(answer)
                self._task.add_done_callback(self._answered)
        self._set_reading(not (self._pipeline and (self._task or self._paused)))

    def _answered(self, task: asyncio.Task[Response]) -> None:
        request, self._answering, self._task = self._answering, None, None
        if request is None:
            return
        if task.cancelled() or self._closing:
            self._telemetry.in_flight -= 1
            return
        error = task.exception()
        self._write(request, task.result() if error is None else _failure(request, error))
        self._rest()
        self._advance()

    def _write(self, request: Request, response: Response) -> None:
        close = not request.keep_alive or self._telemetry.draining
        try:
            head = response.head(request.id, self._listener.date, close=close)
        except Exception as error:
            response = _failure(request, error)
            head = response.head(request.id, self._listener.date, close=close)
        body = b"" if request.method == "HEAD" else response.body
        if len(body) < 65536:
            self._transport.write(head + body)
        else:
            self._transport.writelines([head, body])
        self._telemetry.in_flight -= 1
        try:
            self._app.record(request, response, time.perf_counter() - request.started)
        except Exception as error:
            _log(request, error)
        if close:
            self._linger()

    def _rest(self) -> None:
        """Set the deadline for a silent client."""
        if self._incoming is None and not self._in_head and not self._paused and not self._closing:
            self.deadline = float("inf") if self._task else self._loop.time() + IDLE_SECONDS

    # Closing

    def expire(self) -> None:
        """End the connection if the client made no progress in time."""
        if self._closing:
            self.abort()
        elif self._paused:
            unsent = self._transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self.abort()
            self._unsent = unsent
            self.deadline = self._loop.time() + WRITE_STALL_SECONDS
        elif self._in_head or self._incoming is not None:
            self._end(Problem(408, "the rest of the request did not come in time"))
        else:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now, and drop what is still to be sent."""
        self._transport.abort()

    def _end(self, problem: Problem) -> None:
        """Answer with the problem, if no other answer is being written, and close."""
        if self._pipeline and self._pipeline[-1] is self._incoming and self._pipeline[-1].response is None:
            self._pipeline[-1].response = problem_response(problem)
            self._pipeline[-1].request.keep_alive = False
            self._advance()
        elif not self._pipeline and self._task is None and self._incoming is None and not self._closing:
            request = Request("", "", {}, f"{random.getrandbits(128):032x}", time.perf_counter(), keep_alive=False)
            request.label = "malformed"
            self._telemetry.in_flight += 1
            self._write(request, problem_response(problem))
        else:
            self._close_after_all()

    def _close_after_all(self) -> None:
        """Close when all requests so far are answered."""
        if self._pipeline:
            self._pipeline[-1].request.keep_alive = False
        elif self._answering:
            self._answering.keep_alive = False
        else:
            self._linger()
            return
        self._set_reading(False)

    def _set_reading(self, reading: bool) -> None:
        if reading != self._reading and not self._transport.is_closing():
            self._reading = reading
            self._transport.resume_reading() if reading else self._transport.pause_reading()

    def _linger(self) -> None:
        """Close; read on for a moment if the client may still be sending, so that it can read the answer."""
        if self._closing:
            return
        self._closing = True
        self._telemetry.in_flight -= len(self._pipeline)
        self._pipeline.clear()
        if self._incoming is None or self._incoming.whole:
            self.deadline = self._loop.time() + WRITE_STALL_SECONDS
            self._transport.close()
            return
        self._drop_body()
        self.deadline = self._loop.time() + LINGER_SECONDS
        self._set_reading(True)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _drop_body(self) -> None:
        if self._body:
            self._listener.held -= sum(map(len, self._body))
            self._body = []


def _lower(name: bytes) -> str:
    """Return a header's name in lower case, and remember it while _NAMES has room."""
    key = name.decode("latin-1").lower()
    if len(_NAMES) < _REMEMBERED and len(name) <= _REMEMBERED_BYTES:
        _NAMES[name] = key
    return key


def _failure(request: Request, error: BaseException) -> Response:
    """Return the answer to a request whose own answer cannot be written."""
    _log(request, error)
    return problem_response(Problem(500, f"the answer failed; the server's log has the reason under {request.id}"))


def _log(request: Request, error: BaseException) -> None:
    print(f"ultramarine-server: request {request.id} failed", file=sys.stderr)
    traceback.print_exception(error)


def too_large(limit: int) -> Problem:
    """Return the problem of a body beyond the limit."""
    return Problem(413, f"the body is larger than {limit} bytes; send fewer rows in each request")


def _head_too_large() -> Problem:
    return Problem(431, f"the head of the request is larger than {HEAD_LIMIT} bytes")
