"""The main container: load the model, then listen; on SIGTERM say goodbye to every connection before leaving."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import uvloop
from ultramarine_contract.addresses import own_addresses
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server import memory
from ultramarine_server.accesslog import AccessLog
from ultramarine_server.artifact import ModelFile, find_model
from ultramarine_server.body import BODY_LIMIT
from ultramarine_server.cpus import cpu_limit
from ultramarine_server.errors import LoadError
from ultramarine_server.http import HEAD_SECONDS, Connection
from ultramarine_server.keys import KeyRing
from ultramarine_server.limits import Limits
from ultramarine_server.listener import Listener
from ultramarine_server.loading import PLATFORMS, load
from ultramarine_server.model import Loaded, Model
from ultramarine_server.repository import Single
from ultramarine_server.routes import Routes
from ultramarine_server.running import Runner
from ultramarine_server.service import Service
from ultramarine_server.telemetry import Telemetry
from ultramarine_server.warmup import LARGEST, LARGEST_IN_POOL, warm_up

if TYPE_CHECKING:
    from ultramarine_contract.catalogue import CatalogueEntry

    from ultramarine_server.captures import Captures
    from ultramarine_server.grpc_server import GrpcServer

_BACKLOG = 2048
_TICK_SECONDS = 0.05
_HTTP_FIRST_SECONDS = 0.01
_SHORT_TURN_SECONDS = 0.0002  # of a thread that holds Python's lock; 5 ms otherwise


class Listening(msgspec.Struct, frozen=True):
    """Where the server listens: HTTP always, gRPC where its port is not 0; `linger` seconds for connected clients.

    Without a `host` it is where the pod has its own addresses. With `tls`, a folder with a certificate, both are spoken
    by TLS alone.
    """

    host: str
    port: int
    grpc_port: int = 0
    linger: float = 5.0
    tls: Path | None = None


class Places(msgspec.Struct, frozen=True):
    """Folders: the model's or the pool's files, keys, a pool's catalogue, and what is captured for the collector."""

    model: Path
    keys: Path
    catalogue: Path
    captures: Path


def serve(task: ServingTask, places: Places, listening: Listening) -> int:
    """Serve until SIGTERM and return the exit code. Raises LoadError before anything listens."""
    gc.disable()  # until all is loaded: hardly anything of that is garbage
    started = time.monotonic()
    keys, telemetry = _keys(task, places.keys), Telemetry()
    if task.pool_bytes:
        service, what = pool_for(task, places.model, places.catalogue, telemetry)
    else:
        service, what = service_for(task, places.model, telemetry)
    seconds = round(time.monotonic() - started, 3)
    announcement = {"event": "serving", "port": listening.port, "loadSeconds": seconds, **what}
    log = AccessLog(task.access_log_sampling)
    captures = _captures(task, service, places.captures)
    routes = Routes(service, keys, log, captures=captures)

    def grpc() -> GrpcServer:
        from ultramarine_server.grpc_server import GrpcServer  # takes 15 MiB

        return GrpcServer(service, keys, log, BODY_LIMIT, captures)

    server = _Server(Listener(routes, telemetry), listening, grpc if listening.grpc_port else None)
    uvloop.run(server.run(orjson.dumps(announcement).decode()))
    if captures:
        captures.close()
    log.close()
    return 0


def service_for(task: ServingTask, folder: Path, telemetry: Telemetry) -> tuple[Service, dict[str, Any]]:
    """Load what the task names, warm it up, and return it with what is to be told of it. Raises LoadError."""
    threads = cpu_limit()
    runner = Runner(max(2, threads), Limits.of(task), telemetry)

    def loaded(file: ModelFile) -> Loaded:
        return warmed(task, file.format, load(file, task, threads), runner.quick_seconds, LARGEST)

    file = find_model(folder, task)
    first = loaded(file)
    repository = Single(first, lambda: loaded(find_model(folder, task)))
    signature = first.model.signature.to_dict()
    told = {"model": task.model, "version": task.version, "format": file.format, "signature": signature}
    return Service(repository, runner, telemetry, controlled=task.auth == "key"), told


