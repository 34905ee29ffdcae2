"""Lives of Sweeps whose trials run in a pool of workers."""

from __future__ import annotations

from collections.abc import Callable

from ultramarine_contract.meta import Manifest

from ....runs.queues import LABEL_QUEUE
from ....shared.pods import is_running
from ....shared.testing import Life, World, until_message, until_none, until_state, until_true
from .pod_lives import POD_LIVES
from .samples import TRIAL, searching


def _registering() -> Manifest:
    """A Sweep whose best trial becomes a version of the Model churn."""
    native = {"model": {"compile": {"to": "none"}}}
    return searching("hpo", registerBest="churn", trialTemplate={"spec": {**TRIAL, "outputs": native}})


async def _finds_the_best(world: World) -> None:
    """Trials run, and the coordinator ends well: the best one is a version, and no worker is left."""
    await _reaches(world, "Running")
    await _ends_well(world)
    await until_true(world, "ModelVersion", "churn-1")


async def _is_steered(world: World) -> None:
    """It gets more workers and fewer, is held, goes on, and ends well."""
    await _reaches(world, "Running")
    for workers in (4, 1):
        await world.edit("Sweep", "hpo", {"spec": {"limits": {"parallelTrials": workers}}})
        await world.until(f"{workers} work", lambda workers=workers: len(world.all("Pod")) == workers + 1)  # type: ignore[misc]
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _reaches(world, "Suspended")
    await until_none(world, "Pod")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _reaches(world, "Running")
    await _ends_well(world)


def _queued() -> Manifest:
    """A Sweep in a queue."""
    made = searching("hpo")
    return {**made, "metadata": {**made["metadata"], "labels": {LABEL_QUEUE: "night"}}}


async def _waits_in_a_queue(world: World) -> None:
    """Its workers are let in, sent away, and let in again; while its user holds it, it has no place in the queue."""
    await world.until("its coordinator runs alone", lambda: [is_running(pod) for pod in _pods(world)] == [True])
    await _is_held(world)
    world.make_room(True)
    await _reaches(world, "Running")
    world.make_room(False)
    await _is_held(world)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _reaches(world, "Suspended")
    await world.until("no place is taken", lambda: not world.get("Job", "hpo-workers") and not world.all("Pod"))
    world.make_room(True)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _reaches(world, "Running")
    await _ends_well(world)


async def _is_held(world: World) -> None:
    await until_message(world, "Sweep", "hpo", "Running", "queue night holds its workers")


async def _loses_its_pods(world: World) -> None:
    """Its coordinator's pod goes with its node, and a worker's fails: others take their places, and it ends well."""
    await _reaches(world, "Running")
    old = _uids(world)
    await _lose_the_coordinator(world)
    await _all_run(world, lambda new: len(new - old) == 1)
    world.decide("hpo-workers", "fails", "runs")
    await world.until(
        "a worker has failed", lambda: any(pod["status"].get("phase") == "Failed" for pod in _pods(world))
    )
    await _all_run(world, lambda new: len(new & old) == 1)
    await _ends_well(world)


async def _loses_its_token(world: World) -> None:
    """The Secret goes and a pod cannot start: all are made again with another. Then it goes while all rest."""
    await _reaches(world, "Running")
    old = _uids(world)
    await world.delete("Secret", "hpo-sweep-token")
    await _lose_the_coordinator(world)
    await _all_run(world, old.isdisjoint)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _reaches(world, "Suspended")
    await until_none(world, "Pod")
    await world.delete("Secret", "hpo-sweep-token")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _all_run(world)
    await _reaches(world, "Running")
    await _ends_well(world)


async def _is_given_up(world: World) -> None:
    """Its coordinator says that too many trials have failed; it fails, and no worker is left."""
    await _reaches(world, "Running")
    world.decide("hpo-coordinator", "gives-up")
    await _reaches(world, "Failed")
    await _no_worker_is_left(world)


async def _is_cancelled(world: World) -> None:
    """All pods go, those of its coordinator too."""
    await _reaches(world, "Running")
    await world.edit("Sweep", "hpo", {"spec": {"cancel": True}})
    await _reaches(world, "Cancelled")
    await until_none(world, "Job", "Pod")


def _pods(world: World) -> list[Manifest]:
    return [pod for pod in world.all("Pod") if pod.get("status")]


def _uids(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.all("Pod")}


async def _lose_the_coordinator(world: World) -> None:
    for pod in world.all("Pod"):
        if pod["metadata"]["name"].startswith("hpo-coordinator-"):
            await world.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])


async def _all_run(world: World, of: Callable[[set[str]], bool] = bool) -> None:
    """Wait until coordinator and both workers run, and their uids are such."""

    def look() -> bool:
        running = {pod["metadata"]["uid"] for pod in _pods(world) if is_running(pod)}
        return len(running) == 3 and of(running)

    await world.until("all three pods run", look)


async def _reaches(world: World, state: str) -> None:
    await until_state(world, "Sweep", "hpo", state)


async def _ends_well(world: World) -> None:
    world.decide("hpo-coordinator", "succeeds")
    await _reaches(world, "Succeeded")
    await _no_worker_is_left(world)


async def _no_worker_is_left(world: World) -> None:
    await world.until("no worker is left", lambda: not world.get("Job", "hpo-workers") and len(world.all("Pod")) == 1)


_PLAIN = (searching("hpo"),)
LIVES = (
    Life(
        "finds the best",
        (_registering(),),
        _finds_the_best,
        edits=(
            {"suspend": True},
            {"ttlSecondsAfterFinished": 3600},
            {"limits": {"maxTrials": 10, "parallelTrials": 3}},
        ),
        refused=(
            ({"objective": {"metric": "other"}}, "cannot be changed"),
            ({"limits": {"parallelTrials": 11}}, "parallelTrials must not be above"),
        ),
    ),
    Life("is steered", _PLAIN, _is_steered),
    Life("waits with its workers", (_queued(),), _waits_in_a_queue),
    Life("loses its pods", _PLAIN, _loses_its_pods),
    Life("loses its token", _PLAIN, _loses_its_token),
    Life("is given up", _PLAIN, _is_given_up),
    Life("is cancelled", _PLAIN, _is_cancelled),
    *POD_LIVES,
)
