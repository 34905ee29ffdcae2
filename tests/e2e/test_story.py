"""The first story of a user: an endpoint that waits for its model, the columns, and what outlives a job."""

from __future__ import annotations

import subprocess

import pytest
from conftest import condition
from manifests import endpoint, infer, training_job
from ultramarine_contract.meta import (
    ANNOTATION_APPROVED_BY,
    ANNOTATION_KEYS,
    ANNOTATION_REQUESTED_BY,
    ANNOTATION_TRUSTED_BY,
    GROUP,
)


def test_helm_test_passes(platform):
    """`helm test` proves that the operator is ready and the bucket works."""
    argv = [*platform.target.helm, "test", "ultramarine", "-n", "ultramarine-e2e", "--logs"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it works" in done.stdout


@pytest.mark.attack("author/host")
def test_an_endpoint_waits_for_its_model_and_goes_ready(platform):
    """An endpoint applied before its model says what it waits for, and answers when the model is trained."""
    platform.apply(endpoint("early", "early@latest"))
    waiting = platform.wait("oe", "early", lambda s: condition(s, "Ready").get("status") == "False")
    assert "registerAs: early" in condition(waiting, "Ready")["message"]

    platform.apply(training_job("early", model="early"))
    done = platform.ended("early")
    assert done["state"] == "Succeeded"
    assert done["outputs"]["model"]["modelVersion"] == "early-1"
    assert done["metrics"]["latest"] == {"accuracy": 1.0}
    assert done["provenance"]["imageDigest"]
    platform.kubectl("wait", "--for=condition=Succeeded", "tj/early", "--timeout=60s")
    platform.ready("early", "early-1")
    with platform.client("early") as client:
        answer = client.post("/v2/models/early/infer", json=infer([[0.0], [3.0]], "input", "FP64"))
    assert answer.status_code == 200, answer.text
    assert {o["name"]: o["data"] for o in answer.json()["outputs"]}["predict"] == [0, 1]


def test_the_columns_tell_the_story(platform):
    """`kubectl get tj,mdl,mv,oe` answers: is it done, how good, how long, which version, where."""
    shown = platform.kubectl("get", "tj,mdl,mv,oe")
    line = next(line for line in shown.splitlines() if line.startswith("trainingjob.ultramarine.dev/early"))
    assert line.split()[1:4] == ["Succeeded", "accuracy=1", "early-1"]
    line = next(line for line in shown.splitlines() if line.startswith("onlineendpoint.ultramarine.dev/early"))
    assert line.split()[1:6] == ["True", "Serving", "early-1", "1/1", "http://early.ultramarine-e2e.svc"]


def test_nothing_foreign_is_written_into_our_objects(platform):
    """Objects have no finalizer, and only annotations of kubectl, of people, and of the keys that a client makes."""
    people = {ANNOTATION_APPROVED_BY, ANNOTATION_REQUESTED_BY, ANNOTATION_TRUSTED_BY}
    expected = {"kubectl.kubernetes.io/last-applied-configuration", ANNOTATION_KEYS, *people}
    for kind in ("tj", "mdl", "mv", "oe"):
        for item in platform.get(kind):
            assert "finalizers" not in item["metadata"]
            # A converted file of Azure ML keeps what has no field here as annotations of its own.
            names = item["metadata"].get("annotations") or {}
            annotations = {name for name in names if not name.startswith(("azureml/", f"approved-by.{GROUP}/"))}
            # The operator makes the jobs of trials, and marks them as it does all that it makes.
            assert annotations <= expected or item["metadata"].get("ownerReferences")


def test_results_outlive_what_made_them(platform):
    """Deleting the TrainingJob deletes its pods, and leaves the ModelVersion and the endpoint as they are."""
    platform.delete("tj", "early")
    assert platform.status("mv", "early-1")["state"] == "Ready"
    with platform.client("early") as client:
        assert client.get("/v2/models/early").status_code == 200
