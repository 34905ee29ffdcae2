"""The operator dies at ten moments of the story, each time without warning: the end is always the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from conftest import Platform, condition
from manifests import endpoint, training_job

pytestmark = pytest.mark.exclusive


def exists(kind: str, suffix: str = "") -> Callable[[Platform, str], bool]:
    """Return a check that an object of that kind exists in the story."""

    def check(platform: Platform, name: str) -> bool:
        return any(o["metadata"]["name"] == f"{name}{suffix}" for o in platform.get(kind))

    return check


def pod_is(*phases: str) -> Callable[[Platform, str], bool]:
    """Return a check that the training pod has reached one of these phases."""

    def check(platform: Platform, name: str) -> bool:
        labels = f"ultramarine.dev/name={name},ultramarine.dev/kind=TrainingJob"
        return any(pod["status"].get("phase") in phases for pod in platform.get("pod", "", "-l", labels))

    return check


def job_complete(platform: Platform, name: str) -> bool:
    """True if Kubernetes has closed the Job."""
    return any(
        c["type"] == "Complete"
        for job in platform.get("job")
        if job["metadata"]["name"] == name
        for c in job["status"].get("conditions") or []
    )


MOMENTS: dict[str, Callable[[Platform, str], bool]] = {
    "applied": lambda platform, name: True,
    "source-made": exists("configmap", "-source"),
    "job-made": exists("job"),
    "pod-made": pod_is("Pending", "Running", "Succeeded"),
    "pod-runs": pod_is("Running", "Succeeded"),
    "pod-done": pod_is("Succeeded"),
    "job-done": job_complete,
    "registered": exists("mv", "-1"),
    "deploying": exists("deployment", "-blue"),
    "serving": lambda platform, name: condition(platform.status("oe", name), "Ready").get("status") == "True",
}
# tests/chaos kills the operator before and after its writes; these are the moments at which others write.
ALWAYS = {"pod-done", "deploying"}


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=() if moment in ALWAYS else pytest.mark.slow) for moment in MOMENTS]
)
def test_killing_the_operator_changes_nothing_in_the_end(platform, moment):
    """One pod was run, one version registered, and the endpoint serves it, whenever the operator died."""
    name = f"k-{moment}"
    platform.apply(training_job(name, model=name), endpoint(name, f"{name}@latest"))
    end = time.monotonic() + 300
    while not MOMENTS[moment](platform, name):
        assert time.monotonic() < end, f"never got to {moment}"
        time.sleep(0.05)
    platform.kill_operator()

    assert platform.ended(name)["state"] == "Succeeded"
    status = platform.ready(name, f"{name}-1")
    assert condition(status, "Ready")["status"] == "True"
    assert platform.status("tj", name)["attempts"] == 1
    assert [v["metadata"]["name"] for v in platform.get("mv") if v["spec"]["model"] == name] == [f"{name}-1"]
    assert [m["metadata"]["name"] for m in platform.get("mdl") if m["metadata"]["name"] == name] == [name]
    platform.delete("oe", name)


@pytest.mark.slow
def test_a_deleted_lease_is_made_again(platform):
    """Without its Lease the operator makes a new one, and goes on."""
    before = platform.get("lease", "ultramarine-operator")["metadata"]["uid"]
    platform.kubectl("delete", "lease", "ultramarine-operator")
    platform.apply(training_job("unleased", suspend=True))
    end = time.monotonic() + 120
    while not (found := [o for o in platform.get("lease") if o["spec"].get("holderIdentity")]):
        assert time.monotonic() < end, "no new Lease"
        time.sleep(0.3)
    assert found[0]["metadata"]["uid"] != before
    platform.wait("tj", "unleased", lambda s: s.get("state") == "Suspended")


def test_the_result_survives_the_pod(platform):
    """The pod deleted before the operator saw its end: the result is read from the storage."""
    platform.kubectl("scale", "deployment/ultramarine-operator", "--replicas=0")
    platform.kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator", "--timeout=240s")
    try:
        platform.apply(training_job("orphan", model="orphan"))
    finally:
        platform.kubectl("scale", "deployment/ultramarine-operator", "--replicas=1")
    platform.wait("tj", "orphan", lambda s: s.get("state") == "Running")
    platform.kubectl("scale", "deployment/ultramarine-operator", "--replicas=0")
    platform.kubectl("wait", "--for=condition=Complete", "job/orphan", "--timeout=240s")
    platform.kubectl("delete", "pod", "-l", "ultramarine.dev/name=orphan", "--wait=true")
    platform.kubectl("scale", "deployment/ultramarine-operator", "--replicas=1")
    status = platform.ended("orphan")
    assert status["state"] == "Succeeded"
    assert status["modelVersion"] == "orphan-1"
