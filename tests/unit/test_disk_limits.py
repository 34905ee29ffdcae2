"""Limits on a node's disk for a pod, and the message about a pod that exceeded them."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, PLATFORM, child, condition, endpoint, job, model, pod, seen, training_job, version
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.onlineendpoint.plan import plan as plan_endpoint
from ultramarine_operator.kinds.trainingjob.manifests import pod_spec
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.runs.queues import LABEL_QUEUE
from ultramarine_operator.shared.pods import verdict
from ultramarine_operator.shared.podspec import DISK, with_disk

TOTAL = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
FOLDER = 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '
CONTAINER = 'Container trainer exceeded its local ephemeral storage limit "1Gi". '
NODE = "The node was low on resource: ephemeral-storage. Threshold quantity: 1, available: 0. "


@pytest.mark.attack(
    "author/disk",
    asset="the node's disk",
    threat="a pod fills it, and others are evicted",
    control="every pod has a limit, and so has each of its folders: the author's, or "
    "`training.ephemeralStorage` and `serving.ephemeralStorage`. Who takes more is evicted, and the "
    "status names the field to raise",
)
@pytest.mark.parametrize(
    ("resources", "asked", "limit"),
    [
        ({}, "0", "100Gi"),
        ({"limits": {"cpu": 1}}, "0", "100Gi"),
        ({"limits": {DISK: "500Gi"}}, None, "500Gi"),
        ({"requests": {DISK: "20Gi"}}, "20Gi", "100Gi"),
        ({"requests": {DISK: "200Gi"}}, "200Gi", "200Gi"),
    ],
)
def test_what_the_author_says_wins(resources, asked, limit):
    """The default reserves nothing, and is never less than what is reserved."""
    got = with_disk(resources, "100Gi")
    assert (got.get("requests", {}).get(DISK), got["limits"][DISK]) == (asked, limit)
    assert with_disk(resources, "") == resources
    made = pod_spec(training_job(resources=resources), PLATFORM)
    assert {v["emptyDir"]["sizeLimit"] for v in made["volumes"] if "emptyDir" in v} == {limit}


def test_a_queue_is_asked_for_no_disk():
    """Kueue holds a Job that names a resource which its queue does not cover: its folders alone are bounded."""
    queued = training_job()
    queued.manifest["metadata"]["labels"] = {LABEL_QUEUE: "night"}
    made = pod_spec(queued, PLATFORM)
    assert DISK not in str(made["containers"][0]["resources"])
    assert {v["emptyDir"]["sizeLimit"] for v in made["volumes"] if "emptyDir" in v} == {"100Gi"}


def deployment(one: Any, **more: Any) -> Manifest:
    got = plan_endpoint(one, seen(*more.pop("children", ()), related=(version(1), model())), NOW)
    [made] = [each for each in got.apply if each["kind"] == "Deployment"]
    return made


def test_a_new_release_restarts_no_server_for_its_limit():
    """A server that runs without a limit is not restarted for it; an edit of its author brings the limit."""
    one = endpoint()
    made = deployment(one)
    spec = made["spec"]["template"]["spec"]
    for each in (*spec["containers"], *spec["initContainers"]):
        each["resources"] = {}
    spec["volumes"] = [{**v, "emptyDir": {}} if "emptyDir" in v else v for v in spec["volumes"]]
    live = child("Deployment", made["metadata"]["name"], one, made["spec"])
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    live["status"] = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    assert deployment(one, children=(live,))["spec"]["template"]["spec"] == spec

    edited = endpoint(deployments=[{"name": "blue", "model": "churn@1", "resources": {"limits": {"memory": "1Gi"}}}])
    [server] = deployment(edited, children=(live,))["spec"]["template"]["spec"]["containers"]
    assert server["resources"]["limits"] == {"memory": "1Gi", DISK: "50Gi"}


@pytest.mark.parametrize("said", [TOTAL, FOLDER, CONTAINER, NODE])
def test_an_eviction_for_disk_is_told_with_the_field_to_raise(said):
    """The containers that were killed by it know nothing of the cause, so the kubelet's word on the pod counts."""
    one = training_job()
    killed = {"name": "trainer", "state": {"terminated": {"exitCode": 137, "reason": "Error", "message": "step=3"}}}
    evicted = pod(one, phase="Failed", reason="Evicted", message=said)
    evicted["status"]["containerStatuses"] = [killed]
    got = verdict(evicted)

    assert (got.reason, got.exit_code, got.tail) == ("Evicted", None, "step=3")
    assert said.strip(" .") in got.message
    if said != NODE:
        assert got.hint == "raise resources.limits.ephemeral-storage, or make it write less"
        ended = plan(one, seen(job(one, "Failed", "BackoffLimitExceeded", failed=1), evicted), NOW)
        assert "raise resources.limits.ephemeral-storage" in condition(ended, "Failed")["message"]
