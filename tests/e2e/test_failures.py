"""Failures of a TrainingJob: each is visible to its author, and disturbs no other object."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml
from conftest import NAMESPACE, Platform, condition
from manifests import TRAIN, endpoint, model_version, onnx_model, training_job
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY

POD = {
    "securityContext": POD_SECURITY,
    "containers": [{"name": "probe", "image": "probe", "securityContext": CONTAINER_SECURITY}],
}

# Seconds from the start of the Job: its pod has to run by then, among all the others.
DEADLINE = 60
EAT_MEMORY = "block = bytearray(2_000_000_000)\nprint(len(block))"


@pytest.fixture(scope="module")
def broken(platform: Platform) -> Platform:
    """All of them at once, and a good one among them."""
    platform.apply(
        training_job("exits", "print('loading')\nraise SystemExit(3)"),
        training_job("raises", "raise KeyError('label')", backoffLimit=3),
        training_job("no-module", "import nosuch", backoffLimit=3),
        training_job("hungry", EAT_MEMORY, resources={"limits": {"memory": "96Mi"}}),
        training_job("no-image", image="ultramarine/there-is-none:1"),
        training_job("too-big", resources={"requests": {"cpu": "500"}}),
        training_job("no-input", inputs={"data": {"uri": f"s3://ultramarine/{NAMESPACE}/no/file.csv"}}, backoffLimit=3),
        training_job("no-bucket", inputs={"data": {"uri": "s3://no-such-bucket/x/"}}, backoffLimit=3),
        training_job("wrong-keys", env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "wrong"}], backoffLimit=3),
        training_job("empty", "print('I forgot to save')", backoffLimit=3),
        training_job("offline", "from urllib.request import *\nurlopen('http://a.invalid', timeout=9)", backoffLimit=1),
        training_job("no-command", command=["no-such-program"], backoffLimit=3),
        training_job("slow", "import time; time.sleep(600)", activeDeadlineSeconds=DEADLINE),
        training_job("no-secret", env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x"}}}]),
        training_job("emoji", "# \U0001f680 off we go\nraise ValueError('ключ \U0001f4a5')"),
        training_job("good", TRAIN),
    )
    return platform


@pytest.mark.parametrize(
    ("name", "reason", "words", "attempts"),
    [
        ("exits", "CommandFailed", "3", 1),
        ("raises", "SameFailureTwice", "with exit code 1: KeyError: 'label'", 2),
        ("no-module", "SameFailureTwice", "ModuleNotFoundError: No module named 'nosuch'", 2),
        ("hungry", "OOMKilled", "96Mi", 1),
        (
            "no-input",
            "InputNotFound",
            f"inputs.data.uri: s3://ultramarine/{NAMESPACE}/no/file.csv does not exist",
            1,
        ),
        ("no-bucket", "BucketNotFound", "no-such-bucket", 1),
        ("wrong-keys", "AccessDenied", "ultramarine-storage", 1),
        ("empty", "OutputEmpty", "model", 1),
        ("offline", "CommandFailed", "networkPolicies.egress", 2),
        ("no-command", "CommandNotFound", "no-such-program", 1),
        ("emoji", "CommandFailed", "ключ \U0001f4a5", 1),
        ("slow", "DeadlineExceeded", f"activeDeadlineSeconds={DEADLINE}", 1),
    ],
)
def test_a_failed_job_says_why(broken, name, reason, words, attempts):
    """status.failure has the reason, the words that help, and as many attempts as make sense."""
    status = broken.ended(name, 300)

    assert status["state"] == "Failed"
    assert status["failure"]["reason"] == condition(status, "Failed")["reason"] == reason
    assert words in str(status["failure"])
    assert status["attempts"] == attempts
    assert status["failure"]["message"] in condition(status, "Failed")["message"]
    assert status["failure"].get("pod", status["pod"]) == status["pod"]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("no-image", ("ErrImagePull", "ImagePullBackOff"), "ultramarine/there-is-none:1"),
        ("too-big", ("Unschedulable",), "Insufficient cpu"),
        ("no-secret", ("CreateContainerConfigError",), "Secret absent not found in ultramarine-e2e; create it"),
    ],
)
def test_a_job_that_cannot_start_says_why(broken, name, reason, words):
    """It stays Pending, and its Running condition names the object and the remedy."""
    status = broken.wait("tj", name, lambda s: condition(s, "Running").get("reason") in reason)
    assert status["state"] == "Pending"
    assert words in condition(status, "Running")["message"]


def test_the_failure_is_in_describe(broken):
    """`kubectl describe` shows the event and the tail."""
    broken.ended("exits")
    shown = broken.kubectl("describe", "tj", "exits")
    assert "CommandFailed" in shown
    assert "loading" in shown


def test_the_good_one_among_them_succeeds(broken):
    """A dozen broken jobs do not keep another from its end."""
    assert broken.ended("good")["state"] == "Succeeded"


def test_what_was_missing_may_come_later(broken):
    """The job that waits for a Secret goes on by itself when the Secret is made."""
    broken.kubectl("create", "secret", "generic", "absent", "--from-literal=x=1")
    try:
        assert broken.ended("no-secret")["state"] == "Succeeded"
    finally:
        broken.delete("secret", "absent")


@pytest.mark.slow
def test_suspend_and_resume(platform):
    """A suspended job has no pod and says so; resumed, it runs to its end."""
    platform.apply(training_job("on-hold", suspend=True))
    platform.wait("tj", "on-hold", lambda s: s.get("state") == "Suspended")
    assert platform.get("pod", "", "-l", "ultramarine.dev/name=on-hold") == []
    platform.apply(training_job("on-hold", suspend=False))
    assert platform.ended("on-hold")["state"] == "Succeeded"


@pytest.mark.slow
def test_an_edited_source_is_set_right(platform):
    """Code that somebody puts into a job's ConfigMap is replaced by the job's own before it runs."""
    platform.apply(training_job("edited", "print('own')", suspend=True))
    platform.wait("tj", "edited", lambda s: s.get("state") == "Suspended")
    platform.kubectl("patch", "configmap", "edited-source", "--type=merge", "-p", '{"data":{"train.py":"foreign"}}')
    own = "--for=jsonpath={.data.train\\.py}=print('own')"
    platform.kubectl("wait", own, "configmap/edited-source", "--timeout=120s")


@pytest.mark.slow
def test_a_finished_job_goes_after_its_time_to_live(platform):
    """ttlSecondsAfterFinished deletes the TrainingJob with its children, and keeps its ModelVersion."""
    platform.apply(training_job("brief", model="brief", ttlSecondsAfterFinished=3))
    platform.kubectl("wait", "--for=delete", "tj/brief", "--timeout=240s")
    platform.wait("mv", "brief-1", lambda s: s.get("state") == "Ready")


@pytest.mark.slow
def test_a_job_made_again_under_its_name_is_a_new_job(platform):
    """Deleted and applied at once, it waits for the old one's pods to go, and runs anew."""
    manifest = training_job("once-again")
    platform.apply(manifest)
    platform.ended("once-again")
    before = platform.get("tj", "once-again")["metadata"]["uid"]
    platform.kubectl("delete", "tj", "once-again", "--wait=true")
    platform.apply(manifest)
    status = platform.ended("once-again")
    assert platform.get("tj", "once-again")["metadata"]["uid"] != before
    assert (status["state"], status["attempts"]) == ("Succeeded", 1)
    (job,) = (job for job in platform.get("job") if job["metadata"]["name"] == "once-again")
    assert job["metadata"]["ownerReferences"][0]["uid"] == platform.get("tj", "once-again")["metadata"]["uid"]


