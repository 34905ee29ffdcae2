"""The main container: load the model, then listen; on SIGTERM say goodbye to every connection before leaving."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import orjson
import uvloop
from ultramarine.shared.contract import ServingTask

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.artifact import find_model
from ultramarine_server.cpus import cpu_limit
from ultramarine_server.errors import LoadError
from ultramarine_server.http import Connection, Listener
from ultramarine_server.keys import KeyRing
from ultramarine_server.limits import Limits
from ultramarine_server.loading import PLATFORMS, load
from ultramarine_server.model import Model
from ultramarine_server.routes import Routes
from ultramarine_server.running import Runner
from ultramarine_server.service import Service
from ultramarine_server.telemetry import Telemetry
from ultramarine_server.warmup import warm_up

_BACKLOG = 2048
_TICK_SECONDS = 0.05
# What computes without Python's lock and takes about the same time for the same sizes may run on the loop's thread.
_STEADY_FORMATS = frozenset({"onnx"})


def serve(task: ServingTask, model_folder: Path, keys_folder: Path, host: str, port: int, linger: float) -> int:
    """Serve until SIGTERM and return the exit code. Raises LoadError before anything listens."""
    started = time.monotonic()
    keys = _keys(task, keys_folder)
    service, format = service_for(task, model_folder, Telemetry())
    loaded = {
        "event": "serving",
        "port": port,
        "model": task.model,
        "version": task.version,
        "format": format,
        "loadSeconds": round(time.monotonic() - started, 3),
        "signature": service.model.signature.to_dict(),
    }
    routes = Routes(service, keys, AccessLog(task.access_log_sampling))
    uvloop.run(_Server(Listener(routes, service.telemetry), linger).run(host, port, orjson.dumps(loaded).decode()))
    return 0


def service_for(task: ServingTask, folder: Path, telemetry: Telemetry) -> tuple[Service, str]:
    """Load what the task names, warm it up, and return it with the format that it has. Raises LoadError."""
    threads = cpu_limit()
    runner = Runner(max(2, threads), Limits.of(task), telemetry)
    file = find_model(folder, task)

    def read() -> Model:
        found = find_model(folder, task)  # checks the digest again
        model = load(found, task, threads)
        quick = warm_up(model, task.warmup, runner.quick_seconds)
        runner.quick = quick if found.format in _STEADY_FORMATS else 0
        return model

    reload = read if task.auth != "none" else None
    platform = PLATFORMS[file.format]
    return Service(read(), task.model, task.version, platform, runner, telemetry, reload), file.format


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

    def __init__(self, listener: Listener, linger: float) -> None:
        self._listener, self._linger = listener, linger
        self._told = asyncio.Event()
        self._at_once = False

    async def run(self, host: str, port: int, announcement: str) -> None:
        """Listen, say so, and return when the goodbye is over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)
        server = await loop.create_server(lambda: Connection(self._listener), host, port, backlog=_BACKLOG)
        self._listener.tick()
        print(announcement, flush=True)
        await self._told.wait()
        await self._goodbye()
        server.close()
        self._listener.close()
        await asyncio.sleep(0)  # The connections learn of their end.

    def _tell(self) -> None:
        self._at_once = self._told.is_set()
        self._listener.telemetry.draining = True
        self._told.set()

    async def _goodbye(self) -> None:
        telemetry, leaves_at = self._listener.telemetry, time.monotonic() + self._linger
        while not self._at_once:
            quiet = not self._listener.connections or time.monotonic() > leaves_at
            if quiet and not telemetry.in_flight:
                return
            await asyncio.sleep(_TICK_SECONDS)
