"""Service accounts for operators under test: each works with exactly the chart's rights, or with some of them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from bare import ROOT, Api
from ultramarine_contract.meta import Manifest

RBAC = "rbac.authorization.k8s.io"
RIGHTS = yaml.safe_load((ROOT / "charts/ultramarine/files/rbac.yaml").read_text())


def admit(api: Api, account: str, *names: str, but: tuple[str, ...] = ()) -> None:
    """Give a service account the chart's rights of these names, in the namespace of the test, but for some types."""
    for name in names:
        rules = [rule for rule in RIGHTS[name] if not set(rule["resources"]) & set(but)]
        _give(api, account, "Role", name, f"{account}-{name}", rules)


def admit_everywhere(api: Api, account: str, name: str) -> None:
    """Give a service account the chart's rights of this name that are no namespace's."""
    own = f"{name}-{api.namespace}"
    _give(api, account, "ClusterRole", own, own, RIGHTS[name])


def _give(api: Api, account: str, kind: str, name: str, binding: str, rules: list[Manifest]) -> None:
    role = {"apiGroup": RBAC, "kind": kind, "name": name}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": api.namespace}
    _apply(api, {"kind": kind, "metadata": {"name": name}, "rules": rules})
    bound = {"kind": f"{kind}Binding", "metadata": {"name": binding}, "roleRef": role, "subjects": [subject]}
    _apply(api, bound)


def _apply(api: Api, manifest: Manifest) -> None:
    """Apply a manifest of RBAC on the server's side: kubectl would take half a second for each."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    where = "" if kind.startswith("Cluster") else f"/namespaces/{api.namespace}"
    answer = api.http.patch(
        f"/apis/{RBAC}/v1{where}/{kind.lower()}s/{name}",
        params={"fieldManager": "tests", "force": "true"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        content=json.dumps({"apiVersion": f"{RBAC}/v1", **manifest}),
    )
    answer.raise_for_status()


def account(api: Api, name: str, folder: Path) -> Path:
    """Make a service account, and return a kubeconfig by which it works in the namespace of the test."""
    path = f"/api/v1/namespaces/{api.namespace}/serviceaccounts"
    api.http.post(path, json={"metadata": {"name": name}}).raise_for_status()
    answer = api.http.post(f"{path}/{name}/token", json={"spec": {}})
    answer.raise_for_status()
    config = yaml.safe_load(api.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer.json()["status"]["token"]}
    config["contexts"][0]["context"]["namespace"] = api.namespace
    file = folder / f"{api.namespace}-{name}.kubeconfig"
    file.write_text(json.dumps(config))
    return file
