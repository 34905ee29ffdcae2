"""The operator among what is not its own, and among nonsense: it takes nothing over, and goes on."""

from __future__ import annotations

import json

import pytest
from bare import Api, eventually
from stories import ready, serving, status, there, trained, training, until, versions
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_operator.shared.conditions import find

FOREIGN_JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "churn"},
    "spec": {
        "backoffLimit": 6,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "mine:1"}]}},
    },
}


@pytest.mark.attack(
    "author/taken-names",
    asset="other people's objects",
    threat="a name that somebody else's Job, ConfigMap or Service has",
    control="a stranger's object is never taken over; the status says whose turn it is",
)
def test_a_job_of_somebody_else_is_not_taken_over(api, operator):
    """If a foreign Job has the name, it stays unchanged, and a condition names the object to rename."""
    api.apply(FOREIGN_JOB)
    before = api.get("job", "churn")
    api.apply(training("churn"), training("other"))
    told = eventually("a condition says so", lambda: find(status(api, "tj", "churn"), "Reconciled"))

    assert told["status"] == "False"
    assert told["message"].startswith("Job churn already exists and has another owner")
    assert "Rename this object" in told["message"]
    running = find(status(api, "tj", "churn"), "Running")
    assert running is not None
    assert running["message"] == told["message"], "it is not starting"
    until(api, "other", "Pending")
    assert api.get("job", "churn") == before


def test_a_name_that_becomes_free_is_used(api, operator):
    """When the stranger's Job is gone, the next look (half a minute later, or at a touch) makes ours."""
    api.apply(FOREIGN_JOB, training("churn"))
    eventually("a condition says so", lambda: find(status(api, "tj", "churn"), "Reconciled"))
    api.run("delete", "job/churn")
    api.run("label", "tj/churn", "look=now")
    eventually("the Job is ours", lambda: (there(api, "jobs", "churn") or {"metadata": {}})["metadata"].get("labels"))

    eventually("the condition is gone", lambda: not find(status(api, "tj", "churn"), "Reconciled"))


def test_a_job_that_was_orphaned_is_named_with_the_way_out(api, operator):
    """After `kubectl delete --cascade=orphan` the next object of that name needs the Job away, and says how."""
    api.apply(training("churn"))
    eventually("the Job is there", lambda: there(api, "jobs", "churn"))
    first = api.get("job", "churn")["metadata"]["uid"]
    api.run("delete", "tj/churn")
    gone = {"op": "remove", "path": "/metadata/ownerReferences"}
    for child in ("job/churn", "configmap/churn-source"):
        api.run("patch", child, "--type=json", "-p", json.dumps([gone]))
    api.apply(training("churn"))
    told = eventually("a condition says so", lambda: _conflict(api), 120)

    assert told["message"].startswith("Job churn was left behind by an earlier object of this name")
    assert f"kubectl delete job churn -n {api.namespace}" in told["message"]
    assert api.get("job", "churn")["metadata"]["uid"] == first
    api.run("delete", "job/churn")
    api.run("label", "tj/churn", "look=now")
    eventually("it has its own Job", lambda: there(api, "jobs", "churn"))
    eventually("the condition is gone", lambda: not find(status(api, "tj", "churn"), "Reconciled"))


@pytest.mark.attack(
    "author/own-configmap",
    asset="the code that runs",
    threat="somebody's ConfigMap has the name of a job's own",
    control="the Job is not made while its ConfigMap cannot be",
)
def test_a_config_map_of_somebody_else_is_not_taken_over(api, operator):
    """A stranger's object that has the name, but no field that we would change, is not ours either."""
    api.run("create", "configmap", "churn-source", "--from-literal=notes=mine")
    before = api.get("cm", "churn-source")
    api.apply(training("churn"))
    told = eventually("a condition says so", lambda: find(status(api, "tj", "churn"), "Reconciled"))

    assert told["message"].startswith("ConfigMap churn-source already exists and has another owner")
    assert api.get("cm", "churn-source") == before
    assert there(api, "jobs", "churn") is None, "its pod would run what the stranger's ConfigMap holds"


def test_an_endpoint_whose_spec_cannot_be_served_is_not_ready(api, operator):
    """An error that the API server cannot detect, such as a warm-up that is not JSON, appears in column READY."""
    blue = {"name": "blue", "model": "m@1", "warmup": {"request": "not json"}}
    api.apply(serving("shop", "m@1") | {"spec": {"deployments": [blue]}})
    told = eventually(
        "it is looked at", lambda: (c := find(status(api, "oe", "shop"), "Ready"))["status"] != "Unknown" and c
    )

    assert (told["status"], told["reason"]) == ("False", "InvalidSpec")
    assert "warmup.request" in told["message"]


