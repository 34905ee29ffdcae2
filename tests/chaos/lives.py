"""How a kind joins: a life names the manifests that begin it, and tells what happens to them until it has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from builders import training
from ultramarine.shared.conditions import is_true
from ultramarine.shared.meta import Manifest
from world import World


@dataclass(frozen=True)
class Life:
    """One way in which objects of a kind live.

    `story` does what people and the world do to them, and returns when nothing more is going to happen. It waits for
    states, not for moments: it must be able to go on after the operator was away, whatever was missed.
    """

    kind: str
    name: str
    manifests: tuple[Manifest, ...]
    story: Callable[[World], Awaitable[None]]


async def _succeeds(world: World) -> None:
    await state(world, "churn", "Running")
    world.decide("churn", "succeeds")
    await state(world, "churn", "Succeeded")
    await ready(world, "ModelVersion", "churn-1")


async def state(world: World, name: str, word: str) -> None:
    """Wait until a TrainingJob says that word."""
    await world.until(f"TrainingJob {name} is {word}", lambda: world.status("TrainingJob", name).get("state") == word)


async def ready(world: World, kind: str, name: str) -> None:
    """Wait until an object is Ready."""
    await world.until(f"{kind} {name} is ready", lambda: is_true(world.status(kind, name), "Ready"))


LIVES = (Life("TrainingJob", "succeeds", (training("churn"),), _succeeds),)
