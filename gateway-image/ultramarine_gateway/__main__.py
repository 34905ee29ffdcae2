"""`ultramarine-gateway agent`, `envoy` and `drain`: the two containers of a gateway pod, and the end of Envoy's."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ultramarine_contract.logs import JsonLines
from ultramarine_contract.routes import GATEWAY_PORT

from ultramarine_gateway import envoy
from ultramarine_gateway.config.forwards import Forward

if TYPE_CHECKING:
    from ultramarine_gateway.agent import Agent

FOLDER = "/var/run/ultramarine/gateway"  # shared by the two containers of the pod alone


def main() -> int:
    """Run the command of the arguments."""
    arguments = _arguments()
    if arguments.command == "envoy":
        envoy.start(arguments.folder, arguments.concurrency, arguments.forward)
    if arguments.command == "drain":
        asyncio.run(envoy.drain(arguments.folder, arguments.least_seconds, arguments.most_seconds))
        return 0
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    asyncio.run(_agent(arguments))
    return 0


async def _agent(arguments: argparse.Namespace) -> None:
    from aiohttp import web  # Only the agent needs these imports.
    from ultramarine_contract.tls import server_context

    from ultramarine_gateway.agent import Agent
    from ultramarine_gateway.kube.api import Api
    from ultramarine_gateway.kube.following import follow
    from ultramarine_gateway.pods.comparing import compare
    from ultramarine_gateway.server import application

    arguments.folder.mkdir(parents=True, exist_ok=True)
    api = Api.of_pod(arguments.account)
    agent = Agent(api.namespace, arguments.folder, arguments.host, arguments.issuers)
    runner = web.AppRunner(application(agent, arguments.folder))
    await runner.setup()
    tls = server_context(arguments.tls_dir) if arguments.tls_dir else None
    await web.TCPSite(runner, arguments.host, arguments.port, ssl_context=tls).start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    work = [asyncio.create_task(part) for part in (agent.run(), follow(agent, api, arguments.tls_dir), compare(agent))]
    ending = asyncio.create_task(_end(agent, stopped, arguments.linger_seconds))
    done, _ = await asyncio.wait([*work, ending], return_when=asyncio.FIRST_COMPLETED)
    for task in (*work, ending):
        task.cancel()
    await asyncio.gather(*work, ending, return_exceptions=True)
    await runner.cleanup()
    await api.session.close()
    for task in done:
        task.result()


async def _end(agent: Agent, stopped: asyncio.Event, seconds: float) -> None:
    """Stay after SIGTERM until Envoy has left, since it still answers requests and needs the addresses of pods."""
    await stopped.wait()
    for _ in range(round(seconds * 10)):
        if not agent.connected:
            return
        await asyncio.sleep(0.1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ultramarine-gateway", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    agent = commands.add_parser("agent", help="tell Envoy what the namespace's ConfigMaps and EndpointSlices say")
    starting = commands.add_parser("envoy", help="become Envoy")
    draining = commands.add_parser("drain", help="wait until Envoy has no more requests")
    for command in (agent, starting, draining):
        command.add_argument("--folder", type=Path, default=Path(FOLDER))
    agent.add_argument("--account", type=Path, default=Path("/var/run/secrets/kubernetes.io/serviceaccount"))
    agent.add_argument("--host", default="0.0.0.0", help="the address to listen on; :: for IPv6")
    agent.add_argument("--port", type=int, default=GATEWAY_PORT)
    agent.add_argument(
        "--issuers", nargs="*", default=[], help="names and networks of the inside that may serve key sets"
    )
    agent.add_argument(
        "--tls-dir", type=Path, help="folder with tls.crt and tls.key for the port, and the pods' ca.crt"
    )
    agent.add_argument("--linger-seconds", type=float, default=60.0, help="after SIGTERM, for an Envoy that drains")
    cpus = len(os.sched_getaffinity(0))
    starting.add_argument("--concurrency", type=int, default=min(cpus, 4), help="threads that answer requests")
    starting.add_argument(
        "--forward",
        type=Forward.parse,
        action="append",
        default=[],
        metavar="PORT=URL",
        help="a port on loopback whose bytes go to this server",
    )
    draining.add_argument("--least-seconds", type=float, default=10.0)
    draining.add_argument("--most-seconds", type=float, default=50.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
