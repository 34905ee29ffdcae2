"""Plans of a running Sweep: its children, its waits, and its messages."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NOW,
    PLATFORM,
    TRIAL,
    condition,
    ended_container,
    kinds_of,
    ours,
    seen,
    sweep,
    sweep_job,
    sweep_pod,
)
from msgspec import structs
from ultramarine.resources.sweep import SweepSpec
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract import common as contract
from ultramarine_contract.cache_records import ANNOTATION_CACHE, CacheTask
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import (
    TEMPLATE_FIELDS,
    BestTrial,
    SweepSummary,
    SweepTask,
    WantedTrial,
    WorkerTask,
    in_template,
)
from ultramarine_contract.training_records import TerminationRecord, TrainingTask
from ultramarine_operator.kinds.sweep.plan import plan, questions
from ultramarine_operator.kinds.sweep.podpertrial import trial_job
from ultramarine_operator.runs.queues import LABEL_QUEUE
from ultramarine_operator.shared.plan import Obj, Plan, Seen

BEST = BestTrial(3, (0.25,), {"lr": 0.01, "booster": "dart", "deep": True})


def running(hpo: Obj[Any], *more: Manifest) -> Seen:
    """Both Jobs, the coordinator's pod and two workers, all running."""
    jobs = (sweep_job(hpo, "coordinator", active=1), sweep_job(hpo, "workers", active=2))
    pods = (sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers"), sweep_pod(hpo, "workers", node=1))
    return seen(*jobs, *pods, *more)


def applied(got: Plan, name: str) -> Manifest:
    """The Job of that name among what a plan applies."""
    (results,) = (m for m in got.apply if m["kind"] == "Job" and m["metadata"]["name"] == name)
    return results


def queued(**spec: Any) -> Obj[Any]:
    """A Sweep in a queue of Kueue's."""
    hpo = sweep(**spec)
    metadata = {**hpo.manifest["metadata"], "labels": {LABEL_QUEUE: "night"}}
    return replace(hpo, manifest={**hpo.manifest, "metadata": metadata})


def with_suspend(there: Seen, value: bool) -> Seen:
    """The same with what Kueue has written into the workers' Job since."""
    for child in there.children:
        if child["metadata"]["name"] == "hpo-workers":
            child["spec"]["suspend"] = value
            child["metadata"] |= {
                "resourceVersion": "7",
                "labels": child["metadata"]["labels"] | {LABEL_QUEUE: "night"},
            }
    return there


def env(job: Manifest) -> Manifest:
    """The variables of the one container of a Job that have a plain value."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def test_a_new_sweep_gets_its_children_and_a_token():
    """Code, the coordinator with its Service, and the workers; the Secret between them is generated."""
    got = plan(sweep(), seen(), NOW)

    assert kinds_of(got.apply) == [
        "ConfigMap/hpo-sweep-source",
        "Service/hpo-coordinator",
        "Job/hpo-coordinator",
        "Job/hpo-workers",
    ]
    assert [(effect.metadata["name"], effect.keys) for effect in got.effects] == [("hpo-sweep-token", ("token",))]
    assert (got.status["state"], condition(got, "Running")["reason"]) == ("Pending", "PodsStarting")
    assert got.status["journal"] == {"uri": "s3://lake/team-a/sweeps/hpo/Sweep-hpo-uid/journal/"}


def test_what_runs_as_wanted_is_left_alone():
    """With both Jobs there, nothing is applied but what the server compares: no Job, and no Secret."""
    hpo = sweep()
    got = plan(hpo, running(hpo), NOW)

    assert [m["kind"] for m in got.apply] == ["ConfigMap", "Service"]
    assert (got.effects, got.delete, got.after) == ((), (), None)
    assert condition(got, "Running")["message"] == ("2 of 2 workers run; pod hpo-coordinator-0-abcde gives them trials")
    assert got.status["startTime"] == "2030-01-01T11:30:05Z"


def test_a_queue_decides_when_workers_run():
    """They are made suspended, and nobody but Kueue lets them go; the coordinator, which is small, is in no queue."""
    hpo = queued()
    made = plan(hpo, seen(), NOW)
    workers, coordinator = applied(made, "hpo-workers"), applied(made, "hpo-coordinator")
    assert (workers["spec"]["suspend"], workers["metadata"]["labels"][LABEL_QUEUE]) == (True, "night")
    assert (coordinator["spec"]["suspend"], LABEL_QUEUE in coordinator["metadata"]["labels"]) == (False, False)

    there = seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), sweep_pod(hpo, "coordinator"))
    held = plan(hpo, with_suspend(there, True), NOW)
    assert (held.status["state"], condition(held, "Running")["reason"]) == ("Pending", "Queued")
    assert "queue night holds its workers" in condition(held, "Running")["message"]
    assert [m["kind"] for m in held.apply] == ["ConfigMap", "Service"]

    let_in = plan(hpo, with_suspend(running(hpo), False), NOW)
    assert let_in.status["state"] == "Running"
    assert [m["kind"] for m in let_in.apply] == ["ConfigMap", "Service"], "what Kueue has written stands"

    wider = plan(queued(limits={"maxTrials": 10, "parallelTrials": 4}), with_suspend(running(hpo), False), NOW)
    spec = applied(wider, "hpo-workers")["spec"]
    assert (spec["suspend"], spec["parallelism"]) == (False, 4)
    assert applied(wider, "hpo-workers")["metadata"]["resourceVersion"] == "7", "nor is it undone by what was seen"


def test_who_suspends_a_sweep_gives_its_place_in_the_queue_back():
    """Its workers' Job goes, since its `suspend` is the queue's; the coordinator's rests, and no token is made anew."""
    there = with_suspend(running(queued()), False)
    got = plan(queued(suspend=True), there, NOW)
    assert (got.status["state"], [ref.name for ref in got.delete], got.effects) == ("Suspended", ["hpo-workers"], ())
    assert applied(got, "hpo-coordinator")["spec"]["suspend"] is True

    going = [child for child in there.children if child["metadata"]["name"] != "hpo-workers"]
    workers = next(child for child in there.children if child["metadata"]["name"] == "hpo-workers")
    workers["metadata"]["deletionTimestamp"] = "2030-01-01T12:00:00Z"
    assert plan(queued(suspend=True), seen(*going, workers), NOW).status["state"] == "Suspended"
    gone = plan(queued(suspend=True), seen(*going), NOW)
    assert (gone.status["state"], gone.delete, gone.effects) == ("Suspended", (), ())
    assert "Job/hpo-workers" not in kinds_of(gone.apply)
    again = plan(queued(), seen(*going), NOW)
    assert applied(again, "hpo-workers")["spec"]["suspend"] is True


def test_trials_with_jobs_of_their_own_are_in_the_queue_each():
    """The label goes to them; a TrainingJob knows what to do with it."""
    hpo = queued(execution="PodPerTrial")
    assert trial_job(hpo, WantedTrial(3, {"lr": 0.1}), PLATFORM)["metadata"]["labels"][LABEL_QUEUE] == "night"


def test_the_coordinator_is_told_the_search_as_it_was_written():
    """Objectives, the algorithm, limits, and the space to the letter: 1 stays 1, and 1.0 stays 1.0."""
    space = {"n": {"choice": [1, 2.5]}, "lr": {"uniform": {"min": 0, "max": 1.0}}}
    hpo = sweep(
        searchSpace=space,
        trialTemplate={"spec": {"command": ["a"], "resources": {"limits": {"cpu": "1500m", "amd.com/gpu": 2}}}},
        budget={"cpuHours": 3, "seconds": 600},
        algorithm={"type": "random", "seed": 5, "initialTrials": [{"n": 1, "lr": 1}]},
        limits={"maxTrials": 50, "maxFailedTrials": 4},
    )
    task = SweepTask.from_json(env(applied(plan(hpo, seen(), NOW), "hpo-coordinator"))[contract.ENV_SWEEP])

    assert json.dumps(task.space, sort_keys=True) == json.dumps(space, sort_keys=True)
    assert task.objectives == ({"metric": "loss", "goal": "minimize"},)
    assert task.algorithm == {"type": "random", "seed": 5, "initialTrials": [{"n": 1, "lr": 1}]}
    assert (task.max_trials, task.max_failed_trials, task.cpu_hours, task.budget_seconds) == (50, 4, 3.0, 600)
    assert (task.trial_cpus, task.trial_gpus) == (1.5, 2.0)
    assert (task.sweep, task.prefix) == ("team-a/hpo", "s3://lake/team-a/sweeps/hpo/Sweep-hpo-uid/")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ([{"lr": 2}], r"initialTrials\[0\] is outside spec.searchSpace: lr cannot be 2; correct"),
        ([{"lr": 0.5}, {}], r"initialTrials\[1\] is outside spec.searchSpace: it has no lr"),
        ([{"lr": 0.5}, {"lr": 0.5}], r"initialTrials\[1\] is the same as initialTrials\[0\]; remove one"),
        ([{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}], "has 3 trials, and the sweep at most 2; raise limits.maxTrials"),
    ],
)
def test_initial_trials_that_the_space_does_not_have_are_refused(first: list[Manifest], words: str) -> None:
    """The message names the place of the trial, and what is wrong with it."""
    space = {"lr": {"uniform": {"min": 0, "max": 1}}}
    hpo = sweep(searchSpace=space, limits={"maxTrials": 2}, algorithm={"type": "tpe", "initialTrials": first})
    with pytest.raises(InvalidSpec, match=words):
        plan(hpo, seen(), NOW)


