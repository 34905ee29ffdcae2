"""TLS between the gateway and pods: a real Envoy before real servers, each with a certificate."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientSession
from certificates import Authority
from gateway_rig import METHOD, NAMESPACE, Gateway, deployment, eventually, free_port, pods, routes, who_answers
from ultramarine_contract.routes import PIN_HEADER
from ultramarine_gateway.pods import asking

SERVER = f"ultramarine-server.{NAMESPACE}.svc"


@pytest.mark.attack("network/plain-text")
async def test_pods_prove_that_they_are_the_namespaces_servers(
    gateway: Gateway, client: ClientSession, tmp_path: Path
) -> None:
    """Requests of both protocols, and the agent's own, go by TLS; pods with another name, or none, get none of them."""
    authority, port = Authority(), free_port()
    authority.issue(tmp_path / "blue", SERVER)
    authority.issue(tmp_path / "named", "ultramarine-storage.team.svc", "ultramarine-server.other.svc")
    Authority().issue(tmp_path / "stranger", SERVER)
    bad = ("named", "stranger", "plain")
    shares = {"blue": 100} | dict.fromkeys(bad, 0)
    deployments = [deployment(name, share, protocols=("http", "grpc"), tls=True) for name, share in shares.items()]
    async with AsyncExitStack() as stack:
        for name in shares:
            folder = tmp_path / name
            (pod,) = await stack.enter_async_context(pods(name, tls=folder if folder.exists() else None))
            gateway.serve(f"churn-{name}", pod)
        gateway.put(routes(port, *deployments))
        await eventually("the authority is missed", lambda: "no authority" in gateway.reason("churn"))
        gateway.agent.seen.authority = authority.pem
        gateway.agent.ring()
        await gateway.used(routes(port, *deployments))

        assert await who_answers(client, port, 5) == {"blue": 5}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(METHOD)(b"x", wait_for_ready=True) == b"blue:x"
        for name in bad:
            async with client.get(f"http://127.0.0.1:{port}/", headers={PIN_HEADER: name}) as answer:
                assert answer.status == 503
            with pytest.raises(asking.FAILURES):
                await asked(gateway, client, name)
        assert (await asked(gateway, client, "blue"))["pod"] == "blue"


async def asked(gateway: Gateway, client: ClientSession, name: str) -> Any:
    """Return a pod's answer to the agent."""
    used = gateway.routes["churn"]
    (pod,) = gateway.agent.pods(f"churn/{name}/http")
    return await asking.ask(client, pod, gateway.agent.peer(used, name), (), "GET", "/")
