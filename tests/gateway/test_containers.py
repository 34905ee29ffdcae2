"""Requests to containers of authors: their paths, streams and WebSockets pass a real Envoy unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientSession, WSServerHandshakeError, web
from gateway_rig import Gateway, Pod, deployment, eventually, free_port, pods, routes
from ultramarine_contract.common import ANSWERS_PATH, GATEWAY_HEADER
from ultramarine_contract.routes import PIN_HEADER, RouteAuth, RouteDeployment
from ultramarine_gateway.figures import Figures

OWN = ("http", "grpc")
KEY = {"Authorization": "Bearer the-key"}


class Container(Pod):
    """A server of an author: it streams until `ends`, echoes WebSockets and gRPC messages, and says what it got."""

    def __init__(self, name: str = "blue") -> None:
        super().__init__(name)
        self.ends = asyncio.Event()
        self.connection: asyncio.Transport | None = None  # of the last request

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/events", self._events)
        application.router.add_get("/drips", self._drips)
        application.router.add_get("/socket", self._socket)
        application.router.add_get("/silence", self._silence)
        application.router.add_route("*", "/{path:.*}", self._echo)
        return application

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: first\n\n")
        await self.ends.wait()
        await answer.write(b"data: last\n\n")
        return answer

    async def _drips(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(6):
            await answer.write(b".")
            await asyncio.sleep(1)
        return answer

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"echo {message.data}")
        return socket

    async def _silence(self, request: web.Request) -> web.Response:
        await self.ends.wait()
        return web.Response()

    async def _echo(self, request: web.Request) -> web.Response:
        self.connection = request.transport
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append({"path": request.path_qs, **headers})
        body = await request.text()
        return web.json_response({"method": request.method, "path": request.path_qs, "body": body}, status=201)


@asynccontextmanager
async def serving(
    gateway: Gateway, auth: str = "key", *beside: RouteDeployment, **more: Any
) -> AsyncIterator[tuple[Container, str]]:
    """A container behind an endpoint with a key, and the endpoint's address."""
    gateway.keys("churn-keys", primary="the-key")
    container = Container()
    await container.start()
    gateway.serve("churn-blue", container)
    blue = deployment("blue", 100, own=True, protocols=OWN, **more)
    access = RouteAuth(auth, keys_secret="churn-keys") if auth == "key" else RouteAuth(auth)
    await gateway.use(routes(port := free_port(), blue, *beside, auth=access))
    yield container, f"http://127.0.0.1:{port}"
    container.ends.set()
    await container.stop()


@pytest.mark.parametrize(("method", "path"), [("PUT", "/items/a%2Fb?x=1&x=2"), ("DELETE", ANSWERS_PATH), ("GET", "/")])
async def test_every_path_and_method_passes(gateway: Gateway, client: ClientSession, method: str, path: str) -> None:
    """Method, path, query, body and status pass unchanged; the endpoint's keys stay at the gateway."""
    async with (
        serving(gateway) as (container, url),
        client.request(method, url + path, data="text", headers=KEY | {"api-key": "the-key", "X-Mine": "kept"}) as got,
    ):
        assert (got.status, await got.json()) == (201, {"method": method, "path": path, "body": "text"})
        [seen] = container.got
        assert seen["x-mine"] == "kept"
        assert not {"authorization", "api-key", GATEWAY_HEADER} & seen.keys()


@pytest.mark.parametrize("path", ["/", "/v2/health/ready", "/v2/models/m/ready", "/metrics", "/socket", ANSWERS_PATH])
async def test_no_path_is_open_without_a_key(gateway: Gateway, client: ClientSession, path: str) -> None:
    """A container checks no key, so that even paths that are open at the platform's servers need one."""
    async with serving(gateway) as (container, url), client.get(url + path) as got:
        assert got.status == 401
        assert container.got == []


async def test_a_container_gets_the_authorization_header_of_an_open_endpoint(
    gateway: Gateway, client: ClientSession
) -> None:
    """Without keys at the gateway, a container may have credentials of its own."""
    async with serving(gateway, "none") as (container, url), client.get(url, headers=KEY) as got:
        assert got.status == 201
        assert container.got[0]["authorization"] == KEY["Authorization"]