def test_a_grid_has_no_initial_trials() -> None:
    """It tries them anyway."""
    hpo = sweep(searchSpace={"n": {"choice": [1, 2]}}, algorithm={"type": "grid", "initialTrials": [{"n": 1}]})
    with pytest.raises(InvalidSpec, match="a grid tries each combination anyway; leave them out"):
        plan(hpo, seen(), NOW)


def test_the_coordinator_of_a_step_gets_its_cache_key():
    """It records the best trial under the key; a sweep with an annotation that is none gets nothing."""
    cache = CacheTask("a" * 64, {"command": '["a", "$(params.lr)"]'}, "churn", "tune", "run")

    def task_with(text: str) -> SweepTask:
        hpo = sweep()
        hpo.manifest["metadata"]["annotations"] = {ANNOTATION_CACHE: text}
        value = env(applied(plan(hpo, seen(), NOW), "hpo-coordinator"))[contract.ENV_SWEEP]
        assert "$" not in value, "Kubernetes would fill it in"
        return SweepTask.from_json(value)

    assert task_with(cache.to_json()).cache == cache
    assert task_with(structs.replace(cache, key="../x").to_json()).cache is None
    assert task_with("{").cache is None


def test_workers_get_the_command_with_the_parameters_left_to_fill_in():
    """Inputs, outputs and fixed parameters are filled in; those of the search space wait for the trial."""
    spec = {
        "command": ["python", "$(params.script)", "--lr=$(params.lr)"],
        "args": ["$(inputs.data)", "$(outputs.model)"],
        "parameters": {"script": "train.py"},
        "inputs": {"data": {"uri": "s3://lake/churn/"}},
        "outputs": {"model": {}},
    }
    got = plan(sweep(trialTemplate={"spec": spec}), seen(), NOW)
    job = applied(got, "hpo-workers")
    work = WorkerTask.from_json(env(job)[contract.ENV_SWEEP])
    task = TrainingTask.from_json(env(job)[contract.ENV_TASK])

    assert work.command == ("python", "train.py", "--lr=$(params.lr)", "/mnt/inputs/data", "/mnt/outputs/model")
    assert work.coordinator == "http://hpo-coordinator.team-a.svc:29600"
    assert task.inputs == {"data": "s3://lake/churn/"}
    assert "$" not in env(job)[contract.ENV_SWEEP], "Kubernetes would fill it in"
    assert "args" not in job["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("best", "model", "format"), [("churn", {}, "auto"), ("churn", {"format": "python"}, "python"), (None, {}, "")]
)
def test_workers_look_for_a_model_of_the_format_in_the_output_that_is_registered(best, model, format):
    """Workers look for the format that is given, or infer it from the files; the other outputs are plain folders."""
    spec = {"command": ["a"], "outputs": {"model": model, "report": {}}}
    hpo = sweep(trialTemplate={"spec": spec}, **({"registerBest": best} if best else {}))
    task = TrainingTask.from_json(env(applied(plan(hpo, seen(), NOW), "hpo-workers"))[contract.ENV_TASK])

    assert task.outputs == {"model": format, "report": ""}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"command": ["$(params.depth)"]}, "spec.searchSpace has no 'depth' (it has: lr)"),
        ({"command": ["a"], "args": ["$(inputs.data)"]}, "spec.trialTemplate.spec.inputs has no 'data'"),
        ({"command": ["a", "$(outputs.model)"]}, "spec.trialTemplate.spec.outputs has no 'model'"),
    ],
)
def test_a_reference_to_nothing_is_named(template, words):
    """A reference of the command must exist; the message names the place and the existing names."""
    with pytest.raises(InvalidSpec) as caught:
        plan(sweep(trialTemplate={"spec": template}), seen(), NOW)

    assert words in caught.value.message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"searchSpace": {"lr": {"choice": ["a", 1]}}}, "spec.searchSpace.lr"),
        ({"algorithm": {"type": "grid"}}, "spec.searchSpace.lr: a grid needs finitely many values"),
        (
            {"trialTemplate": {"spec": {"command": ["$(params.lr)"], "parameters": {"lr": 1, "a": 2}}}},
            "lr in spec.searchSpace and in spec.trialTemplate.spec.parameters; give each parameter in one of them",
        ),
        ({"algorithm": {"warmStartFrom": ["hpo"]}}, "spec.algorithm.warmStartFrom names hpo itself"),
    ],
)
def test_a_search_that_cannot_be_is_refused(spec, words):
    """The plan refuses a search space that the API server cannot check, and names the field."""
    with pytest.raises(InvalidSpec) as caught:
        plan(sweep(**spec), seen(), NOW)

    assert words in caught.value.message


