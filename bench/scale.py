"""Installed operator with thousands of objects: throughput, latency, writes, memory, restart.

It installs the chart on the embedded cluster, cordons the real node, and lets kwok simulate other nodes. API server,
scheduler and controllers are real and share the machine with the operator. Run it by `make scale`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from api.bare import access
from builders import serving, training
from chaos.world import Api
from scale_kinds import Sizes, Stored, clear, gateway_of, sizes_of
from scale_kinds import measure as measure_kinds
from sights import Bench, Memory, Operator, cpu_of_components, passes, percentiles, table, writes
from ultramarine_cluster import cluster, kwok, target
from ultramarine_contract.meta import API_VERSION, MODEL, MODEL_VERSION, ONLINE_ENDPOINT, TRAINING_JOB, Manifest
from ultramarine_contract.routes import GATEWAY_PORT
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.shared.conditions import is_true

NAMESPACE = "ultramarine-scale"
JOB_SECONDS = 1.0
MERGE = "application/merge-patch+json"


async def jobs(bench: Bench, count: int, inline: bool, nodes: int = 1) -> dict[str, str]:
    """Apply `count` TrainingJobs of `nodes` nodes at once, wait until all have succeeded, and return the cost."""
    namespace = NAMESPACE
    names = [f"job-{count}-{nodes}-{number:05}" for number in range(count)]
    source = {"source": {"inline": {"train.py": "print('accuracy=0.97')"}}} if inline else {"source": None}
    gang = {"nodes": nodes, "framework": "none"} if nodes > 1 else {}
    manifests = [training(name, outputs={}, **source, **gang) for name in names]
    for manifest in manifests:
        manifest["spec"] = {field: value for field, value in manifest["spec"].items() if value is not None}
    before, cpu = await bench.idle(), cpu_of_components(bench.running)
    most = Memory(bench.operator.metrics)
    async with bench.watching(namespace) as sights, most.watching():
        began = time.monotonic()
        taken = await bench.create(TRAINING_JOB, manifests, namespace)
        applied = time.monotonic() - began

        def seen(what: str) -> int:
            """Count the pods of these jobs alone; pods of earlier ones may still be terminating."""
            return len(sights.firsts.get(what, {}).keys() & taken)

        await bench.until(
            lambda: f"{seen('Job')} Jobs, {seen('pod')} pods, {seen('job Succeeded')} of {count} succeeded",
            # The watches are several, and may tell of a job's end before its pod.
            lambda: min(map(seen, ("Job", "pod", "job Succeeded"))) >= count,
        )
        ended = time.monotonic() - began
        started = max(sights.firsts["Job"].values()) - began
        waits = [sights.firsts["pod"][name] - taken[name] for name in names]
    after, spent = await bench.idle(), cpu_of_components(bench.running)
    delta = {what: n - writes(before).get(what, 0.0) for what, n in writes(after).items()}
    p50, p99 = percentiles(waits)
    process = "process_cpu_seconds_total"
    print("    writes per job:", ", ".join(f"{what} {n / count:.2f}" for what, n in sorted(delta.items()) if n))
    components = ", ".join(f"{name} {(spent[name] - cpu.get(name, 0.0)) / count * 1000:.1f}" for name in spent)
    print(
        f"    CPU per job, ms: operator {(after[process] - before[process]) / count * 1000:.1f}, {components}",
        flush=True,
    )
    return {
        "TrainingJobs": f"{count:,}" + (f" of {nodes} nodes" if nodes > 1 else ""),
        "applied in": f"{applied:.0f} s",
        "Jobs made": f"{count / started:.1f}/s",
        "jobs done": f"{count / ended:.1f}/s = {count / ended * 60:,.0f}/min",
        "apply → pod p50 / p99": f"{p50:.2f} / {p99:.2f} s",
        "API writes per job": f"{sum(delta.values()) / count:.2f}",
        "operator CPU": f"{after[process] - before[process]:.1f} s",
        "operator memory, most": f"{most.most / 2**20:.0f} MiB",
    }


async def restart(bench: Bench, count: int) -> dict[str, str]:
    """Kill the operator's pod, and time its successor until it has observed every object and nothing is due."""
    began = time.monotonic()
    words = ("delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    simulated = ("--selector", f"{kwok.LABEL}=true")
    await asyncio.to_thread(bench.to.run, "cordon", *simulated)  # the operator's own pod has to run for real
    await asyncio.to_thread(bench.to.run, "uncordon", bench.node)
    await asyncio.to_thread(bench.to.run, *words, "--grace-period=0", "--force")
    # Not by `rollout status`, which may come before the Deployment's controller has missed the pod.
    while not (url := await asyncio.to_thread(operator_url, bench.to)):
        await asyncio.sleep(0.2)
    bench.operator.url = url
    await asyncio.to_thread(bench.to.run, "cordon", bench.node)
    await asyncio.to_thread(bench.to.run, "uncordon", *simulated)
    now: dict[str, float] = {}
    while passes(now) < count or now.get("ultramarine_queue_depth") != 0:
        await asyncio.sleep(0.2)
        now = await bench.operator.metrics()
    converged = time.monotonic() - began
    await asyncio.sleep(45)  # the second listing, half a minute after the first one, is part of the start
    idle = await bench.idle()
    process = "process_cpu_seconds_total"
    cpu, wall = idle[process], time.monotonic()
    await asyncio.sleep(60)
    later = await bench.operator.metrics()
    return {
        "objects": f"{count:,} TrainingJobs with their children",
        "killed → converged": f"{converged:.1f} s",
        "passes": f"{passes(now):.0f}",
        "writes": f"{sum(writes(idle).values()):.0f}",
        "CPU until then": f"{now[process]:.1f} s",
        "memory": f"{later['process_resident_memory_bytes'] / 2**20:.0f} MiB",
        "idle afterwards": f"{(later[process] - cpu) / (time.monotonic() - wall):.4f} cores",
    }


async def endpoints(bench: Bench, count: int) -> list[dict[str, str]]:
    """Apply `count` endpoints of one model by alias, wait until all serve, move the alias, and wait again."""
    model: Manifest = {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "shared"}}
    await bench.create(MODEL, [model | {"spec": {"aliases": {"live": "1"}}}], NAMESPACE)
    await bench.create(MODEL_VERSION, await asyncio.to_thread(versions, bench.to), NAMESPACE)
    manifests = [serving(f"shop-{number:03}", "shared@live") for number in range(count)]
    for manifest in manifests:
        manifest["spec"]["deployments"][0]["replicas"] = 1
    rows = []
    async with bench.watching(NAMESPACE) as sights:
        for title, version in (("made, until all serve", "1"), ("alias moved, until all serve it", "2")):
            before = await bench.idle()
            began = time.monotonic()
            if version == "1":
                await bench.create(ONLINE_ENDPOINT, manifests, NAMESPACE)
            else:
                alias = {"spec": {"aliases": {"live": version}}}
                await bench.api.ask("PATCH", MODEL.path(NAMESPACE, "shared"), alias, MERGE)
            state = f"serves shared-{version}"
            await bench.until(
                lambda state=state: f"{sights.count(state)} of {count}: {state}",
                lambda state=state: sights.count(state) >= count,
            )
            ended = time.monotonic() - began
            after = await bench.idle()
            delta = sum(writes(after).values()) - sum(writes(before).values())
            process = "process_cpu_seconds_total"
            rows.append(
                {
                    "OnlineEndpoints": f"{count} {title}",
                    "took": f"{ended:.0f} s",
                    "rate": f"{count / ended:.1f}/s",
                    "API writes each": f"{delta / count:.2f}",
                    "operator CPU": f"{after[process] - before[process]:.1f} s",
                    "memory": f"{after['process_resident_memory_bytes'] / 2**20:.0f} MiB",
                }
            )
    return rows


