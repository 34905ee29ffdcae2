"""The serving container: load the model, listen, and drain all connections after SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import uvloop
from msgspec import structs
from prometheus_client.core import Metric
from ultramarine_contract.addresses import own_addresses
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server import machine
from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import KeyRing
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile, check_files, find_model
from ultramarine_server.formats.loading import format_module, load, runs_apart
from ultramarine_server.http.connection import HEAD_SECONDS, Connection
from ultramarine_server.http.listener import Listener
from ultramarine_server.http.routes import Routes
from ultramarine_server.inference.limits import Limits
from ultramarine_server.inference.running import Runner
from ultramarine_server.inference.service import Service
from ultramarine_server.inference.warmup import MAX_NUMBERS, MAX_NUMBERS_IN_POOL, warm_up
from ultramarine_server.models.model import Loaded, Model
from ultramarine_server.protocol.tensors import BODY_LIMIT
from ultramarine_server.repository.single import Single
from ultramarine_server.telemetry import PoolTelemetry, Telemetry

if TYPE_CHECKING:
    from ultramarine_contract.catalogue import CatalogueEntry

    from ultramarine_server.collecting.captures import Captures
    from ultramarine_server.grpc.server import GrpcServer

_BACKLOG = 2048
_TICK_SECONDS = 0.05


class Listening(msgspec.Struct, frozen=True):
    """Addresses of the server: HTTP always, gRPC unless its port is 0; `linger` seconds for connected clients.

    Without a `host` the server listens on the pod's own addresses. With `tls`, a folder with a certificate, both ports
    speak TLS alone.
    """

    host: str
    port: int
    grpc_port: int = 0
    linger: float = 5.0
    tls: Path | None = None


class Places(msgspec.Struct, frozen=True):
    """Folders: files of the model or of the pool, keys, catalogue of a pool, captures for the collector.

    `environment` and `scoring` have the packages and the script of a user, if the task has them.
    """

    model: Path
    keys: Path
    catalogue: Path
    captures: Path
    environment: Path
    scoring: Path


def serve(task: ServingTask, places: Places, listening: Listening) -> int:
    """Serve until SIGTERM and return the exit code. Raises LoadError before anything listens."""
    started = time.monotonic()
    keys, telemetry = _keys(task, places.keys), Telemetry()
    if task.pool_bytes:
        service, facts = pool_for(task, places.model, places.catalogue, telemetry)
    else:
        service, facts = service_for(task, places, telemetry)
    seconds = round(time.monotonic() - started, 3)
    announcement = {"event": "serving", "port": listening.port, "loadSeconds": seconds, **facts}
    log = AccessLog(task.access_log_sampling)
    captures = _captures(task, service, places.captures)
    routes = Routes(service, keys, log, captures=captures)

    def grpc() -> GrpcServer:
        from ultramarine_server.grpc.server import GrpcServer  # It takes 15 MiB.

        return GrpcServer(service, keys, log, BODY_LIMIT, captures)

    server = _Server(Listener(routes, telemetry), listening, grpc if listening.grpc_port else None)
    uvloop.run(server.run(orjson.dumps(announcement).decode()))
    if captures:
        captures.close()
    log.close()
    return 0


def service_for(task: ServingTask, places: Places, telemetry: Telemetry) -> tuple[Service, dict[str, Any]]:
    """Load and warm up the model of a task; return the service, and its facts for the log. Raises LoadError."""
    if task.scoring:
        return script_for(task, places, telemetry)
    threads = machine.cpu_limit()
    file = find_model(places.model, task)
    apart = runs_apart(file, task)
    runner = Runner(_workers() if apart else max(2, threads), Limits.of(task), telemetry)

    def loaded(file: ModelFile) -> Loaded:
        model = load(file, task, threads, places.environment)
        return warmed(task, file.format, model, runner.quick_seconds, MAX_NUMBERS)

    first = loaded(file)
    repository = Single(first, lambda: loaded(find_model(places.model, task)))
    if apart:
        telemetry.others.append(lambda: _worker_metrics(repository))
    signature = first.model.signature.to_dict()
    facts = {"model": task.model, "version": task.version, "format": file.format, "signature": signature}
    return Service(repository, runner, telemetry, controlled=task.auth == "key"), facts


def script_for(task: ServingTask, places: Places, telemetry: Telemetry) -> tuple[Service, dict[str, Any]]:
    """Start the scoring script of a task; return the service, and its facts for the log. Raises LoadError."""
    from ultramarine_server.workers.scripts import PLATFORM, start_script

    def loaded() -> Loaded:
        check_files(places.model, task)
        script = start_script(task, places.model, places.scoring, places.environment)
        if task.warmup:
            script.warm_up(task.warmup)
        return Loaded(task.model, task.version, PLATFORM, script, alive=lambda: script.workers.alive)

    repository = Single(loaded(), loaded)
    telemetry.others.append(lambda: _worker_metrics(repository))
    runner = Runner(_workers(), Limits.of(task), telemetry)
    entry = task.scoring.entry if task.scoring else ""
    facts = {"model": task.model, "version": task.version, "script": entry}
    controlled = task.auth == "key"
    return Service(repository, runner, telemetry, controlled=controlled, scripted=True), facts


def _workers() -> int:
    from ultramarine_server.workers.processes import worker_count

    return worker_count()


def _worker_metrics(repository: Single) -> Iterable[Metric]:
    loaded = repository.loaded
    return [] if loaded is None else loaded.model.workers.metrics()  # type: ignore[attr-defined]


def pool_for(
    task: ServingTask, folder: Path, catalogue_folder: Path, telemetry: Telemetry
) -> tuple[Service, dict[str, Any]]:
    """Return the service of a pool, and its facts for the log; requests load its models."""
    from ultramarine_server.repository.fetching import Catalogue, Fetcher
    from ultramarine_server.repository.pool import Pool

    limits, counts, catalogue = Limits.of(task), PoolTelemetry(), Catalogue(catalogue_folder)
    runner = Runner(max(2, machine.cpu_limit()), limits, telemetry)
    telemetry.others.append(counts.metrics)
    machine.return_large()

    def read(entry: CatalogueEntry, below: str) -> Loaded:
        own_task = structs.replace(task, **structs.asdict(entry))
        file = find_model(folder / below, own_task)
        # One thread for each model: a pool of threads for each would take more memory than most models.
        return warmed(own_task, file.format, load(file, own_task, 1), runner.quick_seconds, MAX_NUMBERS_IN_POOL)

    pool = Pool(catalogue, Fetcher(folder), read, task.pool_bytes, limits.timeout_seconds, counts)
    facts = {"models": len(catalogue.entries), "poolBytes": task.pool_bytes}
    return Service(pool, runner, telemetry, controlled=task.auth == "key"), facts


def warmed(task: ServingTask, format: str, model: Model, quick_seconds: float, largest: int) -> Loaded:
    """Warm a model up and return it under its name."""
    quick = warm_up(model, task.warmup, quick_seconds, largest)
    platform = format_module(format).PLATFORM
    loaded = Loaded(task.model, task.version, platform, model, quick if getattr(model, "steady", False) else 0)
    if (workers := getattr(model, "workers", None)) is not None:
        loaded.alive = lambda: bool(workers.alive)
    return loaded


def _captures(task: ServingTask, service: Service, folder: Path) -> Captures | None:
    if task.collect is None:
        return None
    from ultramarine_server.collecting.captures import Captures
    from ultramarine_server.collecting.exchange import Redaction

    redaction = Redaction(task.collect.redact, service.sole().model)
    if redaction.unknown:
        # The server still serves: another deployment of the endpoint may have these names.
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


def _tls_arguments(folder: Path | None) -> dict[str, Any]:
    """Return the arguments of `create_server`. Raises LoadError for a folder without a certificate."""
    if folder is None:
        return {}
    from ultramarine_contract.tls import server_context

    try:
        return {"ssl": server_context(folder, "http/1.1"), "ssl_handshake_timeout": HEAD_SECONDS}
    except OSError as error:
        raise LoadError(f"the certificate in {folder} is unusable: {error}", "CertificateInvalid") from error


class _Server:
    """Both ports, with draining: after SIGTERM each answer closes its connection, and the last one ends the server."""

    def __init__(self, listener: Listener, listening: Listening, grpc: Callable[[], GrpcServer] | None) -> None:
        self._listener, self._listening, self._make_grpc = listener, listening, grpc
        self._grpc: GrpcServer | None = None
        listener.telemetry.starting = True
        self._draining = asyncio.Event()
        self._at_once = False

    async def run(self, announcement: str) -> None:
        """Listen, print the announcement, and return when the server is drained."""
        loop, listening = asyncio.get_running_loop(), self._listening
        hosts = [listening.host] if listening.host else own_addresses()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_drain)
        try:
            server = await loop.create_server(
                lambda: Connection(self._listener),
                hosts,
                listening.port,
                backlog=_BACKLOG,
                **_tls_arguments(listening.tls),
            )
        except OSError as error:
            raise LoadError(f"cannot listen on port {listening.port}: {error}", "PortTaken") from error
        self._listener.tick()
        if self._make_grpc:
            self._grpc = await asyncio.to_thread(self._make_grpc)  # The import takes a moment; HTTP answers meanwhile.
            await self._grpc.start(hosts, listening.grpc_port, listening.tls)
        self._listener.telemetry.starting = False
        print(announcement, flush=True)
        await self._draining.wait()
        await self._drained()
        server.close()
        if self._grpc:
            await self._grpc.stop(0 if self._at_once else listening.linger)
        self._listener.close()
        await asyncio.sleep(0)  # Let the connections see their end.

    def _begin_drain(self) -> None:
        self._at_once = self._draining.is_set()  # A second signal ends the server at once.
        self._listener.telemetry.draining = True
        self._draining.set()

    async def _drained(self) -> None:
        telemetry, leaves_at = self._listener.telemetry, time.monotonic() + self._listening.linger
        while not self._at_once:
            quiet = not self._listener.connections or time.monotonic() > leaves_at
            if quiet and not telemetry.in_flight:
                return
            await asyncio.sleep(_TICK_SECONDS)
