"""The accounts of the embedded storage, as the chart makes them."""

from __future__ import annotations

from base64 import b64decode

import pytest
from ultramarine_contract.meta import Manifest
from unit.rendered import EXTERNAL, name, names, of


@pytest.mark.attack("training/namespace-keys")
def test_each_namespace_has_its_own_keys_to_the_embedded_storage(chart):
    """No two namespaces share an account, and the server's own and the operator's are in none of them."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    tenants = ("platform", "team-a", "team-b")

    assert names(got, "Secret") == ["platform/ultramarine-storage", "platform/ultramarine-storage-accounts"] + [
        f"{tenant}/ultramarine-storage" for tenant in tenants[1:]
    ]
    by_name = {
        name(secret): {k: b64decode(v).decode() for k, v in secret["data"].items()} for secret in of(got, "Secret")
    }
    accounts = by_name.pop("platform/ultramarine-storage-accounts")
    assert set(accounts) == {"root", "operator", *(f"namespace-{tenant}" for tenant in tenants)}
    assert len(set(accounts.values())) == len(accounts)
    for tenant in tenants:
        account = f"namespace-{tenant}"
        keys = {"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": accounts[account]}
        assert by_name[f"{tenant}/ultramarine-storage"] == keys


def test_a_namespace_whose_name_the_embedded_storage_needs_is_refused(chart):
    """`shared` is read by everybody; a storage of one's own takes a namespace of that name."""
    assert "a namespace called shared" in chart.refusal({"namespaces": ["shared"]})
    assert chart.render({**EXTERNAL, "namespaces": ["shared"]})


@pytest.mark.attack(
    "author/platform-secrets",
    asset="other namespaces",
    threat="a job beside the platform names the Secret with all keys to the embedded storage, Helm's copy of it, "
    "or the operator's ServiceAccount",
    control="as soon as the release has more than one namespace, an admission policy looks at what the operator "
    "asks for in its own namespace, and refuses these names",
)
def test_what_the_platform_keeps_to_itself_is_closed_to_its_own_namespaces_jobs(chart):
    """With more than one namespace a policy stands between the operator's Jobs and the Secret that opens them all."""
    name = "platform-secrets-platform.ultramarine.dev"

    def policies(values: Manifest) -> list[str]:
        kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        return [item for item in names(chart.render(values), *kinds) if "platform-secrets" in item]

    assert policies({"namespaces": ["team-a"]}) == policies({"clusterWide": True}) == [f"/{name}"] * 2
    assert policies({}) == policies({**EXTERNAL, "namespaces": ["team-a"]}) == []
