"""What happens to Sweeps whose trials are TrainingJobs until they have ended."""

from __future__ import annotations

from typing import Any

from awaited import gone, ready, state
from builders import searching
from ultramarine_contract.meta import Manifest
from world import Fate, World

TRIAL = {"command": ["python", "train.py", "--lr=$(params.lr)"], "outputs": {"model": {}}, "backoffLimit": 0}


def _each_with_a_job(trials: int, parallel: int, backoff_limit: int = 0, **spec: Any) -> Manifest:
    template = {"spec": {**TRIAL, "backoffLimit": backoff_limit, **spec.pop("trial", {})}}
    limits = {"maxTrials": trials, "parallelTrials": parallel}
    told = {"execution": "PodPerTrial", "objective": {"metric": "accuracy"}, "limits": limits, **spec}
    return searching("hpo", trialTemplate=template, **told)


def registering() -> Manifest:
    """A Sweep of four trials, the best of which becomes a version of the Model churn."""
    return _each_with_a_job(4, 2, registerBest="churn", trial={"outputs": {"model": {"compile": {"to": "none"}}}})


def trying_twice() -> Manifest:
    """A Sweep each of whose trials may fail once."""
    return _each_with_a_job(4, 2, backoff_limit=1)


def one_by_one() -> Manifest:
    """A Sweep of trials that run alone."""
    return _each_with_a_job(3, 1)


def steered() -> Manifest:
    """A Sweep of three trials, two at a time."""
    return _each_with_a_job(3, 2)


def pausing() -> Manifest:
    """A Sweep of three trials, two at a time, that may be paused."""
    stopping = {"type": "asha", "minSteps": 1, "maxSteps": 9}
    return _each_with_a_job(3, 2, earlyTermination=stopping, trial={"checkpoint": {}})


async def has_a_job_for_each_trial(world: World) -> None:
    """Two trials succeed, one fails and one is stopped; some ends their trainers tell, and the others the operator."""
    fates: tuple[Fate, ...] = ("succeeds", "fails", "is-stopped", "succeeds")
    for number, fate in enumerate(fates):
        await _ends(world, number, fate)
    await _is_over(world, succeeded=2, stopped=1, failed=1)
    await ready(world, "ModelVersion", "churn-1")
    for number, fate in enumerate(fates):
        await state(world, _name(number), {"succeeds": "Succeeded", "fails": "Failed", "is-stopped": "Stopped"}[fate])


async def loses_jobs_of_trials(world: World) -> None:
    """A job is deleted while it is wanted, a pod fails, and a coordinator forgets an end: each trial ends once."""
    for number in (0, 1):
        await state(world, _name(number), "Running")
    await _is_made_again(world, 1)
    await _ends(world, 1, "fails", "succeeds")
    await _ends(world, 2, "succeeds")
    await _ends(world, 3, "succeeds")
    memory = world.coordinators.of("hpo")
    await world.until("the end of trial 3 is told", lambda: 3 in memory.ended)
    before = memory.pod
    for pod in world.all("Pod"):
        if pod["metadata"]["uid"] == before:
            await world.delete("Pod", pod["metadata"]["name"], before)
    await world.until("it is told again", lambda: memory.pod != before and 3 in memory.ended)
    await _ends(world, 0, "succeeds")
    await _is_over(world, succeeded=4, stopped=0, failed=0)


async def loses_the_token_of_trials(world: World) -> None:
    """The Secret goes while a trial runs: the next one misses it, and gets another, which a new coordinator knows."""
    await state(world, _name(0), "Running")
    before = world.coordinators.of("hpo").pod
    await world.delete("Secret", "hpo-sweep-token")
    await _ends(world, 0, "succeeds")
    await _ends(world, 1, "succeeds")
    await world.until("another coordinator speaks", lambda: world.coordinators.of("hpo").pod != before)
    await _ends(world, 2, "succeeds")
    await _is_over(world, succeeded=3, stopped=0, failed=0)


async def holds_its_trials_and_is_deleted(world: World) -> None:
    """What runs is held and goes on with one more; then it is given up: what has ended stays until the Sweep goes."""
    for number in (0, 1):
        await state(world, _name(number), "Running")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    for number in (0, 1):
        await state(world, _name(number), "Suspended")
    await gone(world, "Pod")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False, "limits": {"parallelTrials": 3}}})
    for number in (1, 2):
        await state(world, _name(number), "Running")
    await _ends(world, 0, "succeeds")
    await state(world, _name(0), "Succeeded")
    await world.until("its end is told", lambda: 0 in world.coordinators.of("hpo").ended)
    world.decide("hpo-coordinator", "gives-up")
    await world.until("Sweep hpo is Failed", lambda: world.status("Sweep", "hpo").get("state") == "Failed")
    _counts(world, succeeded=1, stopped=2, failed=0)
    await world.until("what ran is gone", lambda: [world.id(job)[1] for job in world.all("TrainingJob")] == [_name(0)])
    await world.delete("Sweep", "hpo")
    await world.until("nothing is left", lambda: not world.objects)


async def pauses_a_trial(world: World) -> None:
    """One of two gives its place to a third, and goes on when another has ended; a second one stays where it is."""
    for number in (0, 1):
        await state(world, _name(number), "Running")
    memory = world.coordinators.of("hpo")
    memory.paused.add(0)
    await state(world, _name(0), "Suspended")
    await state(world, _name(2), "Running")
    await _ends(world, 1, "succeeds")
    await state(world, _name(1), "Succeeded")
    await world.until("its end is told", lambda: 1 in memory.ended)
    memory.paused.remove(0)
    await _ends(world, 0, "succeeds")
    await _ends(world, 2, "is-stopped")
    await _is_over(world, succeeded=2, stopped=1, failed=0)


def _name(number: int) -> str:
    return f"hpo-trial-{number}"


async def _ends(world: World, number: int, *fates: Fate) -> None:
    """Let a trial come to its end once the operator has seen that it runs."""
    await state(world, _name(number), "Running")
    world.decide(_name(number), *fates)


async def _is_made_again(world: World, number: int) -> None:
    def uid() -> str:
        return str((world.get("TrainingJob", _name(number)) or {"metadata": {"uid": before}})["metadata"]["uid"])

    before = ""
    before = uid()
    await world.delete("TrainingJob", _name(number))
    await world.until(f"{_name(number)} is made again", lambda: uid() != before)


async def _is_over(world: World, **counts: int) -> None:
    await world.until("Sweep hpo has succeeded", lambda: world.status("Sweep", "hpo").get("state") == "Succeeded")
    _counts(world, **counts)


def _counts(world: World, **counts: int) -> None:
    told = world.status("Sweep", "hpo")["trials"]
    assert told == {"running": 0, **counts}, f"the counts are wrong: {told}"
