"""Changes during requests: pods, deployments, endpoints, the agent and Envoy itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, TCPConnector
from gateway_rig import NAMESPACE, Gateway, ask, deployment, eventually, free_port, pods, routes, who_answers
from msgspec.structs import replace
from ultramarine_gateway import envoy
from ultramarine_gateway.agent import Agent


@dataclass
class Load:
    """Eight clients that ask on and on; what they got, and how many requests were answered."""

    got: Counter[str] = field(default_factory=Counter)

    async def answered(self, more: int) -> None:
        """Wait until a number of further requests were answered."""
        goal = self.got.total() + more
        await eventually(f"{goal} answers", lambda: self.got.total() >= goal, seconds=60)


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    """Requests on and on, as long as the block lasts."""
    made, going = Load(), True

    async def client() -> None:
        async with ClientSession(connector=TCPConnector(limit=1)) as session:
            while going:
                try:
                    code, body = await ask(session, port)
                    made.got[body["pod"] if code == 200 else f"{code} {body}"] += 1
                except Exception as error:
                    made.got[repr(error)] += 1

    clients = [asyncio.create_task(client()) for _ in range(8)]
    try:
        yield made
    finally:
        going = False
        await asyncio.gather(*clients)


async def test_pods_come_and_go_without_a_failed_request(gateway: Gateway) -> None:
    """Under load a pod is added, told to stop while it still serves, and taken away; every request is answered."""
    port = free_port()
    async with pods("one", "two", "three", seconds=0.01) as (first, two, three):
        gateway.serve("churn-blue", first)
        await gateway.use(routes(port, deployment("blue", 100)))
        async with load(port) as asked:
            for coming, going in ((two, first), (three, two), (first, three)):
                await asked.answered(100)
                gateway.serve("churn-blue", coming)
                before = len(coming.got)
                await eventually("the new pod is asked", lambda: len(coming.got) > before)  # noqa: B023
                gateway.serve("churn-blue", going, ready=False, serving=True, terminating=True)
                await asked.answered(50)
                quiet = len(going.got)
                await asked.answered(100)
                assert len(going.got) == quiet
                gateway.leave("churn-blue", going)
                await going.stop()
                await asked.answered(50)
                await going.start()

    assert asked.got.keys() == {"one", "two", "three"}
    assert asked.got.total() > 900


async def test_a_pod_that_stops_finishes_what_it_began(gateway: Gateway, client: ClientSession) -> None:
    """Requests under way at a pod that leaves, and at a deployment that leaves, are answered by it."""
    port = free_port()
    async with pods("old", "new", seconds=1.0) as (old, new):
        gateway.serve("churn-blue", old)
        await gateway.use(routes(port, deployment("blue", 100)))
        first = [asyncio.create_task(ask(client, port)) for _ in range(5)]
        await eventually("they are under way", lambda: len(old.got) == 5)
        gateway.leave("churn-blue", old)
        gateway.serve("churn-green", new)
        await gateway.use(routes(port, deployment("green", 100)))

        assert await asyncio.gather(*first) == [(200, {"pod": "old"})] * 5
        assert await ask(client, port) == (200, {"pod": "new"})


async def test_deployments_change_places_without_a_failed_request(gateway: Gateway) -> None:
    """Under load one deployment takes over from another in steps, and the other is taken away; nothing fails."""
    port = free_port()
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 100)))
        async with load(port) as asked:
            for weight in (0, 10, 50, 100):
                await gateway.use(routes(port, deployment("blue", 100 - weight), deployment("green", weight)))
                await asked.answered(100)
            await gateway.use(routes(port, deployment("green", 100)))
            await asked.answered(100)

    assert asked.got.keys() == {"blue", "green"}


@pytest.mark.slow
async def test_an_unused_cluster_goes_later_and_harms_nobody(gateway: Gateway, client: ClientSession) -> None:
    """The cluster of a deployment that is gone is taken from Envoy in the end; a request under way is finished."""
    port = free_port()
    async with pods("old", "new", seconds=14) as (old, new):
        gateway.serve("churn-blue", old)
        gateway.serve("churn-green", new)
        await gateway.use(routes(port, deployment("blue", 100)))
        under_way = asyncio.create_task(ask(client, port))
        await eventually("it is under way", lambda: len(old.got) == 1)
        await gateway.use(routes(port, deployment("green", 100)))
        conversation = gateway.agent.conversation
        assert conversation is not None
        await eventually("the cluster is gone", lambda: "churn/blue/http" not in conversation.clusters)

        assert not under_way.done()
        assert await under_way == (200, {"pod": "old"})


async def test_one_bad_endpoint_stops_no_other(gateway: Gateway, client: ClientSession) -> None:
    """Routes that are malformed, invalid or on a taken port are left out with the reason; others stay in use."""
    port, other = free_port(), free_port()
    good = routes(port, deployment("blue", 100))
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(good)
        for name, text, reason in (
            ("torn", "{", "not the routes of an endpoint"),
            ("newer", json.dumps(json.loads(good.to_json()) | {"canary": 1}), "canary"),
            ("heavy", replace(good, deployments=(deployment("blue", 99),)).to_json(), "must sum to 100"),
            ("lost", replace(good, namespace="other").to_json(), "other/churn"),
            ("thief", replace(good, endpoint="thief").to_json(), f"port {port} is taken by endpoint churn"),
        ):
            gateway.put(replace(good, endpoint=name), text)
            await eventually(f"{name} is refused: {reason}", lambda: reason in gateway.reason(name))  # noqa: B023
            assert gateway.version(name) == ""
        assert gateway.agent.report()["thief"].port_taken_by == "churn"
        fine = routes(other, deployment("blue", 100), name="fine")
        await gateway.use(fine)

        assert await who_answers(client, port, 5) == {"blue": 5}
        assert await who_answers(client, other, 5) == {"blue": 5}
        assert gateway.version("churn") == good.version


async def test_what_envoy_refuses_leaves_the_last_good(gateway: Gateway, client: ClientSession) -> None:
    """Routes that only Envoy can tell to be impossible are refused in its words; what it had goes on, others change."""
    port, other = free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        good = routes(port, deployment("blue", 100))
        moved = replace(good, port=taken.getsockname()[1])
        async with pods("blue") as (blue,):
            gateway.serve("churn-blue", blue)
            await gateway.use(good)
            gateway.put(moved)
            await eventually("it is refused", lambda: "Address already in use" in gateway.reason("churn"))
            await gateway.use(routes(other, deployment("blue", 100), name="fine"))
            assert gateway.version("churn") == good.version
            assert await who_answers(client, port, 5) == {"blue": 5}
            mended = replace(good, deployments=(deployment("blue", 100, timeout_seconds=5),))
            await gateway.use(mended)

            assert gateway.reason("churn") == ""
            assert await who_answers(client, port, 5) == {"blue": 5}


async def test_a_version_is_told_when_envoy_has_it(gateway: Gateway, client: ClientSession) -> None:
    """Whenever a version is told, requests already go by it; while Envoy is away, none is told."""
    port = free_port()
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        for number in range(10):
            target = ("blue", "green")[number % 2]
            await gateway.use(routes(port, deployment(target, 100)))
            assert await who_answers(client, port, 3) == {target: 3}
        await gateway.stop_envoy()
        await eventually("none is told", lambda: gateway.version("churn") == "")
        await gateway.start_envoy()
        await gateway.use(routes(port, deployment("blue", 100)))

        assert await who_answers(client, port, 3) == {"blue": 3}


async def test_the_agent_may_die_and_come_back(gateway: Gateway) -> None:
    """Envoy goes on without the agent; a new one finds it, changes nothing at first, and then goes on where it was."""
    port = free_port()
    async with pods("one", "two") as (before, two):
        gateway.serve("churn-blue", before)
        first = routes(port, deployment("blue", 100))
        await gateway.use(first)
        async with load(port) as asked:
            await gateway.end()
            await asked.answered(100)
            gateway.agent = Agent(NAMESPACE, gateway.folder, "127.0.0.1")
            gateway.begin()
            # Nothing is seen of Kubernetes yet, as when the API server is away.
            await gateway.used(first)
            await asked.answered(100)
            assert asked.got.keys() == {"one"}
            gateway.see_nothing_yet()
            gateway.agent.seen.list_config_maps([])
            gateway.put(first)
            gateway.serve("churn-blue", two)
            await eventually("the new pod is asked", lambda: two.got)

    assert asked.got.keys() == {"one", "two"}


async def test_both_start_anew_without_kubernetes(gateway: Gateway, client: ClientSession) -> None:
    """Agent and Envoy that start again while the API server is away route as before."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        asked = routes(port, deployment("blue", 100))
        await gateway.use(asked)
        addresses = gateway.folder / "memory" / "addresses.json"
        await eventually("the addresses are kept", addresses.exists)
        await gateway.stop_envoy()
        await gateway.end()
        gateway.agent = Agent(NAMESPACE, gateway.folder, "127.0.0.1")
        gateway.begin()
        await gateway.start_envoy()
        await gateway.used(asked)

        assert await who_answers(client, port, 5) == {"blue": 5}


