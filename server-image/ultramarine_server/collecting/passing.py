"""Exchanges of JSON bodies in the bytes of a connection between gateway and a container."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools
import orjson

from ultramarine_server.collecting.captures import MAX_CAPTURE, Captures
from ultramarine_server.collecting.exchange import Capture, Exchange, of_infer
from ultramarine_server.errors import Problem
from ultramarine_server.http.messages import ENCODINGS, Request, Response, inflate
from ultramarine_server.protocol import binary

MAX_OPEN = 256  # sampled exchanges without a whole answer; further ones are dropped
_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\s*(?:;|$)")
_INFER = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer")


@dataclass(slots=True)
class Message:
    """Headers by lower-case name, and the body up to the limit of a capture; `size` is that of the whole body."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    size: int = 0

    def add(self, data: bytes) -> None:
        """Add a part of the body."""
        self.size += len(data)
        if self.size <= MAX_CAPTURE:
            self.body += data

    @property
    def is_json(self) -> bool:
        """True for a JSON body, and for a document of the Open Inference Protocol with bytes behind it."""
        return bool(_JSON.match(self.headers.get("content-type", "").lower())) or binary.HEADER in self.headers

    def text(self) -> bytes:
        """Return the inflated body. Raises Problem if that is not possible, or too much."""
        encoding = self.headers.get("content-encoding", "").lower()
        if encoding in ("", "identity"):
            return bytes(self.body)
        if encoding not in ENCODINGS:
            raise Problem(415, f"content-encoding {encoding} is unknown")
        return inflate(bytes(self.body), encoding, MAX_CAPTURE)


@dataclass(slots=True)
class PendingExchange:
    """Request on its way, and its answer as far as it has come."""

    began: float
    path: str = ""
    method: str = ""
    request: Message = field(default_factory=Message)
    answer: Message = field(default_factory=Message)
    is_sampled: bool = False
    is_whole: bool = False  # the request has come to its end


class Room:
    """Places of sampled exchanges of all connections."""

    def __init__(self) -> None:
        self.taken = 0


class ConnectionParser:
    """Parser of one connection, which takes a sample of its exchanges.

    It stops for good at bytes that it cannot read, such as those of a WebSocket. The bytes pass all the same.
    """

    def __init__(self, captures: Captures, room: Room) -> None:
        self._captures, self._room = captures, room
        self._open: deque[PendingExchange] = deque()
        self._asking = _Asking(self)
        self._answering = _Answering(self)
        self._is_blind = False

    def ask(self, data: bytes) -> None:
        """Read bytes of the client."""
        self._read(self._asking.feed, data)

    def answer(self, data: bytes) -> None:
        """Read bytes of the server."""
        self._read(self._answering.feed, data)

    def close(self) -> None:
        """Take the answer whose end is that of the connection."""
        if not self._is_blind and self._open and self._answering.ends_with_connection:
            self.end_answer(self._answering.status)
        self._stop()

    def _read(self, feed: Callable[[bytes], None], data: bytes) -> None:
        if self._is_blind:
            return
        try:
            feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._stop()

    def _stop(self) -> None:
        self._is_blind = True
        while self._open:
            self._leave(self._open.popleft())

    def begin(self, passing: PendingExchange) -> None:
        """Begin an exchange at the end of its request's head."""
        self._open.append(passing)
        if passing.method in ("POST", "PUT", "PATCH") and passing.request.is_json and self._captures.draws():
            if self._room.taken >= MAX_OPEN:
                self._captures.refuse("buffer")
                return
            passing.is_sampled = True
            self._room.taken += 1

    @property
    def current(self) -> PendingExchange | None:
        """Exchange whose answer is the next."""
        return self._open[0] if self._open else None

    def end_answer(self, status: int) -> None:
        """End the exchange, and keep it if the sample has it."""
        if not self._open:
            return
        passing = self._open.popleft()
        self._leave(passing)
        if passing.is_sampled and passing.is_whole:
            seconds = time.perf_counter() - passing.began
            size, path = passing.request.size + passing.answer.size, passing.path.partition("?")[0]
            request_id = passing.request.headers.get("x-request-id", "")
            read = partial(exchange_of, passing, status)
            self._captures.take(Capture(request_id, path, status, seconds, size, read))

    def _leave(self, passing: PendingExchange) -> None:
        self._room.taken -= passing.is_sampled


