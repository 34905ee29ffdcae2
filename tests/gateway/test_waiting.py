"""Requests to a deployment without pods, which wait for the first one: a real Envoy that asks the agent for leave."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
import pytest
from aiohttp import ClientSession, ClientTimeout
from gateway_rig import METHOD, Gateway, ask, deployment, eventually, free_port, pods, routes, who_answers
from test_figures import BOTH, answering, figures
from ultramarine_contract.routes import PIN_HEADER

LARGE = b"x" * (3 << 20)  # more than Envoy keeps of a request


async def test_requests_wait_for_the_first_pod(gateway: Gateway, client: ClientSession) -> None:
    """HTTP and gRPC, by share and by name, small and large; how many is told, and all are answered with a first pod."""
    port = free_port()
    async with pods("blue") as (blue,), answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100, protocols=BOTH, hold=True)))
        asked = [asyncio.create_task(ask(client, port)) for _ in range(5)]
        asked.append(asyncio.create_task(ask(client, port, headers={PIN_HEADER: "blue"})))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = asyncio.create_task(_call(channel))
            await figures(address, lambda seen: seen["blue"].waiting == 7)
            await asyncio.sleep(0.5)
            assert not any(request.done() for request in (*asked, call))

            gateway.serve("churn-blue", blue)

            assert {code for code, _ in await asyncio.gather(*asked)} == {200}
            assert await call == b"blue:" + LARGE
        await figures(address, lambda seen: seen["blue"].waiting == 0)


async def _call(channel: grpc.aio.Channel) -> bytes:
    answer: bytes = await channel.unary_unary(METHOD)(LARGE)
    return answer


async def test_nobody_waits_for_ever(gateway: Gateway, client: ClientSession) -> None:
    """After the deployment's time the answer says which pods did not come; who leaves waits no longer."""
    port = free_port()
    async with answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100, protocols=BOTH, hold=True, timeout_seconds=1)))
        began = time.monotonic()
        code, body = await ask(client, port)
        assert (code, body["error"]) == (503, "no pod of churn/blue was ready within 1 s")
        assert 0.9 < time.monotonic() - began < 14
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _call(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

        await gateway.use(routes(port, deployment("blue", 100, hold=True, timeout_seconds=60)))
        with pytest.raises(TimeoutError):
            await ask(client, port, timeout=ClientTimeout(total=0.5))
        await figures(address, lambda seen: seen["blue"].waiting == 0)


async def test_a_cause_ends_the_wait(gateway: Gateway, client: ClientSession) -> None:
    """Requests that wait, and those that come, hear why no pod can start, until one is ready."""
    why = "cannot pull image a:1 for pod churn-blue-x"
    refused = (503, {"error": f"deployment blue of churn has no ready pod: {why}"})
    port = free_port()
    async with pods("blue") as (blue,), answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100, hold=True)))
        held = asyncio.create_task(ask(client, port))
        await figures(address, lambda seen: seen["blue"].waiting == 1)

        await gateway.use(routes(port, deployment("blue", 100, cause=why)))

        assert await held == (503, {"error": f"no pod of churn/blue is ready: {why}"})
        assert await ask(client, port) == await ask(client, port, headers={PIN_HEADER: "blue"}) == refused
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        assert await who_answers(client, port, 5) == {"blue": 5}


@pytest.mark.attack(
    "network/asleep-flood",
    asset="the gateway's agent",
    threat="a flood of requests to a deployment that sleeps",
    control="2,000 wait at most, others get 503 at once; the deployment gets no more pods than `maxReplicas`",
)
async def test_no_more_wait_than_the_agent_bears(
    gateway: Gateway, client: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request beyond the queue's limit is refused at once, and the waiting ones stay."""
    monkeypatch.setattr("ultramarine_gateway.xds.holding.MAX_HELD", 3)
    port = free_port()
    async with pods("blue") as (blue,), answering(gateway) as address:
        await gateway.use(routes(port, deployment("blue", 100, hold=True)))
        asked = [asyncio.create_task(ask(client, port)) for _ in range(3)]
        await figures(address, lambda seen: seen["blue"].waiting == 3)

        code, body = await ask(client, port)
        assert (code, body["error"]) == (503, "no pod of churn/blue is ready, and 3 requests wait already")

        gateway.serve("churn-blue", blue)
        assert {code for code, _ in await asyncio.gather(*asked)} == {200}


async def test_pods_come_and_go_and_no_request_fails(gateway: Gateway, client: ClientSession) -> None:
    """While the last pod leaves and the next one comes, again and again, every request is answered, sooner or later."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100, hold=True), deployment("green")))
        codes: list[list[int]] = [[] for _ in range(8)]  # by client
        over = asyncio.Event()

        async def load(statuses: list[int]) -> None:
            while not over.is_set():
                statuses.append((await ask(client, port))[0])

        asking = [asyncio.create_task(load(statuses)) for statuses in codes]
        for _ in range(10):
            gateway.leave("churn-blue", blue)
            await asyncio.sleep(0.2)
            before = [len(statuses) for statuses in codes]
            gateway.serve("churn-blue", blue)
            # Who was let go has to arrive before the pod leaves again: no pod of a real endpoint is as short-lived.
            await eventually(
                "each has arrived three times",
                lambda before=before: all(len(statuses) > n + 2 for statuses, n in zip(codes, before, strict=True)),
            )
            await asyncio.sleep(0.3)
        over.set()
        await asyncio.gather(*asking)

    assert {code for statuses in codes for code in statuses} == {200}
    assert sum(map(len, codes)) > 200


async def test_requests_wait_while_the_last_pod_leaves(gateway: Gateway, client: ClientSession) -> None:
    """A pod that ends counts as serving until it is gone, though it listens no more: requests wait for the next one."""
    port = free_port()
    async with pods("old", "new") as (old, new), answering(gateway) as address:
        gateway.serve("churn-blue", old)
        await gateway.use(routes(port, deployment("blue", 100, protocols=BOTH, hold=True)))
        assert await who_answers(client, port, 5) == {"old": 5}

        gateway.serve("churn-blue", old, ready=False, serving=True, terminating=True)
        await eventually(
            "Envoy lets the pod go", lambda: _settled(gateway) and not gateway.agent.pods("churn/blue/http")
        )
        await old.stop()
        asked = [asyncio.create_task(ask(client, port)) for _ in range(5)]
        await figures(address, lambda seen: seen["blue"].waiting == 5)

        gateway.serve("churn-blue", new)
        assert [(code, body.get("pod")) for code, body in await asyncio.gather(*asked)] == [(200, "new")] * 5


async def test_only_who_is_to_hold_holds(gateway: Gateway, client: ClientSession) -> None:
    """Another deployment without pods, and health, are answered at once; with pods Envoy does not ask the agent."""
    port = free_port()
    async with pods("blue") as (blue,):
        await gateway.use(routes(port, deployment("blue", 100, hold=True), deployment("green")))
        assert (await ask(client, port, headers={PIN_HEADER: "green"}))[0] == 503
        async with client.get(f"http://127.0.0.1:{port}/v2/health/ready") as health:
            assert health.status == 503

        gateway.serve("churn-blue", blue)
        await who_answers(client, port, 1)
        await eventually("Envoy asks no more", lambda: _settled(gateway))
        await gateway.end()  # the agent is gone
        await who_answers(client, port, 20)
        gateway.begin()


def _settled(gateway: Gateway) -> bool:
    """True if Envoy has the desired routes."""
    conversation = gateway.agent.conversation
    configs = gateway.agent._desired.snapshot.endpoints.values()
    return conversation is not None and all(conversation.uses(config) for config in configs)
