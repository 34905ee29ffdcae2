"""Cost of TLS inside the cluster: a real server behind a real gateway, and the embedded storage, with and without.

`PYTHONPATH=tests/gateway:tests/unit:tests/e2e:tests/chaos:tests/api:tests .venv/bin/python bench/tls.py`, 3 minutes.
Everything is on loopback and measured alternately, plain and by TLS, so that other programs disturb both equally.
The server has one core, and Envoy (one thread) the other, with the load generator.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from certificates import Authority
from gateway import started
from gateway_rig import Gateway, Pod, deployment, free_port, routes
from load import Outcome, Target, attack, generator
from pinned import cpu_seconds, pinned
from serving_process import environment, fitted, task_for, write_models
from sights import table
from ultramarine_contract.common import ENV_STORAGE_CA
from ultramarine_contract.storage import Storage
from unit.conftest import serving_store

SECONDS, TURNS, CONNECTIONS = 6, 5, (1, 64)
NAME = "ultramarine-server.team.svc"
OBJECT = 100 * 2**20
ROW = {"name": "X", "datatype": "FP32", "shape": [1, 30], "data": [1.5] * 30}
BODY = json.dumps({"inputs": [ROW]}).encode()


@contextmanager
def serving(folder: Path, tls: Path | None) -> Iterator[tuple[Pod, int]]:
    """Program of the server image on core 0, with its process."""
    port, grpc_port = free_port(), free_port()
    argv = [sys.executable, "-m", "ultramarine_server", "serve", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--grpc-port", str(grpc_port), "--model-dir", str(folder), "--termination-log", str(folder / "log")]
    argv += ["--tls-dir", str(tls)] if tls else []
    task = {"ULTRAMARINE_TASK": task_for(folder / "plain.onnx").to_json()}
    with pinned(argv, environment() | task, 0, folder / f"server-{port}.log") as process:
        yield Pod("tls" if tls else "plain", port=port, grpc_port=grpc_port), process.pid


async def predictions(folder: Path, authority: Authority) -> None:
    """Send requests of one row through the gateway: latency, rate, and CPU time of gateway and server per request."""
    write_models(fitted(), folder)
    (folder / "body").write_bytes(BODY)
    authority.issue(folder / "tls", NAME)
    gateway = await started()
    gateway.agent.seen.authority = authority.pem
    assert gateway.envoy is not None
    os.sched_setaffinity(gateway.envoy.pid, {1})
    outcomes: dict[tuple[int, str], list[Outcome]] = {}
    costs: dict[tuple[int, str], list[float]] = {}
    try:
        with ExitStack() as stack:
            pods = [stack.enter_context(serving(folder, tls)) for tls in (None, folder / "tls")]
            ports = {pod.name: await routed(gateway, pod) for pod, _ in pods}
            for _ in range(TURNS):
                for connections in CONNECTIONS:
                    for pod, pid in pods:
                        url = f"http://127.0.0.1:{ports[pod.name]}/v2/models/cancer/infer"
                        before = cpu_seconds(pid) + cpu_seconds(gateway.envoy.pid)
                        target = Target(url, folder / "body")
                        outcome = await asyncio.to_thread(attack, target, connections, 0, SECONDS, bool)
                        assert not outcome.failures, outcome.failures
                        spent = cpu_seconds(pid) + cpu_seconds(gateway.envoy.pid) - before
                        outcomes.setdefault((connections, pod.name), []).append(outcome)
                        costs.setdefault((connections, pod.name), []).append(spent / outcome.total)
    finally:
        await gateway.stop_envoy()
        await gateway.end()
    rows = []
    for (connections, name), attacks in sorted(outcomes.items()):
        middle = statistics.median
        rows.append(
            {
                "by the gateway": f"{connections} connections, {name}",
                "requests/s": f"{middle(outcome.rate for outcome in attacks):,.0f}",
                "p50": f"{middle(outcome.percentile(0.5) for outcome in attacks) * 1000:.2f} ms",
                "p99": f"{middle(outcome.percentile(0.99) for outcome in attacks) * 1000:.2f} ms",
                "CPU of gateway and server for each": f"{middle(costs[connections, name]) * 1e6:.0f} µs",
            }
        )
    print(table(rows))


async def routed(gateway: Gateway, pod: Pod) -> int:
    """Return the port of an endpoint that leads to this pod, once it answers."""
    port = free_port()
    gateway.serve(f"churn-{pod.name}", pod)
    served = deployment(pod.name, 100, protocols=("http", "grpc"), tls=pod.name == "tls")
    await gateway.use(routes(port, served, name=pod.name))
    body = Path(tempfile.mkdtemp()) / "body"
    body.write_bytes(BODY)
    for _ in range(100):
        if not attack(Target(f"http://127.0.0.1:{port}/v2/models/cancer/infer", body), 1, 5, 1, bool).failures:
            return port
    raise SystemExit("the server does not answer")


def transfers(folder: Path, authority: Authority) -> None:
    """Put and get 100 MiB by the client that operator and pods use."""
    authority.issue(folder / "certificate")
    os.environ[ENV_STORAGE_CA] = str(folder / "certificate" / "ca.crt")
    (folder / "model").mkdir()
    (folder / "model" / "large").write_bytes(os.urandom(OBJECT))
    seconds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        stores = {}
        for name, tls in (("plain", None), ("tls", folder / "certificate")):
            (folder / name).mkdir()
            store = stack.enter_context(serving_store(folder / name, tls=tls))
            os.environ |= store.credentials
            stores[name] = Storage(store.endpoint)
        for turn in range(TURNS):
            for name, storage in stores.items():
                began = time.monotonic()
                record = storage.upload_folder(folder / "model", f"s3://ultramarine/team/{turn}")
                put = time.monotonic()
                storage.fetch_artifact(record.uri, record.digest, folder / f"{name}-{turn}")
                seconds.setdefault(("put", name), []).append(put - began)
                seconds.setdefault(("get", name), []).append(time.monotonic() - put)
    rows = []
    for (what, name), samples in seconds.items():
        taken = statistics.median(samples)
        speed = f"{OBJECT / 2**20 / taken:,.0f} MiB/s"
        rows.append({"100 MiB, with its digest": f"{what}, {name}", "median of five": f"{taken:.2f} s", "speed": speed})
    print(table(rows))


def main() -> None:
    """Measure both, and print the tables."""
    generator()
    print(f"load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as folder:
        transfers(Path(folder), Authority())
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(predictions(Path(folder), Authority()))
    print(f"load {os.getloadavg()[0]:.1f} afterwards")


if __name__ == "__main__":
    main()
