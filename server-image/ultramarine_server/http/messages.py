"""Requests and answers as values: their fields, the head of an answer, and compressed bodies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import orjson

from ultramarine_server.errors import BadRequest, Problem

JSON = b"application/json"
MAX_STREAMS = 10_000  # of a body
_PIECE_BYTES = 16 * 1024  # bytes
ENCODINGS = ("gzip", "deflate")
BODILESS = (204, 304)  # statuses whose answers have neither a body nor its length
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's numbers of the three wrappings
_LINES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}


class Request(msgspec.Struct, eq=False):
    """Request; its body comes after its head, and only if the head is acceptable."""

    method: str
    path: str
    headers: Mapping[str, str]  # by lower-case name
    id: str
    started: float  # by time.perf_counter
    keep_alive: bool
    body: bytes = b""
    label: str = ""  # Name of the route in the metrics, which leave out probes.
    target: Any = None  # Result of the application's look-up of the path.
    query: str = ""  # Raw text behind the question mark.
    outputs: Any = None  # Tensors of the answer, if a model gave it.


class Response(msgspec.Struct):
    """Complete answer; `headers` are those besides length, type and id. Each cookie is a header of its own."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: Mapping[str, str] | None = None
    cookies: tuple[str, ...] = ()

    def head(self, request_id: str, date: bytes, *, close: bool) -> bytes:
        """Return the bytes up to the body."""
        extra = b""
        if self.headers:
            extra = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()]).encode("latin-1")
        for cookie in self.cookies:
            extra += f"set-cookie: {cookie}\r\n".encode("latin-1")
        if close:
            extra += b"connection: close\r\n"
        if self.status in BODILESS:
            line = _LINES[self.status]
            return b"%bx-request-id: %b\r\ndate: %b\r\n%b\r\n" % (line, request_id.encode(), date, extra)
        return (
            b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\ndate: %b\r\n%b\r\n"
            % (_LINES[self.status], self.content_type, len(self.body), request_id.encode(), date, extra)
        )  # fmt: skip


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON document as an answer."""
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), status, JSON, headers)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the protocol writes it."""
    given = dict(headers or {})
    if problem.retry_after:
        given["retry-after"] = str(problem.retry_after)
    return json_response({"error": str(problem)}, problem.status, given)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the inflated `body`. Raises Problem, with 413 as soon as it exceeds `limit` bytes."""
    wrapping = _GZIP if encoding == "gzip" else _ZLIB if _is_zlib(body) else _RAW
    parts: list[bytes] = []
    room, streams, stream = limit + 1, 1, zlib.decompressobj(wrapping)
    rest = memoryview(body)
    try:
        while rest:
            if stream.eof:  # A gzip file may have several members.
                streams, stream = streams + 1, zlib.decompressobj(wrapping)
            if streams > MAX_STREAMS:
                raise BadRequest(f"the body has more than {MAX_STREAMS} {encoding} streams; send one")
            piece = rest[:_PIECE_BYTES]  # zlib copies what a stream leaves of it.
            parts.append(stream.decompress(piece, room))
            rest = rest[len(piece) - len(stream.unused_data) :]
            room -= len(parts[-1])
            if room <= 0:
                message = f"the body is larger than {limit} bytes when it is inflated; send fewer rows in each request"
                raise Problem(413, message)
        if body and not stream.eof:
            raise BadRequest(f"the body ends in the middle of its {encoding} stream")
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}, as content-encoding says: {error}") from error
    return b"".join(parts)


def _is_zlib(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