def test_a_grid_has_as_many_trials_as_points():
    """Without maxTrials a grid's own number bounds it, also where conditions leave points out."""
    space = {
        "booster": {"choice": ["gbtree", "dart"]},
        "drop": {"uniform": {"min": 0, "max": 1, "step": 0.5}, "when": {"booster": ["dart"]}},
    }
    hpo = sweep(
        algorithm={"type": "grid"},
        searchSpace=space,
        limits={"parallelTrials": 9},
        trialTemplate={"spec": {"command": ["a"]}},
    )
    got = plan(hpo, replace(seen(), report=SweepSummary(succeeded=1)), NOW)

    assert got.status["progress"] == "1/4"
    assert applied(got, "hpo-workers")["spec"]["parallelism"] == 4, "more would have nothing to do"


def test_a_grid_of_more_points_than_trials_needs_a_bound():
    """A grid is no way around the number of trials that a Sweep can have; with maxTrials it is a sample."""
    space = {name: {"int": {"min": 1, "max": 100}} for name in ("a", "b")}
    grid = {"algorithm": {"type": "grid"}, "trialTemplate": {"spec": {"command": ["a"]}}}
    most = sweep(**grid, searchSpace=space, limits={})
    more = {**space, "c": {"choice": [1, 2]}}

    assert plan(most, replace(seen(), report=SweepSummary(succeeded=1)), NOW).status["progress"] == "1/10000"
    with pytest.raises(
        InvalidSpec, match=r"20000 points, and a Sweep 10000 trials at most; set limits.maxTrials, which"
    ):
        plan(sweep(**grid, searchSpace=more, limits={}), seen(), NOW)
    plan(sweep(**grid, searchSpace=more, limits={"maxTrials": 10}), seen(), NOW)


