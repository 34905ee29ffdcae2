"""What an operator does with many sweeps at once; a part of bench/scale_kinds.py.

Their pods are simulated: no trial is run. What each coordinator would have stored is stored for it.
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
    """What the sweeps are called."""
    return [f"swept-{number:03}" for number in range(count)]


async def sweeps(bench: Bench, namespace: str, count: int, bucket: str, store: Store) -> list[Row]:
    """So many sweeps: made while they are held, and let go all at once, until all have found their best."""
    names = names_of(count)
    spent, most = Spent(bench), Memory(bench.operator)
    rows: list[Row] = []
    async with watched(bench.api, SWEEP, namespace) as seen, most.watching():

        def held(told: Manifest) -> bool:
            return bool(told.get("state") == "Suspended")

        def right(told: Manifest) -> bool:
            counts, best = told.get("trials") or {}, told.get("best") or [{}]
            return told.get("state") == "Succeeded" and (counts.get("succeeded"), best[0].get("trial")) == (TRIALS, 3)

        await spent.begin()
        await bench.create(SWEEP, [searching(name, suspend=True) for name in names], namespace)
        await bench.until(
            lambda: f"{seen.count(names, held)} of {count} sweeps are suspended",
            lambda: seen.count(names, held) >= count,
        )
        rows.append({"sweeps": f"{count} made, until all are suspended", **await spent.told(count)})
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
        rows.append({"sweeps": f"{count} resumed, until all have succeeded", **await spent.told(count)})
    return [{**row, "memory, most": f"{most.most / 2**20:.0f} MiB"} for row in rows]
