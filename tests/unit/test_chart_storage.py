"""The accounts of the embedded storage, as the chart makes them."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from ultramarine.shared.meta import Manifest
from unit.rendered import EXTERNAL, name, names, of, pods


def test_each_namespace_has_its_own_keys_to_the_embedded_storage(chart):
    """No two namespaces share an account, and the server's own and the operator's are in none of them."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    tenants = ("platform", "team-a", "team-b")

    assert names(got, "Secret") == ["platform/ultramarine-storage", "platform/ultramarine-storage-accounts"] + [
        f"{tenant}/ultramarine-storage" for tenant in tenants[1:]
    ]
    found = {
        name(secret): {k: b64decode(v).decode() for k, v in secret["data"].items()} for secret in of(got, "Secret")
    }
    accounts = found.pop("platform/ultramarine-storage-accounts")
    assert set(accounts) == {"root", "operator", *(f"namespace-{tenant}" for tenant in tenants)}
    assert len(set(accounts.values())) == len(accounts)
    for tenant in tenants:
        account = f"namespace-{tenant}"
        keys = {"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": accounts[account]}
        assert found[f"{tenant}/ultramarine-storage"] == keys


def test_a_namespace_reaches_its_own_prefix_of_the_bucket(chart):
    """The bucket's policy lets each account read, write and delete below its namespace's name, and read shared/."""
    (spec,) = (spec for name, spec in pods(chart.render({"namespaces": ["team-a"]})) if name == "ultramarine-storage")
    policy = json.loads(next(v["value"] for v in spec["initContainers"][0]["env"] if v["name"] == "POLICY"))
    bucket = "arn:aws:s3:::ultramarine"

    mine = [s for s in policy["Statement"] if s["Principal"] == "namespace-team-a"]
    write = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    assert [(s["Action"], s["Resource"]) for s in mine] == [(write, f"{bucket}/team-a/*"), ("s3:ListBucket", bucket)]
    assert mine[1]["Condition"] == {"StringLike": {"s3:prefix": ["team-a/*", "shared/*"]}}
    (shared,) = (s for s in policy["Statement"] if s["Resource"] == f"{bucket}/shared/*")
    assert shared["Action"] == "s3:GetObject"
    assert shared["Principal"] == {"AWS": ["namespace-platform", "namespace-team-a"]}
    operators = [s["Action"] for s in policy["Statement"] if s["Principal"] == "operator"]
    assert operators == ["s3:GetObject", "s3:ListBucket"]


@pytest.mark.parametrize(
    ("namespaces", "words"),
    [
        (["shared"], "a namespace called shared"),
        ([f"team-{n:02}" for n in range(20)], "no room for so many namespaces"),
    ],
)
def test_namespaces_that_the_embedded_storage_cannot_keep_apart_are_refused(chart, namespaces, words):
    """One whose name is taken, and more than fit, are refused with the remedy; a storage of one's own takes them."""
    assert words in chart.refusal({"namespaces": namespaces})
    assert chart.render({**EXTERNAL, "namespaces": namespaces})


def test_what_the_platform_keeps_to_itself_is_closed_to_its_own_namespaces_jobs(chart):
    """With more than one namespace a policy stands between the operator's Jobs and the Secret that opens them all."""
    name = "platform-secrets-platform.ultramarine.dev"

    def policies(values: Manifest) -> list[str]:
        kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        return [each for each in names(chart.render(values), *kinds) if "platform-secrets" in each]

    assert policies({"namespaces": ["team-a"]}) == policies({"clusterWide": True}) == [f"/{name}"] * 2
    assert policies({}) == policies({**EXTERNAL, "namespaces": ["team-a"]}) == []
