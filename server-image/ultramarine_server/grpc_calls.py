"""What all gRPC calls have in common: keys, request ids, metrics, and problems as gRPC's status codes."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Never, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio

from ultramarine_server.errors import Problem
from ultramarine_server.keys import KeyRing
from ultramarine_server.telemetry import Telemetry


class Message(Protocol):
    """A protobuf message."""

    @classmethod
    def FromString(cls, data: bytes) -> Any: ...

    def SerializeToString(self) -> bytes: ...


Asked = TypeVar("Asked", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Call = Callable[[Asked, str], Awaitable[Answer]]  # a request and its id

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_GONE = 499  # the client has gone, as nginx counts it
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Calls:
    """Makes handlers; `keys` is None where no key is wanted. A call without a route needs none and is not counted."""

    def __init__(self, telemetry: Telemetry, keys: KeyRing | None) -> None:
        self._telemetry, self._keys = telemetry, keys

    def unary(self, call: Call[Asked, Answer], asked: type[Asked], route: str = "") -> Any:
        """Return the handler of a call with one request and one answer."""

        async def handle(request: Asked, context: Context) -> Answer:
            request_id = _introduce(context)
            with self._observed(route, context) as seen:
                try:
                    self._admit(route, context)
                    return await call(request, request_id)
                except Exception as error:
                    problem = _problem(error, request_id)
                    seen.code = problem.status
                    await _refuse(context, problem, request_id)

        return grpc.unary_unary_rpc_method_handler(handle, asked.FromString, _serialized)

    def stream(
        self, call: Call[Asked, Answer], asked: type[Asked], route: str, told: Callable[[Asked, Problem], Answer]
    ) -> Any:
        """Return the handler of a call that answers each request in its order; `told` is the answer with a problem."""

        async def handle(requests: AsyncIterator[Asked], context: Context) -> AsyncIterator[Answer]:
            request_id = _introduce(context)
            try:
                self._admit(route, context)
            except Problem as refusal:
                self._telemetry.count(route, refusal.status, 0)
                await _refuse(context, refusal, request_id)
            async for request in requests:
                with self._observed(route, context) as seen:
                    try:
                        response = await call(request, request_id)
                    except Exception as error:
                        problem = _problem(error, request_id)
                        seen.code = problem.status
                        response = told(request, problem)
                yield response
                if self._telemetry.draining:
                    message = "the server is about to leave; open another stream for what is not answered"
                    await _refuse(context, Problem(503, message), request_id)

        return grpc.stream_stream_rpc_method_handler(handle, asked.FromString, _serialized)

    def _admit(self, route: str, context: Context) -> None:
        if route and self._keys is not None and not self._keys.opens(_headers(context)):
            raise Problem(
                401, "a valid key is needed: send it as metadata, `authorization: Bearer KEY` or `api-key: KEY`"
            )

    @contextmanager
    def _observed(self, route: str, context: Context) -> Iterator[_Seen]:
        seen, started = _Seen(), time.perf_counter()
        self._telemetry.in_flight += 1
        try:
            yield seen
        except asyncio.CancelledError:
            left = context.time_remaining()
            seen.code = 504 if left is not None and left <= 0 else _GONE
            raise
        finally:
            self._telemetry.in_flight -= 1
            if route:
                self._telemetry.count(route, seen.code, time.perf_counter() - started)


class _Seen:
    code = 200


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _headers(context: Context) -> Mapping[str, str]:
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


def _introduce(context: Context) -> str:
    """Give the call the id that its client sent, or one of its own, and return it."""
    given = _headers(context).get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    context.set_trailing_metadata((("x-request-id", request_id),))
    return request_id


def _problem(error: Exception, request_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    print(f"ultramarine-server: request {request_id} failed", file=sys.stderr)
    traceback.print_exception(error)
    return Problem(500, f"the server failed; its log has the reason under request {request_id}")


async def _refuse(context: Context, problem: Problem, request_id: str) -> Never:
    metadata = [("x-request-id", request_id)]
    if problem.retry_after:
        # What clients with a retry policy go by, as those of HTTP go by Retry-After.
        metadata.append(("grpc-retry-pushback-ms", str(problem.retry_after * 1000)))
    await context.abort(_STATUS.get(problem.status, grpc.StatusCode.INTERNAL), str(problem), tuple(metadata))
