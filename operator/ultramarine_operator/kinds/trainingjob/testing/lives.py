"""Lives of TrainingJobs before the fault harness."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest

from ....runs.queues import LABEL_QUEUE
from ....shared.testing import Fate, Life, World, until_message, until_none, until_state, until_true
from .samples import training

KIND, NAME = "TrainingJob", "churn"


async def _reaches(world: World, state: str) -> None:
    await until_state(world, KIND, NAME, state)


async def _says(world: World, words: str) -> None:
    await until_message(world, KIND, NAME, "Running", words)


async def _suspends(world: World, suspend: bool) -> None:
    await world.edit(KIND, NAME, {"spec": {"suspend": suspend}})


async def _succeeds(world: World) -> None:
    await _reaches(world, "Running")
    world.decide(NAME, "succeeds")
    await _reaches(world, "Succeeded")
    await until_true(world, "ModelVersion", "churn-1")


async def _fails(world: World) -> None:
    await _reaches(world, "Running")
    world.decide(NAME, "fails")
    await _reaches(world, "Failed")


async def _is_retried(world: World) -> None:
    world.decide(NAME, "fails", "succeeds")
    await _reaches(world, "Succeeded")
    await until_true(world, "ModelVersion", "churn-1")


async def _is_suspended(world: World) -> None:
    await _reaches(world, "Suspended")
    await _suspends(world, False)
    await _reaches(world, "Running")
    await _suspends(world, True)
    await _reaches(world, "Suspended")
    await until_none(world, "Pod")
    await _suspends(world, False)
    await _succeeds(world)


async def _is_cancelled(world: World) -> None:
    await _reaches(world, "Running")
    await world.edit(KIND, NAME, {"spec": {"cancel": True}})
    await _reaches(world, "Cancelled")
    await until_none(world, "Job", "Pod")


async def _works_together(world: World) -> None:
    await _says(world, "2 of 2 pods run")
    world.decide(NAME, "fails", "succeeds")
    await _reaches(world, "Succeeded")


async def _waits_in_a_queue(world: World) -> None:
    world.make_room(True)
    await _reaches(world, "Running")
    world.make_room(False)  # a job of higher priority needs the room
    await _says(world, "queue night holds it")
    await until_none(world, "Pod")
    await _suspends(world, True)
    await _reaches(world, "Suspended")
    await until_none(world, "Job", "Pod")
    world.decide(NAME, "succeeds")
    world.make_room(True)
    await _suspends(world, False)
    await _reaches(world, "Succeeded")


async def _gets_more_memory(world: World) -> None:
    await _reaches(world, "Running")
    world.decide(NAME, "is-hungry")
    await _reaches(world, "Succeeded")


async def _finds_no_place(world: World) -> None:
    world.decide(NAME, "no-node")
    await _suspends(world, False)
    await _reaches(world, "Failed")
    await until_none(world, "Job", "Pod")


async def _expires(world: World) -> None:
    world.decide(NAME, "succeeds")
    await world.until("it is there", lambda: world.get("ModelVersion", "churn-1"))
    await world.until("it is gone", lambda: not world.get(KIND, NAME) and not world.all("Pod"))
    await until_true(world, "ModelVersion", "churn-1")


async def _is_repaired(world: World) -> None:
    troubles: tuple[tuple[Fate, str], ...] = (
        ("no-image", "cannot pull image"),
        ("no-node", "no node takes"),
        ("no-secret", "Secret hub"),
    )
    for trouble, words in troubles:
        world.decide(NAME, trouble)
        await _says(world, words)
    world.decide(NAME, "succeeds")
    await _reaches(world, "Succeeded")
    await until_true(world, "ModelVersion", "churn-1")


async def _gets_packages(world: World) -> None:
    await _says(world, "Environment env-")
    await world.until("its environment is made", lambda: world.all("Environment"))
    (environment,) = world.all("Environment")
    name = environment["metadata"]["name"]
    world.decide(f"{name}-build-1", "succeeds")
    await _reaches(world, "Running")
    await world.delete("Environment", name)
    world.decide(NAME, "is-hungry")  # so that its Job is made again, without the Environment
    await _reaches(world, "Succeeded")
    assert world.status(KIND, NAME)["provenance"]["environment"] == name


def _queued() -> Manifest:
    job = training(NAME, outputs={})
    return {**job, "metadata": {**job["metadata"], "labels": {LABEL_QUEUE: "night"}}}


_ALONE = {"nodes": 2, "framework": "none", "backoffLimit": 1, "outputs": {}}
_HUNGRY = {
    "backoffLimit": 0,
    "resources": {"limits": {"memory": "1Gi"}},
    "onOutOfMemory": {"factor": 1.5, "maxMemory": "4Gi"},
    "outputs": {},
}
LIVES = (
    Life(
        "succeeds",
        (training(NAME),),
        _succeeds,
        edits=(
            {"backoffLimit": 5},
            {"activeDeadlineSeconds": 600},
            {"ttlSecondsAfterFinished": 3600},
            {"suspend": True},
        ),
        refused=(({"command": ["other"]}, "cannot be changed"), ({"backoffLimit": -1}, "backoffLimit")),
    ),
    Life("fails", (training(NAME, backoffLimit=0),), _fails),
    Life("is retried", (training(NAME, backoffLimit=1),), _is_retried),
    Life("is suspended and resumed", (training(NAME, suspend=True),), _is_suspended),
    Life("is cancelled", (training(NAME),), _is_cancelled),
    Life("expires", (training(NAME, ttlSecondsAfterFinished=0),), _expires),
    Life("is repaired", (training(NAME),), _is_repaired),
    Life("works together", (training(NAME, **_ALONE),), _works_together),
    Life("waits in a queue", (_queued(),), _waits_in_a_queue),
    Life("gets more memory", (training(NAME, **_HUNGRY),), _gets_more_memory),
    Life("gets packages", (training(NAME, environment={"requirements": ["lightgbm"]}, **_HUNGRY),), _gets_packages),
    Life("finds no place", (training(NAME, suspend=True, pendingDeadlineSeconds=2),), _finds_no_place),
)
