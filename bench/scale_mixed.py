"""Operator with many objects of each kind at once; a part of bench/scale_kinds.py.

A kind joins by the Neighbour of its Material. Objects of one name refer to each other, as those of the misuse tests do.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from functools import partial

from chaos.world import OTHERS
from figures import Row, Spent
from materials import MATERIALS
from sights import Bench, Memory, follow, percentiles
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.conditions import is_true

RESOURCES = {resource.kind: resource for resource in (*OTHERS, *(kind.resource for kind in KINDS))}
Id = tuple[str, str]  # kind and name


async def mixed(bench: Bench, namespace: str, count: int, artifact: Manifest) -> list[Row]:
    """Create `count` objects of each kind at once; wait until those that can be Ready are, and all children exist."""
    awaited: dict[str, list[set[Id]]] = defaultdict(list)  # of each object of a kind
    made: dict[str, list[Manifest]] = defaultdict(list)
    ready = {kind for kind, material in MATERIALS.items() if material.neighbour.ready}
    for name in (f"any-{number:03}" for number in range(count)):
        for kind, material in MATERIALS.items():
            neighbour = material.neighbour
            manifest = neighbour.manifest(name, artifact)
            own = {(kind, manifest["metadata"]["name"])} if neighbour.ready else set[Id]()
            made[kind].append(manifest)
            awaited[kind].append(own | {(child, text.replace("NAME", name)) for child, text in neighbour.children})
    moments: dict[Id, float] = {}

    def tell(kind: str, type: str, seen: Manifest) -> None:
        if type != "DELETED" and (kind not in ready or is_true(seen.get("status") or {}, "Ready")):
            moments.setdefault((kind, seen["metadata"]["name"]), time.monotonic())

    def left(kind: str) -> int:
        return sum(not ids <= moments.keys() for ids in awaited[kind])

    kinds = {kind for objects in awaited.values() for ids in objects for kind, _ in ids}
    watches = [
        asyncio.create_task(follow(bench.api, RESOURCES[kind], namespace, "", partial(tell, kind)))
        for kind in sorted(kinds)
    ]
    spent, most = Spent(bench), Memory(bench.operator.metrics)
    try:
        async with most.watching():
            await spent.begin()
            created = await asyncio.gather(
                *(bench.create(RESOURCES[kind], manifests, namespace) for kind, manifests in made.items())
            )
            await bench.until(
                lambda: f"not converged: {', '.join(f'{left(kind)} {kind}' for kind in awaited if left(kind))}",
                lambda: not any(map(left, awaited)),
            )
            columns = await spent.columns(count * len(made))
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
    rows = [{"kind": f"{count} of each kind", "converged after p50 / p99": "", **columns}]
    rows[0]["memory"] = f"{most.most / 2**20:.0f} MiB"
    for (kind, manifests), moment in zip(made.items(), created, strict=True):
        names = (manifest["metadata"]["name"] for manifest in manifests)
        ends = zip(names, awaited[kind], strict=True)
        p50, p99 = percentiles([max(map(moments.__getitem__, ids)) - moment[name] for name, ids in ends])
        rows.append(
            {"kind": kind, "converged after p50 / p99": f"{p50:.1f} / {p99:.1f} s", **dict.fromkeys(columns, "")}
        )
    return rows
