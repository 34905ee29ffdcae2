"""Lives of Sweeps whose trials are TrainingJobs."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ....shared.testing import Fate, Life, World, until_none, until_state, until_true
from .samples import TRIAL, searching

_TRIAL = {**TRIAL, "outputs": {"model": {}}, "backoffLimit": 0}


def _sweep(trials: int, parallel: int, backoff_limit: int = 0, **spec: Any) -> Manifest:
    template = {"spec": {**_TRIAL, "backoffLimit": backoff_limit, **spec.pop("trial", {})}}
    limits = {"maxTrials": trials, "parallelTrials": parallel}
    whole = {"execution": "PodPerTrial", "objective": {"metric": "accuracy"}, "limits": limits, **spec}
    return searching("hpo", trialTemplate=template, **whole)


async def _has_a_job_for_each_trial(world: World) -> None:
    """Two trials succeed, one fails and one is stopped; trainers post some ends, the operator reports the others."""
    fates: tuple[Fate, ...] = ("succeeds", "fails", "is-stopped", "succeeds")
    for number, fate in enumerate(fates):
        await _ends(world, number, fate)
    await _is_over(world, succeeded=2, stopped=1, failed=1)
    await until_true(world, "ModelVersion", "churn-1")
    for number, fate in enumerate(fates):
        await _reaches(
            world, _name(number), {"succeeds": "Succeeded", "fails": "Failed", "is-stopped": "Stopped"}[fate]
        )


async def _loses_jobs_of_trials(world: World) -> None:
    """A wanted job is deleted, a pod fails, and a coordinator forgets an end; each trial ends once."""
    for number in (0, 1):
        await _reaches(world, _name(number), "Running")
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


async def _loses_the_token_of_trials(world: World) -> None:
    """The Secret goes while a trial runs; the next trial gets another, which a new coordinator knows."""
    await _reaches(world, _name(0), "Running")
    before = world.coordinators.of("hpo").pod
    await world.delete("Secret", "hpo-sweep-token")
    await _ends(world, 0, "succeeds")
    await _ends(world, 1, "succeeds")
    await world.until("another coordinator speaks", lambda: world.coordinators.of("hpo").pod != before)
    await _ends(world, 2, "succeeds")
    await _is_over(world, succeeded=3, stopped=0, failed=0)


async def _holds_its_trials_and_is_deleted(world: World) -> None:
    """Trials are held, and go on with one more; the Sweep gives up, and ended trials stay until its deletion."""
    for number in (0, 1):
        await _reaches(world, _name(number), "Running")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": True}})
    for number in (0, 1):
        await _reaches(world, _name(number), "Suspended")
    await until_none(world, "Pod")
    await world.edit("Sweep", "hpo", {"spec": {"suspend": False, "limits": {"parallelTrials": 3}}})
    for number in (1, 2):
        await _reaches(world, _name(number), "Running")
    await _ends(world, 0, "succeeds")
    await _reaches(world, _name(0), "Succeeded")
    await world.until("its end is told", lambda: 0 in world.coordinators.of("hpo").ended)
    world.decide("hpo-coordinator", "gives-up")
    await until_state(world, "Sweep", "hpo", "Failed")
    _counts(world, succeeded=1, stopped=2, failed=0)
    await world.until(
        "what ran is gone", lambda: [job["metadata"]["name"] for job in world.all("TrainingJob")] == [_name(0)]
    )
    await world.delete("Sweep", "hpo")
    await world.until("nothing is left", lambda: not world.objects)


async def _pauses_a_trial(world: World) -> None:
    """One of two gives its place to a third, and goes on when another has ended."""
    for number in (0, 1):
        await _reaches(world, _name(number), "Running")
    memory = world.coordinators.of("hpo")
    memory.paused.add(0)
    await _reaches(world, _name(0), "Suspended")
    await _reaches(world, _name(2), "Running")
    await _ends(world, 1, "succeeds")
    await _reaches(world, _name(1), "Succeeded")
    await world.until("its end is told", lambda: 1 in memory.ended)
    memory.paused.remove(0)
    await _ends(world, 0, "succeeds")
    await _ends(world, 2, "is-stopped")
    await _is_over(world, succeeded=2, stopped=1, failed=0)


async def _reaches(world: World, name: str, state: str) -> None:
    await until_state(world, "TrainingJob", name, state)


def _name(number: int) -> str:
    return f"hpo-trial-{number}"


async def _ends(world: World, number: int, *fates: Fate) -> None:
    """Let a trial come to its end once the operator has seen that it runs."""
    await _reaches(world, _name(number), "Running")
    world.decide(_name(number), *fates)


async def _is_made_again(world: World, number: int) -> None:
    def uid() -> str:
        return str((world.get("TrainingJob", _name(number)) or {"metadata": {"uid": before}})["metadata"]["uid"])

    before = ""
    before = uid()
    await world.delete("TrainingJob", _name(number))
    await world.until(f"{_name(number)} is made again", lambda: uid() != before)


async def _is_over(world: World, **counts: int) -> None:
    await until_state(world, "Sweep", "hpo", "Succeeded")
    _counts(world, **counts)


def _counts(world: World, **counts: int) -> None:
    trials = world.status("Sweep", "hpo")["trials"]
    assert trials == {"running": 0, **counts}, f"unexpected counts: {trials}"


_NATIVE = {"outputs": {"model": {"compile": {"to": "none"}}}}
_ASHA = {"type": "asha", "minSteps": 1, "maxSteps": 9}
POD_LIVES = (
    Life(
        "has a job for each trial",
        (_sweep(4, 2, registerBest="churn", trial=_NATIVE),),
        _has_a_job_for_each_trial,
        heard=True,
        edits=({"limits": {"maxTrials": 4, "parallelTrials": 3}},),
    ),
    Life("loses jobs of trials", (_sweep(4, 2, backoff_limit=1),), _loses_jobs_of_trials, heard=True),
    Life("loses the token of trials", (_sweep(3, 1),), _loses_the_token_of_trials, heard=True),
    Life(
        "pauses a trial",
        (_sweep(3, 2, earlyTermination=_ASHA, trial={"checkpoint": {}}),),
        _pauses_a_trial,
        heard=True,
    ),
    Life("holds its trials and is deleted", (_sweep(3, 2),), _holds_its_trials_and_is_deleted, heard=True),
)
