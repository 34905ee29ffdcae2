"""Rights of the operator: what the kinds use, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultramarine_contract.meta import EVENT, GROUP, LEASE, LEASE_NAME, TOKEN_REVIEW, Resource

from ..kinds import KINDS
from ..shared.kind import Kind


def rbac() -> list[dict[str, Any]]:
    """The operator's rules: what the kinds use, and nothing more."""
    verbs = _verbs(KINDS)
    rules = [_rule(resource, verbs[resource]) for resource in sorted(verbs, key=lambda r: (r.group, r.plural))]
    for kind in KINDS:
        rules.append({"apiGroups": [GROUP], "resources": [f"{kind.resource.plural}/status"], "verbs": ["patch"]})
        if kind.children:  # the API server asks for this where OwnerReferencesPermissionEnforcement is on
            finalizers = f"{kind.resource.plural}/finalizers"
            rules.append({"apiGroups": [GROUP], "resources": [finalizers], "verbs": ["update"]})
    rules.append(_rule(EVENT, {"create", "list"}))  # of other controllers: why a pod was refused
    return rules


def feature_rules() -> dict[str, list[dict[str, Any]]]:
    """The further rules where the platform has a feature, by its name."""
    plain = _verbs(KINDS)
    names = sorted({name for kind in KINDS for name in kind.features})
    more = {name: _verbs(kind.on([name]) for kind in KINDS) for name in names}
    return {
        name: [_rule(resource, verbs) for resource, verbs in more[name].items() if resource not in plain]
        for name in names
    }


def _verbs(kinds: Iterable[Kind]) -> dict[Resource, set[str]]:
    """Return the verbs that the operator uses on each type."""
    verbs: dict[Resource, set[str]] = {}
    for kind in kinds:
        for watched in (kind.resource, *kind.related, *kind.children):
            verbs.setdefault(watched, set()).update(("list", "watch"))
        for child in kind.children:
            if child.kind != "Pod":  # pods belong to Jobs and Deployments: we only look at them
                # A new one is created; one that another client made or changed is read, and corrected by an apply.
                verbs[child].update(("get", "create", "patch"))
        for made in kind.creates:
            verbs.setdefault(made, set()).add("create")
        for gone in kind.deletes:
            verbs.setdefault(gone, set()).add("delete")
        for edited in kind.edits:
            verbs.setdefault(edited, set()).add("patch")
        for asked in kind.confirms:
            verbs.setdefault(asked, set()).add("get")
    return verbs


def lease_rules() -> list[dict[str, Any]]:
    """The rules for leader election, in the operator's own namespace."""
    # A name that is not there yet cannot be granted: creating is another rule.
    return [{**_rule(LEASE, {"get", "update"}), "resourceNames": [LEASE_NAME]}, _rule(LEASE, {"create"})]


def progress_rules() -> list[dict[str, Any]]:
    """The rules for asking whose token a training pod shows, which no namespace can grant."""
    return [_rule(TOKEN_REVIEW, {"create"})]


def _rule(resource: Resource, verbs: set[str]) -> dict[str, Any]:
    return {"apiGroups": [resource.group], "resources": [resource.plural], "verbs": sorted(verbs)}
