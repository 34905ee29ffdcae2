"""Cost and speed of the gateway: latency, throughput, memory, and the delay from a change to Envoy.

`PYTHONPATH=tests/gateway:tests .venv/bin/python bench/gateway.py [latency|changes|memory|streams]`: a minute each.
`wrk` is needed for latency (Debian's package of that name). Everything is on loopback; Envoy has one thread that
answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import ClientSession, web
from gateway_rig import NAMESPACE, Gateway, Pod, answers, ask, deployment, eventually, free_port, routes, short_folder
from msgspec.structs import replace
from ultramarine_contract.routes import EndpointRoutes, RouteAuth, RouteTokens
from ultramarine_gateway.agent import Agent
from ultramarine_gateway.config import listeners

CHANGES = 100
SECONDS = 5


async def started() -> Gateway:
    """Yield a gateway of an empty namespace."""
    listeners.GATEWAY_READY_PORT = free_port()
    folder = short_folder("bench")
    gateway = Gateway(Agent(NAMESPACE, folder, "127.0.0.1"), folder)
    gateway.begin()
    gateway.see_nothing_yet()
    await gateway.start_envoy()
    await eventually("Envoy is there", lambda: gateway.agent.connected)
    return gateway


def megabytes(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


async def wrk(port: int, connections: int, *headers: str) -> str:
    """Return requests per second and the quantiles of latency."""
    options = [word for header in headers for word in ("-H", header)]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", *options, f"http://127.0.0.1:{port}/v2"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    wrong = re.search(r"Non-2xx.*|Socket errors.*", text)
    quantiles = dict(re.findall(r"(50|99)%\s+(\S+)", text))
    speed = re.search(r"Requests/sec:\s+(\S+)", text)
    assert speed is not None, text
    return f"{float(speed[1]):8.0f}/s  p50 {quantiles['50']:>8}  p99 {quantiles['99']:>8}  {wrong[0] if wrong else ''}"


TYPES = "type.googleapis.com/envoy.extensions.filters."


def answering(port: int) -> str:
    """Return the configuration of an Envoy that answers everything itself."""
    router = {"name": "router", "typed_config": {"@type": TYPES + "http.router.v3.Router"}}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "{}"}}}
    http = {
        "@type": TYPES + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "b",
        "route_config": {"virtual_hosts": [{"name": "b", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [router],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}
    return json.dumps({"static_resources": {"listeners": [listener]}})


async def latency(gateway: Gateway) -> None:
    """Send small requests to a server that answers at once (another Envoy), directly and through the gateway."""
    backend = Pod("blue", port=free_port())
    envoy = str(Path(sys.executable).parent / "envoy")
    command = [envoy, "--config-yaml", answering(backend.port), "--concurrency", "1", "--disable-hot-restart"]
    behind = await asyncio.create_subprocess_exec(*command, "-l", "error")
    gateway.serve("churn-blue", backend)
    gateway.serve("churn-green", backend)
    gateway.keys("keys", primary="k" * 43, secondary="s" * 43)
    opened = routes(free_port(), deployment("blue", 90), deployment("green", 10))
    keyed = replace(opened, endpoint="keyed", port=free_port(), auth=RouteAuth("key", keys_secret="keys"))
    for routed in (opened, keyed):
        await gateway.use(routed)
    async with ClientSession() as client:
        await answers(client, f"http://127.0.0.1:{backend.port}/")
    for connections in (1, 64):
        print(f"{connections} connections")
        print("  straight        ", await wrk(backend.port, connections))
        print("  gateway         ", await wrk(opened.port, connections))
        print("  gateway, key    ", await wrk(keyed.port, connections, f"api-key: {'s' * 43}"))
    behind.kill()
    await behind.wait()


async def changes(gateway: Gateway) -> None:
    """Measure the delay from a watch event to a changed answer, and to the published version."""
    first, second = Pod("one"), Pod("two")
    await first.start()
    await second.start()
    gateway.serve("churn-blue", first)
    gateway.serve("churn-green", second)
    asked = routes(free_port(), deployment("blue", 100))
    turned = replace(asked, deployments=(deployment("green", 100),))
    for others in (0, 300):
        for number in range(others):
            more = routes(free_port(), deployment("blue", 100), name=f"e{number}")
            gateway.put(more)
        await gateway.use(asked)
        await eventually("all are used", lambda: len(gateway.agent.report()) == others + 1, 120)  # noqa: B023
        await asyncio.sleep(2)
        async with ClientSession() as client:

            async def met(name: str, client: ClientSession = client) -> None:
                while (await ask(client, asked.port))[1].get("pod") != name:
                    pass

            async def moved(number: int) -> None:
                coming, going = ((second, first), (first, second))[number % 2]
                gateway.serve("churn-blue", coming)
                gateway.leave("churn-blue", going)
                await met(coming.name)

            print(f"beside {others} other endpoints, milliseconds of {CHANGES} changes")
            print("  addresses, until a request meets the new pod ", await measured(moved))
            await moved(1)
            print("  routes, until a request goes by them         ", await measured(turn(gateway, asked, turned, met)))
            print("  routes, until their version is told          ", await measured(use(gateway, asked, turned)))


def turn(
    gateway: Gateway, asked: EndpointRoutes, turned: EndpointRoutes, met: Callable[[str], Awaitable[None]]
) -> Callable[[int], Awaitable[None]]:
    async def once(number: int) -> None:
        gateway.put((turned, asked)[number % 2])
        await met(("two", "one")[number % 2])

    return once


def use(gateway: Gateway, asked: EndpointRoutes, turned: EndpointRoutes) -> Callable[[int], Awaitable[None]]:
    async def once(number: int) -> None:
        await gateway.use((turned, asked)[number % 2])

    return once


async def measured(change: Callable[[int], Awaitable[None]]) -> str:
    took = []
    for number in range(CHANGES):
        begin = time.perf_counter()
        await change(number)
        took.append((time.perf_counter() - begin) * 1000)
    cuts = statistics.quantiles(took, n=100)
    return f"p50 {cuts[49]:6.1f}  p99 {cuts[98]:6.1f}  most {max(took):6.1f}"


async def memory(gateway: Gateway) -> None:
    """Measure the memory of both processes, empty and with 300 endpoints of two deployments each that require keys."""
    pod = Pod("blue", port=free_port())
    gateway.keys("keys", primary="k" * 43)
    for count in (0, 300):
        begin = time.perf_counter()
        for number in range(count):
            for name in ("blue", "green"):
                gateway.serve(f"churn-{name}", pod)
            auth, deployments = RouteAuth("key", keys_secret="keys"), (deployment("blue", 90), deployment("green", 10))
            gateway.put(routes(free_port(), *deployments, name=f"e{number}", auth=auth))
        await eventually("all are used", lambda: len(gateway.agent.report()) == count, 120)  # noqa: B023
        took = time.perf_counter() - begin
        await asyncio.sleep(3)
        assert gateway.envoy is not None
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count} endpoints: Envoy {megabytes(gateway.envoy.pid):.0f} MiB; this process, with the agent and the")
        print(f"  benchmark, {own:.0f} MiB at most; from nothing to all in use {took:.1f} s")


STREAMS = 1000
_PIECE = b'data: {"choices": [{"index": 0, "delta": {"content": " word"}}], "usage": null}\n\n'
_END = b'data: {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 20}}\n\ndata: [DONE]\n\n'


class Model(Pod):
    """A server that streams 20 pieces of an answer at once, after its first piece."""

    def _application(self) -> web.Application:
        async def respond(request: web.Request) -> web.StreamResponse:
            await request.read()
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for piece in (*[_PIECE] * 20, _END):
                await response.write(piece)
                await asyncio.sleep(0)
            return response

        application = web.Application()
        application.router.add_post("/v1/chat/completions", respond)
        return application


async def streams(gateway: Gateway) -> None:
    """Measure the time to the first piece of a stream: directly, and by each kind of route.

    Client and server share another process, as the agent of a gateway pod has its own.
    """
    model = Model("llm", port=free_port())
    gateway.serve("churn-llm", model)
    gateway.keys("keys", primary="k" * 43)
    auth, ports = RouteAuth("key", keys_secret="keys"), {"direct": model.port}
    for name, tokens in (
        ("key", RouteTokens()),
        ("counted", RouteTokens(("llm",))),
        ("limited", RouteTokens(("llm",), 1_000_000_000)),
    ):
        ports[name] = free_port()
        await gateway.use(routes(ports[name], deployment("llm", 100, own=True), name=name, auth=auth, tokens=tokens))
    client = await asyncio.create_subprocess_exec(sys.executable, __file__, "first-pieces", json.dumps(ports))
    await client.wait()


async def first_pieces(ports: dict[str, int]) -> None:
    """Print the time to the first piece at each port; the first is that of the server, which runs here."""
    model = Model("llm", port=ports["direct"])
    await model.start()
    took: dict[str, list[float]] = {name: [] for name in ports}
    async with ClientSession(headers={"api-key": "k" * 43}) as client:
        for _ in range(STREAMS):  # in turn, so that another load of the machine meets all of them
            for name, port in ports.items():
                begin = time.perf_counter()
                async with client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={}) as got:
                    await got.content.readany()
                    took[name].append((time.perf_counter() - begin) * 1000)
                    await got.read()
                await asyncio.sleep(0.01)  # so that the agent's count of this stream does not delay the next
    for name, times in took.items():
        cuts = statistics.quantiles(times, n=100)
        print(f"{name:8}  first piece after p50 {cuts[49]:.2f} ms  p90 {cuts[89]:.2f} ms  p99 {cuts[98]:.2f} ms")
    await model.stop()


async def main(chosen: str) -> None:
    gateway = await started()
    try:
        await {"latency": latency, "changes": changes, "memory": memory, "streams": streams}[chosen](gateway)
    finally:
        await gateway.stop_envoy()
        await gateway.end()
        shutil.rmtree(gateway.folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["first-pieces"]:
        sys.exit(asyncio.run(first_pieces(json.loads(sys.argv[2]))))
    for chosen in sys.argv[1:] or ("latency", "changes", "memory", "streams"):
        asyncio.run(main(chosen))
