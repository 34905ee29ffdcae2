"""Figures of the gateway: a real Envoy, queried as the operator does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import grpc.aio
import pytest
from aiohttp import ClientSession, web
from gateway_rig import METHOD, Gateway, ask, deployment, free_port, pods, routes, who_answers
from msgspec.structs import replace
from ultramarine_contract.routes import PIN_HEADER, DeploymentFigures, RouteAuth, RouteState
from ultramarine_gateway.config.bootstrap import ADMIN_SOCKET, fine_milliseconds
from ultramarine_gateway.server import application
from ultramarine_operator.outside.gateway import routes_of

BOTH = ("http", "grpc")


@asynccontextmanager
async def answering(gateway: Gateway) -> AsyncIterator[str]:
    """The agent's own port, as HOST:PORT."""
    runner = web.AppRunner(application(gateway.agent, gateway.folder))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def figures(address: str, holds: Callable[[dict[str, DeploymentFigures]], bool]) -> dict[str, DeploymentFigures]:
    """The figures, when something holds for them."""
    counted: dict[str, DeploymentFigures] | None = None
    until = time.monotonic() + 60
    while time.monotonic() < until:
        (state,) = await asyncio.to_thread(routes_of, address, "churn")
        counted = state.figures
        if counted is not None and holds(counted):
            return counted
        await asyncio.sleep(0.1)
    pytest.fail(f"waited a minute in vain, and last saw {counted}")


def all_counted(counted: DeploymentFigures, count: int) -> bool:
    """True if the latency of that many requests is reported, up to 5 s later than the rest."""
    return bool(counted.latency) and counted.latency[-1][1] == count


async def test_each_deployments_requests_are_counted(gateway: Gateway, client: ClientSession) -> None:
    """HTTP and gRPC together; a time that is over is an error. A deployment without a pod is told of, and not asked."""
    port = free_port()
    async with pods("blue") as (blue,), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        blue_one = deployment("blue", 100, protocols=BOTH, timeout_seconds=1)
        await gateway.use(routes(port, blue_one, deployment("green"), deployment("idle")))
        await who_answers(client, port, 3)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary(METHOD)(b"")
        blue.seconds = 2
        assert (await ask(client, port))[0] == 504
        code, body = await ask(client, port, headers={PIN_HEADER: "green"})
        assert (code, body["error"]) == (503, "deployment green of churn has no ready pod")

        counted = await figures(address, lambda seen: seen["blue"].requests == 5 and all_counted(seen["blue"], 4))

    assert (counted["blue"].errors, counted["blue"].active, counted["blue"].absent) == (1, 0, 0)
    nothing = DeploymentFigures()
    assert [replace(counted[name], rate=None, concurrency=None) for name in ("green", "idle")] == [nothing, nothing]


async def test_errors_for_want_of_a_pod_are_told_apart(gateway: Gateway, client: ClientSession) -> None:
    """If no deployment has a pod, each 503 counts as an error and as one of those that no pod has made."""
    port = free_port()
    async with answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100, protocols=BOTH)))
        for _ in range(7):
            assert (await ask(client, port))[0] == 503
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(METHOD)(b"")
        counted = (await figures(address, lambda seen: seen["blue"].requests == 8))["blue"]

    assert (counted.errors, counted.absent, counted.client_errors) == (8, 8, 0)


async def test_counters_of_alerts_begin_at_0(gateway: Gateway, client: ClientSession) -> None:
    """Envoy tells of a counter from its first count on; an increase wants one that was 0. Each is told once."""
    port, counted = free_port(), []
    async with answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100)))
        for code in (0, 503):
            if code:
                assert (await ask(client, port))[0] == code
            async with client.get(f"http://{address}/metrics") as answer:
                text = await answer.text()
            series = re.findall(r"^envoy_http_downstream_rq(?:_total)?{(.*)} (\d+)$", text, re.MULTILINE)
            counted.append([value for labels, value in series if 'endpoint="churn"' in labels])

    assert counted == [["0", "0"], ["1", "1"]]


