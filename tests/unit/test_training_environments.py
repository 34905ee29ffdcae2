"""Environments of TrainingJobs and Sweeps: awaited, kept in the status, and the same for all pods."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import DIGEST, NOW, condition, job, ours, seen, sweep, training_job
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import SweepSummary, WantedTrial
from ultramarine_operator.kinds.sweep.plan import plan as plan_sweep
from ultramarine_operator.kinds.sweep.testing.samples import TRIAL
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.kinds.trainingjob.testing.samples import PINNED
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.testing import PLATFORM

NEEDED = {"name": "lgb"}
URI = "s3://lake/team-a/environments/lgb/uid/7f/environment.tar.zst"


def environment(status: Manifest, **spec: Any) -> Manifest:
    """The Environment lgb."""
    return ours("Environment", "lgb", {"python": {"requirements": ["lightgbm==4.6"]}, **spec}, status)


def ready(**spec: Any) -> Manifest:
    """The same, built."""
    built = {"type": "Ready", "status": "True", "reason": "Built", "message": ""}
    return environment({"conditions": [built], "uri": URI, "digest": DIGEST, "bytes": 1000}, **spec)


def ended(message: str) -> Manifest:
    """The same, whose build has failed."""
    return environment({"conditions": [{"type": "Failed", "status": "True", "reason": "x", "message": message}]})


def pod_of(plan: Plan) -> Manifest:
    """The pod of the last Job in a plan."""
    spec: Manifest = plan.apply[-1]["spec"]["template"]["spec"]
    return spec


def task_of(pod: Manifest) -> Manifest:
    """The task of a training pod."""
    variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    task: Manifest = json.loads(str(variables["ULTRAMARINE_TASK"]))
    return task


def later(first: Plan, build: Any, **spec: Any) -> Obj[Any]:
    """The object in the pass after `first`."""
    made: Obj[Any] = build(first.status, **spec)
    return made


def test_a_job_makes_the_environment_of_its_requirements_and_waits():
    """A job with requirements creates a shared Environment, says for what it waits, and has no pod meanwhile."""
    churn = training_job(environment={"requirements": ["lightgbm==4.6"]})
    got = plan(churn, seen(), NOW)

    (made,) = got.create
    assert (made["kind"], made["spec"]) == ("Environment", {"python": {"requirements": ["lightgbm==4.6"]}})
    assert (got.apply, got.after) == ((), None)
    running = condition(got, "Running")
    assert (running["status"], running["reason"]) == ("False", "EnvironmentNotReady")
    assert made["metadata"]["name"] in running["message"]


def test_a_job_starts_in_its_environment_once_it_is_built():
    """The status names the archive first; then the Job has it in its task, and a folder of its own for it."""
    churn = training_job(environment=NEEDED)
    first = plan(churn, seen(related=(ready(),)), NOW)
    pinned = first.status["provenance"]
    assert pinned == {
        "environment": "lgb",
        "environmentUri": URI,
        "environmentDigest": DIGEST,
        "environmentBytes": 1000,
    }
    assert first.apply == ()
    assert first.after is not None

    pod = pod_of(plan(later(first, training_job, environment=NEEDED), seen(related=(ready(),)), NOW))
    assert task_of(pod)["environment"] == {"uri": URI, "digest": DIGEST, "bytes": 1000}
    assert {"name": "environment", "mountPath": "/mnt/environment"} in pod["containers"][0]["volumeMounts"]
    assert {"name": "environment", "emptyDir": {"sizeLimit": "100Gi"}} in pod["volumes"]
    assert pod["containers"][0]["image"] == PLATFORM.trainer_image


def test_a_job_keeps_its_environment_when_the_object_is_gone_or_built_again():
    """A Job that is made again has the archive of the first one."""
    again = ready()
    again["status"]["digest"] = "sha256:" + "b" * 64
    churn = training_job({"provenance": PINNED}, environment=NEEDED)
    for related in ((), (again,), (ended("gone"),)):
        assert task_of(pod_of(plan(churn, seen(related=related), NOW)))["environment"]["digest"] == DIGEST
    assert plan(training_job({}, environment=NEEDED), seen(job(churn, active=1)), NOW).create == ()


def test_the_image_of_an_environment_is_that_of_the_pods():
    """A job without an image takes the environment's; a job with another one fails with the remedy."""
    own = ready(image="team-a/base:1")
    first = plan(training_job(environment=NEEDED), seen(related=(own,)), NOW)
    pod = pod_of(plan(later(first, training_job, environment=NEEDED), seen(), NOW))
    assert pod["containers"][0]["image"] == "team-a/base:1"

    got = plan(training_job(environment=NEEDED, image="team-a/other:1"), seen(related=(own,)), NOW)
    assert got.status["state"] == "Failed"
    assert got.status["failure"]["hint"].startswith("name an Environment with that image, or leave the image out here")
    assert "leave the image out" not in got.status["failure"]["message"]


