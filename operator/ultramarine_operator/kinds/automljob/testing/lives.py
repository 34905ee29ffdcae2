"""Lives of AutoMLJobs before the fault harness."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ....shared.testing import Life, World, applied, until_state
from .samples import KIND, LEAST, NAME


def _applied(**spec: Any) -> Manifest:
    return applied(KIND, NAME, {**LEAST, **spec})


async def _fails(world: World) -> None:
    world.decide(f"{NAME}-prepare", "fails", "fails", "fails", "fails")
    await until_state(world, KIND, NAME, "Failed")


async def _is_held_and_cancelled(world: World) -> None:
    """It is held while its table is prepared, goes on, and is cancelled."""
    await until_state(world, "TrainingJob", f"{NAME}-prepare", "Running")
    await world.edit(KIND, NAME, {"spec": {"suspend": True}})
    await until_state(world, "TrainingJob", f"{NAME}-prepare", "Suspended")
    await world.edit(KIND, NAME, {"spec": {"suspend": False}})
    await until_state(world, "TrainingJob", f"{NAME}-prepare", "Running")
    await world.edit(KIND, NAME, {"spec": {"cancel": True}})
    await until_state(world, KIND, NAME, "Cancelled")
    await until_state(world, "TrainingJob", f"{NAME}-prepare", "Cancelled")


LIVES = (
    Life(
        "fails",
        (_applied(),),
        _fails,
        edits=({"ttlSecondsAfterFinished": 3600},),
        refused=(({"task": "regression"}, "cannot be changed"),),
    ),
    Life("is held and cancelled", (_applied(),), _is_held_and_cancelled),
)
