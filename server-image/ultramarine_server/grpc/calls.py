"""Common parts of gRPC calls: authentication, request ids, metrics, and problems as status codes of gRPC."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import NO_PROOF, KeyRing
from ultramarine_server.collecting.exchange import Capture
from ultramarine_server.errors import Problem
from ultramarine_server.grpc.tensors import exchange
from ultramarine_server.telemetry import Telemetry

if TYPE_CHECKING:
    from ultramarine_server.collecting.captures import Captures


class Message(Protocol):
    """A protobuf message."""

    @classmethod
    def FromString(cls, data: bytes) -> Any: ...

    def SerializeToString(self) -> bytes: ...

    def ByteSize(self) -> int: ...


Asked = TypeVar("Asked", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Call = Callable[[Asked, str], Awaitable[Answer]]  # from a request and its id

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_NO_KEY = Problem(401, "a valid key is needed: send it as metadata, `authorization: Bearer KEY` or `api-key: KEY`")
_GONE = 499  # as nginx counts it: the client has gone, or its deadline has passed
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Calls(grpc.GenericRpcHandler):
    """Handlers by method; `keys` is None without authentication.

    A method without a route needs no key, and is not counted.
    """

    def __init__(
        self, telemetry: Telemetry, keys: KeyRing | None, log: AccessLog, captures: Captures | None = None
    ) -> None:
        self._telemetry, self._keys, self._log, self._captures = telemetry, keys, log, captures
        self._answering: dict[str, Any] = {}
        self._refusing: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call. A call without a valid key gets a refusing handler before a message is read."""
        method = handler_call_details.method
        keys, refusing = self._keys, self._refusing.get(method)
        if keys is None or refusing is None or keys.opens(_headers(handler_call_details.invocation_metadata)):
            return self._answering.get(method)
        return refusing

    def unary(self, method: str, call: Call[Asked, Answer], asked: type[Asked], route: str = "") -> None:
        """Answer a request with a message."""

        async def handle(request: Asked, context: Context) -> Answer:
            seen = _Seen(method, route, _introduce(context), request)
            with self._observed(seen):
                try:
                    seen.answer = response = await call(request, seen.request_id)
                    return response
                except Exception as error:
                    await _refuse(context, seen.refused(error), seen.request_id)

        self.add(method, grpc.unary_unary_rpc_method_handler(handle, asked.FromString, _serialized), route)

    def stream(
        self,
        method: str,
        call: Call[Asked, Answer],
        asked: type[Asked],
        route: str,
        refusal: Callable[[Asked, Problem], Answer],
    ) -> None:
        """Answer the requests of a stream in their order; `refusal` returns the answer of a problem."""

        async def handle(requests: AsyncIterator[Asked], context: Context) -> AsyncIterator[Answer]:
            request_id = _introduce(context)
            async for request in requests:
                seen = _Seen(method, route, request_id, request)
                with self._observed(seen):
                    try:
                        response = await call(request, request_id)
                    except Exception as error:
                        response = refusal(request, seen.refused(error))
                    seen.answer = response
                yield response
                if self._telemetry.draining:
                    message = "the server is shutting down; open another stream for requests without an answer"
                    await _refuse(context, Problem(503, message), request_id)

        self.add(method, grpc.stream_stream_rpc_method_handler(handle, asked.FromString, _serialized), route)

    def add(self, method: str, handler: Any, route: str = "") -> None:
        """Register the handler of a method."""
        self._answering[method] = handler
        if route:
            self._refusing[method] = self._refusal(method, route)

    def _refusal(self, method: str, route: str) -> Any:
        async def handle(requests: AsyncIterator[Any], context: Context) -> None:
            seen = _Seen(method, route, _introduce(context))
            with self._observed(seen):
                of_gateway = self._keys is not None and self._keys.holder == "gateway"
                refused = seen.refused(Problem(401, NO_PROOF) if of_gateway else _NO_KEY)
                await _refuse(context, refused, seen.request_id)

        return grpc.stream_stream_rpc_method_handler(handle)

    @contextmanager
    def _observed(self, seen: _Seen) -> Iterator[None]:
        started = time.perf_counter()
        self._telemetry.in_flight += 1
        try:
            yield
        except asyncio.CancelledError:
            seen.code = _GONE
            raise
        finally:
            self._telemetry.in_flight -= 1
            seconds = time.perf_counter() - started
            if seen.route:
                self._telemetry.count(seen.route, seen.code, seconds)
            if self._log.shows(seen.route, seen.code):
                self._log.show(seen.request_id, "gRPC", seen.method, seen.code, seconds, seen.sizes)
            if self._captures is not None and self._captures.wants(seen.route, seen.code):
                asked: Any = seen.request
                answered: Any = seen.answer if seen.code == 200 else None
                read = partial(exchange, asked, answered)
                self._captures.take(Capture(seen.request_id, seen.method, seen.code, seconds, sum(seen.sizes), read))


@dataclass(slots=True)
class _Seen:
    """Facts of an answer for metrics and log."""

    method: str
    route: str
    request_id: str
    request: Message | None = None
    answer: Message | None = None
    code: int = 200

    @property
    def sizes(self) -> tuple[int, int]:
        came, went = [0 if message is None else message.ByteSize() for message in (self.request, self.answer)]
        return came, went

    def refused(self, error: Exception) -> Problem:
        """Return the problem of an error, and keep its code."""
        problem = _problem(error, self.request_id)
        self.code = problem.status
        return problem


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _headers(metadata: Any) -> Mapping[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _introduce(context: Context) -> str:
    """Return the id that the client sent, or a new id, and send it back with the answer."""
    given = _headers(context.invocation_metadata()).get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
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
        # Clients with a retry policy use it, as clients of HTTP use Retry-After.
        metadata.append(("grpc-retry-pushback-ms", str(problem.retry_after * 1000)))
    await context.abort(_STATUS.get(problem.status, grpc.StatusCode.INTERNAL), str(problem), tuple(metadata))