def test_parallel_trials_can_be_changed():
    """Both numbers of the workers' Job follow together, and its template stays as it was made."""
    hpo = sweep()
    before = running(hpo)
    more = sweep(limits={"maxTrials": 10, "parallelTrials": 5})
    got = plan(more, replace(before, platform=replace(before.platform, trainer_image="newer")), NOW)

    changed = applied(got, "hpo-workers")["spec"]
    assert (changed["completions"], changed["parallelism"], changed["backoffLimit"]) == (5, 5, 30)
    (image,) = (item["image"] for item in changed["template"]["spec"]["containers"])
    assert image == "ultramarine/trainer:1"
    assert [m["metadata"]["name"] for m in got.apply if m["kind"] == "Job"] == ["hpo-workers"]


def test_a_suspended_sweep_has_no_pods():
    """suspend holds both Jobs, and none of its trials is said to run."""
    status = {"trials": {"running": 2, "succeeded": 1, "stopped": 0, "failed": 0}}
    hpo = sweep(status, suspend=True)
    before = running(sweep())
    got = plan(hpo, before, NOW)

    assert [m["spec"]["suspend"] for m in got.apply if m["kind"] == "Job"] == [True, True]
    assert got.status["state"] == "Suspended"
    assert got.status["trials"] == {"running": 0, "succeeded": 1, "stopped": 0, "failed": 0}


def test_a_cancelled_sweep_ends_for_good():
    """No trial runs on: the next pass deletes both Jobs at once, and counts and the best stay in the status."""
    status = {"trials": {"running": 2, "succeeded": 1, "stopped": 0, "failed": 0}}
    hpo = sweep(status, cancel=True)
    there = running(sweep())
    got = plan(hpo, there, NOW)

    assert (got.status["state"], got.apply, got.delete) == ("Cancelled", (), ())
    assert got.status["trials"] == {"running": 0, "succeeded": 1, "stopped": 0, "failed": 0}
    after = sweep(got.status, cancel=True)
    assert {ref.name for ref in plan(after, there, NOW).delete} == {"hpo-coordinator", "hpo-workers"}


def test_what_the_coordinator_posts_is_told():
    """Counts, the best with its parameters, and what was used, as far as a status has room."""
    hpo = sweep()
    summary = SweepSummary(running=2, succeeded=3, stopped=1, failed=1, cpu_hours=0.5, best=(BEST,) * 12)
    got = plan(hpo, replace(running(hpo), report=summary), NOW)

    assert got.status["trials"] == {"running": 2, "succeeded": 3, "stopped": 1, "failed": 1}
    assert (got.status["progress"], got.status["bestValue"]) == ("5/10", "0.25")
    assert got.status["best"][0] == {
        "trial": 3,
        "values": {"loss": 0.25},
        "params": {"lr": 0.01, "booster": "dart", "deep": True},
    }
    assert len(got.status["best"]) == 10
    assert got.status["budgetUsed"] == {"cpuHours": 0.5}


def test_nonsense_among_the_parameters_is_not_written():
    """A parameter that is none of a search space, or too many characters of them, do not get into the status."""
    hpo = sweep()
    odd = BestTrial(1, (1.0,), {"a": {"b": 1}, "c": None, "d": float("inf"), "e": "x" * 300})
    large = BestTrial(2, (2.0,), {f"p{n}": "x" * 256 for n in range(64)})
    got = plan(hpo, replace(running(hpo), report=SweepSummary(best=(odd, large))), NOW)

    assert got.status["best"][0]["params"] == {"e": "x" * 256}
    assert "params" not in got.status["best"][1]


