"""Routing of requests: a real Envoy, configured by the agent, before real servers."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc.aio
import pytest
from aiohttp import ClientSession, TCPConnector
from gateway_rig import METHOD, Gateway, ask, deployment, eventually, free_port, pods, routes, who_answers
from ultramarine_contract.routes import PIN_HEADER, RouteLimits

BOTH = ("http", "grpc")


async def test_requests_are_shared_by_weight(gateway: Gateway, client: ClientSession) -> None:
    """Of 1,000 requests with weights 80 and 20 each deployment gets its share, give or take 5 percent points."""
    port = free_port()
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 80), deployment("green", 20)))

        got = await who_answers(client, port, 1000)

    # Five points are four standard deviations.
    assert 150 < got["green"] < 250
    assert got.total() == 1000


async def test_a_pinned_request_goes_where_it_says(gateway: Gateway, client: ClientSession) -> None:
    """The pin header leads to a deployment of weight 0; a name that there is not is refused, with the reason."""
    port = free_port()
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 100), deployment("green")))

        assert await who_answers(client, port, 20) == {"blue": 20}
        assert await who_answers(client, port, 20, headers={PIN_HEADER: "green"}) == {"green": 20}
        code, body = await ask(client, port, headers={PIN_HEADER: "pink"})

    assert code == 404
    assert PIN_HEADER in body["error"]


async def test_the_host_header_says_nothing(gateway: Gateway, client: ClientSession) -> None:
    """Each endpoint has a port of its own, so any name leads to it, as behind a port-forward."""
    first, second = free_port(), free_port()
    async with pods("blue", "red") as (blue, red):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-red", red)
        await gateway.use(routes(first, deployment("blue", 100)))
        await gateway.use(routes(second, deployment("red", 100), name="other"))

        assert await who_answers(client, first, 1, headers={"Host": "other.team"}) == {"blue": 1}
        assert await who_answers(client, second, 1, headers={"Host": "churn.team"}) == {"red": 1}


async def test_others_get_copies(gateway: Gateway, client: ClientSession) -> None:
    """Each mirror gets its part of the requests, with the request's id; its answers and its failure change nothing."""
    port = free_port()
    async with pods("blue", "green", "red") as (blue, green, red):
        for service, pod in (("churn-blue", blue), ("churn-green", green), ("churn-red", red)):
            gateway.serve(service, pod)
        mirrored = (deployment("green", mirror_percent=100), deployment("red", mirror_percent=20))
        await gateway.use(routes(port, deployment("blue", 100), *mirrored, deployment("gone", mirror_percent=100)))

        assert await who_answers(client, port, 300) == {"blue": 300}
        await eventually("all copies are there", lambda: len(green.got) == 300)

    ids = {headers["x-request-id"] for headers in blue.got}
    assert len(ids) == 300
    assert {headers["x-request-id"] for headers in green.got} == ids
    # Ten points are four standard deviations.
    assert 30 < len(red.got) < 90


async def test_a_request_keeps_its_id(gateway: Gateway, client: ClientSession) -> None:
    """An id that the client gives arrives and comes back; one that is missing is made."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        url = f"http://127.0.0.1:{port}/v2"
        async with client.get(url, headers={"x-request-id": "order/17"}) as given, client.get(url) as made:
            ids = [given.headers["x-request-id"], made.headers["x-request-id"]]

    assert [headers["x-request-id"] for headers in blue.got] == ids
    assert ids[0] == "order/17"
    assert ids[1]


async def test_each_deployment_has_its_own_time(gateway: Gateway, client: ClientSession) -> None:
    """A deployment that takes longer than it may is given up with 504, while another may take longer."""
    port = free_port()
    async with pods("fast", "slow", seconds=0.5) as (fast, slow):
        gateway.serve("churn-fast", fast)
        gateway.serve("churn-slow", slow)
        fast_one, slow_one = deployment("fast", timeout_seconds=0.1), deployment("slow", 100, timeout_seconds=10)
        await gateway.use(routes(port, slow_one, fast_one))

        assert (await ask(client, port))[0] == 200
        # A client does not set Envoy's own limits.
        assert (await ask(client, port, headers={"x-envoy-upstream-rq-timeout-ms": "10"}))[0] == 200
        code, body = await ask(client, port, headers={PIN_HEADER: "fast"})

    assert (code, body["error"]) == (504, "deployment fast of churn gave no answer within 0.1 s")


async def test_grpc_goes_to_the_port_of_grpc(gateway: Gateway, client: ClientSession) -> None:
    """gRPC is shared among those that speak it, and obeys the pin; HTTP goes on beside it, at the same port."""
    port = free_port()
    async with pods("blue", "green", "old") as (blue, green, old):
        for service, pod in (("churn-blue", blue), ("churn-green", green), ("churn-old", old)):
            gateway.serve(service, pod)
        speaking = (deployment("blue", 40, protocols=BOTH), deployment("green", 40, protocols=BOTH))
        await gateway.use(routes(port, *speaking, deployment("old", 20)))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(METHOD)
            replies = [await call(b"x") for _ in range(200)]
            pinned = {await call(b"x", metadata=[(PIN_HEADER, "green")]) for _ in range(10)}
        over_http = await who_answers(client, port, 50)

    got = Counter(replies)
    assert got.keys() == {b"blue:x", b"green:x"}
    assert min(got.values()) > 65  # a half, less five standard deviations
    assert pinned == {b"green:x"}
    assert over_http.total() == 50


async def test_nobody_to_answer_is_said(gateway: Gateway, client: ClientSession) -> None:
    """Without weights, or without pods, the answer is 503 and says why."""
    port = free_port()
    await gateway.use(routes(port, deployment("blue")))
    unweighted = await ask(client, port)
    await gateway.use(routes(port, deployment("blue", 100)))
    empty = await ask(client, port)

    assert unweighted == (503, {"error": "no deployment of churn that has a weight speaks http"})
    assert empty == (503, {"error": "endpoint churn has no ready pod; try again"})


async def test_more_than_the_limit_is_turned_away(gateway: Gateway, client: ClientSession) -> None:
    """Requests beyond the limit of a deployment are answered with 503 at once; those before them are served."""
    port = free_port()
    async with pods("blue", seconds=0.5) as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100), limits=RouteLimits(max_requests=3)))
        codes = Counter([code for code, _ in await asyncio.gather(*(ask(client, port) for _ in range(10)))])

    assert codes[200] >= 3
    assert codes[503] == 10 - codes[200]
    assert codes[503] > 0


async def test_load_beyond_envoys_defaults_is_borne(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,500 requests at once are all answered: Envoy's own limit would be 1,024."""
    # On a busy machine Envoy itself may need longer than its second for 1,500 connections, and answer 503.
    monkeypatch.setattr("ultramarine_gateway.config.clusters.CONNECT_SECONDS", 60.0)
    port = free_port()
    async with pods("blue", seconds=1) as (blue,), ClientSession(connector=TCPConnector(limit=0)) as client:
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        codes = Counter([code for code, _ in await asyncio.gather(*(ask(client, port) for _ in range(1500)))])

    assert codes == {200: 1500}
