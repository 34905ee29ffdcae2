"""What happens to Sweeps until they have ended."""

from __future__ import annotations

from builders import searching
from ultramarine.shared.conditions import is_true
from ultramarine.shared.meta import Manifest
from world import World

TRIAL = {"command": ["python", "train.py", "--lr=$(params.lr)"], "outputs": {"model": {}}}


def registering() -> Manifest:
    """A Sweep whose best trial becomes a version of the Model churn."""
    return searching("hpo", registerBest="churn", trialTemplate={"spec": TRIAL})


async def finds_the_best(world: World) -> None:
    """Trials run, and the coordinator ends well: the best one is a version, and nobody works any more."""
    await _state(world, "Running")
    await _ends_well(world)
    await world.until("churn-1 is ready", lambda: is_true(world.status("ModelVersion", "churn-1"), "Ready"))


async def is_steered(world: World) -> None:
    """It gets more workers and fewer, is held, goes on, and ends well."""
    await _state(world, "Running")
    for workers in (4, 1):
        await world.edit("Sweep", "hpo", {"spec": {"limits": {"parallelTrials": workers}}})
        await world.until(f"{workers} work", lambda workers=workers: len(world.all("Pod")) == workers + 1)  # type: ignore[misc]
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _state(world, "Suspended")
    await world.until("no pod is left", lambda: not world.all("Pod"))
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _state(world, "Running")
    await _ends_well(world)


async def _state(world: World, word: str) -> None:
    await world.until(f"Sweep hpo is {word}", lambda: world.status("Sweep", "hpo").get("state") == word)


async def _ends_well(world: World) -> None:
    world.decide("hpo-coordinator", "succeeds")
    await _state(world, "Succeeded")
    await world.until("no worker is left", lambda: not world.get("Job", "hpo-workers") and len(world.all("Pod")) == 1)
