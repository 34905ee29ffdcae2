"""Service accounts for operators under test: each works with exactly the chart's rights, or with some of them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from bare import ROOT, Api

RIGHTS = yaml.safe_load((ROOT / "charts/ultramarine/files/rbac.yaml").read_text())


def admit(api: Api, account: str, *names: str, but: tuple[str, ...] = ()) -> None:
    """Give a service account the chart's rights of these names, in the namespace of the test, but for some types."""
    for name in names:
        rules = [rule for rule in RIGHTS[name] if not set(rule["resources"]) & set(but)]
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": api.namespace}
        api.apply(
            {**kind, "kind": "Role", "metadata": {"name": name}, "rules": rules},
            {
                **kind,
                "kind": "RoleBinding",
                "metadata": {"name": f"{account}-{name}"},
                "roleRef": role,
                "subjects": [subject],
            },
        )


def admit_everywhere(api: Api, account: str, name: str) -> None:
    """Give a service account the chart's rights of this name that are no namespace's."""
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    metadata = {"name": f"{name}-{api.namespace}"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": metadata["name"]}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": api.namespace}
    api.apply(
        {**kind, "kind": "ClusterRole", "metadata": metadata, "rules": RIGHTS[name]},
        {**kind, "kind": "ClusterRoleBinding", "metadata": metadata, "roleRef": role, "subjects": [subject]},
    )


def account(api: Api, name: str, folder: Path) -> Path:
    """Make a service account, and return a kubeconfig by which it works in the namespace of the test."""
    api.run("create", "serviceaccount", name)
    config = yaml.safe_load(api.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": api.run("create", "token", name).strip()}
    config["contexts"][0]["context"]["namespace"] = api.namespace
    path = folder / f"{api.namespace}-{name}.kubeconfig"
    path.write_text(json.dumps(config))
    return path
