"""A run of twenty steps whose operator is killed: the same end, and no work done twice, as cache records show."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from proxy import Fault
from rig import Rig
from test_promises import DOWN, KILLS, every_write, live
from ultramarine_contract.cache_records import CacheRecord, record_uri
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.pipeline.testing.samples import applied_run
from ultramarine_operator.shared.testing import Life, until_state
from world import BUCKET, World

LAYERS, WIDTH = 4, 5
NAME = "nightly"
STEPS = [f"l{layer}-{number}" for layer, number in product(range(LAYERS), range(WIDTH))]


def _step(layer: int, number: int) -> Manifest:
    """A step that reads the output of its predecessor, and of no other step."""
    name = f"l{layer}-{number}"
    inputs = {"inputs": {"before": {"uri": f"$(steps.l{layer - 1}-{number}.outputs.model)"}}} if layer else {}
    return {"name": name, "trainingJob": {"command": [name], "outputs": {"model": {}}, **inputs}}


def _states(world: World) -> dict[str, Manifest]:
    return {state["name"]: state for state in world.status("PipelineRun", NAME).get("steps") or []}


async def _succeeds(world: World) -> None:
    """Let all jobs succeed; then each step has exactly the record that its own job has written."""
    for step in STEPS:
        await world.until(f"step {step} has a job", lambda step=step: _states(world).get(step, {}).get("child"))
        world.decide(_states(world)[step]["child"], "succeeds")
    await until_state(world, "PipelineRun", NAME, "Succeeded")
    states = _states(world)
    assert not [name for name, state in states.items() if state.get("cached")], "a step is its own origin"
    for name, state in states.items():
        uri = record_uri(BUCKET, world.namespace, state["key"])
        record = CacheRecord.from_json(await asyncio.to_thread(world.storage.read, uri))
        assert (record.step, record.run, record.job) == (name, NAME, state["child"])
    keys = {state["key"] for state in states.values()}
    assert len(keys) == len(STEPS)
    assert world.recorded.keys() == keys
    assert len(world.all("TrainingJob")) == len(STEPS)


LIFE = Life(
    "runs twenty steps with the cache",
    (applied_run(NAME, [_step(layer, number) for layer, number in product(range(LAYERS), range(WIDTH))]),),
    _succeeds,
    kind="PipelineRun",
)


async def test_killed_at_writes_of_twenty_steps(rig: Rig) -> None:
    """Killed at a write, the operator repeats no step; here at each tenth write, as a restart takes its time."""
    await every_write(rig, KILLS, [LIFE], each=10)


@pytest.mark.long
@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_killed_at_every_write_of_twenty_steps(rig: Rig, kill: Fault) -> None:
    """The same at every single write."""
    await every_write(rig, [kill], [LIFE])


@pytest.mark.parametrize("fault", DOWN, ids=str)
async def test_12_storage_down_while_the_cache_is_asked(rig: Rig, fault: Fault) -> None:
    """Steps wait for the answer of the cache, and each one runs once after the storage's return."""
    await live(rig, LIFE, storage=[fault])
