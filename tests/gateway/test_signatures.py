"""Signatures of models, as a gateway pod reports them to the operator: agents before simulated servers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import ClientSession, web
from gateway_rig import Gateway, Pod, deployment, free_port, pods, routes
from test_figures import answering
from ultramarine_contract.routes import RouteAuth
from ultramarine_gateway.pods.signatures import ASKING_SECONDS, Signatures
from ultramarine_operator.outside.gateway import routes_of
from ultramarine_server.authentication import KeyRing
from unit.serving_inside import Doubling, inside, service_of


async def test_the_inputs_of_each_deployment_are_told(gateway: Gateway, client: ClientSession, tmp_path: Path) -> None:
    """One pod of each is asked, with the endpoint's keys; who has no pod, or tells none, is left out."""
    (tmp_path / "primary").write_text("the-key")
    gateway.keys("churn-keys", primary="a-newer-key", secondary="the-key")
    async with (
        inside(service_of(Doubling()), KeyRing(tmp_path)) as blue,
        inside(service_of(Doubling((-1, 3))), KeyRing(tmp_path)) as green,
        pods("other") as (other,),
        answering(gateway) as address,
    ):
        gateway.serve("churn-blue", Pod("blue", port=blue.port))
        gateway.serve("churn-green", Pod("green", port=green.port))
        gateway.serve("churn-other", other)
        names = [deployment("green"), deployment("other"), deployment("idle")]
        auth = RouteAuth("key", keys_secret="churn-keys")
        await gateway.use(routes(free_port(), deployment("blue", 100), *names, auth=auth))

        (answer,) = await asyncio.to_thread(lambda: routes_of(address, "churn", signatures=True))
        (silent,) = await asyncio.to_thread(routes_of, address, "churn")

    assert silent.signatures is None
    x = {"name": "x", "datatype": "FP64"}
    assert answer.signatures == {
        "blue": {"name": "double", "version": "1", "inputs": [x | {"shape": [-1, 2]}]},
        "green": {"name": "double", "version": "1", "inputs": [x | {"shape": [-1, 3]}]},
    }


async def test_a_container_with_v2_is_asked_without_credentials(
    gateway: Gateway, client: ClientSession, tmp_path: Path
) -> None:
    """It reports its inputs like MLServer, whose metadata may lack versions; another container is never asked."""
    asked: list[tuple[str, bool]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, bool({"authorization", "api-key"} & {name.lower() for name in request.headers})))
        index = request.path == "/v2/repository/index"
        inputs = [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}]
        return web.json_response([{"name": "iris"}] if index else {"name": "iris", "versions": [], "inputs": inputs})

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(server)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    gateway.keys("churn-keys", primary="a-key")
    try:
        async with answering(gateway) as address:
            for name in ("blue", "green"):
                gateway.serve(f"churn-{name}", Pod(name, port=port))
            deployments = [deployment("blue", 100, own=True, v2=True), deployment("green", own=True)]
            auth = RouteAuth("key", keys_secret="churn-keys")
            await gateway.use(routes(free_port(), *deployments, auth=auth))
            (route,) = await asyncio.to_thread(lambda: routes_of(address, "churn", signatures=True))
    finally:
        await runner.cleanup()
    inputs = [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}]
    assert route.signatures == {"blue": {"name": "iris", "version": "", "inputs": inputs}}
    assert asked == [("/v2/repository/index", False), ("/v2/models/iris", False)]


async def test_a_question_outlives_what_another_one_drops() -> None:
    """While a pod is asked, another question may drop what was kept of the others; the first one is answered still."""
    addresses = {"churn/blue/http": ("127.0.0.1", free_port()), "churn/green/http": ("127.0.0.1", free_port())}
    unused: Any = {"credentials": lambda routes: [], "peer": lambda *_: None}
    agent: Any = SimpleNamespace(pods=lambda name: (addresses[name],), **unused)
    signatures = Signatures(agent)
    signatures._kept[addresses["churn/blue/http"]] = (time.monotonic() + 60, {"name": "double"})

    asked = asyncio.create_task(signatures.of(routes(free_port(), deployment("blue", 100), deployment("green"))))
    await asyncio.sleep(0)  # it waits for green
    signatures._kept = {}

    assert await asked == {}


async def test_a_slow_model_does_not_make_the_gateway_slow() -> None:
    """All that a pod is asked has one limit, within which the operator still waits for the gateway pod."""

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.7 * ASKING_SECONDS)
        index = request.path == "/v2/repository/index"
        return web.json_response([{"name": "double"}] if index else {"versions": ["1"], "inputs": []})

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", slow)
    runner = web.AppRunner(server)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    unused: Any = {"credentials": lambda routes: [], "peer": lambda *_: None}
    agent: Any = SimpleNamespace(pods=lambda name: (("127.0.0.1", port),), **unused)
    try:
        assert await Signatures(agent).of(routes(free_port(), deployment("blue", 100))) == {}
    finally:
        await runner.cleanup()
