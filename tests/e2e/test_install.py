"""Install, upgrade, roll back, uninstall and install again, with a job and an endpoint that live through all of it.

The tests tell one story and build on each other. The release before is HEAD^ (or what ULTRAMARINE_BEFORE
names): its chart, and the images that its own launcher builds of its own tree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from api.bare import policies
from conftest import CRDS, OURS, Manifest, Platform, apply_as_helm, condition, restricted
from load import Load
from manifests import endpoint, model_version, onnx_model, sweep, training_job
from ultramarine_cluster import images, target
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_operator.generate import people

pytestmark = pytest.mark.exclusive

NAMESPACE = "ultramarine-install"
PRIORITY = f"ultramarine-platform-{NAMESPACE}"
IMAGES = target.OWN_IMAGES
PLURALS = ("sweeps", "trainingjobs", "models", "modelversions", "onlineendpoints")
# What comes and goes by itself, and what belongs to a Service or a node without naming it as its owner.
NOT_COUNTED = {"events", "events.events.k8s.io", "endpoints", "ipaddresses.networking.k8s.io", "componentstatuses"}

# What goes on by itself: the Services of endpoints lead to it.
GATEWAY = {(kind, "ultramarine-gateway") for kind in ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding")}

# Runs until somebody makes a file in the pod, so that it is sure to live through what happens meanwhile.
PATIENT = """
import pathlib, sys, time
while not pathlib.Path("/tmp/go-on").exists():
    time.sleep(0.2)
pathlib.Path(sys.argv[1], "model.onnx").write_bytes(b"weights")
"""


@dataclass
class Release:
    """The platform in a namespace of its own, which goes from version to version."""

    platform: Platform
    before: set[str]
    images: dict[str, str]
    old_images: dict[str, str]

    def upgrade(self, *settings: str) -> None:
        """`helm upgrade --install` to this tree, with these settings."""
        target.upgrade(self.platform.target, NAMESPACE, self.images, *settings)

    def helm(self, *words: str) -> None:
        """Run helm on the release."""
        argv = [*self.platform.target.helm, *words, "--namespace", NAMESPACE, "--wait", "--timeout", "300s"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def pods(self, *names: str) -> dict[str, Any]:
        """The pods of objects of ours: uid and restarts of each."""
        found = self.platform.get("pod", "", "-l", f"ultramarine.dev/name in ({', '.join(names)})")
        return {
            pod["metadata"]["uid"]: [s["restartCount"] for s in pod["status"].get("containerStatuses") or []]
            for pod in found
            if not pod["metadata"].get("deletionTimestamp")
        }

    def operator(self) -> set[str]:
        """The uids of the operator's pods that stay."""
        pods = self.platform.get("pod", "", "-l", "app.kubernetes.io/component=operator")
        return {pod["metadata"]["uid"] for pod in pods if not pod["metadata"].get("deletionTimestamp")}

    def statuses(self) -> dict[str, Manifest]:
        """The status of each object of ours."""
        found = [item for kind in OURS for item in self.platform.get(kind)]
        return {f"{item['kind']} {item['metadata']['name']}": item["status"] for item in found}

    def keys_in_bucket(self) -> set[str]:
        """Everything that is stored."""
        with self.platform.target.bucket(NAMESPACE) as storage:
            pages = storage.get_paginator("list_objects_v2").paginate(Bucket="ultramarine")
            return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def tree_before(folder: Path) -> Path:
    """The tree of the release before, unpacked."""
    commit = os.environ.get("ULTRAMARINE_BEFORE", "HEAD^")
    packed = subprocess.run(["git", "-C", str(REPOSITORY), "archive", commit], capture_output=True, check=False)
    if packed.returncode != 0:
        pytest.fail(
            f"the release before cannot be had: {packed.stderr.decode().strip()}; this needs a git clone that has the "
            "parent of HEAD: in a shallow one run `git fetch --deepen=1`"
        )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def images_of(tree: Path) -> dict[str, str]:
    """The images of another tree, built by the launcher in it, and loaded by ours."""
    script = f"""
import json
from ultramarine_cluster import images
print(json.dumps({{name: images.build_archive(name) for name in {IMAGES} if name in images.table()}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(tree / "cluster")}
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    built: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    for reference in built.values():
        images.load(reference)
    return {name: reference.removeprefix("docker.io/") for name, reference in built.items()}


def listable(to: target.Target, *, namespaced: bool) -> str:
    """Every type of the cluster that can be listed, as kubectl takes it."""
    words = ("api-resources", "--verbs=list", "-o", "name", f"--namespaced={str(namespaced).lower()}")
    found = {name for name in to.run(*words).split() if not name.endswith("metrics.k8s.io")}
    return ",".join(sorted(found - NOT_COUNTED))


def inventory(to: target.Target) -> dict[str, Manifest]:
    """All objects of the namespace, those without a namespace, and those anywhere that Helm made for the release."""
    inside = to.json("get", listable(to, namespaced=True), "-n", NAMESPACE)["items"]
    above = to.json("get", listable(to, namespaced=False))["items"]
    every = f"{listable(to, namespaced=True)},{listable(to, namespaced=False)}"
    helms = [
        item
        for item in to.json("get", every, "-A", "-l", "app.kubernetes.io/managed-by=Helm")["items"]
        if (item["metadata"].get("annotations") or {}).get("meta.helm.sh/release-namespace") == NAMESPACE
    ]
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}": item
        for item in (*inside, *above, *helms)
    }


def of_ours(found: dict[str, Manifest]) -> set[str]:
    """The custom resources with all that they own, the gateway, and the volumes of the namespace's claims."""
    known = {
        item["metadata"]["uid"]
        for item in found.values()
        if item["apiVersion"].startswith("ultramarine.dev/")
        or (item["kind"], item["metadata"]["name"]) in GATEWAY
        or (item["kind"] == "PersistentVolume" and item["spec"]["claimRef"]["namespace"] == NAMESPACE)
    }
    while True:
        more = {
            item["metadata"]["uid"]
            for item in found.values()
            if {owner["uid"] for owner in item["metadata"].get("ownerReferences") or []} & known
        }
        if more <= known:
            return {name for name, item in found.items() if item["metadata"]["uid"] in known}
        known |= more


