"""The main container: load the model, then listen; on SIGTERM say goodbye to every connection before leaving."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import orjson
import uvicorn
from ultramarine.shared.contract import ServingTask

from ultramarine_server.app import Serving, application
from ultramarine_server.artifact import find_model
from ultramarine_server.cpus import cpu_limit
from ultramarine_server.errors import LoadError
from ultramarine_server.keys import KeyRing
from ultramarine_server.loading import PLATFORMS, load
from ultramarine_server.telemetry import Telemetry


def serve(task: ServingTask, model_folder: Path, keys_folder: Path, host: str, port: int, linger: float) -> int:
    """Serve until SIGTERM and return the exit code. Raises LoadError before anything listens."""
    started = time.monotonic()
    threads = cpu_limit()
    keys = _keys(task, keys_folder)
    file = find_model(model_folder, task)
    model = load(file, task, threads)
    serving = Serving(model, task.model, task.version, PLATFORMS[file.format], keys, max(2, threads))
    loaded = {
        "model": task.model,
        "version": task.version,
        "format": file.format,
        "loadSeconds": round(time.monotonic() - started, 3),
        "signature": model.signature.to_dict(),
    }
    telemetry = Telemetry()
    config = uvicorn.Config(
        application(serving, telemetry),
        host=host,
        port=port,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Longer than the idle time of clients' pools, so that they close first and never meet a closing connection.
        timeout_keep_alive=75,
    )
    server = _Server(config, telemetry, linger, lambda: _announce(loaded, port))
    server.run()
    return 0 if server.started else 1


def _keys(task: ServingTask, folder: Path) -> KeyRing | None:
    if task.auth == "none":
        return None
    keys = KeyRing(folder)
    if not keys:
        message = f"no key in {folder}; the keys Secret needs primary, secondary or both, and neither empty"
        raise LoadError(message, "KeysMissing")
    return keys


def _announce(loaded: dict[str, object], port: int) -> None:
    print(orjson.dumps({"event": "serving", "port": port} | loaded).decode(), flush=True)


class _Server(uvicorn.Server):
    """uvicorn, with a goodbye: from SIGTERM on answers ask to close, and it leaves when nobody is connected."""

    def __init__(
        self, config: uvicorn.Config, telemetry: Telemetry, linger: float, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._telemetry, self._linger, self._announce = telemetry, linger, announce
        self._leaves_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._telemetry.draining:
            self.should_exit = True  # Asked twice: at once.
        self._telemetry.draining = True
        self._leaves_at = time.monotonic() + self._linger

    async def on_tick(self, counter: int) -> bool:
        if self._telemetry.draining and not self._telemetry.in_flight:
            quiet = not self.server_state.connections
            self.should_exit |= quiet or time.monotonic() > self._leaves_at
        return await super().on_tick(counter)
