"""Observations of an installed operator: its metrics, its writes, and the CPU time of the control plane."""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from chaos.world import Api
from ultramarine_cluster import cluster, target
from ultramarine_contract.meta import JOB, LABEL_NAME, ONLINE_ENDPOINT, POD, TRAINING_JOB, Manifest, Resource
from ultramarine_operator.shared.conditions import is_true

AT_ONCE = 16  # requests in flight
PATIENCE = 1800.0
# Of the API requests, those that write; the Lease is left out.
WRITES = ("create", "update", "patch", "patch/status", "delete")
COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok", "netpol")


@dataclass
class Operator:
    """Operator's pod, observed through its /metrics."""

    url: str
    session: aiohttp.ClientSession

    async def metrics(self) -> dict[str, float]:
        """Return every sample; none if the pod does not answer."""
        try:
            async with self.session.get(f"{self.url}/metrics", timeout=aiohttp.ClientTimeout(total=10)) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return {}
        return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


@dataclass
class Sights:
    """Times at which each object first reached a state, from watches."""

    firsts: dict[str, dict[str, float]] = field(default_factory=dict)

    def see(self, what: str, name: str) -> None:
        self.firsts.setdefault(what, {}).setdefault(name, time.monotonic())

    def count(self, what: str) -> int:
        return len(self.firsts.get(what, {}))


async def follow(
    api: Api, resource: Resource, namespace: str, selector: str, tell: Callable[[str, Manifest], None]
) -> None:
    """Pass every event of a type on, as its word and its object, until cancelled; an ended watch is resumed."""
    version = "0"
    while True:
        query = f"?watch=true&timeoutSeconds=3000&resourceVersion={version}&labelSelector={selector}"
        async with api.session.get(f"{api.url}{resource.path(namespace)}{query}", ssl=api.tls) as answer:  # type: ignore[arg-type]
            if answer.status != 200:  # as for a moment after the API server or a CRD has come up
                await asyncio.sleep(1)
                continue
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    version = "0"
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                tell(event["type"], event["object"])


@dataclass
class Bench:
    """Cluster, operator, and a connection to the API server."""

    running: cluster.Cluster
    to: target.Target
    node: str  # the real one
    api: Api
    operator: Operator

    async def create(self, resource: Resource, manifests: list[Manifest], namespace: str) -> dict[str, float]:
        """Create objects, several at once; return the moment of each creation."""
        gate = asyncio.Semaphore(AT_ONCE)
        taken: dict[str, float] = {}

        async def create_one(manifest: Manifest) -> None:
            async with gate:
                await self.api.ask("POST", resource.path(namespace), manifest)
                taken[manifest["metadata"]["name"]] = time.monotonic()

        await asyncio.gather(*map(create_one, manifests))
        return taken

    @asynccontextmanager
    async def watching(self, namespace: str) -> AsyncIterator[Sights]:
        """Record when jobs and endpoints reach their states, and when pods appear."""
        sights = Sights()

        def job(object: Manifest) -> None:
            if state := (object.get("status") or {}).get("state"):
                sights.see(f"job {state}", object["metadata"]["name"])

        def pod(object: Manifest) -> None:
            if owner := object["metadata"]["labels"].get(LABEL_NAME):  # the chart has pods here too
                sights.see("pod", owner)

        def child(object: Manifest) -> None:
            sights.see("Job", object["metadata"]["name"])

        def endpoint(object: Manifest) -> None:
            status, name = object.get("status") or {}, object["metadata"]["name"]
            if is_true(status, "Ready") and not is_true(status, "Reconciling"):
                sights.see(f"serves {status.get('modelVersion')}", name)

        watched = ((TRAINING_JOB, job), (JOB, child), (POD, pod), (ONLINE_ENDPOINT, endpoint))

        def alive(see: Callable[[Manifest], None]) -> Callable[[str, Manifest], None]:
            return lambda type, object: see(object) if type != "DELETED" else None

        tasks = [
            asyncio.create_task(follow(self.api, resource, namespace, "", alive(see))) for resource, see in watched
        ]
        try:
            yield sights
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, what: str, look: Any) -> None:
        """Wait until `look` returns True; print the progress every ten seconds."""
        began = reported = time.monotonic()
        while not look():
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                print(f"    {reported - began:5.0f} s  waiting: {what()}", flush=True)
            if time.monotonic() - began > PATIENCE:
                raise SystemExit(f"given up after {PATIENCE:.0f} s: {what()}")
            await asyncio.sleep(0.2)

    async def idle(self) -> dict[str, float]:
        """Return the operator's metrics once nothing is due and it has been idle for two seconds."""
        before: dict[str, float] = {}
        while True:
            now = await self.operator.metrics()
            calm = passes(now) == passes(before) and now.get("ultramarine_queue_depth") == 0
            if before and calm:
                return now
            before = now
            await asyncio.sleep(2)


def passes(metrics: dict[str, float]) -> float:
    """Return the number of ended passes."""
    return sum(value for name, value in metrics.items() if name.startswith("ultramarine_reconciles_total"))


def writes(metrics: dict[str, float]) -> dict[str, float]:
    """Return the operator's writing requests, by verb and kind."""
    counts: dict[str, float] = {}
    for name, value in metrics.items():
        if not name.startswith("ultramarine_api_requests_total"):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', name))
        if labels["verb"] in WRITES and labels["kind"] != "Lease":
            what = f"{labels['verb']} {labels['kind']}"
            counts[what] = counts.get(what, 0.0) + value
    return counts


def cpu_of_components(running: cluster.Cluster) -> dict[str, float]:
    """Return the CPU seconds of the control plane's processes so far."""
    seconds: dict[str, float] = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, IndexError, ValueError):
            argv = (folder / "cmdline").read_bytes().decode()
            name = Path(argv.split("\0")[0]).name
            if folder.name.isdigit() and name in COMPONENTS and str(running.state.root) in argv:
                times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                seconds[name] = seconds.get(name, 0.0) + (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)])


def percentiles(values: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return hundredths[49], hundredths[98]


@dataclass
class Memory:
    """Maximum resident memory of an operator over a span, in bytes; `metrics` returns its samples."""

    metrics: Callable[[], Awaitable[dict[str, float]]]
    most: float = 0.0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Sample until the end of the block, and once more."""
        task = asyncio.create_task(self._watch())
        try:
            yield
            await self._sample()
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            await self._sample()
            await asyncio.sleep(0.5)

    async def _sample(self) -> None:
        self.most = max(self.most, (await self.metrics()).get("process_resident_memory_bytes", 0.0))


@asynccontextmanager
async def each_job(
    api: Api, namespace: str, act: Callable[[Manifest], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Act on each Job of a namespace as soon as a watch reports it, until the end of the block."""
    tasks = set[asyncio.Task[None]]()

    def tell(type: str, job: Manifest) -> None:
        if type == "ADDED":
            tasks.add(asyncio.create_task(act(job)))

    watch = asyncio.create_task(follow(api, JOB, namespace, "", tell))
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
