"""The operator's rights on the real cluster: the chart's and no other, none missing, none too many.

These tests run last (see conftest.py), because the API server's audit log then tells what the whole suite needed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import pytest
import yaml
from api.bare import audit_events
from conftest import NAMESPACE, Manifest, Platform, began
from ultramarine_cluster import cluster
from ultramarine_cluster.paths import REPOSITORY

pytestmark = pytest.mark.exclusive

OPERATOR = f"system:serviceaccount:{NAMESPACE}:ultramarine-operator"
NOBODY = f"system:serviceaccount:{NAMESPACE}:default"


class Right(NamedTuple):
    """One verb on one type, perhaps on one object only."""

    group: str
    resource: str  # with its subresource, as in a Role
    verb: str
    name: str = ""


REVIEW = Right("authentication.k8s.io", "tokenreviews", "create")  # of no namespace


def rights(rules: list[Manifest]) -> set[Right]:
    """Rules taken apart."""
    return {
        Right(group, resource, verb, name)
        for rule in rules
        for group in rule.get("apiGroups") or []
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def shipped() -> set[Right]:
    """The rights that the chart gives to the operator."""
    rules = yaml.safe_load((REPOSITORY / "charts/ultramarine/files/rbac.yaml").read_text())
    return rights([*rules["operator"], *rules["lease"], *rules["progress"]])


def held(platform: Platform, who: str, namespace: str) -> set[Right]:
    """Return the rights of `who` in a namespace: `kubectl auth can-i --list --as`, without its table."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    # Without a look at the CRDs, which the operator may not read either.
    words = ("create", "--as", who, "--validate=false", "-f", "-", "-o", "json")
    said = platform.kubectl(*words, input=json.dumps(review))
    return rights(json.loads(said)["status"]["resourceRules"])


def requests(since: datetime) -> Iterator[Manifest]:
    """The operator's requests since then, from the audit log and what was rotated away from it."""
    for event in audit_events(cluster.find().audit_log, OPERATOR):
        if event["requestReceivedTimestamp"] > since.isoformat():
            yield event


def used(event: Manifest) -> Iterator[Right]:
    """The rights that a request shows to be needed."""
    what: dict[str, Any] | None = event.get("objectRef")
    if what is None:  # which types there are is told to everybody
        return
    resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
    name = what.get("name", "") if what["resource"] == "leases" and event["verb"] != "create" else ""
    yield Right(what.get("apiGroup", ""), resource, event["verb"], name)
    if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
        yield Right(what.get("apiGroup", ""), resource, "create")  # server-side apply of a name that was free


@pytest.mark.attack(
    "operator/other-rights",
    asset="the cluster",
    threat="rights that are not the chart's",
    control="what the API server grants is compared with the chart's rules",
)
def test_the_operator_has_the_rights_of_the_chart_and_no_other(platform):
    """In its namespace it may do what the chart says, and elsewhere what every service account may: and one thing."""
    everybody = held(platform, NOBODY, NAMESPACE)
    assert held(platform, OPERATOR, NAMESPACE) - everybody == shipped()
    assert held(platform, OPERATOR, "kube-system") - everybody == {REVIEW}


@pytest.mark.attack(
    "operator/secrets",
    asset="Secrets",
    threat="reading them through the API",
    control="the operator's only verb on them is `create`; the gateway's agent has `get` in its namespace, for "
    "those that endpoints name, and can list or watch none (see the gaps)",
)
@pytest.mark.attack(
    "operator/escalation",
    asset="rights themselves",
    threat="escalate, bind, impersonate, tokens, exec",
    control="none of these, and no wildcard",
)
@pytest.mark.parametrize(
    "words",
    [
        *(f"{verb} secrets" for verb in ("get", "list", "watch", "patch", "update", "delete")),
        *(f"{verb} roles.rbac.authorization.k8s.io" for verb in ("create", "bind", "escalate")),
        *(f"create pods --subresource={way}" for way in ("exec", "attach", "portforward", "proxy")),
        "create pods",
        "impersonate users",
        "create serviceaccounts --subresource=token",
        "list nodes",
        "list namespaces",
        "list customresourcedefinitions.apiextensions.k8s.io",
        "list trainingjobs.ultramarine.dev --all-namespaces",
        "create secrets -n kube-system",
    ],
)
def test_the_operator_may_not(platform, words):
    """The operator has no right beyond the namespace's own objects."""
    argv = [*platform.target.kubectl, "-n", NAMESPACE, "auth", "can-i", "--as", OPERATOR, *words.split()]
    assert subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() == "no"


@pytest.mark.attack("operator/other-rights")
def test_no_binding_reaches_beyond_the_namespace(platform):
    """No RoleBinding of another namespace names the operator, and the one ClusterRoleBinding is for tokens' reviews."""
    found = platform.target.json("get", "clusterrolebindings,rolebindings", "-A")["items"]
    bindings = {
        (binding["kind"], binding["metadata"].get("namespace"), binding["roleRef"]["name"])
        for binding in found
        for subject in binding.get("subjects") or []
        if (subject["kind"], subject["name"]) == ("ServiceAccount", "ultramarine-operator")
        and subject.get("namespace") == NAMESPACE
    }
    assert bindings == {
        ("ClusterRoleBinding", None, f"ultramarine-progress-{NAMESPACE}"),
        ("RoleBinding", NAMESPACE, "ultramarine-operator"),
        ("RoleBinding", NAMESPACE, "ultramarine-leader"),
    }


@pytest.mark.attack("operator/rights")
def test_nothing_was_refused_to_the_operator(platform, pytestconfig):
    """In all that the tests before this one made it do, no right was missing."""
    seen = list(requests(pytestconfig.stash[began]))
    assert len(seen) > 20, "the audit log tells nothing"
    refused = [e for e in seen if e.get("responseStatus", {}).get("code") == 403]
    # test_install.py deletes the namespace under a living operator, and nobody may create anything in it then.
    ending = f"because namespace {NAMESPACE} is being terminated"
    # An operator whose release has let go of a namespace reads on in it until its pod has ended, and changes nothing.
    late = [e for e in refused if e["verb"] in ("list", "watch") and e["objectRef"].get("namespace") != NAMESPACE]
    lacking = [e for e in refused if e not in late and ending not in e["responseStatus"].get("message", "")]
    assert [f"{e['verb']} {e['requestURI']}: {e['responseStatus'].get('message')}" for e in lacking] == []


@pytest.mark.attack(
    "operator/rights",
    asset="the cluster",
    threat="more rights than needed",
    control="a Role in the namespaces looked after, from the kinds; no right that no story uses",
)
@pytest.mark.slow
@pytest.mark.whole_suite
def test_every_right_was_used(platform, pytestconfig):
    """No right that the chart gives is one that no story needs."""
    seen = {right for event in requests(pytestconfig.stash[began]) for right in used(event)}
    # What an owner may block is asked by the admission of the owned, which no audit event shows.
    by_admission = {right for right in shipped() if right.resource.endswith("/finalizers")}
    counted = platform.target.run("get", "--raw", "/metrics")
    assert 'admission_duration_seconds_count{name="OwnerReferencesPermissionEnforcement"' in counted
    assert shipped() - by_admission - seen == set(), "remove it from the Kind's rights, or tell the story that needs it"
