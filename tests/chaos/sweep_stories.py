"""What happens to Sweeps until they have ended."""

from __future__ import annotations

from collections.abc import Callable

from builders import searching
from ultramarine_contract.meta import Manifest
from ultramarine_operator.runs.queues import LABEL_QUEUE
from ultramarine_operator.shared.conditions import find, is_true
from ultramarine_operator.shared.pods import is_running
from world import World

TRIAL = {"command": ["python", "train.py", "--lr=$(params.lr)"], "outputs": {"model": {}}}


def registering() -> Manifest:
    """A Sweep whose best trial becomes a version of the Model churn."""
    native = {"model": {"compile": {"to": "none"}}}
    return searching("hpo", registerBest="churn", trialTemplate={"spec": {**TRIAL, "outputs": native}})


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


def queued() -> Manifest:
    """A Sweep in a queue."""
    one = searching("hpo")
    return {**one, "metadata": {**one["metadata"], "labels": {LABEL_QUEUE: "night"}}}


async def waits_in_a_queue(world: World) -> None:
    """Its workers are let in, sent away, and let in again; while a person holds it, it has no place in the queue."""
    await world.until("its coordinator runs alone", lambda: [is_running(pod) for pod in _pods(world)] == [True])
    await _is_held(world)
    world.make_room(True)
    await _state(world, "Running")
    world.make_room(False)
    await _is_held(world)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _state(world, "Suspended")
    await world.until("no place is taken", lambda: not world.get("Job", "hpo-workers") and not world.all("Pod"))
    world.make_room(True)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _state(world, "Running")
    await _ends_well(world)


async def _is_held(world: World) -> None:
    def look() -> bool:
        said = find(world.status("Sweep", "hpo"), "Running") or {}
        return "queue night holds its workers" in str(said.get("message"))

    await world.until("the queue holds it", look)


async def loses_its_pods(world: World) -> None:
    """Its coordinator's pod goes with its node, and a worker's fails: others take their places, and it ends well."""
    await _state(world, "Running")
    old = _uids(world)
    await _lose_the_coordinator(world)
    await _all_run(world, lambda new: len(new - old) == 1)
    world.decide("hpo-workers", "fails", "runs")
    await world.until(
        "a worker has failed", lambda: any(pod["status"].get("phase") == "Failed" for pod in _pods(world))
    )
    await _all_run(world, lambda new: len(new & old) == 1)
    await _ends_well(world)


async def loses_its_token(world: World) -> None:
    """The Secret goes, and a pod cannot start any more: all are made anew with another. Then it goes while all rest."""
    await _state(world, "Running")
    old = _uids(world)
    await world.delete("Secret", "hpo-sweep-token")
    await _lose_the_coordinator(world)
    await _all_run(world, old.isdisjoint)
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    await _state(world, "Suspended")
    await world.until("no pod is left", lambda: not world.all("Pod"))
    await world.delete("Secret", "hpo-sweep-token")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False}})
    await _all_run(world)
    await _state(world, "Running")
    await _ends_well(world)


async def is_given_up(world: World) -> None:
    """Its coordinator says that too many trials have failed: so it has failed, and nobody works any more."""
    await _state(world, "Running")
    world.decide("hpo-coordinator", "gives-up")
    await _state(world, "Failed")
    await _nobody_works(world)


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


async def _state(world: World, word: str) -> None:
    await world.until(f"Sweep hpo is {word}", lambda: world.status("Sweep", "hpo").get("state") == word)


async def _ends_well(world: World) -> None:
    world.decide("hpo-coordinator", "succeeds")
    await _state(world, "Succeeded")
    await _nobody_works(world)


async def _nobody_works(world: World) -> None:
    await world.until("no worker is left", lambda: not world.get("Job", "hpo-workers") and len(world.all("Pod")) == 1)
