"""The port of the readiness probe, which opens when Envoy has all routes: a real Envoy, and an agent that starts."""

from __future__ import annotations

import pytest
from aiohttp import ClientConnectorError, ClientSession
from gateway_rig import NAMESPACE, Gateway, answers, config_map, deployment, eventually, free_port, pods, routes
from ultramarine_contract.routes import RouteAuth
from ultramarine_gateway.agent import Agent


async def start_anew(gateway: Gateway) -> None:
    """Replace the agent by one that has listed nothing yet, and stop Envoy."""
    await gateway.stop_envoy()
    await gateway.end()
    gateway.agent = Agent(NAMESPACE, gateway.folder, "127.0.0.1")
    gateway.begin()


def ready_pods(gateway: Gateway) -> int:
    """Return the number of addresses of the first deployment that Envoy has."""
    return gateway.agent.report()["churn"].ready["blue"]


async def test_a_gateway_without_endpoints_is_ready_without_a_timeout(gateway: Gateway, client: ClientSession) -> None:
    """Envoy learns that there is nothing, so that it does not wait out its timeout for a first answer (15 s)."""
    await answers(client, f"http://127.0.0.1:{gateway.ready_port}/ready")
    assert "initial fetch timed out" not in (gateway.folder / "envoy.log").read_text()


async def test_ready_comes_last(gateway: Gateway) -> None:
    """The port of the readiness probe opens when Envoy has the routes there are, and stays when the agent is gone."""
    url = f"http://127.0.0.1:{gateway.ready_port}/ready"
    async with pods("blue") as (blue,), ClientSession() as session:
        gateway.serve("churn-blue", blue)
        asked = routes(free_port(), deployment("blue", 100))
        await gateway.use(asked)
        await start_anew(gateway)
        gateway.agent.seen.list_config_maps([])
        gateway.put(asked)  # the EndpointSlices are not seen yet
        (gateway.folder / "memory" / "addresses.json").unlink(missing_ok=True)
        await gateway.start_envoy()
        await eventually("Envoy is there", lambda: gateway.agent.connected)
        with pytest.raises(ClientConnectorError):
            await session.get(url)
        gateway.agent.seen.list_slices([])
        gateway.serve("churn-blue", blue)
        await gateway.used(asked)
        await answers(session, url)
        await gateway.end()
        await answers(session, url)
        gateway.begin()


async def test_ready_waits_for_the_keys_of_every_endpoint(gateway: Gateway, client: ClientSession) -> None:
    """A new gateway pod that has read no keys yet is not ready, even if Envoy has all the other routes."""
    url = f"http://127.0.0.1:{gateway.ready_port}/ready"
    secured = routes(free_port(), deployment("blue", 100), name="secured", auth=RouteAuth("key", keys_secret="keys"))
    await start_anew(gateway)
    gateway.agent.seen.list_slices([])
    gateway.agent.seen.list_config_maps([config_map(secured)])
    gateway.agent.ring()
    await gateway.start_envoy()
    async with pods("one", "two", "three") as (first, *others):
        gateway.serve("churn-blue", first)
        await gateway.use(routes(free_port(), deployment("blue", 100)))
        # The readiness port would open before Envoy confirms the last of these addresses.
        for count, pod in enumerate(others, 2):
            gateway.serve("churn-blue", pod)
            await eventually("Envoy has the address", lambda count=count: ready_pods(gateway) == count)
    with pytest.raises(ClientConnectorError):
        await client.get(url)
    assert not gateway.agent.settled

    gateway.keys("keys", primary="the-key")
    await gateway.used(secured)
    await answers(client, url)
    assert gateway.agent.settled
