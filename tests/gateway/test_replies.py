"""Answers that a real Envoy makes itself: JSON with a sentence, and gRPC statuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from gateway_rig import METHOD, Gateway, Pod, ask, deployment, free_port, routes
from ultramarine_contract.routes import PIN_HEADER, RouteLimits

BOTH = ("http", "grpc")
Answer = tuple[int, str | None, str]


async def answer_of(client: ClientSession, port: int, **more: Any) -> Answer:
    """Return the code, Retry-After and the sentence of an answer that has nothing besides."""
    async with client.post(f"http://127.0.0.1:{port}/v2/models/m/infer", json={}, **more) as answer:
        body = await answer.json()
        assert body.keys() == {"error"}
        return answer.status, answer.headers.get("Retry-After"), body["error"]


async def grpc_error(port: int, **metadata: str) -> tuple[grpc.StatusCode, str]:
    """Return the status and the message of a call that fails."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(METHOD)(b"x", metadata=list(metadata.items()))
    return error.value.code(), error.value.details()


async def raw_answer(port: int, request: bytes) -> tuple[int, Any]:
    """Send bytes and return the code and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def broken_pod(words: bytes) -> AsyncIterator[Pod]:
    """A pod that reads a request, answers these bytes at both ports, and closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(words)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Pod("blue", port=port, grpc_port=port)


async def test_absence_and_overload_ask_to_try_again(gateway: Gateway, client: ClientSession) -> None:
    """Requests that no pod received have Retry-After: without a ready pod, without a connection, beyond the limit."""
    blue = Pod("blue", seconds=0.5)
    await gateway.use(routes(port := free_port(), deployment("blue", 100, protocols=BOTH)))
    absent = "endpoint churn has no ready pod; try again"
    assert await answer_of(client, port) == (503, "5", absent)
    assert await grpc_error(port) == (grpc.StatusCode.UNAVAILABLE, absent)

    blue.port, blue.grpc_port = free_port(), free_port()
    gateway.serve("churn-blue", blue)
    await gateway.use(gateway.routes["churn"])
    while (answer := await answer_of(client, port))[2] == absent:
        pass
    assert answer == (503, "5", "cannot connect to a pod of endpoint churn; try again")

    await blue.start()
    gateway.serve("churn-blue", blue)
    limited = routes(port, deployment("blue", 100, protocols=BOTH), limits=RouteLimits(max_requests=1))
    await gateway.use(limited)
    async with ClientSession() as later:  # an earlier connection keeps the words of its time
        answers = await asyncio.gather(*(later.post(f"http://127.0.0.1:{port}/", json={}) for _ in range(9)))
        [refused, *_] = [answer for answer in answers if answer.status == 503]
        sentence = "endpoint churn has 1 requests in progress, its limit; try again"
        assert (refused.headers["Retry-After"], await refused.json()) == ("1", {"error": sentence})
    await blue.stop()


async def test_a_pinned_deployment_without_pods_asks_to_try_again(gateway: Gateway, client: ClientSession) -> None:
    """A pin names the deployment that has no pod."""
    await gateway.use(routes(port := free_port(), deployment("blue"), deployment("green", 100)))
    answer = await answer_of(client, port, headers={PIN_HEADER: "blue"})
    assert answer == (503, "5", "deployment blue of churn has no ready pod")


async def test_a_timeout_names_deployment_and_limit(gateway: Gateway, client: ClientSession) -> None:
    """Requests that a pod may have run have no Retry-After."""
    blue = Pod("blue", seconds=30)
    await blue.start()
    gateway.serve("churn-blue", blue)
    await gateway.use(routes(port := free_port(), deployment("blue", 100, timeout_seconds=0.2)))
    assert await answer_of(client, port) == (504, None, "deployment blue of churn gave no answer within 0.2 s")
    await blue.stop()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (b"", 503, "a pod of endpoint churn closed the connection before its answer"),
        (b"no HTTP\r\n\r\n", 502, "a pod of endpoint churn gave an answer that is not valid HTTP; see its log"),
    ],
)
async def test_broken_answers_of_pods_are_named(
    gateway: Gateway, client: ClientSession, words: bytes, code: int, sentence: str
) -> None:
    """A pod that closes the connection or speaks another protocol may have run the request."""
    async with broken_pod(words) as blue:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port := free_port(), deployment("blue", 100)))
        while (answer := await answer_of(client, port))[1] is not None:  # no address yet
            pass
        assert answer == (code, None, sentence)


@pytest.mark.parametrize(
    ("request_line", "code", "sentence"),
    [
        (b"GET /%00 HTTP/1.1", 400, "the request is malformed; correct its path and its headers"),
        (b"GET / FTP/9", 400, "the request is malformed; correct its path and its headers"),
        (b"CONNECT other:443 HTTP/1.1", 404, "the gateway has no route for this method; use GET or POST"),
    ],
)
async def test_malformed_requests_have_a_sentence(
    gateway: Gateway, request_line: bytes, code: int, sentence: str
) -> None:
    """No answer has an empty body."""
    await gateway.use(routes(port := free_port(), deployment("blue", 100)))
    request = request_line + b"\r\nHost: churn\r\nConnection: close\r\n\r\n"
    assert await raw_answer(port, request) == (code, {"error": sentence})


async def test_a_websocket_at_a_model_is_refused_in_words(gateway: Gateway, client: ClientSession) -> None:
    """The platform's servers take no WebSockets."""
    await gateway.use(routes(port := free_port(), deployment("blue", 100)))
    with pytest.raises(WSServerHandshakeError, match="403"):
        await client.ws_connect(f"http://127.0.0.1:{port}/")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    code, body = await ask(client, port, headers=upgrade)
    assert (code, body) == (403, {"error": "this deployment takes no WebSockets; send a request without Upgrade"})