async def test_the_pods_4xx_are_counted(gateway: Gateway, client: ClientSession) -> None:
    """400, 404 and 422 are; 401 and 429 of a pod, and what the gateway refuses by itself, are not."""
    port = free_port()
    async with pods("blue") as (blue,), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        for status in (200, 400, 404, 422, 401, 429, 500):
            blue.status = status
            assert (await ask(client, port))[0] == status
        assert (await ask(client, port, headers={PIN_HEADER: "nobody"}))[0] == 404
        gateway.keys("keys", primary="right")
        await gateway.use(routes(port, deployment("blue", 100), auth=RouteAuth("key", "keys")))
        assert (await ask(client, port))[0] == 401
        counted = (await figures(address, lambda seen: seen["blue"].requests == 7))["blue"]

    assert (counted.client_errors, counted.errors, counted.absent) == (3, 1, 0)


async def test_what_is_in_flight_is_counted(gateway: Gateway, client: ClientSession) -> None:
    """Requests that a pod has not answered yet are active, and are no more when it has."""
    port = free_port()
    async with pods("blue", seconds=2.0) as (blue,), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        asked = [asyncio.create_task(ask(client, port)) for _ in range(7)]

        await figures(address, lambda seen: seen["blue"].active == 7)

        assert {code for code, _ in await asyncio.gather(*asked)} == {200}
        await figures(address, lambda seen: seen["blue"].active == 0 and seen["blue"].requests == 7)


async def test_latency_is_told_in_fine_steps(gateway: Gateway, client: ClientSession) -> None:
    """Each bound counts what took up to as long, and is at most a quarter above the one before it."""
    port = free_port()
    async with pods("blue", seconds=0.1) as (blue,), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        await who_answers(client, port, 10)

        latency = (await figures(address, lambda seen: all_counted(seen["blue"], 10)))["blue"].latency

    counts = dict(latency)
    assert [bound for bound, _ in latency] == fine_milliseconds()
    assert counts[97] == 0
    assert all(after <= before * 1.25 for before, after in pairwise(fine_milliseconds()) if before >= 4)


async def test_means_are_told_to_who_asks_again(gateway: Gateway, client: ClientSession) -> None:
    """Of quick requests at a steady rate, how many come a second and how many are in flight on average."""
    port = free_port()
    async with pods("blue", seconds=0.05) as (blue,), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        (first,) = await asyncio.to_thread(routes_of, address, "churn")
        assert first.figures is not None
        assert first.figures["blue"].rate is None

        asked = []
        for _ in range(100):
            asked.append(asyncio.create_task(ask(client, port)))
            await asyncio.sleep(0.05)
        counted = (await figures(address, lambda seen: seen["blue"].rate is not None))["blue"]
        assert {code for code, _ in await asyncio.gather(*asked)} == {200}

    assert counted.rate is not None
    assert counted.concurrency is not None
    assert 5 < counted.rate < 21  # 20, on a machine with time
    assert counted.rate * 0.04 < counted.concurrency < counted.rate * 0.3


async def test_only_who_asks_for_an_endpoint_gets_figures(
    gateway: Gateway, client: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One endpoint alone, with the name of the pod; all of them come without figures; of none there is nothing."""
    monkeypatch.setenv("HOSTNAME", "gateway-1")
    async with answering(gateway) as address:
        await gateway.use(routes(free_port(), deployment("blue", 100)))
        await gateway.use(routes(free_port(), deployment("red", 100), name="other"))

        async with client.get(f"http://{address}/routes") as answer:
            listed = (await answer.json())["endpoints"]
        async with client.get(f"http://{address}/routes?endpoint=other") as answer:
            alone = (await answer.json())["endpoints"]
        unknown = await asyncio.to_thread(routes_of, address, "unknown")
        (uncounted,) = await asyncio.to_thread(lambda: routes_of(address, "other", figures=False))
        (gateway.folder / ADMIN_SOCKET).unlink()
        async with client.get(f"http://{address}/routes?endpoint=churn") as answer:
            churn = (await answer.json())["endpoints"]["churn"]

    assert {name: state["figures"] for name, state in listed.items()} == {"churn": None, "other": None}
    assert list(alone) == ["other"]
    assert alone["other"]["pod"] == "gateway-1"
    assert list(alone["other"]["figures"]) == ["red"]
    assert unknown == (RouteState(),)
    assert (uncounted.pod, uncounted.figures) == ("gateway-1", None)
    assert churn["figures"] is None