def test_a_job_fails_with_the_words_of_a_failed_build():
    """The resolver's words are the job's own, with the remedy."""
    got = plan(training_job(environment=NEEDED), seen(related=(ended("no version of nosuch matches nosuch==9"),)), NOW)

    failure = got.status["failure"]
    assert (got.status["state"], failure["reason"]) == ("Failed", "EnvironmentFailed")
    assert "no version of nosuch matches nosuch==9" in failure["message"]
    assert "delete Environment lgb to have it built again" in failure["hint"]


def test_the_wait_for_an_environment_ends_by_the_pending_deadline():
    """The limit counts from the first pass, or from the end of the last suspension."""
    spec: Manifest = {"environment": NEEDED, "pendingDeadlineSeconds": 60}
    first = plan(training_job(**spec), seen(), NOW)
    assert first.after == timedelta(seconds=60)
    waits = later(first, training_job, **spec)
    assert plan(waits, seen(), NOW + timedelta(seconds=45)).after == timedelta(seconds=15)

    got = plan(waits, seen(), NOW + timedelta(seconds=60))
    failure = got.status["failure"]
    assert (got.status["state"], failure["reason"]) == ("Failed", "PendingDeadlineExceeded")
    assert "Environment lgb does not exist yet" in failure["message"]
    held = later(plan(later(first, training_job, **spec, suspend=True), seen(), NOW), training_job, **spec)
    assert plan(held, seen(), NOW + timedelta(hours=1)).after == timedelta(seconds=60)


def test_a_suspended_job_makes_no_environment():
    """A job that is held before its start waits for nothing and creates nothing."""
    got = plan(training_job(environment={"requirements": ["a"]}, suspend=True), seen(), NOW)
    assert (got.status["state"], got.create, got.apply) == ("Suspended", (), ())


@pytest.mark.parametrize(
    "spec",
    [
        {"environment": {"requirementsFile": "requirements.txt"}, "source": {"inline": {"train.py": ""}}},
        {"environment": NEEDED, "command": ["$(params.rate)"]},
    ],
)
def test_a_spec_that_cannot_run_is_refused_before_the_build(spec):
    """A missing file of requirements or a reference without a target costs no build."""
    with pytest.raises(InvalidSpec):
        plan(training_job(**spec), seen(), NOW)


def template(**spec: Any) -> Manifest:
    """A Sweep's template with an environment."""
    return {"trialTemplate": {"spec": {**TRIAL, "environment": NEEDED, **spec}}}


def test_the_workers_of_a_sweep_share_one_environment():
    """A Sweep awaits its environment like a job, and gives all of its workers the archive of its status."""
    waits = plan_sweep(sweep(**template()), seen(), NOW)
    assert (condition(waits, "Running")["reason"], waits.apply) == ("EnvironmentNotReady", ())
    first = plan_sweep(sweep(**template()), seen(related=(ready(image="team-a/base:1"),)), NOW)
    assert (first.apply, first.status["provenance"]["environment"]) == ((), "lgb")

    got = plan_sweep(later(first, sweep, **template()), seen(), NOW)
    workers = next(made for made in got.apply if made["metadata"]["name"] == "hpo-workers")
    pod = workers["spec"]["template"]["spec"]
    assert task_of(pod)["environment"]["digest"] == DIGEST
    assert pod["containers"][0]["image"] == "team-a/base:1"
    failed = plan_sweep(sweep(**template()), seen(related=(ended("no such package"),)), NOW)
    assert failed.status["failure"]["reason"] == "EnvironmentFailed"


def test_each_trial_with_a_job_gets_the_environment_of_its_sweep():
    """The job of a trial runs in the archive that its Sweep has, even if the Environment is gone."""
    platform = replace(PLATFORM, progress_url="http://operator:8080")
    spec = template(source={"inline": {"requirements.txt": "a"}}, environment={"requirementsFile": "requirements.txt"})
    hpo = sweep({"provenance": PINNED}, execution="PodPerTrial", **spec)
    wanted = SweepSummary(wanted=(WantedTrial(0, {"lr": 0.1}),))
    made = plan_sweep(hpo, seen(platform=platform, report=wanted), NOW).apply[-1]
    assert (made["kind"], made["spec"]["environment"]) == ("TrainingJob", {"name": "env-1a2b"})

    trial = training_job(**made["spec"])
    meta = {**trial.manifest["metadata"], **made["metadata"], "ownerReferences": made["metadata"]["ownerReferences"]}
    trial = Obj({**trial.manifest, "metadata": meta}, trial.spec)
    got = plan(trial, seen(platform=platform), NOW)
    assert task_of(pod_of(got))["environment"]["uri"] == PINNED["environmentUri"]
    forged = {**meta, "ownerReferences": []}
    assert plan(Obj({**trial.manifest, "metadata": forged}, trial.spec), seen(), NOW).apply == ()
