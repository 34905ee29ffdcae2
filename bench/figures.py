"""Figures that several benchmarks share: the operator's cost over a span, and objects as a watch reports them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chaos.world import Api
from sights import AT_ONCE, Bench, follow, passes, writes
from ultramarine_contract.meta import API_VERSION, Manifest, Resource
from ultramarine_operator.shared.conditions import find

MERGE = "application/merge-patch+json"
PROCESS = "process_cpu_seconds_total"
Row = dict[str, str]


def made(kind: str, name: str, spec: Manifest, **meta: object) -> Manifest:
    """Return a manifest as a user writes it."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


@dataclass
class Spent:
    """Cost of a span to the operator, between the calls of `begin` and `columns`."""

    bench: Bench
    seconds: float = 0.0  # of the observation of idle objects
    before: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    async def begin(self, idle: bool = True) -> None:
        """Take the figures now; with `idle`, once nothing is due."""
        self.before = await (self.bench.idle() if idle else self.bench.operator.metrics())
        self.began = time.monotonic()

    async def columns(self, count: int, seconds: float | None = None) -> Row:
        """Return the columns, with writes per object; `seconds` is the length of the span unless it ends now."""
        after = await self.bench.operator.metrics()
        took = seconds if seconds is not None else time.monotonic() - self.began
        written = sum(writes(after).values()) - sum(writes(self.before).values())
        cpu = after[PROCESS] - self.before[PROCESS]
        return {
            "took": f"{took:.0f} s",
            "passes": f"{passes(after) - passes(self.before):,.0f}",
            "API writes each": f"{written / count:.2f}",
            "operator CPU": f"{cpu:.1f} s = {cpu / (time.monotonic() - self.began):.3f} cores",
            "memory": f"{after['process_resident_memory_bytes'] / 2**20:.0f} MiB",
        }

    async def over(self, count: int) -> Row:
        """Return the columns for the operator's activity without requests over a while."""
        await self.begin(idle=False)
        await asyncio.sleep(self.seconds)
        return await self.columns(count)


@dataclass
class Seen:
    """Newest state of each object of one type, as a watch reports it."""

    objects: dict[str, Manifest] = field(default_factory=dict)

    def tell(self, type: str, object: Manifest) -> None:
        """Record an event of the watch."""
        name = object["metadata"]["name"]
        if type == "DELETED":
            self.objects.pop(name, None)
        else:
            self.objects[name] = object

    def status(self, name: str) -> Manifest:
        """Return an object's status; empty if there is none."""
        return (self.objects.get(name) or {}).get("status") or {}

    def message(self, name: str) -> str:
        """Return the status of the condition Ready."""
        return str((find(self.status(name), "Ready") or {}).get("message", ""))

    def count(self, names: Iterable[str], holds: Callable[[Manifest], bool]) -> int:
        """Return the number of these objects whose status fulfils a test."""
        return sum(holds(self.status(name)) for name in names)


@asynccontextmanager
async def watched(api: Api, resource: Resource, namespace: str) -> AsyncIterator[Seen]:
    """Watch one type until the end of the block."""
    seen = Seen()
    task = asyncio.create_task(follow(api, resource, namespace, "", seen.tell))
    try:
        yield seen
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def patch_all(bench: Bench, resource: Resource, namespace: str, names: list[str], patch: Manifest) -> None:
    """Merge a patch into these objects, several at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def patch_object(name: str) -> None:
        async with gate:
            await bench.api.ask("PATCH", resource.path(namespace, name), patch, MERGE)

    await asyncio.gather(*map(patch_object, names))
