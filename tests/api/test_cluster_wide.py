"""clusterWide: one operator for all namespaces, under exactly the ClusterRole that the chart gives it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from bare import ROOT, Api, audit_events, eventually
from operator_process import Node, Operator
from stories import ready, training, until, versions
from ultramarine_cluster import build
from unit.conftest import ObjectStore

CHART = ROOT / "charts" / "ultramarine"
HOME = "platform"
WHO = f"system:serviceaccount:{HOME}:ultramarine-operator"
VALUES = ("clusterWide=true", "storage.endpoint=http://storage.example.com")
RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Lease"}


@pytest.fixture
def everywhere(api: Api, object_store: ObjectStore, tmp_path: Path) -> Iterator[Operator]:
    """The operator as the service account of a release with clusterWide, in a namespace of its own."""
    build.ensure(("helm",))
    helm = [str(api.cluster.helm), "template", "um", str(CHART), "--namespace", HOME]
    helm += ["-f", str(CHART / "ci" / "images-values.yaml")]
    rendered = subprocess.run(
        [*helm, *(word for value in VALUES for word in ("--set", value))], capture_output=True, text=True, check=True
    ).stdout
    documents = yaml.load_all(rendered, Loader=yaml.CSafeLoader)  # the CRDs are long
    chosen = [found for found in documents if found and found["kind"] in RIGHTS]
    assert {found["kind"] for found in chosen} == RIGHTS
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}
    api.cluster.run("apply", "-f", "-", input=yaml.safe_dump_all([home, *chosen]))
    config = yaml.safe_load(api.cluster.kubeconfig.read_text())
    token = api.cluster.run("create", "token", "ultramarine-operator", "--namespace", HOME).strip()
    config["users"][0]["user"] = {"token": token}
    config["contexts"][0]["context"]["namespace"] = HOME
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    (object_store.folder / "lake").mkdir(exist_ok=True)
    process = Operator(replace(api, namespace="*"), object_store, tmp_path / "operator.log", kubeconfig=kubeconfig)
    process.start()
    yield process
    process.kill()
    names = (f"ultramarine-operator-{HOME}", f"ultramarine-progress-{HOME}")
    api.cluster.run("delete", "clusterrolebinding,clusterrole", *names)
    api.cluster.run("delete", "namespace", HOME, "--wait=false")


@pytest.mark.attack(
    "author/references",
    asset="other namespaces",
    threat="an object refers to one in another namespace",
    control="no reference has a namespace; children go where their owner is",
)
def test_namespaces_that_come_later_are_looked_after(everywhere, namespace, object_store):
    """Jobs of one name in two namespaces, both made after the operator has started, are each trained and registered."""
    teams = [namespace(), namespace()]
    for number, team in enumerate(teams):
        node = Node(team, object_store)
        team.apply(training("churn"))
        node.start_pod("churn")
        node.succeed("churn", node.upload("churn", content=f"weights of team {number}"))
    for team in teams:
        until(team, "churn", "Succeeded")
        assert versions(team, "churn") == ["churn-1"]
        eventually("the version is ready", lambda team=team: ready(team, "churn-1"))
    uris = {team.get("mv", "churn-1")["spec"]["uri"] for team in teams}
    assert {uri.split("/")[3] for uri in uris} == {team.namespace for team in teams}

    seen = list(audit_events(teams[0].cluster.audit_log, WHO))
    assert seen
    assert [event["requestURI"] for event in seen if event.get("responseStatus", {}).get("code") == 403] == []
    about = [event["objectRef"] for event in seen if "objectRef" in event]  # else it asks which types there are
    assert {found["namespace"] for found in about if found["resource"] == "leases"} == {HOME}