@pytest.fixture(scope="module")
def release(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """The release before, with a job that runs and an endpoint that answers."""
    embedded.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    restricted(embedded, NAMESPACE)
    tree = tree_before(tmp_path_factory.mktemp("before"))
    platform = Platform(embedded, NAMESPACE)
    images = target.give_images(embedded, IMAGES)
    before = images | images_of(tree)
    made = Release(platform, set(inventory(embedded)), images, before)
    try:
        target.upgrade(embedded, NAMESPACE, before, chart=tree / "charts" / "ultramarine")
        content = onnx_model(1)
        platform.apply(
            model_version("steady", 1, platform.put("steady.onnx", content), content),
            endpoint("steady", "steady@1"),
            training_job("done", model="churn"),
            training_job("patient", PATIENT, model="churn"),
        )
        assert platform.ended("done")["state"] == "Succeeded"
        platform.ready("steady", "steady-1")
        platform.wait("tj", "patient", lambda s: s.get("state") == "Running")
        yield made
    finally:
        # Whatever happened: other releases find the CRDs and policies of this tree.
        apply_as_helm(embedded, CRDS.read_text())
        apply_as_helm(embedded, policies(NAMESPACE))
        embedded.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
        embedded.run("delete", "priorityclass", PRIORITY, "--ignore-not-found")


@pytest.fixture(scope="module")
def second(embedded: target.Target) -> Iterator[str]:
    """A namespace that the release gets later."""
    restricted(embedded, f"{NAMESPACE}-too")
    yield f"{NAMESPACE}-too"
    embedded.run("delete", "namespace", f"{NAMESPACE}-too", "--ignore-not-found", "--timeout=300s")


def test_up_and_back_without_a_restart_or_a_failed_request(release):
    """From the release before to this one and back: the training pod goes on, and every request is answered."""
    platform = release.platform
    training = release.pods("patient")
    assert len(training) == 1
    with Load(platform, "steady") as load:
        release.upgrade()
        platform.ready("steady", "steady-1")
        release.helm("rollback", "ultramarine", "1")
        platform.ready("steady", "steady-1")
        apply_as_helm(platform.target, CRDS.read_text())  # an operator under CRDs that are newer than it
        platform.apply(training_job("under-newer"))
        assert platform.ended("under-newer")["state"] == "Succeeded"
        time.sleep(3)
    assert load.failures == []
    assert len(load.answers) > 100
    assert release.pods("patient") == training
    assert set(next(iter(training.values()))) == {0}


def test_a_job_of_the_release_before_ends_well_under_this_one(release):
    """Upgraded again, the job that has run all the time is registered once; a new one runs in the image before."""
    platform = release.platform
    release.upgrade()
    pod = platform.status("tj", "patient")["pod"]
    platform.kubectl("exec", pod, "-c", "trainer", "--", "touch", "/tmp/go-on")
    platform.apply(training_job("with-older", image=release.old_images["trainer"]))
    status = platform.ended("patient")
    assert (status["state"], status["attempts"]) == ("Succeeded", 1)
    versions = sorted(v["metadata"]["name"] for v in platform.get("mv") if v["spec"]["model"] == "churn")
    assert versions == ["churn-1", "churn-2"]
    assert platform.ended("with-older")["state"] == "Succeeded"


@pytest.mark.slow
def test_another_setting_of_the_operator_disturbs_nobody(release):
    """`helm upgrade` with more CPU for the operator replaces its pod alone; every request is answered."""
    platform = release.platform
    before, operator = release.pods("steady", "done"), release.operator()
    with Load(platform, "steady") as load:
        release.upgrade('operator.resources={"requests": {"cpu": "60m"}}')
    assert load.failures == []
    assert release.operator() != operator
    assert release.pods("steady", "done") == before


@pytest.mark.attack("author/platform-secrets")
@pytest.mark.slow
def test_another_namespace_costs_the_first_nothing(release, second):
    """A job and an endpoint go on in their pods while it is added; policies, gateway and keys stay; both then work."""
    platform, other = release.platform, Platform(release.platform.target, second)
    platform.apply(training_job("meanwhile", PATIENT))
    platform.wait("tj", "meanwhile", lambda s: s.get("state") == "Running")
    before, pods = isolation(platform), release.pods("meanwhile", "steady")
    add = ("--reset-then-reuse-values", "--set", f"namespaces={{{second}}}")
    with Load(platform, "steady") as load:
        release.helm("upgrade", "ultramarine", str(target.CHART), *add)
        other.apply(training_job("guest", model="guest"), endpoint("guest", "guest@latest", authMode="none"))
        # The build trusts the package index by what the operator knows, since nobody else knows the namespace.
        other.apply(training_job("packed", environment={"requirements": ["inflection==0.5.1"]}))
        assert other.ended("guest")["state"] == "Succeeded"
        assert other.ended("packed", 300)["state"] == "Succeeded"
        other.ready("guest", "guest-1")
    assert load.failures == []
    assert isolation(platform) == before
    assert release.pods("meanwhile", "steady") == pods
    platform.kubectl("exec", platform.status("tj", "meanwhile")["pod"], "-c", "trainer", "--", "touch", "/tmp/go-on")
    assert platform.ended("meanwhile")["state"] == "Succeeded"
    assert_roles(other)
    assert_closed(platform, "ultramarine-storage-accounts")
    assert_closed(platform, "sh.helm.release.v1.ultramarine.v1")

    release.upgrade()  # as `make install` does: it keeps the namespaces that the release has
    other.apply(training_job("again"))
    assert other.ended("again")["state"] == "Succeeded"
    release.upgrade("namespaces=[]")


def isolation(platform: Platform) -> dict[str, Any]:
    """Return the policies that isolate the release's namespace, except those two that admit another one."""
    found = [*platform.get("networkpolicy"), *platform.get("role"), platform.get("secret", "ultramarine-storage")]
    kept = {
        f"{each['kind']} {each['metadata']['name']}": each.get("spec") or each.get("rules") or each["data"]
        for each in found
        if each["kind"] != "NetworkPolicy"
        or each["metadata"]["name"] not in ("ultramarine-storage", "ultramarine-operator")
    }
    gateways = platform.get("pod", "", "-l", "app.kubernetes.io/component=gateway")
    return kept | {"gateways": {pod["metadata"]["uid"] for pod in gateways}}


def assert_roles(team: Platform) -> None:
    """See that a user with the data scientist's role works in the namespace, and what Kubernetes' own roles include."""
    for role in ("ultramarine-data-scientist", "view", "edit"):
        team.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}")
    job = {"apiVersion": "ultramarine.dev/v1alpha1", **training_job("hers")}
    team.kubectl("apply", "-f", "-", "--as", "ultramarine-data-scientist", input=json.dumps(job))
    assert team.ended("hers")["state"] == "Succeeded"

    def may(user: str, verb: str) -> bool:
        words = ("-n", team.namespace, "auth", "can-i", verb, "onlineendpoints.ultramarine.dev", "--as", user)
        done = subprocess.run([*team.target.kubectl, *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() == "yes"

    asked = {user: [verb for verb in ("get", "patch", "approve") if may(user, verb)] for user in ("view", "edit")}
    assert asked == {"view": ["get"], "edit": ["get", "patch"]}


def assert_closed(platform: Platform, secret: str) -> None:
    """See that a job beside the platform gets no pod if it names that Secret, and says why."""
    source = {"name": "ROOT", "valueFrom": {"secretKeyRef": {"name": secret, "key": "root"}}}
    platform.apply(training_job("curious", env=[source]))
    platform.wait("tj", "curious", lambda s: "platform's own" in condition(s, "Reconciled").get("message", ""))
    assert not platform.get("job", "", "-l", "ultramarine.dev/name=curious")
    platform.delete("tj", "curious")


@pytest.mark.attack(
    "operator/two-operators",
    asset="objects of two releases",
    threat="two operators undo each other's work",
    control="a cluster-wide release is refused beside another one; releases with one namespace in common collide "
    "by name",
)
@pytest.mark.slow
def test_two_operators_for_one_namespace_are_refused(release):
    """A cluster-wide release beside another one is refused before anything is installed, with that one's namespace."""
    argv = [*release.platform.target.helm, "install", "ultramarine", str(target.CHART), "--dry-run=server"]
    argv += ["--namespace", "default", "--set", "clusterWide=true", "--set", "crds.install=false"]
    argv += ["-f", str(target.CHART / "ci" / "images-values.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has an operator already" in done.stderr
    argv[argv.index("clusterWide=true")] = f"namespaces={{{NAMESPACE}}}"
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f'in namespace "{NAMESPACE}" exists and cannot be imported' in done.stderr


@pytest.mark.attack(
    "operator/uninstall",
    asset="people's objects",
    threat="an uninstall that deletes or blocks them",
    control="CRDs and data are kept, and no finalizer of ours exists",
)
@pytest.mark.slow
def test_uninstall_leaves_objects_and_data_and_nothing_else(release, second):
    """The custom resources with their children, the gateway, the volume and its keys stay; and all answers."""
    platform = release.platform
    for name in ("churn-1", "churn-2"):
        platform.wait("mv", name, lambda s: s.get("state") == "Ready")
    platform.settled("steady")
    statuses = release.statuses()
    with Load(platform, "steady") as load:
        release.helm("uninstall", "ultramarine")
    assert load.failures == []

    kept = {f"{kind} {NAMESPACE}/ultramarine-storage" for kind in ("Secret", "PersistentVolumeClaim")}
    kept.add(f"Secret {NAMESPACE}/ultramarine-storage-accounts")
    kept |= {f"Namespace /{second}", f"Secret {second}/ultramarine-storage"}
    walls = ("training", "sweeps", "serving", "serving-guarded", "compiling", "gateway")
    kept |= {f"NetworkPolicy {where}/ultramarine-{name}" for where in (NAMESPACE, second) for name in walls}
    kept |= {f"{each['kind']} /{each['metadata']['name']}" for each in people.manifests()}
    kept.add(f"PriorityClass /{PRIORITY}")
    crds = {f"CustomResourceDefinition /{plural}.ultramarine.dev" for plural in PLURALS}
    end = time.monotonic() + 180
    while superfluous := set(left := inventory(platform.target)) - release.before - of_ours(left) - kept - crds:
        # The operator's pods have a moment to end in.
        assert time.monotonic() < end, superfluous
        time.sleep(1)
    assert kept | crds <= set(left)
    assert release.statuses() == statuses


@pytest.mark.slow
def test_installed_again_it_goes_on_where_it_was(release):
    """The same volume and keys, no status changed, nothing trained or registered twice; and the next number is next."""
    platform = release.platform
    keys, statuses, pods = platform.secret("ultramarine-storage"), release.statuses(), release.pods("steady", "done")
    release.upgrade()
    platform.wait("oe", "steady", lambda s: condition(s, "Ready").get("status") == "True")
    time.sleep(3)  # every object has had its pass
    assert platform.secret("ultramarine-storage") == keys
    assert release.statuses() == statuses
    assert release.pods("steady", "done") == pods

    stored = release.keys_in_bucket()
    assert f"{NAMESPACE}/tests/steady.onnx" in stored
    platform.apply(training_job("next", model="churn"))
    assert platform.ended("next")["outputs"]["model"]["modelVersion"] == "churn-3"
    assert stored < release.keys_in_bucket()


@pytest.mark.attack("operator/uninstall")
@pytest.mark.slow
def test_all_can_be_deleted_when_the_operator_is_gone(release):
    """Without an operator each kind, and then the namespace, is deleted in bounded time: nothing waits for it."""
    platform = release.platform
    content = onnx_model(1)
    uri = platform.put("left.onnx", content)
    data = {"dataset": "left", "version": "1", "uri": uri, "digest": "sha256:" + sha256(content).hexdigest()}
    step = {"name": "one", "trainingJob": {"command": ["true"]}}
    template = {"kind": "TrainingJob", "spec": {"command": ["true"]}}
    automl = {"task": "regression", "data": {"dataset": "left@1", "target": "a"}, "suspend": True}
    platform.apply(
        training_job("left", PATIENT, inputs={"data": {"dataset": "left@1"}}),
        sweep("left", ["sleep", "600"]),
        {"kind": "Dataset", "metadata": {"name": "left"}, "spec": {"type": "file"}},
        {"kind": "DatasetVersion", "metadata": {"name": "left-1"}, "spec": data},
        {"kind": "Pipeline", "metadata": {"name": "left"}, "spec": {"steps": [step]}},
        {"kind": "PipelineRun", "metadata": {"name": "left"}, "spec": {"pipeline": "left", "suspend": True}},
        {"kind": "AutoMLJob", "metadata": {"name": "left"}, "spec": automl},
        {"kind": "Schedule", "metadata": {"name": "left"}, "spec": {"cron": "@yearly", "template": template}},
        {"kind": "Environment", "metadata": {"name": "left"}, "spec": {"python": {"requirements": ["inflection"]}}},
    )
    platform.wait("tj", "left", lambda s: s.get("state") == "Running")
    # Nobody is left to note that the job is gone.
    platform.wait("dset", "left", lambda s: s.get("inUse"))
    platform.wait("sw", "left", lambda s: s.get("trials", {}).get("running"))
    # Versions whose artifacts are to go with them are no exception: nobody is left to delete those.
    platform.kubectl("patch", "mdl", "churn", "--type=merge", "-p", '{"spec": {"deletionPolicy": "Delete"}}')
    platform.wait("mdl", "churn", lambda s: s.get("artifacts"))
    release.helm("uninstall", "ultramarine")
    for kind in OURS:
        assert platform.get(kind)
        platform.kubectl("delete", kind, "--all", "--wait=true", "--timeout=60s")
    platform.target.run("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=300s")
