"""Messages about a pod that the API server refuses, from the words of the Job controller."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, condition, job, pod, seen, sweep, sweep_job, sweep_pod, training_job
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.sweep.plan import plan as plan_sweep
from ultramarine_operator.kinds.sweep.plan import questions as sweep_questions
from ultramarine_operator.kinds.trainingjob.plan import plan, questions
from ultramarine_operator.runs import JobView, waiting
from ultramarine_operator.shared.plan import Seen
from ultramarine_operator.shared.questions import Refusal

QUOTA = "exceeded quota: share, requested: pods=1, used: pods=5, limited: pods=5"
SAID = f'Error creating: pods "churn-0-x7" is forbidden: {QUOTA}'
BEGAN = "2030-01-01T11:59:58Z"


@pytest.mark.parametrize(
    ("wording", "reported"),
    [
        (SAID, f"{QUOTA}; it goes on by itself"),
        (f"(combined from similar events): {SAID}", f"{QUOTA}; it goes on by itself"),
        (
            'pods "a-b" is forbidden: failed quota: share: must specify limits.cpu for: server',
            "failed quota: share: must specify limits.cpu for: server; set that in resources, or have a LimitRange",
        ),
        (
            'pods "a" is forbidden: exceeded quota: q, requested: cpu=1500m, used: cpu=0, limited: cpu=1',
            "exceeded quota: q, requested: cpu=1500m, used: cpu=0, limited: cpu=1; it asks for more than the whole",
        ),
        (
            'pods "a" is forbidden: maximum memory usage per Container is 64Gi, but limit is 100Gi',
            "maximum memory usage per Container is 64Gi, but limit is 100Gi; set resources.limits",
        ),
        (
            'Pod "a" is invalid: spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or '
            "equal to cpu limit of 1",
            'Pod "a" is invalid: spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or '
            "equal to cpu limit of 1; set resources.limits",
        ),
        (
            'pods "a" is forbidden: no PriorityClass with name soon was found',
            "no PriorityClass with name soon was found; create it, or correct spec.podTemplate.priorityClassName",
        ),
        (
            'pods "a" is forbidden: error looking up service account team-a/reader: serviceaccount "reader" not found',
            'error looking up service account team-a/reader: serviceaccount "reader" not found; create it, or correct '
            "spec.podTemplate.serviceAccountName",
        ),
        ("Error creating: admission webhook says no", "admission webhook says no"),
        ('Error creating: Pod "a" is invalid: spec', 'Pod "a" is invalid: spec'),
    ],
)
def test_it_is_the_same_for_each_pod_that_is_tried(wording, reported):
    """Names of pods that were not made would make each look another status; what helps comes last."""
    assert waiting.refused(wording).startswith(reported)


def refused(child: Manifest, *more: Manifest, time: str = BEGAN, wording: str = SAID) -> Seen:
    return replace(seen(child, *more), answers={waiting.question(JobView(child)): Refusal(wording, time)})


def test_a_job_says_at_once_why_it_has_no_pod():
    """With the quota's name and what is used of it; it is looked at again, since no watch tells of room."""
    churn = training_job()
    child = job(churn, startTime=BEGAN)
    assert questions(churn, seen(child)) == (waiting.question(JobView(child)),)
    got = plan(churn, refused(child), NOW)

    reported = condition(got, "Running")
    assert (reported["reason"], got.after) == ("NoPod", waiting.ASK_AGAIN)
    assert reported["message"].startswith(f"Kubernetes makes no pod for Job churn: {QUOTA}")
    assert condition(plan(churn, refused(child, wording=""), NOW), "Running")["reason"] == "PodStarting"


def test_a_job_whose_own_pods_hold_the_quota_says_so():
    """Of several nodes some have pods, which wait for the others: nobody else will make room."""
    churn = training_job(nodes=3, framework="torch")
    child = job(churn, startTime=BEGAN, active=2)
    waits = [pod(churn, f"churn-{node}-a", "Pending", node) for node in (0, 1)]
    for item in waits:
        item["metadata"]["creationTimestamp"] = "2030-01-01T11:00:00Z"
    reported = condition(plan(churn, refused(child, *waits), NOW), "Running")["message"]

    assert "2 pods of this job, which hold a part of the quota" in reported
    assert "by itself" not in reported


def test_nobody_is_asked_about_a_job_that_has_its_pods():
    """One that runs, is held, or has ended lacks nothing."""
    churn = training_job()
    for counts in ({}, {"startTime": BEGAN, "active": 1}, {"startTime": BEGAN, "succeeded": 1}):
        assert questions(churn, seen(job(churn, **counts))) == ()
    held = training_job(suspend=True)
    assert questions(held, seen(job(held, startTime=BEGAN))) == ()


def test_a_node_that_is_refused_is_told_while_the_others_wait():
    """Of four nodes three have pods that wait for the last one; once that is made, nothing is refused any more."""
    churn = training_job(nodes=2, framework="torch")
    child, first = job(churn, startTime=BEGAN, active=1), pod(churn, phase="Pending")
    first["metadata"]["creationTimestamp"] = BEGAN
    assert QUOTA in condition(plan(churn, refused(child, first), NOW), "Running")["message"]

    first["metadata"]["creationTimestamp"] = "2030-01-01T11:59:59Z"
    assert condition(plan(churn, refused(child, first), NOW), "Running")["reason"] == "PodStarting"


def test_another_attempt_that_is_refused_is_told_beside_the_failure():
    """Both are in the message: why the last attempt failed, and why the next one does not begin."""
    churn = training_job()
    broken: dict[str, Any] = {"terminated": {"exitCode": 1, "reason": "Error", "message": "boom"}}
    failed = pod(churn, phase="Failed", containerStatuses=[{"name": "trainer", "state": broken}])
    reported = condition(plan(churn, refused(job(churn, startTime=BEGAN, failed=1), failed), NOW), "Running")["message"]

    assert reported.startswith("attempt 1 failed: pod churn-0-abcde exited with code 1: boom")
    assert f"Kubernetes makes no pod for Job churn: {QUOTA}" in reported


def test_a_sweep_says_which_of_its_jobs_is_refused():
    """The workers' Job has no pod, while the coordinator's has one."""
    hpo = sweep()
    workers = sweep_job(hpo, "workers", startTime=BEGAN)
    here = (sweep_job(hpo, "coordinator", startTime=BEGAN, active=1), sweep_pod(hpo, "coordinator"))
    assert sweep_questions(hpo, seen(*here, workers)) == (waiting.question(JobView(workers)),)
    got = plan_sweep(hpo, refused(workers, *here), NOW)

    assert condition(got, "Running")["message"].startswith(f"Kubernetes makes no pod for Job hpo-workers: {QUOTA}")
    assert got.after == timedelta(seconds=60)
