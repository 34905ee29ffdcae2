"""The operator's process: assembles everything, runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Info, generate_latest
from ultramarine_contract import __version__
from ultramarine_contract.addresses import own_addresses
from ultramarine_contract.common import TLS_DIR
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.logs import JsonLines
from ultramarine_contract.meta import GROUP, LEASE_NAME
from ultramarine_contract.storage import Storage
from ultramarine_contract.tls import expires, server_context

from . import settings, watch
from .engine.engine import Engine
from .engine.lease import Lease
from .engine.mirror import Mirror
from .engine.recorder import Objects, Recorder
from .engine.vitals import Gauges, Vitals
from .kinds import kinds_on
from .kube.client import ApiError, Client, namespace_of_pod
from .progress import BODY_LIMIT, Reception

log = logging.getLogger("ultramarine_operator")


async def serve(
    vitals: Callable[[], Vitals], port: int, routes: Iterable[web.RouteDef] = (), tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Answer /healthz (no restart is needed), /readyz (it sees all and leads or could lead), /metrics, and `routes`."""

    def answer(now: Vitals, problems: list[str]) -> web.Response:
        text = json.dumps({"ok": not problems, **now.as_json()}, indent=2) + "\n"
        return web.Response(status=503 if problems else 200, text=text, content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        now = vitals()
        return answer(now, now.fatal())

    async def readyz(_: web.Request) -> web.Response:
        now = vitals()
        return answer(now, now.lacking())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=BODY_LIMIT)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics), *routes])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for address in own_addresses():
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
    return runner


async def run(file: Path) -> int:
    """Run one replica with the settings of a file, and return its exit code."""
    own_namespace = namespace_of_pod()
    chosen = settings.read(file)
    platform = chosen.platform(own_namespace)
    listed = tuple(sorted(set(chosen.namespaces))) or (own_namespace,)
    client = await Client.connect()
    # It asks for headers and small objects only, and who waits for the answer has no word in its status till then.
    storage = Storage(platform.storage_endpoint, platform.storage_region, read_seconds=8, attempts=2)
    lease = Lease(client, own_namespace, LEASE_NAME, settings.identity())
    namespaces: tuple[str | None, ...] = (None,) if chosen.clusterwide else listed
    kinds = kinds_on(platform)
    mirror = Mirror(kinds)
    writer = f"https://{GROUP}/operator@{__version__}"
    objects, approvers = Objects(mirror.uid, mirror.get), platform.knows_requester
    own = Recorder(storage, platform.storage_bucket, writer, objects, approvers=approvers)
    recorder = own if chosen.records.enabled else None
    engine = Engine(kinds, namespaces, mirror, client.fenced(lease.time_left), storage, platform, lease, recorder)
    Info("ultramarine_build", "Running version of the operator.").info({"version": __version__})
    tls = Path(TLS_DIR) if platform.tls else None
    REGISTRY.register(Gauges(engine.vitals, engine.states, partial(expires, tls) if tls else None))
    reception = Reception(client.review_token, engine.reports, lambda: engine.leads, engine.reply)
    routes = reception.routes if platform.progress_url else []
    server = await serve(engine.vitals, chosen.port, routes, server_context(tls) if tls else None)
    stop = asyncio.Event()

    def heed_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    heed_signals()
    log.info("watching %s", "the whole cluster" if chosen.clusterwide else ", ".join(listed))
    tasks = {
        asyncio.create_task(
            watch.listen(engine, listed, clusterwide=chosen.clusterwide, stop=stop, started=heed_signals),
            name="watch",
        ),
        asyncio.create_task(engine.run(), name="engine"),
        asyncio.create_task(stop.wait(), name="signal"),
    }
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    asked = stop.is_set()
    stop.set()
    for task in rest:
        if task.get_name() != "watch":
            task.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*rest, return_exceptions=True), 10)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s stopped: %s", task.get_name(), error, exc_info=error)
    await server.cleanup()
    await client.close()
    return 0 if asked else 1


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ultramarine_operator",
        description="The Ultramarine operator. Its settings are a YAML file, which the Helm chart writes.",
        epilog="Keys of the object storage come from the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )
    parser.add_argument("--settings", type=Path, default=settings.DEFAULT_FILE, help="default: %(default)s")
    file = parser.parse_args().settings
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("ultramarine_operator").setLevel(logging.INFO)
    logging.captureWarnings(True)
    if ignored := settings.ignored(os.environ):
        log.warning("ignoring %s: the settings file replaces these variables; remove them", ", ".join(ignored))
    try:
        sys.exit(asyncio.run(run(file)))
    except (ValueError, ApiError, UltramarineError) as error:
        log.error("cannot start: %s", error)
        sys.exit(2)
    except Exception:
        log.exception("ended by a bug of the operator")
        sys.exit(1)


if __name__ == "__main__":
    main()