def test_where_the_best_trials_outputs_are_is_told():
    """Those of the template, where this sweep's trials store; other words of whoever posts are not passed on."""
    here = "s3://lake/team-a/sweeps/hpo/Sweep-hpo-uid/trials/3/"
    stored = {
        "model": f"{here}model/0123456789abcdef/",
        "report": "s3://lake/team-b/sweeps/hpo/Sweep-hpo-uid/trials/3/report/0123456789abcdef/",
        "more": f"{here}more/0123456789abcdef/",
        "long": here + "x" * 2048,
    }
    records = {name: contract.OutputRecord(uri, "sha256:d", 3) for name, uri in stored.items()}
    outputs = {name: {} for name in ("model", "report", "long")}
    hpo = sweep(trialTemplate={"spec": {"command": ["a"], "outputs": outputs}})
    got = plan(
        hpo, replace(running(hpo), report=SweepSummary(best=(structs.replace(BEST, outputs=records), BEST))), NOW
    )

    assert got.status["best"][0]["outputs"] == {"model": stored["model"]}
    assert "outputs" not in got.status["best"][1]


def test_several_objectives_have_several_values():
    """Each value goes by its metric's name, and the column shows all that it has room for."""
    hpo = sweep(objective=None, objectives=[{"metric": "loss"}, {"metric": "size", "goal": "minimize"}])
    summary = SweepSummary(best=(BestTrial(1, (0.5, 20.0)),))
    got = plan(hpo, replace(running(hpo), report=summary), NOW)

    assert got.status["best"] == [{"trial": 1, "values": {"loss": 0.5, "size": 20.0}}]
    assert got.status["bestValue"] == "loss=0.5 size=20"


def test_what_was_told_once_stays_told():
    """A new leader of the operator, to whom nothing was posted yet, keeps what the status says."""
    hpo = sweep()
    reported = plan(hpo, replace(running(hpo), report=SweepSummary(succeeded=3, best=(BEST,))), NOW).status
    again = plan(sweep(reported), running(hpo), NOW)

    assert again.status == reported


def test_a_lost_coordinator_is_made_anew():
    """Its Job was deleted: another one goes on from the journal, and the workers' Job stays as it is."""
    hpo = sweep({"startTime": "2030-01-01T11:30:00Z"})
    got = plan(hpo, seen(sweep_job(hpo, "workers", active=2), sweep_pod(hpo, "workers")), NOW)

    assert [m["metadata"]["name"] for m in got.apply if m["kind"] == "Job"] == ["hpo-coordinator"]
    assert (questions(hpo, seen()), got.status["startTime"]) == ((), "2030-01-01T11:30:00Z")


def test_a_job_that_goes_is_waited_for():
    """While a Job of its is being deleted nothing is made under its name."""
    hpo = sweep()
    going = sweep_job(hpo, "workers")
    going["metadata"]["deletionTimestamp"] = "2030-01-01T12:00:00Z"
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), going), NOW)

    assert (got.apply, condition(got, "Running")["reason"]) == ((), "JobEnding")


def test_a_stranger_under_its_name_is_not_its_own():
    """A Job of the right name that somebody else owns is not judged; the apply finds out whose it is."""
    hpo = sweep()
    strange = sweep_job(hpo, "coordinator", "Failed")
    strange["metadata"]["ownerReferences"] = [{"uid": "other", "controller": True}]
    got = plan(hpo, seen(strange), NOW)

    assert "Job/hpo-coordinator" in kinds_of(got.apply)
    assert got.status["state"] == "Pending"


def test_a_lost_token_is_generated_anew_for_all():
    """When a pod misses the Secret, both Jobs are made again: half of the pods would have the old one.

    The Job of that pod goes last, so that its trouble is seen until the others are gone, and the Secret comes after it.
    """
    hpo = sweep()
    waits = {"reason": "CreateContainerConfigError", "message": 'secret "hpo-sweep-token" not found'}
    pod = sweep_pod(hpo, "workers", "Pending", containerStatuses=[{"name": "trainer", "state": {"waiting": waits}}])
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), pod), NOW)
    then = plan(hpo, seen(sweep_job(hpo, "workers"), pod), NOW)
    last = plan(hpo, seen(), NOW)

    assert ([ref.name for ref in got.delete], got.apply, got.effects) == (["hpo-coordinator"], (), ())
    assert ([ref.name for ref in then.delete], then.apply, then.effects) == (["hpo-workers"], (), ())
    assert condition(got, "Running")["reason"] == condition(then, "Running")["reason"] == "TokenMissing"
    assert [effect.metadata["name"] for effect in last.effects] == ["hpo-sweep-token"]