async def test_the_gateway_closes_idle_connections_before_a_container_does(
    gateway: Gateway, client: ClientSession
) -> None:
    """A connection serves the next request, and is closed after a second: no server that closes after 2 s meets one."""
    async with serving(gateway) as (container, url):
        used = set()
        for _ in range(2):
            async with client.get(url, headers=KEY) as got:
                assert got.status == 201
            used.add(container.connection)
        began, [connection] = time.monotonic(), used
        assert connection is not None
        await eventually("the connection is closed", connection.is_closing)
        assert 0.5 < time.monotonic() - began < 2


async def test_events_arrive_before_the_answer_ends(gateway: Gateway, client: ClientSession) -> None:
    """The first event of a stream arrives while the server still holds back the last."""
    async with (
        serving(gateway) as (container, url),
        client.get(f"{url}/events", headers=KEY) as got,
    ):
        first = await got.content.readuntil(b"\n\n")
        assert not container.ends.is_set()
        container.ends.set()
        assert (first, await got.content.read()) == (b"data: first\n\n", b"data: last\n\n")


async def test_a_stream_may_be_longer_than_the_timeout(gateway: Gateway, client: ClientSession) -> None:
    """An answer that keeps coming has no limit; one without data for the timeout is 504, and counts as an error."""

    async def get(path: str) -> tuple[int, str]:
        async with client.get(url + path, headers=KEY) as got:
            return got.status, await got.text()

    async with serving(gateway, timeout_seconds=4) as (_, url):  # far above the second between two drips
        dripped, (silent, _) = await asyncio.gather(get("/drips"), get("/silence"))
        assert (dripped, silent) == ((200, "......"), 504)
        figures = await Figures(gateway.folder).of(gateway.routes["churn"])
        assert figures is not None
        assert (figures["blue"].requests, figures["blue"].errors) == (2, 1)


async def test_websockets_pass(gateway: Gateway, client: ClientSession) -> None:
    """Messages go both ways after the upgrade, which needs a key."""
    async with serving(gateway) as (_, url):
        with pytest.raises(WSServerHandshakeError, match="401"):
            await client.ws_connect(f"{url}/socket")
        async with client.ws_connect(f"{url}/socket", headers=KEY) as socket:
            for text in ("one", "two"):
                await socket.send_str(text)
                assert await socket.receive_str() == f"echo {text}"


async def test_streams_of_grpc_pass(gateway: Gateway) -> None:
    """Messages of a bidirectional stream are answered one by one, while the client still sends."""
    async with serving(gateway) as (container, url):
        await container.stop()
        server = grpc.aio.server()

        class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, _: Any) -> Any:
                async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                    async for request in requests:
                        yield b"echo " + request

                return grpc.stream_stream_rpc_method_handler(echo)

        server.add_generic_rpc_handlers([Echo()])
        server.add_insecure_port(f"127.0.0.1:{container.grpc_port}")
        await server.start()
        async with grpc.aio.insecure_channel(url.removeprefix("http://")) as channel:
            call = channel.stream_stream("/llm.Chat/Talk")(metadata=[("api-key", "the-key")], wait_for_ready=True)
            for text in (b"one", b"two"):
                await call.write(text)
                assert await call.read() == b"echo " + text
            await call.done_writing()
        await server.stop(0)


async def test_short_requests_alone_are_copied(gateway: Gateway, client: ClientSession) -> None:
    """A request with a length is copied without the keys; a WebSocket is not."""
    shadow = deployment("shadow", mirror_percent=100, own=True)
    async with pods("shadow") as (copies,), serving(gateway, "key", shadow) as (_, url):
        gateway.serve("churn-shadow", copies)
        pinned = KEY | {PIN_HEADER: "shadow"}
        await eventually("Envoy has the shadow", lambda: gateway.agent.report()["churn"].ready["shadow"])
        async with client.post(f"{url}/pinned", headers=pinned, data="text") as got:
            assert got.status == 200
        async with client.ws_connect(f"{url}/socket", headers=KEY) as socket:
            await socket.send_str("one")
            assert await socket.receive_str() == "echo one"
        async with client.post(f"{url}/chat", headers=KEY, data="text") as got:
            assert got.status == 201
        await eventually("the copy came", lambda: len(copies.got) == 2)
    assert [seen["path"] for seen in copies.got] == ["/pinned", "/chat"]
    assert all("authorization" not in seen for seen in copies.got)
