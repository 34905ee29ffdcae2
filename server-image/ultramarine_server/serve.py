"""The main container: load the model, then listen; on SIGTERM say goodbye to every connection before leaving."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import uvloop
from ultramarine.shared.contract import ServingTask

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.artifact import find_model
from ultramarine_server.body import BODY_LIMIT
from ultramarine_server.captures import Captures
from ultramarine_server.cpus import cpu_limit
from ultramarine_server.errors import LoadError
from ultramarine_server.exchange import Redaction
from ultramarine_server.http import Connection
from ultramarine_server.keys import KeyRing
from ultramarine_server.limits import Limits
from ultramarine_server.listener import Listener
from ultramarine_server.loading import PLATFORMS, load
from ultramarine_server.model import Model
from ultramarine_server.routes import Routes
from ultramarine_server.running import Runner
from ultramarine_server.service import Service
from ultramarine_server.telemetry import Telemetry
from ultramarine_server.warmup import warm_up

if TYPE_CHECKING:
    from ultramarine_server.grpc_server import GrpcServer

_BACKLOG = 2048
_TICK_SECONDS = 0.05


@dataclass(frozen=True)
class Listening:
    """Where the server listens: HTTP always, gRPC where its port is not 0; `linger` seconds for connected clients."""

    host: str
    port: int
    grpc_port: int = 0
    linger: float = 5.0


def serve(task: ServingTask, model_folder: Path, keys_folder: Path, captures_folder: Path, listening: Listening) -> int:
    """Serve until SIGTERM and return the exit code. Raises LoadError before anything listens."""
    started = time.monotonic()
    keys = _keys(task, keys_folder)
    service, format = service_for(task, model_folder, Telemetry())
    loaded = {
        "event": "serving",
        "port": listening.port,
        "model": task.model,
        "version": task.version,
        "format": format,
        "loadSeconds": round(time.monotonic() - started, 3),
        "signature": service.model.signature.to_dict(),
    }
    gc.collect()
    gc.freeze()  # What is there now stays, and need not be looked through again and again.
    log = AccessLog(task.access_log_sampling)
    captures = _captures(task, service, captures_folder)
    routes = Routes(service, keys, log, captures=captures)
    grpc = None
    if listening.grpc_port:
        from ultramarine_server.grpc_server import GrpcServer  # takes 15 MiB

        grpc = GrpcServer(service, keys, log, BODY_LIMIT, captures)
    uvloop.run(_Server(Listener(routes, service.telemetry), listening, grpc).run(orjson.dumps(loaded).decode()))
    if captures:
        captures.close()
    log.close()
    return 0


def service_for(task: ServingTask, folder: Path, telemetry: Telemetry) -> tuple[Service, str]:
    """Load what the task names, warm it up, and return it with the format that it has. Raises LoadError."""
    threads = cpu_limit()
    runner = Runner(max(2, threads), Limits.of(task), telemetry)

    def warmed(model: Model) -> Model:
        quick = warm_up(model, task.warmup, runner.quick_seconds)
        runner.quick = quick if getattr(model, "steady", False) else 0
        return model

    def again() -> Model:
        return warmed(load(find_model(folder, task), task, threads))

    reload = again if task.auth != "none" else None
    file = find_model(folder, task)
    model = warmed(load(file, task, threads))
    platform = PLATFORMS[file.format]
    return Service(model, task.model, task.version, platform, runner, telemetry, reload), file.format


def _captures(task: ServingTask, service: Service, folder: Path) -> Captures | None:
    if task.collect is None:
        return None
    redaction = Redaction(task.collect.redact, service.model)
    if redaction.unknown:
        # No reason to serve nothing: another deployment of the endpoint may have them.
        message = "spec.dataCollector.redact has names that the model does not have, so no value is kept"
        line = {"event": "collecting", "unknown": redaction.unknown, "message": message}
        print(orjson.dumps(line).decode(), flush=True)
    captures = Captures(task.collect.sampling_rate, redaction, folder)
    service.telemetry.of_captures = captures.metrics
    return captures


def _keys(task: ServingTask, folder: Path) -> KeyRing | None:
    if task.auth == "none":
        return None
    keys = KeyRing(folder)
    if not keys:
        message = f"no key in {folder}; the keys Secret needs primary, secondary or both, and neither empty"
        raise LoadError(message, "KeysMissing")
    return keys


class _Server:
    """One port, with a goodbye: from SIGTERM on answers ask to close, and it leaves when nobody is connected."""

    def __init__(self, listener: Listener, listening: Listening, grpc: GrpcServer | None) -> None:
        self._listener, self._listening, self._grpc = listener, listening, grpc
        self._told = asyncio.Event()
        self._at_once = False

    async def run(self, announcement: str) -> None:
        """Listen, say so, and return when the goodbye is over."""
        loop, where = asyncio.get_running_loop(), self._listening
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)
        try:
            server = await loop.create_server(
                lambda: Connection(self._listener), where.host, where.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise LoadError(f"port {where.port} cannot be had: {error}", "PortTaken") from error
        if self._grpc:
            await self._grpc.start(where.host, where.grpc_port)
        self._listener.tick()
        print(announcement, flush=True)
        await self._told.wait()
        await self._goodbye()
        server.close()
        if self._grpc:
            await self._grpc.stop(0 if self._at_once else where.linger)
        self._listener.close()
        await asyncio.sleep(0)  # The connections learn of their end.

    def _tell(self) -> None:
        self._at_once = self._told.is_set()
        self._listener.telemetry.draining = True
        self._told.set()

    async def _goodbye(self) -> None:
        telemetry, leaves_at = self._listener.telemetry, time.monotonic() + self._listening.linger
        while not self._at_once:
            quiet = not self._listener.connections or time.monotonic() > leaves_at
            if quiet and not telemetry.in_flight:
                return
            await asyncio.sleep(_TICK_SECONDS)