def test_fewer_workers_do_not_make_failures_too_many():
    """Failures allowed for eight workers stay allowed for fewer: otherwise lower parallelTrials would end the sweep."""
    wide, narrow = (sweep(limits={"maxTrials": 50, "parallelTrials": count}) for count in (8, 1))
    spec = applied(plan(narrow, running(wide), NOW), "hpo-workers")["spec"]
    assert (spec["parallelism"], spec["backoffLimit"]) == (1, 48)
    wider = applied(plan(wide, running(narrow), NOW), "hpo-workers")["spec"]
    assert (wider["parallelism"], wider["backoffLimit"]) == (8, 48)


def test_why_a_worker_waits_is_said_while_others_run():
    """More workers than the nodes hold: the scheduler's words are there for as long as it is so."""
    hpo = sweep()
    wording = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    waits = sweep_pod(hpo, "workers", "Pending", node=1, conditions=[wording])
    there = running(hpo)
    others = [child for child in there.children if child["metadata"]["name"] != waits["metadata"]["name"]]
    got = plan(hpo, seen(*others, waits), NOW)
    message = condition(got, "Running")["message"]
    assert message.startswith("1 of 2 workers run; pod hpo-coordinator-0-abcde gives them trials; no node takes pod")
    (started,) = got.events
    assert (started.type, started.message) == ("Normal", "1 of 2 workers run"), "a normal event has no trouble in it"
    assert "Insufficient cpu; ask for less in its spec.trialTemplate.spec.resources.requests" in message


def test_what_the_coordinator_finds_odd_is_said_while_it_runs():
    """In the condition Running, where people look; an end has words of its own."""
    hpo = sweep()
    odd = SweepSummary(message="no trial has printed loss (they printed los); correct it\nmore")
    got = plan(hpo, replace(running(hpo), report=odd), NOW)
    wording = condition(got, "Running")["message"]
    assert wording.endswith("gives them trials; no trial has printed loss (they printed los); correct it")
    ending = structs.replace(odd, outcome="Failed")
    assert "no trial" not in condition(plan(hpo, replace(running(hpo), report=ending), NOW), "Running")["message"]


def test_a_warm_start_waits_for_the_other_sweep():
    """Without the sweep to learn from nothing begins; the message names it and both ways out."""
    got = plan(sweep(algorithm={"warmStartFrom": ["older"]}), seen(), NOW)

    assert (got.apply, got.effects) == ((), ())
    assert condition(got, "Running")["reason"] == "WarmStartMissing"
    assert "Sweep older not found in team-a; create it" in condition(got, "Running")["message"]
    assert [(event.reason, event.type) for event in got.events] == [("WarmStartMissing", "Warning")]
    assert got.after is not None


def test_a_warm_start_waits_until_the_other_sweep_has_ended():
    """Else what is known would depend on the moment in which it is read, and be none of a sweep just begun."""
    hpo = sweep(algorithm={"warmStartFrom": ["older"]})
    for status in (None, {"state": "Running"}, {"state": "Suspended"}):
        got = plan(hpo, seen(related=(ours("Sweep", "older", sweep().manifest["spec"], status),)), NOW)
        assert (got.apply, condition(got, "Running")["reason"]) == ((), "WarmStartUnfinished")
        assert "Sweep older" in condition(got, "Running")["message"]


@pytest.mark.parametrize("type", ["random", "grid", "sobol"])
def test_who_learns_nothing_is_doubted(type):
    """It runs; that the known trials change nothing is said in the condition Accepted."""
    space = {"lr": {"choice": [1, 2]}}
    hpo = sweep(searchSpace=space, algorithm={"type": type, "warmStartFrom": ["older"]})
    other = ours("Sweep", "older", sweep().manifest["spec"], {"state": "Succeeded"})
    got = plan(hpo, seen(related=(other,)), NOW)
    assert got.apply
    assert f"since {type} learns from no trial" in condition(got, "Accepted")["message"]


def test_a_warm_start_is_remembered():
    """The other sweep's prefix is told to the coordinator, and stays known when that sweep is gone."""
    hpo = sweep(algorithm={"warmStartFrom": ["older"]})
    other = ours("Sweep", "older", sweep().manifest["spec"], {"state": "Succeeded"})
    got = plan(hpo, seen(related=(other,)), NOW)
    uri = "s3://lake/team-a/sweeps/older/Sweep-older-uid/"

    assert got.status["warmStart"] == [uri]
    again = plan(sweep(got.status, algorithm={"warmStartFrom": ["older"]}), seen(), NOW)
    task = SweepTask.from_json(env(applied(again, "hpo-coordinator"))[contract.ENV_SWEEP])
    assert task.warm_start == (uri,)


