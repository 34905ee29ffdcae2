"""The accounts of the embedded MLflow, as the chart makes them."""

from __future__ import annotations

from base64 import b64decode

import pytest
from ultramarine_contract.meta import Manifest
from unit.rendered import EXTERNAL, MODES, name, names, of, operator_settings


@pytest.mark.attack("training/mlflow")
def test_each_namespace_has_its_own_account(chart):
    """No two share a password, and only the pod of MLflow has all of them; it starts again when they change."""
    got = chart.render(MODES["mlflow"])
    secrets = {
        name(secret): {key: b64decode(value).decode() for key, value in secret["data"].items()}
        for secret in of(got, "Secret")
        if "mlflow" in name(secret)
    }
    accounts = secrets.pop("platform/ultramarine-mlflow-accounts")
    namespaces = ("platform", "team-a", "team-b")

    assert set(accounts) == {"admin", "session", *(f"namespace-{namespace}" for namespace in namespaces)}
    assert len(set(accounts.values())) == len(accounts)
    assert secrets == {
        f"{namespace}/ultramarine-mlflow": {
            "MLFLOW_TRACKING_USERNAME": f"namespace-{namespace}",
            "MLFLOW_TRACKING_PASSWORD": accounts[f"namespace-{namespace}"],
        }
        for namespace in namespaces
    }
    holders = [deployment for deployment in of(got, "Deployment") if "ultramarine-mlflow-accounts" in str(deployment)]
    assert [holder["metadata"]["name"] for holder in holders] == ["ultramarine-mlflow"]
    assert holders[0]["spec"]["template"]["metadata"]["annotations"]["ultramarine.dev/accounts"]


def test_a_release_that_is_rendered_without_the_cluster_makes_no_accounts(chart):
    """Each rendering would bring new passwords; the pod takes those of a Secret that is made by hand."""
    got = chart.render({"mlflow": {"embedded": {"enabled": True, "generateKeys": False}}})
    assert not [secret for secret in names(got, "Secret") if "mlflow" in secret]
    (server,) = (
        deployment for deployment in of(got, "Deployment") if deployment["metadata"]["name"] == "ultramarine-mlflow"
    )
    assert "annotations" not in server["spec"]["template"]["metadata"]


def test_a_server_elsewhere_has_the_secrets_that_its_owner_makes(chart):
    """The operator is told their name, and the chart makes none."""
    got = chart.render({"mlflow": {"trackingUri": "https://mlflow.lab", "secretName": "tracking"}})
    assert operator_settings(got).mlflow.secret_name == "tracking"
    assert not [secret for secret in names(got, "Secret") if "tracking" in secret or "mlflow" in secret]


@pytest.mark.attack("training/mlflow")
def test_accounts_and_volume_are_closed_to_jobs_beside_the_platform(chart):
    """Also with a storage elsewhere, for which no such policy is needed otherwise."""
    values: Manifest = {**EXTERNAL, **MODES["mlflow"]}
    (policy,) = (
        item
        for item in of(chart.render(values), "ValidatingAdmissionPolicy")
        if item["metadata"]["name"] == "platform-secrets-platform.ultramarine.dev"
    )
    rules = [rule["expression"] for rule in policy["spec"]["validations"]]
    assert "ultramarine-(storage|mlflow)-accounts" in rules[0]
    assert "'ultramarine-mlflow'" in rules[2]