def test_an_edit_that_cannot_be_served_leaves_the_readiness_of_what_goes_on(api, operator):
    """READY still tells of the spec before, and Stalled of the edit."""
    api.apply(serving("shop", "m@1"))
    before = eventually(
        "it is looked at", lambda: (c := find(status(api, "oe", "shop"), "Ready"))["status"] != "Unknown" and c
    )
    blue = {"name": "blue", "model": "m@1", "warmup": {"request": "not json"}}
    api.apply(serving("shop", "m@1") | {"spec": {"deployments": [blue]}})
    stalled = eventually("the edit is refused", lambda: find(status(api, "oe", "shop"), "Stalled"))

    assert "warmup.request" in stalled["message"]
    assert find(status(api, "oe", "shop"), "Ready") == before


def _conflict(api: Api) -> Manifest | None:
    """Return the conflict that keeps a job from its Job, if another owner causes it."""
    told = find(status(api, "tj", "churn"), "Reconciled")
    return told if told is not None and told["reason"] == "Conflict" else None


OURS = {"app.kubernetes.io/managed-by": "ultramarine"}
POISON: list[Manifest] = [
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no-owner", "labels": OURS}},
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "odd-kind",
            "labels": {**OURS, "ultramarine.dev/kind": "Nonsense", "ultramarine.dev/name": "x"},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "empty-labels",
            "labels": {**OURS, "ultramarine.dev/kind": "", "ultramarine.dev/name": ""},
            "annotations": {"ultramarine.dev/applied": "nonsense"},
        },
    },
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "stray",
            "labels": {**OURS, "ultramarine.dev/kind": "TrainingJob", "ultramarine.dev/name": "never-was"},
        },
        "spec": FOREIGN_JOB["spec"],
    },
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "odd-pod",
            "labels": {**OURS, "ultramarine.dev/kind": "OnlineEndpoint", "ultramarine.dev/name": "shop"},
            "annotations": {"ultramarine.dev/model-version": "]["},
        },
        "spec": {"containers": [{"name": "main", "image": "mine:1"}]},
    },
    {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": "poor-1",
            "labels": {"ultramarine.dev/training-job-uid": "", "ultramarine.dev/output": ""},
        },
        "spec": {
            "model": "poor",
            "version": "1",
            "uri": "s3://no-such-bucket/a/",
            "digest": "sha256:" + "0" * 64,
            "format": {"name": "onnx"},
        },
    },
]
POISONED_STATUS = [
    ("tj", "churn", {"state": "\U0001f4a5", "completionTime": "2030-01-01T00:00:00.999999Z", "attempts": 10**9}),
    ("tj", "busy", {"state": "", "startTime": "2030-01-01T00:00:00+23:59", "conditions": None}),
    ("mv", "churn-1", {"state": "", "conditions": None, "bytes": 10**15}),
    ("oe", "shop", {"traffic": {"blue": -5}, "deployments": [{"name": ""}], "conditions": None}),
]


@pytest.mark.attack(
    "author/poison",
    asset="the operator",
    threat="poisoned statuses, labels, annotations, owners, termination messages",
    control="read defensively; an object that cannot be read is left out, and the others go on",
)
def test_poison_does_not_stop_the_others(settled, operator, node):
    """Children with odd labels and statuses with nonsense in them neither stop other objects nor the operator."""
    settled.apply(*POISON)
    settled.status("mdl", "churn", {"latestVersion": "nonsense", "conditions": None})
    for kind, name, nonsense in POISONED_STATUS:
        settled.status(kind, name, nonsense)
    trained(settled, node, "other")
    operator.kill()
    operator.start()
    trained(settled, node, "third")

    assert versions(settled, "other") == ["other-1"]
    assert versions(settled, "third") == ["third-1"]


def test_a_spoilt_status_heals(settled):
    """Nonsense in a status is overwritten with the truth."""
    for kind, name, nonsense in POISONED_STATUS:
        settled.status(kind, name, nonsense)

    settled.status("mdl", "churn", {"latestVersion": "nonsense", "conditions": None})

    eventually("the model counts again", lambda: status(settled, "mdl", "churn").get("latestVersion") == "1")
    eventually("the version is ready again", lambda: ready(settled, "churn-1"))
    eventually("the endpoint tells its traffic", lambda: status(settled, "oe", "shop").get("traffic") == {"blue": 100})
    until(settled, "busy", "Running")


def test_two_endpoints_do_not_fight_over_a_name(settled):
    """If the deployments of two endpoints have the same name, the first keeps it and the second reports it."""
    settled.apply(serving("shop-a", "churn@1", deployment="b"))
    eventually("the Deployment is there", lambda: there(settled, "deployments", "shop-a-b"))
    before = settled.get("deployment", "shop-a-b")
    settled.apply(serving("shop", "churn@1", deployment="a-b"))
    told = eventually("a condition says so", lambda: find(status(settled, "oe", "shop"), "Reconciled"))

    assert told["status"] == "False"
    assert told["message"].startswith("Deployment shop-a-b already exists and has another owner")
    assert settled.get("deployment", "shop-a-b") == before