def test_a_warm_start_from_other_objectives_is_refused():
    """A good trial for other objectives is not good here; the message names the objectives of both."""
    hpo = sweep(objective={"metric": "loss", "goal": "minimize"}, algorithm={"warmStartFrom": ["older"]})
    spec = sweep().manifest["spec"]
    for aim, other in {
        "minimize accuracy": {"objective": {"metric": "accuracy"}},
        "maximize loss": {"objective": {"metric": "loss", "goal": "maximize"}},
        "minimize loss, minimize size": {"objectives": [{"metric": "loss"}, {"metric": "size"}]},
    }.items():
        words = f"spec.algorithm.warmStartFrom: Sweep older is to {aim} and this one to minimize loss"
        with pytest.raises(InvalidSpec, match=words):
            plan(hpo, seen(related=(ours("Sweep", "older", {**spec, "objective": None, **other}),)), NOW)
    # To minimize is the default.
    same = ours("Sweep", "older", {**spec, "objective": {"metric": "loss"}}, {"state": "Failed"})
    assert plan(hpo, seen(related=(same,)), NOW).status["warmStart"]


@pytest.mark.parametrize(
    "reported", [["s3://lake/team-b/sweeps/older/x/"], ["s3://lake/team-a/sweeps/other/x/"], ["x", "y"]]
)
def test_a_warm_start_of_anybody_else_is_not_believed(reported):
    """The status is open to whoever may write it: only a place of the sweep that is named counts."""
    got = plan(sweep({"warmStart": reported}, algorithm={"warmStartFrom": ["older"]}), seen(), NOW)

    assert condition(got, "Running")["reason"] == "WarmStartMissing"


def waiting(reason: str, message: str = "not found") -> Manifest:
    """The containerStatuses of a container that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "trainer", "image": "wrong:1", "state": state}]}


def test_workers_without_an_image_are_told():
    """While no worker runs, the reason of one that waits is the sweep's, and since when is remembered."""
    hpo = sweep()
    pods = (sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers", "Pending", **waiting("ErrImagePull")))
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), *pods), NOW)

    assert condition(got, "Running")["reason"] == "ErrImagePull"
    assert "image wrong:1" in condition(got, "Running")["message"]
    assert got.status["imageErrorSince"] == "2030-01-01T12:00:00Z"
    assert got.after is not None


def test_an_image_that_is_not_there_fails_the_sweep():
    """After two minutes of an image that no registry has, the sweep fails and says what to do."""
    hpo = sweep({"imageErrorSince": "2030-01-01T11:57:00Z"})
    pods = (sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers", "Pending", **waiting("ErrImagePull")))
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), *pods), NOW)

    assert condition(got, "Failed")["reason"] == "ErrImagePull"
    assert got.status["failure"]["hint"] == "correct the image, and run it again as a new Sweep"


def test_a_worker_without_an_image_fails_nothing_while_others_run():
    """One node that cannot pull is no reason to stop those that can."""
    hpo = sweep({"imageErrorSince": "2030-01-01T11:00:00Z"})
    pods = (
        sweep_pod(hpo, "coordinator"),
        sweep_pod(hpo, "workers"),
        sweep_pod(hpo, "workers", "Pending", node=1, **waiting("ErrImagePull")),
    )
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), *pods), NOW)

    assert got.status["state"] == "Running"
    assert condition(got, "Running")["message"].startswith("1 of 2 workers run")


def test_a_worker_that_fails_is_told():
    """A worker that failed and has no successor yet is the reason why no trial runs."""
    hpo = sweep()
    failed = sweep_pod(hpo, "workers", "Failed", **ended_container(128, "StartError", "executable file not found"))
    got = plan(
        hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), sweep_pod(hpo, "coordinator"), failed), NOW
    )

    assert condition(got, "Running")["reason"] == "Retrying"
    assert "cannot start our entry point" in condition(got, "Running")["message"]


