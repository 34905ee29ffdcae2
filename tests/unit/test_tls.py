"""TLS between the platform's own programs, each as a real process or server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from aiohttp import web
from certificates import Authority, serial_at, speaks_plainly
from ports import free_port
from serving_process import ROWS, serving, task_for
from tritonclient.grpc.service_pb2 import ServerReadyRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from ultramarine_contract import transport
from ultramarine_contract.common import ENV_STORAGE_CA
from ultramarine_contract.errors import GatewayError, StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.tls import expires, server_context
from ultramarine_operator import __main__ as operator
from ultramarine_operator.outside import gateway
from ultramarine_sweep.service.http import Server
from ultramarine_trainer.progress.reporter import resolved_image
from ultramarine_trainer.trials.connection import Connection, Unreachable
from unit.conftest import eventually, serving_store


@pytest.fixture(scope="module")
def authority() -> Authority:
    """The authority of all certificates here."""
    return Authority()


@pytest.fixture
def folder(authority: Authority, tmp_path: Path) -> Path:
    """A certificate for loopback, as a Secret is mounted."""
    authority.issue(tmp_path / "tls")
    return tmp_path / "tls"


@contextlib.contextmanager
def looping(start: Callable[[], Coroutine[Any, Any, Any]]) -> Iterator[Any]:
    """Run a server in a loop of its own until the block ends; the block gets what `start` returns."""
    ready: Future[tuple[asyncio.Event, asyncio.AbstractEventLoop, Any]] = Future()

    async def run() -> None:
        ended = asyncio.Event()
        ready.set_result((ended, asyncio.get_running_loop(), await start()))
        await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ended, loop, started = ready.result(30)
    try:
        yield started
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


def test_the_server_of_models_speaks_tls_alone_and_takes_a_renewed_certificate(
    models: Path, authority: Authority, folder: Path
) -> None:
    """By HTTP and by gRPC, with the newest certificate for each new connection, and without a restart."""
    grpc_port = free_port()
    more = ("--tls-dir", str(folder), "--grpc-port", str(grpc_port))
    with serving(models, task_for(models / "plain.onnx"), *more) as server:
        trust = ssl.create_default_context(cadata=authority.pem)
        url = f"https://127.0.0.1:{server.port}/v2/models/cancer/infer"
        rows = {"name": "X", "shape": [1, 30], "datatype": "FP32", "data": ROWS[0].tolist()}
        assert httpx.post(url, json={"inputs": [rows]}, verify=trust).status_code == 200
        trusted = grpc.ssl_channel_credentials(authority.pem.encode())
        with grpc.secure_channel(f"127.0.0.1:{grpc_port}", trusted) as channel:
            assert GRPCInferenceServiceStub(channel).ServerReady(ServerReadyRequest(), timeout=60).ready
        assert not speaks_plainly(server.port)
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel, pytest.raises(grpc.RpcError):
            GRPCInferenceServiceStub(channel).ServerReady(ServerReadyRequest(), timeout=5)

        renewed = authority.issue(folder)
        assert serial_at(server.port, "http/1.1") == serial_at(grpc_port, "h2") == renewed
        (folder / "tls.crt").write_text("not a certificate")
        assert serial_at(server.port, "http/1.1") == renewed


def test_the_storage_speaks_tls_alone_and_takes_a_renewed_certificate(
    authority: Authority, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that clients do with it works by https, where they know the authority, and only there."""
    (tmp_path / "buckets").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "large").write_bytes(bytes(33 << 20))  # more than one part
    with serving_store(tmp_path / "buckets", tls=folder) as store:
        for name, value in store.credentials.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(ENV_STORAGE_CA, str(folder / "ca.crt"))
        storage = Storage(store.endpoint, attempts=1)
        for number in range(30):  # on one connection: no chunk of a body may be taken for the next request
            uri = f"s3://ultramarine/team/{number}"
            assert storage.create(uri, b"first")
            assert not storage.create(uri, bytes(300_000))
            storage.write(uri, b"third")
            assert storage.read(uri) == b"third"
        record = storage.upload_folder(tmp_path / "model", "s3://ultramarine/team/model")
        storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

        port = int(store.endpoint.rpartition(":")[2])
        assert not speaks_plainly(port)
        renewed = authority.issue(folder)
        eventually(lambda: serial_at(port) == renewed)
        monkeypatch.delenv(ENV_STORAGE_CA)
        with pytest.raises(StorageError, match="SSLError"):
            Storage(store.endpoint, attempts=1).read("s3://ultramarine/team/0")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(folder / "ca.crt"))  # as for a storage of one's own
        assert Storage(store.endpoint, attempts=1).read("s3://ultramarine/team/0") == b"third"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(folder / "nothing"))
        with pytest.raises(StorageError, match="nothing not found; create the ConfigMap or Secret"):
            Storage(store.endpoint, attempts=1)


