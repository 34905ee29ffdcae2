"""The roles for people, held by users with certificates of their own, on the real API server."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bare import PLATFORM, ROOT, Api, eventually, whole
from stories import status, trained
from ultramarine.client import Client
from ultramarine.serving import keys
from ultramarine.serving.route import EndpointError
from ultramarine_cluster import pki
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.testing import applied

PLURALS = [kind.resource.plural for kind in KINDS]
READ = ("get", "list", "watch")
WRITE = ("create", "patch", "update", "delete")
APPROVAL = "this namespace asks for approval"


@dataclass(frozen=True)
class Person:
    """A user of the API server, with kubectl."""

    api: Api
    kubeconfig: Path

    def run(self, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as this user in the namespace of the test."""
        argv = [str(self.api.cluster.kubectl), "--kubeconfig", str(self.kubeconfig), "-n", self.api.namespace, *words]
        return subprocess.run(argv, input=input, capture_output=True, text=True, check=False)

    def may(self, verb: str, what: str, *words: str) -> bool:
        """Return the answer of `kubectl auth can-i`; a colon separates the subresource."""
        what, _, part = what.partition(":")
        words = (*words, *([f"--subresource={part}"] if part else []))
        return self.run("auth", "can-i", verb, what, *words).stdout.strip() == "yes"

    def apply(self, manifest: Manifest) -> str:
        """Apply a manifest; nothing if it was taken, else what kubectl says."""
        done = self.run("apply", "-f", "-", input=json.dumps(manifest))
        return "" if done.returncode == 0 else done.stderr

    def patch(self, kind: str, name: str, spec: Manifest, *words: str) -> str:
        """Patch a spec; nothing if it was taken, else what kubectl says."""
        done = self.run("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}), *words)
        return "" if done.returncode == 0 else done.stderr


@pytest.fixture
def person(api: Api, tmp_path: Path) -> Callable[[str], Person]:
    """Makes a user who holds one ClusterRole of the chart in the namespace of the test, and nothing else."""
    api.cluster.run("apply", "-f", str(ROOT / "charts/ultramarine/files/people.yaml"))
    authority = pki.Authority(api.cluster.state.pki, "ca")

    def make(role: str) -> Person:
        name = f"{role}-of-{api.namespace}"
        pair = authority.issue(name, pki.Leaf(name))
        config = pki.kubeconfig(tmp_path / name, api.cluster.url, authority, pair)
        api.run("create", "rolebinding", name, f"--clusterrole=ultramarine-{role}", f"--user={name}")
        made = Person(api, config)
        eventually("the binding is in force", lambda: made.may("list", "trainingjobs"))
        return made

    return make


def model(aliases: dict[str, str] | None = None) -> Manifest:
    """A Model, perhaps with aliases."""
    made = whole("Model")
    return {**made, "spec": {"aliases": aliases} if aliases else {}}


def endpoint(**spec: object) -> Manifest:
    """An endpoint with two deployments."""
    deployments = [{"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}]
    return {**whole("OnlineEndpoint"), "spec": {"deployments": deployments, "traffic": {"blue": 100}, **spec}}


def test_a_viewer_sees_everything_and_changes_nothing(person):
    """All kinds, pods, their logs and events can be read; nothing can be written, and no Secret be read."""
    viewer = person("viewer")
    assert all(viewer.may(verb, f"{plural}.ultramarine.dev") for plural in PLURALS for verb in READ)
    seen = ("pods", "pods:log", "services", "events", "configmaps/ultramarine-platform")
    assert all(viewer.may("get", what) for what in seen)
    assert not any(viewer.may(*words) for words in (("get", "configmaps"), ("list", "configmaps")))
    assert not any(viewer.may(verb, f"{plural}.ultramarine.dev") for plural in PLURALS for verb in (*WRITE, "approve"))
    assert not viewer.may("get", "secrets/ultramarine-storage")
    assert "forbidden" in viewer.apply(whole("TrainingJob"))


@pytest.mark.attack("author/roles")
def test_a_data_scientist_works_and_reads_no_ones_secrets(person, api):
    """Jobs to endpoints can be made, changed and reached; a Secret can be put there, and one alone be read."""
    scientist = person("data-scientist")
    for kind in ("TrainingJob", "Sweep", "Model", "ModelVersion", "OnlineEndpoint"):
        assert scientist.apply(whole(kind)) == "", kind
    assert scientist.patch("mdl", "churn", {"aliases": {"champion": "1"}}) == ""
    assert scientist.may("create", "pods:portforward")
    assert scientist.may("get", "pods:portforward")
    assert scientist.may("get", "configmaps/ultramarine-platform")

    api.run("create", "secret", "generic", "ultramarine-storage", "--from-literal=key=own")
    assert scientist.run("create", "secret", "generic", "churn-keys", "--from-literal=primary=x").returncode == 0
    assert scientist.run("get", "secret", "ultramarine-storage").returncode == 0
    for name in ("churn-keys", "ultramarine-storage-accounts", "sh.helm.release.v1.ultramarine.v1", ""):
        assert "forbidden" in scientist.run("get", "secrets", *filter(None, [name])).stderr, name


def test_keys_of_a_new_endpoint_are_its_authors_and_go_with_it(person, operator, api, tmp_path, monkeypatch):
    """Their Secret belongs to the endpoint, the operator makes no other, and a Secret of one's own stays by name."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    notes: list[str] = []
    api.apply(PLATFORM)
    with Client(kubeconfig=str(person("data-scientist").kubeconfig), namespace=api.namespace) as client:
        made = client.apply(endpoint(), note=notes.append)
        eventually("the operator has seen it", lambda: "keysSecret" in status(api, "oe", "churn"))
        secret = api.get("secret", "churn-keys")
        owners = [owner["uid"] for owner in secret["metadata"]["ownerReferences"]]
        assert owners == [made["metadata"]["uid"]]
        own_keys = client.endpoint("churn").keys
        assert own_keys == {name: base64.b64decode(key).decode() for name, key in secret["data"].items()}
        client.apply(endpoint(), note=notes.append)
        assert notes == [f"Made two keys in Secret churn-keys; you keep them in {keys.file()}."]

        assert keys.left_by(client.cluster, made) == ""
        with pytest.raises(EndpointError, match="you may not read Secret churn-keys"):
            _ = client.endpoint("churn").keys

        named = endpoint(keysSecretRef={"name": "mine"}) | {"metadata": {"name": "other"}}
        client.apply(named, note=notes.append)
        assert "delete secret mine" in keys.left_by(client.cluster, named)
    assert len(notes) == 1


@pytest.mark.attack(
    "author/roles",
    asset="other people's Secrets, pods, rights",
    threat="a role for people gives more than it says",
    control="no wildcard, no exec, no pods, no status; two Secrets by name can be read",
)
@pytest.mark.parametrize("role", ["viewer", "data-scientist", "approver"])
def test_no_role_opens_more_than_it_says(person, role):
    """None enters pods, makes pods, writes what the operator owns, gives rights, or sees another namespace."""
    one = person(role)
    for verb, what in (
        ("create", "pods"),
        ("create", "pods:exec"),
        ("create", "pods:attach"),
        ("delete", "pods"),
        ("list", "secrets"),
        ("get", "configmaps/churn-routes"),
        ("watch", "secrets"),
        ("update", "secrets"),
        ("patch", "secrets/ultramarine-storage"),
        ("create", "deployments.apps"),
        ("create", "jobs.batch"),
        ("update", "configmaps"),
        ("create", "configmaps"),
        ("patch", "services"),
        ("create", "serviceaccounts:token"),
        ("impersonate", "users"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("patch", "networkpolicies.networking.k8s.io"),
        ("patch", "clusterroles.rbac.authorization.k8s.io"),
        ("patch", "validatingadmissionpolicies.admissionregistration.k8s.io"),
        ("patch", f"namespaces/{one.api.namespace}"),
    ):
        assert not one.may(verb, what), (verb, what)
    for plural in PLURALS:
        assert not one.may("patch", f"{plural}.ultramarine.dev:status")
        assert not one.may("list", f"{plural}.ultramarine.dev", "-n", "default")


CODE: tuple[Manifest, ...] = (
    {"scoring": {"source": {"inline": {"score.py": ""}}}},
    {"environment": {"name": "ours"}},
    {"container": {"image": "ours", "ports": {"http": 8080}}},
    {"env": [{"name": "A", "value": "1"}]},
    {"envFrom": [{"secretRef": {"name": "ours"}}]},
    {"podTemplate": {"volumes": [{"claimName": "ours", "mountPath": "/data"}]}},
)


@pytest.mark.attack(
    "author/approval",
    asset="what is served",
    threat="a user without approval moves an alias or traffic, or exchanges the endpoint",
    control="an admission policy asks for the verb `approve` in namespaces with the label",
)
def test_where_approval_is_required_an_approver_alone_moves_what_is_served(person, api):
    """Aliases, and an endpoint's making, traffic and models, are the approver's; the rest stays the scientist's."""
    scientist, approver = person("data-scientist"), person("approver")
    assert scientist.apply(model()) == ""
    assert scientist.apply(endpoint()) == ""
    api.cluster.run("label", "namespace", api.namespace, "ultramarine.dev/approval=required")
    # The policy looks at a namespace a moment after it was labelled; an alias that came before would not be refused.
    aliases = {"aliases": {"champion": "1"}}
    eventually(
        "the policy is in force", lambda: APPROVAL in scientist.patch("mdl", "churn", aliases, "--dry-run=server")
    )
    assert APPROVAL in scientist.patch("mdl", "churn", aliases)

    green = {"blue": None, "green": 100}
    same = [{"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}]
    other = [{"name": "blue", "model": "churn@2"}, {"name": "green", "model": "churn@2"}]
    pooled = [{"name": "blue", "pool": {"selector": {"matchLabels": {"tier": "x"}}}}]
    for spec in (
        {"traffic": green},
        {"deployments": other},
        {"deployments": pooled},
        *({"deployments": [same[0] | code, same[1]]} for code in CODE),
        {"rollout": {"candidate": "green", "steps": [10, 100]}},
    ):
        assert APPROVAL in scientist.patch("oe", "churn", spec), spec
    assert APPROVAL in scientist.apply({**endpoint(), "metadata": {"name": "second"}})
    assert APPROVAL in scientist.apply({**model({"champion": "1"}), "metadata": {"name": "second"}})

    more = [{"name": "blue", "model": "churn@1", "replicas": 3}, {"name": "green", "model": "churn@2"}]
    assert scientist.patch("oe", "churn", {"deployments": more}) == ""
    assert scientist.patch("mdl", "churn", {"description": "of customers"}) == ""
    assert scientist.apply({**model(), "metadata": {"name": "third"}}) == ""
    assert scientist.apply(whole("TrainingJob")) == ""

    assert approver.patch("mdl", "churn", {"aliases": {"champion": "1"}}) == ""
    assert approver.patch("oe", "churn", {"traffic": green}) == ""
    assert approver.apply({**endpoint(), "metadata": {"name": "second"}}) == ""
    assert "forbidden" in approver.apply({**whole("TrainingJob"), "metadata": {"name": "second"}})
    assert "forbidden" in approver.run("delete", "oe", "churn").stderr


@pytest.mark.attack(
    "author/approval-by-pipeline",
    asset="what is served",
    threat="a user without approval has a pipeline move an alias",
    control="the operator does not hold the verb `approve`; the step waits until an approver moves the alias",
)
def test_where_approval_is_required_a_pipeline_waits_for_an_approver(person, api, replica, node):
    """The operator's change is refused there; the alias that an approver moves ends the step and the run."""
    scientist, approver = person("data-scientist"), person("approver")
    replica("operator").start()
    trained(api, node, "churn")
    api.cluster.run("label", "namespace", api.namespace, "ultramarine.dev/approval=required")
    aliases = {"aliases": {"champion": "1"}}
    eventually(
        "the policy is in force", lambda: APPROVAL in scientist.patch("mdl", "churn", aliases, "--dry-run=server")
    )

    publish = {"model": "churn", "version": "1", "alias": "champion"}
    run = {"pipelineSpec": {"steps": [{"name": "publish", "publish": publish}]}}
    assert scientist.apply(applied("PipelineRun", "asks", run)) == ""
    eventually(
        "the change is refused",
        lambda: APPROVAL in str((find(status(api, "plr", "asks"), "Reconciled") or {}).get("message")),
    )
    assert "aliases" not in api.get("mdl", "churn")["spec"]
    assert approver.patch("mdl", "churn", aliases) == ""
    eventually("the run has ended", lambda: status(api, "plr", "asks").get("state") == "Succeeded")