def test_a_worker_that_ends_the_sweep_has_no_successor():
    """Its Job's rules say which exit code ends it: until the Job says so itself, nobody is promised another pod."""
    hpo = sweep()
    words = TerminationRecord(reason="InputNotFound", message="nothing is stored under s3://lake/churn/")
    failed = sweep_pod(hpo, "workers", "Failed", **ended_container(203, message=words.to_json()))
    jobs = (sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"))
    got = plan(hpo, seen(*jobs, sweep_pod(hpo, "coordinator"), failed), NOW)

    assert condition(got, "Running")["reason"] == "Finishing"
    assert condition(got, "Running")["message"] == (
        "nothing is stored under s3://lake/churn/; no other pod takes its place, and the sweep ends"
    )
    assert got.events == ()


def test_a_dead_coordinators_log_is_where_its_pod_is():
    """A Job makes another pod and restarts none, so there is no `--previous`; of one that goes the label leads on."""
    hpo = sweep()
    dead = sweep_pod(hpo, "coordinator", "Failed", **ended_container(1, name="coordinator"))
    jobs = (sweep_job(hpo, "coordinator", failed=1), sweep_job(hpo, "workers"))
    got = plan(hpo, seen(*jobs, dead, sweep_pod(hpo, "workers")), NOW)
    assert condition(got, "Running")["message"] == (
        "pod hpo-coordinator-0-abcde exited with code 1; see kubectl -n team-a logs hpo-coordinator-0-abcde "
        "-c coordinator; another pod takes its place"
    )

    dead["metadata"] |= {"deletionTimestamp": "2030-01-01T12:00:00Z"}
    dead["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "hpo-coordinator"
    gone = plan(hpo, seen(*jobs, dead, sweep_pod(hpo, "workers")), NOW)
    command = "kubectl -n team-a logs -l batch.kubernetes.io/job-name=hpo-coordinator -c coordinator --prefix --tail=-1"
    assert command in condition(gone, "Running")["message"]


def test_a_job_that_waits_before_its_next_pod_says_so():
    """After a failure Kubernetes waits, and longer each time: no quota is blamed for that."""
    hpo = sweep()
    job = sweep_job(hpo, "coordinator", startTime="2030-01-01T11:50:00Z", failed=1)
    got = plan(hpo, seen(job, sweep_job(hpo, "workers", active=1), sweep_pod(hpo, "workers")), NOW)

    assert condition(got, "Running")["reason"] == "Retrying"
    assert condition(got, "Running")["message"].startswith(
        "a pod of Job hpo-coordinator failed or went, and Kubernetes waits before it makes the next one"
    )


def test_a_job_without_pods_says_where_to_look():
    """A quota that lets no pod through is told after half a minute, with the command that shows why."""
    hpo = sweep()
    job = sweep_job(hpo, "workers", startTime="2030-01-01T11:50:00Z")
    got = plan(hpo, seen(sweep_job(hpo, "coordinator", active=1), job, sweep_pod(hpo, "coordinator")), NOW)

    assert condition(got, "Running")["reason"] == "NoPod"
    assert "kubectl -n team-a describe job hpo-workers" in condition(got, "Running")["message"]


def test_a_waiting_pod_fails_the_sweep_when_its_deadline_is_over():
    """pendingDeadlineSeconds of the template bounds how long pods are waited for."""
    hpo = sweep(trialTemplate={"spec": {**TRIAL, "pendingDeadlineSeconds": 60}})
    pods = (sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers", "Pending"))
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), *pods), NOW)

    assert condition(got, "Failed")["reason"] == "PendingDeadlineExceeded"
    assert "pendingDeadlineSeconds=60" in got.status["failure"]["hint"]


def test_what_is_wrong_with_the_trials_spec_is_called_as_the_sweep_has_it():
    """Paths of a TrainingJob get the template's in front, once; the sweep's own stay, and so do others."""
    assert in_template("check spec.command[0]") == "check spec.trialTemplate.spec.command[0]"
    assert in_template("raise resources.limits.memory") == "raise spec.trialTemplate.spec.resources.limits.memory"
    for kept in ("spec.limits.maxTrials", "spec.activeDeadlineSeconds", "my-spec.command", "s3://b/spec.inputs"):
        assert in_template(kept) == kept
    once = in_template("spec.inputs.data.uri: gone; raise resources.limits.memory")
    assert in_template(once) == once

    hpo = sweep(trialTemplate={"spec": {**TRIAL, "pendingDeadlineSeconds": 60}})
    pods = (sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers", "Pending"))
    got = plan(hpo, seen(sweep_job(hpo, "coordinator"), sweep_job(hpo, "workers"), *pods), NOW)
    path = "spec.trialTemplate.spec.pendingDeadlineSeconds=60"
    assert path in got.status["failure"]["hint"]
    assert path in condition(got, "Failed")["message"]


def test_the_template_is_all_that_a_trainingjob_has_and_a_sweep_has_not():
    """A field of both is the sweep's."""
    job, own = ({field.alias for field in spec.model_fields.values()} for spec in (TrainingJobSpec, SweepSpec))
    assert set(TEMPLATE_FIELDS) == job - own


def test_a_parameter_that_no_trial_hears_of_is_doubted():
    """The command gets parameters by reference and in no other way, so one without is tried in vain: said once."""
    space = {
        "lr": {"uniform": {"min": 0, "max": 1}},
        "booster": {"choice": ["gbtree", "dart"]},
        "dropout": {"uniform": {"min": 0, "max": 1}, "when": {"booster": ["dart"]}},
        "depth": {"int": {"min": 1, "max": 3}},
    }
    template = {"spec": {"command": ["a", "--lr=$(params.lr)"], "args": ["--dropout=$(params.dropout)"]}}
    got = plan(sweep(searchSpace=space, trialTemplate=template), seen(), NOW)

    accepted = condition(got, "Accepted")
    assert accepted["status"] == "True"
    assert accepted["message"] == (
        "no trial gets spec.searchSpace.depth: neither command nor args in spec.trialTemplate.spec refer to it; "
        "make the sweep again with $(params.depth) there, or leave it out"
    )
    assert [(event.type, event.message) for event in got.events] == [("Warning", accepted["message"])]
    again = plan(sweep(got.status, searchSpace=space, trialTemplate=template), seen(), NOW)
    assert again.events == ()
    assert condition(plan(sweep(), seen(), NOW), "Accepted")["message"] == ""
