"""Roles for users: ClusterRoles that follow from the kinds, and the policy that limits approval to its holders.

None of them is bound to anyone here. `view`, `edit` and `admin` of Kubernetes take their rules up by label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultramarine_contract.meta import GROUP, PLATFORM_MAP

from ..kinds import KINDS

READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "patch", "update"]
APPROVED = ["models", "onlineendpoints"]
# The chart puts storage.secretName and mlflow.secretName here.
STORAGE_SECRET = "ultramarine-storage"
MLFLOW_SECRET = "ultramarine-mlflow"
APPROVAL_LABEL = "ultramarine.dev/approval"
# Like the CRDs they outlive the release, since the objects do.
KEEP = {"helm.sh/resource-policy": "keep"}

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """All of them, in the order of rising rights."""
    kinds = sorted(kind.resource.plural for kind in KINDS)
    look = [
        _rule([GROUP], kinds, READ),
        _rule([""], ["pods", "services", "events"], READ),
        _rule(["events.k8s.io"], ["events"], READ),
        _rule([""], ["pods/log"], ["get"]),
        {**_rule([""], ["configmaps"], ["get"]), "resourceNames": [PLATFORM_MAP]},
    ]
    work = [
        _rule([GROUP], kinds, WRITE),
        # To reach endpoints, storage and MLflow from one's own machine; older and newer kubectl ask in two ways.
        _rule([""], ["pods/portforward"], ["create", "get"]),
        # Keys for an endpoint or a git server can be put there, and not be read: no rule knows patterns of names.
        _rule([""], ["secrets"], ["create"]),
        {**_rule([""], ["secrets"], ["get"]), "resourceNames": [STORAGE_SECRET, MLFLOW_SECRET]},
    ]
    approve = [
        _rule([GROUP], APPROVED, ["create", "patch", "update"]),
        _rule([GROUP], APPROVED, ["approve"]),
    ]
    return [
        _role("ultramarine-viewer", "view", look),
        _role("ultramarine-data-scientist", "edit", look + work),
        _role("ultramarine-approver", "admin", look + approve),
        *_approval(),
    ]


def _rule(groups: Iterable[str], resources: Iterable[str], verbs: Iterable[str]) -> Manifest:
    return {"apiGroups": [*groups], "resources": [*resources], "verbs": [*verbs]}


def _role(name: str, joins: str, rules: list[Manifest]) -> Manifest:
    labels = {"app.kubernetes.io/name": "ultramarine", f"rbac.authorization.k8s.io/aggregate-to-{joins}": "true"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels, "annotations": KEEP},
        "rules": rules,
    }


def _approval() -> list[Manifest]:
    """In namespaces with the label, what is served follows from fields that only holders of the verb approve change."""
    name = f"approval.{GROUP}"
    models = "d.name, d.?model.orValue(''), d.?pool.orValue({})"
    code = ", ".join(f"d.?{field}.orValue({{}})" for field in ("environment", "scoring", "container", "podTemplate"))
    code += ", d.?env.orValue([]), d.?envFrom.orValue([])"
    served = f"[{models}, {code}]"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "annotations": KEEP},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": ["*"],
                        "resources": APPROVED,
                        "operations": ["CREATE", "UPDATE"],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "not-an-approver",
                    "expression": f"!authorizer.group('{GROUP}').resource(request.resource.resource)"
                    ".namespace(request.namespace).name(request.name).check('approve').allowed()",
                }
            ],
            "validations": [
                {
                    "expression": "request.resource.resource != 'models' || object.spec.?aliases.orValue({}) == "
                    "(oldObject == null ? {} : oldObject.spec.?aliases.orValue({}))",
                    "message": "this namespace asks for approval: only who holds the verb approve on models moves "
                    "aliases. Ask a holder of the ClusterRole ultramarine-approver.",
                    "reason": "Forbidden",
                },
                {
                    "expression": "request.resource.resource != 'onlineendpoints' || (oldObject != null && "
                    "object.spec.?traffic == oldObject.spec.?traffic && "
                    "object.spec.?rollout == oldObject.spec.?rollout && "
                    f"object.spec.deployments.map(d, {served}) == oldObject.spec.deployments.map(d, {served}))",
                    "message": "this namespace asks for approval: only who holds the verb approve on onlineendpoints "
                    "makes an endpoint, or changes its traffic, rollout, models, code or podTemplate. Ask a holder of "
                    "the ClusterRole ultramarine-approver.",
                    "reason": "Forbidden",
                },
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "annotations": KEEP},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {APPROVAL_LABEL: "required"}}},
        },
    }
    return [policy, binding]
