"""Operator with many sweeps at once; a part of bench/scale_kinds.py.

Their pods are simulated and run no trial. The benchmark stores the result of each coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from builders import searching
from figures import Row, Spent, patch_all, watched
from sights import Bench, Memory
from ultramarine_contract.common import SUMMARY_NAME
from ultramarine_contract.meta import SWEEP, Manifest
from ultramarine_contract.sweep_records import BestTrial, SweepSummary

TRIALS = 10
FOUND = SweepSummary(
    "Succeeded", "MaxTrialsReached", "10 trials are over", succeeded=TRIALS, best=(BestTrial(3, (0.25,)),)
)
Store = Callable[[str, bytes], object]


def names_of(count: int) -> list[str]:
    """Return the names of the sweeps."""
    return [f"swept-{number:03}" for number in range(count)]


async def sweeps(bench: Bench, namespace: str, count: int, bucket: str, store: Store) -> list[Row]:
    """Create `count` suspended sweeps and resume all at once, until all have their best trial."""
    names = names_of(count)
    spent, most = Spent(bench), Memory(bench.operator.metrics)
    rows: list[Row] = []
    async with watched(bench.api, SWEEP, namespace) as seen, most.watching():

        def held(status: Manifest) -> bool:
            return bool(status.get("state") == "Suspended")

        def right(status: Manifest) -> bool:
            counts, best = status.get("trials") or {}, status.get("best") or [{}]
            return status.get("state") == "Succeeded" and (counts.get("succeeded"), best[0].get("trial")) == (TRIALS, 3)

        await spent.begin()
        await bench.create(SWEEP, [searching(name, suspend=True) for name in names], namespace)
        await bench.until(
            lambda: f"{seen.count(names, held)} of {count} sweeps are suspended",
            lambda: seen.count(names, held) >= count,
        )
        rows.append({"sweeps": f"{count} made, until all are suspended", **await spent.columns(count)})
        for name in names:
            uid = seen.objects[name]["metadata"]["uid"]
            uri = f"s3://{bucket}/{namespace}/sweeps/{name}/{uid}/{SUMMARY_NAME}"
            await asyncio.to_thread(store, uri, FOUND.to_json())
        await spent.begin()
        await patch_all(bench, SWEEP, namespace, names, {"spec": {"suspend": False}})
        await bench.until(
            lambda: f"{seen.count(names, right)} of {count} sweeps have succeeded",
            lambda: seen.count(names, right) >= count,
        )
        rows.append({"sweeps": f"{count} resumed, until all have succeeded", **await spent.columns(count)})
    return [{**row, "memory, most": f"{most.most / 2**20:.0f} MiB"} for row in rows]
