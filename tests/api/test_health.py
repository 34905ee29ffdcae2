"""Health as kstatus reads it (Flux, Helm's --wait), and as `kubectl wait` does, over the lives of all kinds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from bare import ROOT, Api, eventually, whole
from builders import WEIGHTS, WEIGHTS_DIGEST
from stories import serving, status, there, training, until
from ultramarine_cluster import build
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_operator.kinds import KINDS


def kstatus(manifest: Manifest) -> str:
    """The generic rules of sigs.k8s.io/cli-utils/pkg/kstatus, in its order."""
    meta, told = manifest["metadata"], manifest.get("status") or {}
    if meta.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in told and told["observedGeneration"] != meta["generation"]:
        return "InProgress"
    conditions = told.get("conditions") or []
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] in ("Reconciling", "Stalled"):
            return {"Reconciling": "InProgress", "Stalled": "Failed"}[condition["type"]]
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


def becomes(api: Api, kind: str, name: str, word: str) -> None:
    """Wait until kstatus says this of an object."""
    eventually(f"{kind} {name} is {word}", lambda: kstatus(api.get(kind, name)) == word)


def stays(api: Api, kind: str, name: str, word: str) -> None:
    """See that kstatus says this of an object that has been looked at."""
    found = api.get(kind, name)
    assert (kstatus(found), found["status"]["observedGeneration"]) == (word, found["metadata"]["generation"])


def model(name: str, **aliases: str) -> Manifest:
    """A Model with these aliases."""
    return {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": name}, "spec": {"aliases": aliases}}


def version(name: str, file: str, format: str = "onnx") -> Manifest:
    """Version 1 of a model, made by hand of one object in the bucket."""
    spec = {
        "model": name,
        "version": "1",
        "uri": f"s3://lake/{file}",
        "digest": WEIGHTS_DIGEST,
        "format": {"name": format},
    }
    return {"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": f"{name}-1"}, "spec": spec}


def serve(api: Api, name: str) -> None:
    """Play the Deployment controller and a node: two pods of the deployment blue are ready."""
    made = eventually(f"Deployment {name}-blue", lambda: there(api, "deployments", f"{name}-blue"))
    template = made["spec"]["template"]
    for number in range(2):
        pod = {
            "name": f"{name}-blue-{number}",
            **{word: template["metadata"][word] for word in ("labels", "annotations")},
        }
        api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": template["spec"]})
        is_ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        api.status("pod", f"{name}-blue-{number}", is_ready)
    counts = {word: 2 for word in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
    generation = made["metadata"]["generation"]
    api.status("deployment", f"{name}-blue", {"observedGeneration": generation, **counts})


def hold(api: Api, manifest: Manifest) -> None:
    """Apply a suspended TrainingJob, and play the Job controller, which says that it has seen the Job."""
    name = manifest["metadata"]["name"]
    api.apply(manifest)
    eventually(f"Job {name}", lambda: there(api, "jobs", name))
    api.status("job", name, {"active": 0, "ready": 0})
    until(api, name, "Suspended")


def end_badly(api: Api, name: str) -> None:
    """Play the Job controller, which gives a Job up that is over its time."""
    over = [{"type": type, "status": "True", "reason": "DeadlineExceeded"} for type in ("FailureTarget", "Failed")]
    api.status("job", name, {"startTime": "2030-01-01T00:00:00Z", "active": 0, "ready": 0, "conditions": over})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_object_that_nobody_has_looked_at_is_in_progress(api, kind):
    """Before its first pass, or where no operator runs, an object is not taken for done."""
    example = whole(kind.name)
    api.apply(example)
    name = example["metadata"]["name"]
    assert kstatus(api.get(kind.short, name)) == "InProgress"


def test_the_health_of_a_training_job(api, operator, node):
    """In progress until it has ended, current when it has succeeded or is suspended, failed when it has failed."""
    # More text than CEL has a budget for, so the policy lets it pass.
    wrong = training("wrong", command=["python", "$(params.lr)"], args=["x" * 32768] * 40)
    api.apply(training("good"), wrong)
    until(api, "good", "Pending")
    stays(api, "tj", "good", "InProgress")
    node.start_pod("good")
    until(api, "good", "Running")
    stays(api, "tj", "good", "InProgress")
    node.succeed("good", node.upload("good"))
    until(api, "good", "Succeeded")
    stays(api, "tj", "good", "Current")

    hold(api, training("held", suspend=True))
    stays(api, "tj", "held", "Current")
    api.apply(training("held", suspend=False))
    becomes(api, "tj", "held", "InProgress")
    end_badly(api, "held")
    until(api, "held", "Failed")
    stays(api, "tj", "held", "Failed")

    until(api, "wrong", "Invalid")
    api.run("wait", "--for=condition=Failed", "tj/wrong", "--timeout=120s")
    assert status(api, "tj", "wrong")["failure"]["reason"] == "InvalidSpec"
    stays(api, "tj", "wrong", "Failed")


def test_the_health_of_models_and_versions(api, operator, object_store):
    """A version is in progress until its artifact is found, and failed when it is refused; aliases lead somewhere."""
    api.apply(version("late", "late.onnx"), version("code", "code.pkl", "pickle"), model("late", champion="2"))
    eventually("it was looked for", lambda: status(api, "mv", "late-1").get("state") == "Waiting")
    stays(api, "mv", "late-1", "InProgress")
    becomes(api, "mv", "code-1", "Failed")
    eventually("the alias was looked up", lambda: status(api, "mdl", "late").get("observedGeneration") == 1)
    stays(api, "mdl", "late", "InProgress")

    api.apply(model("late", champion="1"))
    becomes(api, "mdl", "late", "Current")
    (object_store.folder / "lake" / "there.onnx").write_bytes(WEIGHTS)
    api.apply(version("there", "there.onnx"))
    becomes(api, "mv", "there-1", "Current")


def test_the_health_of_an_endpoint(api, operator, object_store):
    """In progress while it waits for its model or its pods, or moves to others; current when all serve.

    It has failed while it names a version that cannot be served, until an edit.
    """
    api.apply(serving("shop", "hats@1"))
    eventually("it waits", lambda: "Waiting" in str(status(api, "oe", "shop")))
    stays(api, "oe", "shop", "InProgress")
    (object_store.folder / "lake" / "hats.onnx").write_bytes(WEIGHTS)
    api.apply(version("hats", "hats.onnx"))
    eventually("it updates", lambda: "Updating" in str(status(api, "oe", "shop")))
    stays(api, "oe", "shop", "InProgress")
    serve(api, "shop")
    becomes(api, "oe", "shop", "Current")
    api.apply(serving("shop", "hats@2"))
    becomes(api, "oe", "shop", "InProgress")

    api.apply(version("code", "code.pkl", "pickle"), serving("shop", "code@1"))
    becomes(api, "oe", "shop", "Failed")
    api.apply(serving("shop", "hats@1"))
    becomes(api, "oe", "shop", "Current")


def test_an_object_that_somebody_holds_while_it_is_deleted_is_terminating(api, operator):
    """A finalizer of somebody else: the object is told to be terminating, and nothing of ours is written any more."""
    held = training("held", suspend=True)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    hold(api, held)
    api.run("delete", "tj", "held", "--wait=false")
    becomes(api, "tj", "held", "Terminating")
    api.run("patch", "tj", "held", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    eventually("it is gone", lambda: there(api, "tj", "held") is None)


def test_an_edit_that_the_operator_has_not_seen_is_in_progress(api, operator):
    """While the operator is away an edited object is not taken for done; back, it is judged anew."""
    hold(api, training("held", suspend=True))
    operator.kill()
    api.apply(training("held", suspend=True, backoffLimit=7))
    assert kstatus(api.get("tj", "held")) == "InProgress"
    operator.start()
    becomes(api, "tj", "held", "Current")


WAITS = [
    line.removeprefix("kubectl ").split("#")[0].split()
    for line in (ROOT / "docs" / "gitops.md").read_text().splitlines()
    if line.startswith("kubectl wait ")
]


def test_the_waits_of_the_documentation_are_met(api, operator, node, object_store):
    """Each `kubectl wait` in docs/gitops.md returns as soon as what it says has come."""
    assert len(WAITS) >= 4
    (object_store.folder / "lake" / "churn.onnx").write_bytes(WEIGHTS)
    api.apply(training("churn"), training("broken"), serving("churn", "churn@1"), model("churn"))
    node.start_pod("churn")
    node.succeed("churn", node.upload("churn"))
    node.job_of("broken")
    end_badly(api, "broken")
    eventually("registered", lambda: there(api, "mv", "churn-1"))
    serve(api, "churn")
    for words in WAITS:
        assert "condition met" in api.run(*words), words


@pytest.fixture
def helm_install(api: Api, tmp_path: Path) -> list[str]:
    """The command that installs a chart with the TrainingJob churn, and waits for it."""
    build.ensure(("helm",))
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: job\nversion: 0.1.0\n")
    (tmp_path / "templates" / "job.yaml").write_text(yaml.safe_dump(training("churn")))
    helm = [str(api.cluster.helm), "--kubeconfig", str(api.cluster.kubeconfig), "--namespace", api.namespace]
    return [*helm, "install", "job", str(tmp_path), "--wait", "--timeout"]


def test_helm_waits_for_a_job_to_its_end(api, operator, node, helm_install):
    """`helm install --wait`, which brings kstatus along, returns when the TrainingJob has succeeded, not before."""
    command = [*helm_install, "300s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        node.start_pod("churn")
        until(api, "churn", "Running")
        assert process.poll() is None, process.communicate()[0]
        node.succeed("churn", node.upload("churn"))
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert status(api, "tj", "churn")["state"] == "Succeeded"


def test_helm_does_not_take_an_untouched_object_for_done(helm_install):
    """Without an operator `helm install --wait` times out, and its message names the object."""
    done = subprocess.run([*helm_install, "3s"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "TrainingJob" in done.stderr, done.stderr
