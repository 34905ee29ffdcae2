"""Requests keep away from deployments without pods while others have some: a real Envoy, told by the agent."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from aiohttp import ClientSession
from gateway_rig import METHOD, NAMESPACE, Gateway, ask, deployment, eventually, free_port, pods, routes, who_answers
from test_figures import BOTH, answering, figures
from ultramarine_contract.routes import PIN_HEADER, rescaled
from ultramarine_gateway.agent import Agent
from ultramarine_gateway.memory import Memory


async def test_a_deployment_that_never_had_a_pod_gets_no_request(gateway: Gateway, client: ClientSession) -> None:
    """Its 80 % go to the other one, by HTTP, by gRPC and for health; the report names it, and it counts no request."""
    port = free_port()
    async with pods("green") as (green,), answering(gateway) as address:
        gateway.serve("churn-green", green)
        halves = deployment("blue", 80, protocols=BOTH), deployment("green", 20, protocols=BOTH)
        await gateway.use(routes(port, *halves))

        assert await who_answers(client, port, 50) == {"green": 50}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(20):
                assert await channel.unary_unary(METHOD)(b"?") == b"green:?"
        for _ in range(20):
            assert (await ask(client, port, "/v2/health/ready"))[0] == 200
        code, body = await ask(client, port, headers={PIN_HEADER: "blue"})
        assert (code, body["error"]) == (503, "deployment blue of churn has no ready pod")

        assert gateway.agent.report()["churn"].away == ("blue",)
        counted = await figures(address, lambda seen: seen["green"].requests == 90)
        assert (counted["blue"].requests, counted["blue"].errors) == (0, 0)


@pytest.mark.parametrize("leaving", ["pods end", "pods are no longer ready"])
async def test_no_request_fails_while_all_pods_of_a_deployment_leave_and_come_back(
    gateway: Gateway, client: ClientSession, leaving: str
) -> None:
    """The routes change before the last address goes, and only after the first one is there."""
    port, counts, asking = free_port(), {"blue": 0, "green": 0}, True
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 50), deployment("green", 50)))

        async def steadily() -> None:
            while asking:
                for pod, count in (await who_answers(client, port, 10)).items():
                    counts[pod] += count

        load = asyncio.create_task(steadily())
        for _ in range(10):
            if leaving == "pods end":
                gateway.leave("churn-blue", blue)
            else:
                gateway.serve("churn-blue", blue, ready=False)
            await eventually("blue is left out", lambda: gateway.agent.report()["churn"].away == ("blue",))
            got = len(blue.got)
            await eventually("green answers alone", lambda before=counts["green"]: counts["green"] > before + 30)
            assert len(blue.got) <= got + 1  # one may have been under way
            gateway.serve("churn-blue", blue)
            await eventually("blue answers again", lambda before=got: len(blue.got) > before + 5)
        asking = False
        await load
    assert gateway.agent.report()["churn"].away == ()


async def test_a_sleeping_deployment_is_woken_and_not_left_out(gateway: Gateway, client: ClientSession) -> None:
    """Requests to one that holds wait for its pod, whether or not others have some."""
    port = free_port()
    async with pods("blue", "green") as (blue, green), answering(gateway) as address:
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 50, hold=True), deployment("green", 50)))
        asked = [asyncio.create_task(ask(client, port)) for _ in range(40)]
        await figures(address, lambda seen: seen["blue"].waiting >= 1)
        assert gateway.agent.report()["churn"].away == ()
        gateway.serve("churn-blue", blue)
        assert {body["pod"] for code, body in await asyncio.gather(*asked) if code == 200} == {"blue", "green"}
        assert all(code == 200 for code, _ in await asyncio.gather(*asked))


async def test_a_new_agent_keeps_requests_away_before_it_has_seen_the_pods(
    gateway: Gateway, client: ClientSession
) -> None:
    """Until it has listed the addresses, it goes on with what Envoy does."""
    port = free_port()
    async with pods("green") as (green,):
        gateway.serve("churn-green", green)
        changed = routes(port, deployment("blue", 80), deployment("green", 20))
        await gateway.use(changed)
        memory = Memory(gateway.folder / "memory")
        await eventually("addresses are remembered", lambda: "churn/green/http" in memory.addresses())
        await gateway.end()

        gateway.agent = Agent(NAMESPACE, gateway.folder, "127.0.0.1")
        gateway.begin()
        gateway.agent.seen.list_config_maps([])
        gateway.put(changed)
        await gateway.used(changed)

        assert gateway.agent.report()["churn"].away == ("blue",)
        assert await who_answers(client, port, 40) == {"green": 40}


def test_shares_are_rescaled_to_whole_percent() -> None:
    """Requests of an absent deployment go to the others in proportion; if no other is present, nothing changes."""
    assert rescaled({"blue": 80, "green": 20}, ["blue"]) == {"green": 100}
    assert rescaled({"blue": 50, "green": 30, "red": 20}, {"blue"}) == {"green": 60, "red": 40}
    assert rescaled({"a": 34, "b": 33, "c": 33}, {"a"}) == {"b": 50, "c": 50}
    assert sum(rescaled({"a": 1, "b": 33, "c": 33, "d": 33}, {"a"}).values()) == 100
    assert rescaled({"blue": 80, "green": 20}, {"blue", "green"}) == {"blue": 80, "green": 20}
    assert rescaled({"blue": 100, "green": 0}, {"green"}) == {"blue": 100}