async def test_a_deleted_endpoint_is_no_longer_there(gateway: Gateway, client: ClientSession) -> None:
    """An endpoint that is deleted stops to listen and is forgotten, also by an agent that starts later."""
    port = free_port()
    gone = routes(port, deployment("blue", 100))
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(gone)
        gateway.remove(gone)
        await eventually("it is not told", lambda: "churn" not in gateway.agent.report())
        kept = gateway.folder / "memory" / "endpoints" / "churn.json"
        await eventually("it is forgotten", lambda: not kept.exists())

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                return True
            return False

        await eventually("nobody listens", closed)


async def test_envoy_says_goodbye_before_it_goes(gateway: Gateway, client: ClientSession) -> None:
    """While Envoy drains it answers on, and asks each client to reconnect; the wait ends when nothing is under way."""
    port = free_port()
    async with pods("blue", seconds=3.0) as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        under_way = asyncio.create_task(ask(client, port))
        await eventually("it is under way", lambda: blue.got)
        draining = asyncio.create_task(envoy.drain(gateway.folder, least=1, most=30))
        blue.seconds = 0

        async def goodbye() -> bool:
            async with client.get(f"http://127.0.0.1:{port}/v2") as answer:
                assert answer.status == 200
                return answer.headers.get("connection") == "close"

        while not await goodbye():
            assert not draining.done()
        assert not under_way.done()
        await draining

        assert under_way.done()
        assert await under_way == (200, {"pod": "blue"})
