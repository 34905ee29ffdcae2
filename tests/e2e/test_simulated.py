"""The nodes that scale tests stand on: pods live and end on them as on real ones, but nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml
from ultramarine_cluster import cluster, kwok
from ultramarine_contract.training_records import TerminationRecord

pytestmark = [pytest.mark.exclusive, pytest.mark.slow]

NAMESPACE = "ultramarine-simulated"


@pytest.fixture(scope="module")
def simulated() -> Iterator[cluster.Cluster]:
    """The embedded cluster with one simulated node, and a namespace for its pods."""
    running = cluster.up()
    message = TerminationRecord(metrics={"accuracy": 0.5}).to_json()
    with kwok.nodes(running, 1, seconds=0.5, message=message):
        running.run("create", "namespace", NAMESPACE)
        try:
            yield running
        finally:
            running.run("delete", "namespace", NAMESPACE)


def pod(**more: object) -> dict[str, object]:
    """The template of a pod that only a simulated node takes."""
    container = {"name": "trainer", "image": "nowhere/none:1"}
    return {
        "metadata": {"labels": {"app": "simulated"}},
        "spec": {"nodeSelector": {kwok.LABEL: "true"}, "containers": [container], **more},
    }


def test_a_simulated_job_succeeds_with_its_last_words(simulated):
    """A Job's pod is run, ends with the given message, and the Job is complete."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "one"},
        "spec": {"template": pod(restartPolicy="Never")},
    }
    simulated.run("-n", NAMESPACE, "apply", "-f", "-", input=yaml.safe_dump(job))
    simulated.run("-n", NAMESPACE, "wait", "--for=condition=Complete", "--timeout=180s", "job/one")

    found = simulated.run("-n", NAMESPACE, "get", "pod", "-l", "job-name=one", "-o", "json")
    (status,) = json.loads(found)["items"][0]["status"]["containerStatuses"]
    assert status["imageID"] == kwok.IMAGE_ID
    said = status["state"]["terminated"]["message"]
    assert TerminationRecord.from_json(said).metrics == {"accuracy": 0.5}


def test_simulated_deployments_stay_available(simulated):
    """A Deployment's pods get ready, and none of them ends."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "two"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "simulated"}}, "template": pod()},
    }
    simulated.run("-n", NAMESPACE, "apply", "-f", "-", input=yaml.safe_dump(deployment))
    simulated.run("-n", NAMESPACE, "rollout", "status", "deployment/two", "--timeout=180s")

    pods = json.loads(simulated.run("-n", NAMESPACE, "get", "pods", "-l", "app=simulated", "-o", "json"))["items"]
    running = [pod for pod in pods if pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"]
    assert [pod["status"]["phase"] for pod in running] == ["Running", "Running"]
