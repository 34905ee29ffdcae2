"""A real Envoy on loopback with the agent beside it, pods that answer, and the objects that the agent follows."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientConnectorError, ClientSession, web
from ports import free_port as free_port
from ultramarine_contract.routes import LABEL_ROUTES, ROUTES_ENTRY, EndpointRoutes, RouteAuth, RouteDeployment
from ultramarine_contract.tls import server_context
from ultramarine_gateway.agent import Agent

NAMESPACE = "team"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Pod:
    """A server of HTTP/1.1 and one of gRPC, which count what they get and say who they are."""

    name: str
    seconds: float = 0.0
    status: int = 200
    port: int = 0
    grpc_port: int = 0
    tls: Path | None = None  # a folder with the certificate that both show
    got: list[dict[str, str]] = field(default_factory=list)
    _ends: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)

    async def start(self) -> None:
        runner = web.AppRunner(self._application(), shutdown_timeout=0.1)
        await runner.setup()
        self.port = self.port or free_port()
        context = server_context(self.tls, "http/1.1") if self.tls else None
        await web.TCPSite(runner, "127.0.0.1", self.port, backlog=2048, ssl_context=context).start()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([_Methods(self)])
        if self.tls:
            pair = (self.tls / "tls.key").read_bytes(), (self.tls / "tls.crt").read_bytes()
            self.grpc_port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        else:
            self.grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._ends = [runner.cleanup, lambda: server.stop(0)]

    async def stop(self) -> None:
        for end in self._ends:
            await end()
        self._ends = []

    def _application(self) -> web.Application:
        async def answer(request: web.Request) -> web.Response:
            seconds = self.seconds
            self.got.append({"path": request.path, **{name.lower(): value for name, value in request.headers.items()}})
            await request.read()
            await asyncio.sleep(seconds)
            return web.json_response({"pod": self.name}, status=self.status)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        return application


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def service(self, handler_call_details: Any) -> Any:
        metadata = {name: value for name, value in handler_call_details.invocation_metadata if isinstance(value, str)}

        async def answer(request: bytes, context: Any) -> bytes:
            self._pod.got.append({"path": handler_call_details.method, **metadata})
            return self._pod.name.encode() + b":" + request

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def issuer(text: str, status: int = 200) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a text as a key set; yield its URI, and the requested paths."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=text, status=status, headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    yield f"http://localhost:{port}/jwks", asked
    await runner.cleanup()


def endpoint_slice(service: str, *pods: Pod, **conditions: bool) -> Any:
    """The EndpointSlice of one pod, since all pods here have one address and ports of their own."""
    (pod,) = pods
    return {
        "metadata": {"name": f"{service}-{pod.name}", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": pod.port}, {"name": "grpc", "port": pod.grpc_port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True, **conditions}}],
    }


def config_map(routes: EndpointRoutes, text: str = "") -> Any:
    """The ConfigMap of an endpoint."""
    metadata = {"name": f"{routes.endpoint}-routes", "labels": {LABEL_ROUTES: routes.endpoint}}
    return {"metadata": metadata, "data": {ROUTES_ENTRY: text or routes.to_json()}}


@dataclass
class Gateway:
    """The agent in this process, and an Envoy process that asks it."""

    agent: Agent
    folder: Path
    routes: dict[str, EndpointRoutes] = field(default_factory=dict)
    envoy: asyncio.subprocess.Process | None = None
    running: asyncio.Task[None] | None = None
    ready_port: int = 0
    forwards: tuple[str, ...] = ()

    def begin(self) -> None:
        """Start the agent, as a new process of it would find things."""
        self.running = asyncio.create_task(self.agent.run())

    def see_nothing_yet(self) -> None:
        """The first listings, of an empty namespace."""
        self.agent.seen.list_config_maps([])
        self.agent.seen.list_slices([])
        self.agent.ring()

    async def end(self) -> None:
        """End the agent, as a crash does; Envoy stays."""
        assert self.running is not None
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def start_envoy(self) -> None:
        log = (self.folder / "envoy.log").open("a")
        command = [sys.executable, "-m", "ultramarine_gateway", "envoy", "--folder", str(self.folder)]
        command += [f"--forward={forward}" for forward in self.forwards]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": path}
        self.envoy = await asyncio.create_subprocess_exec(
            *command, "--concurrency", "1", stdout=log, stderr=log, env=environment
        )

    async def stop_envoy(self) -> None:
        if self.envoy is not None and self.envoy.returncode is None:
            self.envoy.send_signal(signal.SIGKILL)
            await self.envoy.wait()

    def serve(self, service: str, *pods: Pod, **conditions: bool) -> None:
        """These pods are behind the Service now."""
        for pod in pods:
            self.agent.seen.change_slice("MODIFIED", endpoint_slice(service, pod, **conditions))
        self.agent.ring()

    def leave(self, service: str, *pods: Pod) -> None:
        """These pods are behind the Service no longer."""
        for pod in pods:
            self.agent.seen.change_slice("DELETED", endpoint_slice(service, pod))
        self.agent.ring()

    def put(self, routes: EndpointRoutes, text: str = "") -> None:
        """The operator writes these routes."""
        self.routes[routes.endpoint] = routes
        self.agent.seen.change_config_map("MODIFIED", config_map(routes, text))
        self.agent.ring()

    def remove(self, routes: EndpointRoutes) -> None:
        """The operator deletes these routes."""
        self.agent.seen.change_config_map("DELETED", config_map(routes))
        self.agent.ring()

    def keys(self, name: str, **keys: str) -> None:
        """The Secret has these keys."""
        self.agent.seen.secrets[name] = {entry: base64.b64encode(key.encode()).decode() for entry, key in keys.items()}
        self.agent.ring()

    async def use(self, routes: EndpointRoutes) -> None:
        """The operator writes these routes and waits until Envoy has them."""
        self.put(routes)
        await self.used(routes)

    async def used(self, routes: EndpointRoutes) -> None:
        def there() -> bool:
            return self.version(routes.endpoint) == routes.version

        await eventually(f"Envoy uses {routes.endpoint}: {self.agent.report()}", there)

    def version(self, endpoint: str) -> str:
        """The version that is published."""
        state = self.agent.report().get(endpoint)
        return state.version if state else ""

    def reason(self, endpoint: str) -> str:
        """Why the newest routes are not in use."""
        state = self.agent.report().get(endpoint)
        return state.reason if state else ""


@asynccontextmanager
async def running(name: str = "t", forwards: tuple[str, ...] = ()) -> AsyncIterator[Gateway]:
    """Envoy with these forwarded ports, and agent, of an empty namespace."""
    folder = short_folder(name)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ultramarine_gateway.config.listeners.GATEWAY_READY_PORT", ready_port := free_port())
        agent = Agent(NAMESPACE, folder, "127.0.0.1", ["127.0.0.0/8"])
        made = Gateway(agent, folder, ready_port=ready_port, forwards=forwards)
        made.begin()
        made.see_nothing_yet()
        await made.start_envoy()
        await eventually("Envoy is there", lambda: made.agent.connected)
        yield made
        await made.stop_envoy()
        await made.end()
    shutil.rmtree(folder, ignore_errors=True)


async def eventually(what: str, holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something holds; fail with `what` was waited for."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        await asyncio.sleep(0.005)


def routes(port: int, *deployments: RouteDeployment, name: str = "churn", **more: Any) -> EndpointRoutes:
    """Routes of an endpoint that is open to all, unless something else is said."""
    given = {"auth": RouteAuth("none")} | more
    return EndpointRoutes(name, NAMESPACE, port, deployments, **given)


def deployment(name: str, weight: int = 0, **more: Any) -> RouteDeployment:
    """A deployment whose Service has its name."""
    return RouteDeployment(name, f"churn-{name}", weight, **more)


@asynccontextmanager
async def pods(*names: str, **more: Any) -> AsyncIterator[list[Pod]]:
    """Pods that run."""
    made = [Pod(name, **more) for name in names]
    for pod in made:
        await pod.start()
    try:
        yield made
    finally:
        for pod in made:
            await pod.stop()


async def ask(session: ClientSession, port: int, path: str = "/v2/models/m/infer", **more: Any) -> tuple[int, Any]:
    """Send one request; the code, and what was answered."""
    async with session.post(f"http://127.0.0.1:{port}{path}", json={}, **more) as answer:
        return answer.status, await answer.json(content_type=None)


async def answers(session: ClientSession, url: str) -> None:
    """Wait for an answer with 200, for a minute at most."""
    end = time.monotonic() + 60
    while True:
        with suppress(ClientConnectorError):
            async with session.get(url) as answer:
                assert answer.status == 200
                return
        assert time.monotonic() < end, f"no server answers at {url}"
        await asyncio.sleep(0.02)


async def who_answers(session: ClientSession, port: int, count: int, **more: Any) -> Counter[str]:
    """Return the number of requests that each pod has answered; each request must have an answer."""
    got: Counter[str] = Counter()
    for _ in range(count):
        code, body = await ask(session, port, **more)
        assert code == 200, body
        got[body["pod"]] += 1
    return got


def short_folder(name: str) -> Path:
    """A folder whose sockets' paths fit into the 108 bytes that a socket's address has."""
    folder = Path(f"/tmp/um-gw-{os.getpid()}-{name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
