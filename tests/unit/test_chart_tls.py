"""TLS inside the cluster, as the chart sets it up: certificates, and who gets which."""

from __future__ import annotations

from base64 import b64decode

import pytest
from cryptography import x509
from ultramarine_contract.meta import Manifest
from unit.rendered import EXTERNAL, GATEWAY_API, METRICS, Chart, name, names, of, operator_env, operator_settings, pods

ON: Manifest = {"tls": {"internal": {"enabled": True}}, "namespaces": ["team-a"]}
ISSUER = {"name": "internal", "kind": "ClusterIssuer"}


def certificate(secret: Manifest) -> x509.Certificate:
    """The certificate in a Secret."""
    return x509.load_pem_x509_certificate(b64decode(secret["data"]["tls.crt"]))


def proves(secret: Manifest) -> set[str]:
    """The names in it."""
    by_name = certificate(secret).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(by_name.get_values_for_type(x509.DNSName))


def secrets(objects: list[Manifest]) -> dict[str, Manifest]:
    """The Secrets with certificates, by namespace and name."""
    return {name(item): item for item in of(objects, "Secret") if item["type"] == "kubernetes.io/tls"}


@pytest.mark.attack("network/posing")
def test_each_part_has_a_certificate_for_its_own_names(chart: Chart) -> None:
    """All are of one authority, whose key only the release's namespace has, and none proves another one's name."""
    by_name = secrets(chart.render(ON))
    authority = by_name.pop("platform/ultramarine-ca")
    own = {"platform": ["gateway", "operator", "server", "storage", "sweep"], "team-a": ["gateway", "server", "sweep"]}
    expected = {f"{space}/ultramarine-tls-{part}": (space, part) for space, parts in own.items() for part in parts}
    assert set(by_name) == set(expected)
    for item, (namespace, part) in expected.items():
        host = f"ultramarine-{part}"
        ends = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
        outside = {"localhost"} if part == "storage" else set()  # by kubectl port-forward
        assert proves(by_name[item]) == {host + end for end in ends} | outside
        certificate(by_name[item]).verify_directly_issued_by(certificate(authority))
        assert by_name[item]["data"]["ca.crt"] == authority["data"]["tls.crt"]
    assert len({item["data"]["tls.key"] for item in (*by_name.values(), authority)}) == len(by_name) + 1


def test_without_a_gateway_pods_prove_the_names_of_endpoints(chart: Chart) -> None:
    """Their clients ask for the Services that lead to them, in the same namespace alone."""
    by_name = secrets(chart.render({**ON, "gateway": {"enabled": False}}))
    wildcards = {item for item in proves(by_name["team-a/ultramarine-tls-server"]) if "*" in item}
    assert wildcards == {"*.team-a.svc", "*.team-a.svc.cluster.local"}


def test_cert_manager_makes_the_same_ones(chart: Chart) -> None:
    """With an issuer the chart holds no key at all."""
    own, ordered = chart.render(ON), chart.render({**ON, "tls": {"internal": {"enabled": True, "issuerRef": ISSUER}}})
    assert secrets(ordered) == {}
    ordered_names = {name(item): set(item["spec"]["dnsNames"]) for item in of(ordered, "Certificate")}
    assert ordered_names == {item: proves(secret) for item, secret in secrets(own).items() if "tls" in item}
    for item in of(ordered, "Certificate"):
        assert item["spec"]["issuerRef"] == ISSUER
        assert item["spec"]["secretName"] == item["metadata"]["name"]
        labels = item["spec"]["secretTemplate"]["labels"]
        assert labels.items() < item["metadata"]["labels"].items(), "one command removes both"


def test_each_pod_has_its_own_certificate_and_is_probed_by_tls(chart: Chart) -> None:
    """The container that listens mounts it, and no other one does: Envoy, which reads what strangers send, has none."""
    got = chart.render({**ON, **METRICS})
    mounts = {
        (pod, container["name"]): volume["secret"]["secretName"]
        for pod, spec in pods(got)
        for volume in spec["volumes"]
        for container in spec["containers"]
        for mount in container["volumeMounts"]
        if (volume["name"], mount["name"]) == ("tls", "tls") and "items" not in volume["secret"]
    }
    assert mounts == {
        ("ultramarine-gateway", "agent"): "ultramarine-tls-gateway",
        ("ultramarine-operator", "operator"): "ultramarine-tls-operator",
        ("ultramarine-storage", "storage"): "ultramarine-tls-storage",
    }
    probes = [
        probe for _, spec in pods(got) for item in spec["containers"] for probe in item.items() if "Probe" in probe[0]
    ]
    plain = {str(probe["httpGet"]["port"]) for _, probe in probes if probe["httpGet"].get("scheme") != "HTTPS"}
    assert plain == {"9901", "ready"}  # which say whether Envoy is ready, and nothing else
    scraped = [item for item in of(got, "ServiceMonitor", "PodMonitor")]
    ends = [end for item in scraped for end in item["spec"].get("endpoints") or item["spec"]["podMetricsEndpoints"]]
    assert len(ends) == 3
    assert {(end["scheme"], end["tlsConfig"]["ca"]["secret"]["name"]) for end in ends} == {
        ("https", "ultramarine-tls-operator")
    }


def test_who_is_asked_by_https(chart: Chart) -> None:
    """Storage, operator and gateways; a storage of one's own stays as it is, with the system's authorities."""
    own, external = chart.render(ON), chart.render({**ON, **EXTERNAL})
    settings = operator_settings(own)
    assert settings.storage.endpoint == "https://ultramarine-storage.platform.svc:7070"
    assert settings.progress.url == "https://ultramarine-operator.platform.svc:8080"
    assert settings.gateway.address == "https://ultramarine-gateway.{namespace}.svc:9902"
    assert (settings.tls, operator_settings(external).tls) == (True, True)
    assert operator_env(own)["ULTRAMARINE_STORAGE_CA"] == "/etc/ultramarine/tls/ca.crt"
    assert "ULTRAMARINE_STORAGE_CA" not in operator_env(external)


@pytest.mark.parametrize("values", [ON, {**ON, **EXTERNAL}])
def test_the_authoritys_key_is_closed_to_the_platforms_own_namespaces_jobs(chart: Chart, values: Manifest) -> None:
    """The policy names the Secrets that pose as the platform, whichever storage there is."""
    (policy,) = (item for item in of(chart.render(values), "ValidatingAdmissionPolicy") if "platform" in name(item))
    closed = policy["spec"]["validations"][0]["expression"]
    assert "ultramarine-ca|ultramarine-tls-(operator|storage|gateway)" in closed


def test_gateways_of_ones_own_are_refused(chart: Chart) -> None:
    """They would speak plain HTTP with pods that take TLS alone."""
    assert "exclude each other" in chart.refusal({**ON, **GATEWAY_API})


def test_without_it_nothing_is_there(chart: Chart, mode: Manifest) -> None:
    """No certificate, no mount and no https, in any mode."""
    got = chart.render(mode)
    assert secrets(got) == {}
    assert not [item for item in names(got, "Secret", "Certificate") if "tls" in item]
    assert not operator_settings(got).tls