class _Asking:
    """Callbacks of the parser of requests."""

    def __init__(self, parser: ConnectionParser) -> None:
        self._connection = parser
        self._parser = httptools.HttpRequestParser(self)
        self._passing = PendingExchange(0)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._passing = PendingExchange(time.perf_counter())

    def on_url(self, url: bytes) -> None:
        self._passing.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._passing.request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._passing.method = self._parser.get_method().decode()
        self._connection.begin(self._passing)

    def on_body(self, data: bytes) -> None:
        if self._passing.is_sampled:
            self._passing.request.add(data)

    def on_message_complete(self) -> None:
        self._passing.is_whole = True


class _Answering:
    """Callbacks of the parser of answers."""

    def __init__(self, parser: ConnectionParser) -> None:
        self._connection = parser
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._is_under_way = self._was_bodiless = self._keeps = False

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    @property
    def ends_with_connection(self) -> bool:
        """True within the body of an answer without a length."""
        return self._is_under_way and not {"content-length", "transfer-encoding"} & self._headers.keys()

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._was_bodiless:  # The parser waits for the body of an answer to HEAD.
            self._parser, self._was_bodiless = httptools.HttpResponseParser(self), False

    def on_message_begin(self) -> None:
        self._headers, self._keeps = {}, False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.status < 200:
            return
        self._is_under_way = True
        if (passing := self._connection.current) is not None:
            passing.answer.headers = self._headers
            self._keeps = passing.is_sampled and passing.answer.is_json  # no stream, which may be endless
            if passing.method == "HEAD":
                self._was_bodiless, self._is_under_way = True, False
                self._connection.end_answer(self.status)

    def on_body(self, data: bytes) -> None:
        if self._keeps and (passing := self._connection.current) is not None:
            passing.answer.add(data)

    def on_message_complete(self) -> None:
        if self._is_under_way:
            self._is_under_way = False
            self._connection.end_answer(self.status)


def exchange_of(passing: PendingExchange, status: int) -> Exchange:
    """Return tensors of the Open Inference Protocol, or the JSON of the bodies; None for what is not JSON."""
    asked, answered = _text(passing.request), _text(passing.answer) if 200 <= status < 300 else None
    if asked is not None and _INFER.fullmatch(passing.path.partition("?")[0]):
        request = Request(passing.method, passing.path, passing.request.headers, "", 0, True, asked)
        response = Response(answered or b"", status if answered else 500, headers=passing.answer.headers)
        exchange = of_infer(request, response)
        if exchange.inputs is not None:
            return exchange
    return Exchange("", _json(asked), _json(answered))


def _text(message: Message) -> bytes | None:
    try:
        return message.text() if message.is_json else None
    except Problem:
        return None


def _json(text: bytes | None) -> Any:
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return None


class Removal:
    """Redaction without a model: members of these names, at any depth, and tensors of these names become null."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = frozenset(names)

    def text(self, part: Any) -> str | None:
        """Return a side of an exchange as JSON."""
        return None if part is None else orjson.dumps(self._kept(part), option=orjson.OPT_SERIALIZE_NUMPY).decode()

    def _kept(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._kept(value) for value in part]
        if not isinstance(part, dict):
            return part
        kept = {name: None if name in self._names else self._kept(value) for name, value in part.items()}
        name = part.get("name")
        return kept | {"data": None} if isinstance(name, str) and name in self._names and "data" in part else kept