def pool_for(
    task: ServingTask, folder: Path, catalogue_folder: Path, telemetry: Telemetry
) -> tuple[Service, dict[str, Any]]:
    """Return the pool that the task asks for, with what is to be told of it; no model is loaded yet."""
    from ultramarine_server.asking import Fetcher
    from ultramarine_server.catalogue import Catalogue
    from ultramarine_server.pool import Pool
    from ultramarine_server.pool_telemetry import PoolTelemetry

    limits, counts, catalogue = Limits.of(task), PoolTelemetry(), Catalogue(catalogue_folder)
    runner = Runner(max(2, cpu_limit()), limits, telemetry)
    telemetry.others.append(counts.metrics)
    memory.return_large()

    def read(entry: CatalogueEntry, below: str) -> Loaded:
        one = replace(task, **asdict(entry))
        file = find_model(folder / below, one)
        # One thread each: a pool of threads for every model would take more memory than most of the models.
        return warmed(one, file.format, load(file, one, 1), runner.quick_seconds, LARGEST_IN_POOL)

    pool = Pool(catalogue, Fetcher(folder), read, task.pool_bytes, limits.timeout_seconds, counts)
    told = {"models": len(catalogue.entries), "poolBytes": task.pool_bytes}
    return Service(pool, runner, telemetry, controlled=task.auth == "key"), told


def warmed(task: ServingTask, format: str, model: Model, quick_seconds: float, largest: int) -> Loaded:
    """Warm a model up, and say how it is offered."""
    quick = warm_up(model, task.warmup, quick_seconds, largest)
    return Loaded(task.model, task.version, PLATFORMS[format], model, quick if getattr(model, "steady", False) else 0)


def _captures(task: ServingTask, service: Service, folder: Path) -> Captures | None:
    if task.collect is None:
        return None
    from ultramarine_server.captures import Captures
    from ultramarine_server.exchange import Redaction

    redaction = Redaction(task.collect.redact, service.sole().model)
    if redaction.unknown:
        # No reason to serve nothing: another deployment of the endpoint may have them.
        message = "spec.dataCollector.redact has names that the model does not have, so no value is kept"
        line = {"event": "collecting", "unknown": redaction.unknown, "message": message}
        print(orjson.dumps(line).decode(), flush=True)
    captures = Captures(task.collect.sampling_rate, redaction, folder)
    service.telemetry.others.append(captures.metrics)
    return captures


def _keys(task: ServingTask, folder: Path) -> KeyRing | None:
    if task.auth == "none":
        return None
    keys = KeyRing(folder, "gateway" if task.auth == "gateway" else "client")
    if not keys:
        message = f"no key in {folder}; the keys Secret needs primary, secondary or both, and neither empty"
        raise LoadError(message, "KeysMissing")
    return keys


def _by_tls(folder: Path | None) -> dict[str, Any]:
    """Arguments of a server's loop. Raises LoadError for a folder without a certificate."""
    if folder is None:
        return {}
    from ultramarine_contract.tls import server_context

    try:
        return {"ssl": server_context(folder, "http/1.1"), "ssl_handshake_timeout": HEAD_SECONDS}
    except OSError as error:
        raise LoadError(f"the certificate in {folder} is unusable: {error}", "CertificateInvalid") from error


class _Server:
    """One port, with a goodbye: from SIGTERM on answers ask to close, and it leaves when nobody is connected."""

    def __init__(self, listener: Listener, listening: Listening, grpc: Callable[[], GrpcServer] | None) -> None:
        self._listener, self._listening, self._make_grpc = listener, listening, grpc
        self._grpc: GrpcServer | None = None
        listener.telemetry.starting = True
        self._told = asyncio.Event()
        self._at_once = False

    async def run(self, announcement: str) -> None:
        """Listen, say so, and return when the goodbye is over."""
        loop, where = asyncio.get_running_loop(), self._listening
        hosts = [where.host] if where.host else own_addresses()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)
        try:
            server = await loop.create_server(
                lambda: Connection(self._listener), hosts, where.port, backlog=_BACKLOG, **_by_tls(where.tls)
            )
        except OSError as error:
            raise LoadError(f"port {where.port} cannot be had: {error}", "PortTaken") from error
        self._listener.tick()
        if self._make_grpc:
            # To import it takes a moment, in which who asks by HTTP is answered: who waits for the port comes first,
            # and the other thread takes short turns.
            await asyncio.sleep(_HTTP_FIRST_SECONDS)
            turn = sys.getswitchinterval()
            sys.setswitchinterval(_SHORT_TURN_SECONDS)
            try:
                self._grpc = await asyncio.to_thread(self._make_grpc)
            finally:
                sys.setswitchinterval(turn)
            await self._grpc.start(hosts, where.grpc_port, where.tls)
        gc.freeze()  # What is there now stays, and need not be looked through again and again.
        gc.enable()
        self._listener.telemetry.starting = False
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
