"""Requests and answers as values, and how an answer is written."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import orjson

from ultramarine_server.errors import Problem

JSON = b"application/json"
_LINES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}


class Request(msgspec.Struct, eq=False):
    """One request; its body comes after its head, and only if the head is acceptable."""

    method: str
    path: str
    headers: Mapping[str, str]  # by lower-case name
    id: str
    started: float  # by time.perf_counter
    keep_alive: bool
    body: bytes = b""
    label: str = ""  # the route's name in the metrics; nothing for probes and scrapes, which would drown the rest
    target: Any = None  # what the application has found for the path
    query: str = ""  # what follows the question mark, as it came
    outputs: Any = None  # the tensors that answered it, where it was a question to the model


class Response(msgspec.Struct):
    """One answer, whole; `headers` are those besides length, type and id."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: Mapping[str, str] | None = None

    def head(self, request_id: str, date: bytes, *, close: bool) -> bytes:
        """Return the bytes up to and with the empty line."""
        extra = b""
        if self.headers:
            extra = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()]).encode("latin-1")
        if close:
            extra += b"connection: close\r\n"
        return (
            b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\ndate: %b\r\n%b\r\n"
            % (_LINES[self.status], self.content_type, len(self.body), request_id.encode(), date, extra)
        )  # fmt: skip


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON document as an answer."""
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), status, JSON, headers)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the protocol's form of an error."""
    given = dict(headers or {})
    if problem.retry_after:
        given["retry-after"] = str(problem.retry_after)
    return json_response({"error": str(problem)}, problem.status, given)