@pytest.mark.parametrize("lasts", [timedelta(days=700), timedelta(minutes=-5)], ids=["valid", "ended"])
def test_the_end_of_a_certificate_is_read(authority: Authority, tmp_path: Path, lasts: timedelta) -> None:
    """A certificate that has ended has a date too."""
    authority.issue(tmp_path / "tls", "ultramarine-operator.ml.svc", lasts=lasts)

    assert abs(expires(tmp_path / "tls") - time.time() - lasts.total_seconds()) < 60


@pytest.mark.attack("network/plain-text")
def test_pods_know_the_operator_by_its_authority(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training pod tells its token to an operator that proves its name, and to nobody else."""
    asked: list[str] = []

    async def image(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        return web.json_response({"image": "trainer@sha256:1"})

    port = free_port()
    monkeypatch.setattr(transport, "TLS_DIR", str(folder))
    (tmp_path / "token").write_text("a.b.c")
    routes, context = [web.get("/progress/team/churn", image)], server_context(folder)
    with looping(lambda: operator.serve(lambda: None, port, routes, context)):
        url = f"https://127.0.0.1:{port}/progress/team/churn"
        assert resolved_image(url, tmp_path / "token") == "trainer@sha256:1"
        assert not speaks_plainly(port)
        Authority().issue(tmp_path / "others")
        monkeypatch.setattr(transport, "TLS_DIR", str(tmp_path / "others"))
        assert resolved_image(url, tmp_path / "token") == ""
    assert asked == ["Bearer a.b.c"]


def test_the_operator_asks_gateway_pods_that_prove_their_name(
    authority: Authority, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod is asked at its address, and shows a certificate for the name of its namespace's gateway."""

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.add_routes([web.get("/routes", routes)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=server_context(folder)).start()
        return runner

    async def routes(_: web.Request) -> web.Response:
        return web.json_response({"endpoints": {"churn": {"version": "1"}}})

    port = free_port()
    monkeypatch.setattr(transport, "TLS_DIR", str(folder))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    address = f"https://ultramarine-gateway.team.svc:{port}"
    with looping(serve):
        authority.issue(folder, "ultramarine-gateway.team.svc")
        assert [state.version for state in gateway.routes_of(address, "churn")] == ["1"]
        authority.issue(folder, "ultramarine-server.team.svc", "ultramarine-gateway.other.svc")
        with pytest.raises(GatewayError, match="CERTIFICATE_VERIFY_FAILED"):
            gateway.routes_of(address, "churn")


@pytest.mark.attack("network/plain-text")
def test_trials_know_their_coordinator_by_its_name(
    authority: Authority, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers tell their token to who proves the name of the namespace's sweeps; no other name will do."""

    async def echo(document: dict[str, Any]) -> dict[str, Any]:
        return document

    server = Server("right", {"/echo": echo}, lambda error: None)
    monkeypatch.setattr(transport, "TLS_DIR", str(folder))
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *more, **named: resolve("127.0.0.1", *more, **named))
    with looping(lambda: server.listen(0, server_context(folder))) as port:
        authority.issue(folder, "ultramarine-sweep.team.svc")
        worker = Connection(f"https://churn-sweep.team.svc:{port}", "right", 5)
        assert worker.post("/echo", {"a": 1}) == {"a": 1}
        assert not speaks_plainly(port)
        authority.issue(folder, "ultramarine-server.team.svc")
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            Connection(f"https://churn-sweep.team.svc:{port}", "right", 5).post("/echo", {})