def versions(to: target.Target) -> list[Manifest]:
    """Register two versions, each of a file that exists in the bucket; no server loads it."""
    made: list[Manifest] = []
    with to.bucket(NAMESPACE) as storage:
        for number in ("1", "2"):
            content = f"weights {number}".encode()
            storage.put_object(Bucket="ultramarine", Key=f"{NAMESPACE}/shared/{number}.onnx", Body=content)
            spec = {
                "model": "shared",
                "version": number,
                "uri": f"s3://ultramarine/{NAMESPACE}/shared/{number}.onnx",
                "digest": f"sha256:{sha256(content).hexdigest()}",
                "format": {"name": "onnx"},
            }
            meta = {"name": f"shared-{number}"}
            made.append({"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": meta, "spec": spec})
    return made


def operator_url(to: target.Target) -> str:
    """Return the address of the operator's ready pod; empty if there is none. The node can reach pods."""
    words = ("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    for pod in to.json("get", *words)["items"]:
        if is_true(pod["status"], "Ready") and not pod["metadata"].get("deletionTimestamp"):
            return f"http://{pod['status']['podIP']}:8080"
    return ""


def real_node(to: target.Target) -> str:
    """Return the node that kwok does not simulate."""
    items = to.json("get", "nodes", "-l", f"!{kwok.LABEL}")["items"]
    return str(items[0]["metadata"]["name"])


@contextmanager
def installed(running: cluster.Cluster, simulated: int) -> Any:
    """Yield the chart on a cluster whose new pods go to simulated nodes; remove it afterwards, with all objects."""
    to = target.embedded(running)
    node = real_node(to)
    to.run("uncordon", node)
    target.install(to, NAMESPACE)
    message = TerminationRecord(metrics={"accuracy": 0.97}).to_json()
    try:
        with kwok.nodes(running, simulated, seconds=JOB_SECONDS, message=message):
            to.run("cordon", node)
            try:
                yield to
            finally:
                for kind in ("tj", "oe", "mv", "mdl", "sw"):
                    to.run("delete", kind, "-n", NAMESPACE, "--all", "--wait=false")
                print("  taking the objects away", flush=True)
                while to.run("get", "jobs,pods", "-n", NAMESPACE, "-l", "ultramarine.dev/kind", "-o", "name").strip():
                    time.sleep(2)
    finally:
        to.run("uncordon", node)
        running.run("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=600s")


async def kinds(bench: Bench, sizes: Sizes) -> None:
    """Run the measurements of scale_kinds, with a simulated gateway on this machine instead of the chart's."""
    address = str(urlsplit(bench.api.url).hostname)  # the API server's: pods reach it
    await asyncio.to_thread(bench.to.run, "scale", "deployment/ultramarine-gateway", "-n", NAMESPACE, "--replicas=0")
    await bench.api.ask("POST", f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices", played_at(address))
    [spec] = [made["spec"] for made in await asyncio.to_thread(versions, bench.to) if made["spec"]["version"] == "1"]
    await clear(bench, NAMESPACE)
    stored = Stored(spec["uri"], spec["digest"])
    with bench.to.bucket(NAMESPACE) as storage:

        def store(uri: str, content: bytes) -> None:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            storage.put_object(Bucket=bucket, Key=key, Body=content)

        async with gateway_of(bench.api, NAMESPACE, address, GATEWAY_PORT) as gateway:
            async for rows in measure_kinds(bench, NAMESPACE, stored, sizes, gateway, store):
                print("\n" + rows, flush=True)


def played_at(address: str) -> Manifest:
    """Return the EndpointSlice that points the gateway's Service to an address outside the pods."""
    meta = {"name": "ultramarine-gateway-played", "labels": {"kubernetes.io/service-name": "ultramarine-gateway"}}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "ports": [{"name": "routes", "port": GATEWAY_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


async def measure(to: target.Target, running: cluster.Cluster, chosen: argparse.Namespace, sizes: Sizes) -> None:
    """Run all measurements in turn."""
    url, tls = access(running)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session:
        bench = Bench(running, to, real_node(to), Api(url, session, tls), Operator(operator_url(to), session))
        rows, total = [], 0
        for size, nodes in [*((size, 1) for size in chosen.jobs), *((size, 2) for size in chosen.gangs)]:
            print(f"  {size} TrainingJobs of {nodes} nodes", flush=True)
            rows.append(await jobs(bench, size, chosen.inline, nodes))
            total += size
        print(f"\n{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Kubernetes v1.37.2\n")
        if rows:
            print(table(rows), flush=True)
            print("\n" + table([await restart(bench, total)]), flush=True)
        if chosen.endpoints:
            print("\n" + table(await endpoints(bench, chosen.endpoints)), flush=True)
        if any((sizes.mixed, sizes.versions, sizes.rollouts, sizes.scaled, sizes.pooled, sizes.sweeps)):
            await kinds(bench, sizes)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="*", default=[100, 1000, 10000], help="numbers of TrainingJobs")
    parser.add_argument("--gangs", type=int, nargs="*", default=[1000], help="numbers of TrainingJobs of two nodes")
    parser.add_argument("--endpoints", type=int, default=500, help="number of OnlineEndpoints, 0 for none")
    parser.add_argument("--inline", action="store_true", help="jobs with inline source, one more ConfigMap each")
    read = sizes_of(
        parser, Sizes(mixed=100, versions=1000, models=50, rollouts=100, scaled=100, pooled=300, sweeps=100)
    )
    chosen = parser.parse_args()
    running = cluster.up()
    with installed(running, 4) as to:
        asyncio.run(measure(to, running, chosen, read(chosen)))


if __name__ == "__main__":
    main()
