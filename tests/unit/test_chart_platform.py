"""The ConfigMap of each namespace, by which clients outside the cluster reach storage, MLflow and endpoints."""

from __future__ import annotations

from base64 import b64decode

import pytest
from ultramarine_contract.meta import PLATFORM_MAP, Manifest
from ultramarine_contract.routes import MLFLOW_FORWARD_PORT, STORAGE_FORWARD_PORT
from ultramarine_gateway.config.forwards import Forward
from unit.rendered import EXTERNAL, Chart, name, of, operator_settings, pods

TLS = {"tls": {"internal": {"enabled": True}}, "namespaces": ["team-a"]}


def maps(objects: list[Manifest]) -> dict[str, dict[str, str]]:
    """The data of these ConfigMaps, by namespace."""
    matches = [item for item in of(objects, "ConfigMap") if item["metadata"]["name"] == PLATFORM_MAP]
    return {item["metadata"]["namespace"]: item["data"] for item in matches}


def test_each_namespace_reads_what_the_operator_uses(chart: Chart, mode: Manifest) -> None:
    """Endpoint, bucket, Secrets and MLflow are the operator's settings, in all namespaces with keys and gateways."""
    got = chart.render(mode)
    settings, by_namespace = operator_settings(got), maps(got)

    assert set(by_namespace) == {"platform", *mode.get("namespaces", [])}
    for data in by_namespace.values():
        assert (data["release"], data["storageEndpoint"]) == ("platform", settings.storage.endpoint)
        assert (data["bucket"], data["storageRegion"]) == (settings.storage.bucket, settings.storage.region)
        assert data["storageSecret"] == settings.storage.secret_name
        assert data.get("mlflowUri", "") == settings.mlflow.uri
        assert data.get("mlflowSecret", "") == settings.mlflow.secret_name
        assert all(isinstance(value, str) for value in data.values())


def test_the_ports_are_those_that_gateways_forward(chart: Chart, mode: Manifest) -> None:
    """Each names a port of the gateway's Envoy that leads to the storage's or MLflow's host; without gateways none."""
    got = chart.render(mode)
    envoys = [
        container["command"][2:]
        for owner, spec in pods(got)
        for container in spec["containers"]
        if (owner, container["name"]) == ("ultramarine-gateway", "envoy")
    ]
    forwards = [sorted(Forward.parse(text) for text in command if text != "--forward") for command in envoys]

    for data in maps(got).values():
        servers = {"storagePort": (STORAGE_FORWARD_PORT, data["storageEndpoint"])}
        if "mlflowUri" in data:
            servers["mlflowPort"] = (MLFLOW_FORWARD_PORT, data["mlflowUri"])
        if not envoys:
            assert not data.keys() & {"gateway", "storagePort", "mlflowPort"}
            continue
        assert {key: data[key] for key in servers} == {key: str(port) for key, (port, _) in servers.items()}
        expected = sorted(Forward.parse(f"{port}={url}") for port, url in servers.values())
        assert all(forwarded == expected for forwarded in forwards)
        assert f"platform/{data['gateway']}" in [name(item) for item in of(got, "Deployment")]


def test_it_has_the_authority_of_the_storage(chart: Chart) -> None:
    """With the chart's own authority that is the `ca.crt` of the storage; a storage of one's own has another one."""
    got = chart.render(TLS)
    (secret,) = (item for item in of(got, "Secret") if item["metadata"]["name"] == "ultramarine-tls-storage")
    authority = b64decode(secret["data"]["ca.crt"]).decode().strip()

    assert {data["storageCA"].strip() for data in maps(got).values()} == {authority}
    for values in ({}, {**TLS, **EXTERNAL}):
        assert all("storageCA" not in data for data in maps(chart.render(values)).values())


@pytest.mark.attack("author/roles")
def test_it_has_no_secrets(chart: Chart) -> None:
    """No value of a Secret that the chart makes is in it, except certificates."""
    got = chart.render({**TLS, "mlflow": {"embedded": {"enabled": True}}})
    words = " ".join(value for data in maps(got).values() for value in data.values())
    secrets = {
        b64decode(value).decode().strip()
        for item in of(got, "Secret")
        for key, value in item["data"].items()
        if key not in ("ca.crt", "tls.crt", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_USERNAME")
    }
    assert len(secrets) > 5
    assert not [secret for secret in secrets if secret in words]