@pytest.mark.attack("author/taken-names")
@pytest.mark.slow
def test_a_name_that_is_taken_is_left_alone(platform):
    """A Job of somebody else with the TrainingJob's name is not touched, and the TrainingJob says whose turn it is."""
    stranger = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "taken"},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}},
        },
    }
    platform.kubectl("create", "-f", "-", input=yaml.safe_dump(stranger))
    try:
        platform.apply(training_job("taken"))
        status = platform.wait("tj", "taken", lambda s: condition(s, "Reconciled").get("reason") == "Conflict")
        assert "Job taken already exists and has another owner" in condition(status, "Reconciled")["message"]
        assert platform.get("job", "taken")["spec"]["template"]["spec"]["containers"][0]["name"] == "x"
    finally:
        platform.delete("job", "taken")
    assert platform.ended("taken")["state"] == "Succeeded"


@pytest.fixture
def refusing(platform: Platform) -> Iterator[None]:
    """An admission policy of the cluster's that refuses pods of objects called `refused`."""
    label = "'ultramarine.dev/name'"
    named = f"has(object.metadata.labels) && {label} in object.metadata.labels"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "e2e-refuses"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {"expression": f"!({named}) || object.metadata.labels[{label}] != 'refused'", "message": "not today"}
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "e2e-refuses"},
        "spec": {"policyName": "e2e-refuses", "validationActions": ["Deny"]},
    }
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([policy, binding]))
    probe = {"metadata": {"name": "probe", "labels": {"ultramarine.dev/name": "refused"}}, "spec": POD}
    manifest = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **probe})
    argv = [*platform.target.kubectl, "-n", NAMESPACE, "create", "--dry-run=server", "-f", "-"]
    end = time.monotonic() + 120  # a policy is in force a moment after it was made
    while "not today" not in subprocess.run(argv, input=manifest, capture_output=True, text=True, check=False).stderr:
        assert time.monotonic() < end, "the policy is not in force"
        time.sleep(0.5)
    yield
    both = ("validatingadmissionpolicy/e2e-refuses", "validatingadmissionpolicybinding/e2e-refuses")
    platform.kubectl("delete", "--ignore-not-found", *both)


@pytest.mark.slow
def test_pods_that_the_cluster_refuses_are_told_and_made_later(platform, refusing):
    """Without a pod there is nothing to look at: the job and the endpoint have the words of the refusal."""
    content = onnx_model(1)
    platform.delete("tj", "refused")
    platform.delete("oe", "refused")
    platform.apply(
        training_job("refused"),
        model_version("refused", 1, platform.put("refused.onnx", content), content),
        endpoint("refused", "refused@1"),
    )
    told = platform.wait("tj", "refused", lambda s: condition(s, "Running").get("reason") == "NoPod")
    assert "not today" in condition(told, "Running")["message"]
    said = platform.wait("oe", "refused", lambda s: "not today" in str(s.get("deployments")))
    assert said["deployments"][0]["state"] == "Failing"

    both = ("validatingadmissionpolicy/e2e-refuses", "validatingadmissionpolicybinding/e2e-refuses")
    platform.kubectl("delete", *both)
    assert platform.ended("refused", 240)["state"] == "Succeeded"
    platform.ready("refused", "refused-1", 240)
