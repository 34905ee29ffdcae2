"""A namespace whose ResourceQuota is used up, on a real API server that counts: what the operator says and does."""

from __future__ import annotations

import hands
import httpx
import pytest
from bare import Api, eventually
from operator_process import Node, Operator
from stories import serving, status, training, until
from ultramarine_contract.meta import Manifest
from ultramarine_operator.shared.conditions import find


def quota(api: Api, name: str, **hard: int) -> None:
    """Let the namespace have that much, all of which is used, as the quota's controller would write it.

    Returns when the API server counts: it learns of a status by a watch. A kind that no test makes shows it.
    """
    limits = {kind.replace("_", "/", 1).replace("_", "."): str(most) for kind, most in hard.items()}
    limits["count/limitranges"] = "0"
    api.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": limits}})
    path = f"/api/v1/namespaces/{api.namespace}/resourcequotas/{name}/status"
    patch = {"status": {"hard": limits, "used": limits}}
    headers = {"Content-Type": "application/merge-patch+json"}
    assert api.http.patch(path, json=patch, headers=headers).status_code == 200
    probe = {"metadata": {"name": "probe"}, "spec": {"limits": []}}
    path = f"/api/v1/namespaces/{api.namespace}/limitranges"
    eventually("quota counts", lambda: api.http.post(path, json=probe, params={"dryRun": "All"}).status_code == 403)


def refused(api: Api, job: Manifest, name: str) -> httpx.Response:
    """Try to make a Job's pod, as its controller does."""
    manifest = hands.pod_of(job, name)
    return api.http.post(f"/api/v1/namespaces/{api.namespace}/pods", json=manifest, params={"dryRun": "All"})


def told(api: Api, kind: str, name: str, type: str) -> str:
    """The message of a condition."""
    return str((find(status(api, kind, name), type) or {}).get("message", ""))


@pytest.mark.attack("author/share")
def test_a_child_that_the_quota_refuses_is_told_with_what_is_used(api: Api, operator: Operator):
    """The Job of a training, and the Secret of an endpoint: neither is tried again without a pause."""
    quota(api, "share", count_jobs_batch=0, count_secrets=0)
    full = "exceeded quota: share, requested: count/{0}=1, used: count/{0}=0, limited: count/{0}=0; it asks for more"
    api.apply(training("churn"), serving("shop", "churn@latest"))
    for kind, name, child in (("tj", "churn", "jobs.batch"), ("oe", "shop", "secrets")):
        words = full.format(child)
        eventually(f"{name} says so", lambda w=words, k=kind, n=name: w in told(api, k, n, "Reconciled"))
    assert full.format("jobs.batch") in told(api, "tj", "churn", "Running")
    assert operator.metric('ultramarine_api_requests_total{code="403",kind="Job",verb="create"}') <= 2
    assert operator.metric('ultramarine_api_requests_total{code="403",kind="Secret",verb="create"}') <= 4

    api.run("delete", "resourcequota", "share")
    api.run("annotate", "onlineendpoint", "shop", "team=wine")  # a pass before the next look
    eventually("the keys are made", lambda: status(api, "oe", "shop").get("keysSecret") == "shop-keys")
    assert api.get("secret", "shop-keys")


@pytest.mark.attack("author/share")
def test_a_pod_that_the_quota_refuses_is_told_and_forgotten_when_there_is_room(
    api: Api, operator: Operator, node: Node
):
    """The Job's controller tells it by Events alone; with its pod the training goes on."""
    api.apply(training("churn"))
    job = node.job_of("churn")
    quota(api, "share", pods=0)
    said = eventually("it is refused", lambda: (r := refused(api, job, "churn-0-a")).is_error and r.json()["message"])
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "churn.1"},
        "involvedObject": {"kind": "Job", "name": "churn", "namespace": api.namespace, "uid": job["metadata"]["uid"]},
        "reason": "FailedCreate",
        "message": f"Error creating: {said}",
        "lastTimestamp": hands.now(),
    }
    api.apply(event)
    api.status("job", "churn", {"startTime": hands.now(), "active": 0})
    words = "no pod for Job churn: exceeded quota: share, requested: pods=1, used: pods=0, limited: pods=0"
    eventually("it says so", lambda: words in told(api, "tj", "churn", "Running"))

    api.run("delete", "resourcequota", "share")
    eventually("there is room", lambda: refused(api, job, "churn-0-a").is_success)
    api.apply(hands.pod_of(job, "churn-0-b"))
    api.status("pod", "churn-0-b", {"phase": "Running", "startTime": hands.now()})
    api.status("job", "churn", {"active": 1, "ready": 1})
    until(api, "churn", "Running")
