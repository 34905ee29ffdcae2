"""The gateway that the chart puts into each namespace, and what the operator is told of it."""

from __future__ import annotations

import pytest
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import GATEWAY_PODS, GATEWAY_PORT, GATEWAY_READY_PORT
from unit.rendered import Chart, name, names, of, operator_settings

TEAMS = {"namespaces": ["team-a", "team-b"]}


def gateway(chart: Chart, kind: str, namespace: str = "platform", **values: object) -> Manifest:
    """An object of the gateway's in one namespace."""
    (matches,) = (item for item in of(chart.render(values), kind) if name(item) == f"{namespace}/ultramarine-gateway")
    return matches


def test_every_namespace_has_a_gateway_and_the_operator_knows_which(chart):
    """One Deployment in each namespace that the operator serves, and its name and those namespaces are told to it."""
    got = chart.render(TEAMS)
    for kind in ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"):
        matches = {
            item["metadata"]["namespace"] for item in of(got, kind) if item["metadata"]["name"].endswith("gateway")
        }
        assert matches == {"platform", "team-a", "team-b"}, kind

    gateway = operator_settings(got).gateway
    host, _, port = gateway.address.partition(":")
    assert host.format(namespace="team-a") == "ultramarine-gateway.team-a.svc"
    assert int(port) == GATEWAY_PORT
    assert gateway.namespaces == ["platform", "team-a", "team-b"]


def test_a_cluster_wide_operator_has_gateways_where_namespaces_are_listed(chart):
    """Elsewhere endpoints go without, and the operator does not wait for a gateway there."""
    got = chart.render({"clusterWide": True, "namespaces": ["team-a"]})

    assert "team-a/ultramarine-gateway" in names(got, "Deployment")
    assert operator_settings(got).gateway.namespaces == ["platform", "team-a"]


def test_without_a_gateway_nothing_of_it_is_there(chart):
    """gateway.enabled=false: no object of it, and the operator is told of none."""
    got = chart.render({"gateway": {"enabled": False}})

    assert [item for item in got if "gateway" in item["metadata"]["name"]] == []
    assert operator_settings(got).gateway.address == ""


def test_services_of_endpoints_find_the_gateways_pods(chart):
    """The labels by which an endpoint's Service selects are those of the pods, of their own Service and its policy."""
    pods = gateway(chart, "Deployment")["spec"]

    assert GATEWAY_PODS.items() <= pods["template"]["metadata"]["labels"].items()
    assert pods["selector"]["matchLabels"] == GATEWAY_PODS
    assert gateway(chart, "Service")["spec"]["selector"] == GATEWAY_PODS
    assert gateway(chart, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == GATEWAY_PODS


def test_every_gateway_pod_has_an_address_of_its_own_in_dns(chart):
    """The operator asks all of them by one name: the Service is headless."""
    spec = gateway(chart, "Service")["spec"]

    assert spec["clusterIP"] == "None"
    assert [port["port"] for port in spec["ports"]] == [GATEWAY_PORT]


@pytest.mark.attack(
    "network/envoy-token",
    asset="the namespace's objects",
    threat="whoever gets into Envoy, which strangers speak to, asks the API server",
    control="Envoy's container has no token; the agent's beside it lists ConfigMaps and EndpointSlices of its "
    "namespace, gets Secrets by name, and writes nothing",
)
def test_the_agent_alone_has_a_token_and_it_reads_three_types(chart):
    """Envoy, which strangers speak to, has no token; with the agent's one reads routes, addresses, Secrets by name."""
    spec = gateway(chart, "Deployment")["spec"]["template"]["spec"]
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in spec["containers"]}

    assert spec["automountServiceAccountToken"] is False
    assert gateway(chart, "ServiceAccount")["automountServiceAccountToken"] is False
    assert mounts == {"agent": {"shared", "token", "tmp"}, "envoy": {"shared", "tmp"}}
    readable = [(r["apiGroups"], r["resources"], r["verbs"]) for r in gateway(chart, "Role")["rules"]]
    verbs = ["list", "watch"]
    assert readable == [
        ([""], ["configmaps"], verbs),
        ([""], ["secrets"], ["get"]),
        (["discovery.k8s.io"], ["endpointslices"], verbs),
    ]


def test_a_rollout_loses_nothing(chart):
    """A pod goes only when another is ready, is asked for its readiness at Envoy, and empties itself before it ends."""
    deployment = gateway(chart, "Deployment")["spec"]
    spec = deployment["template"]["spec"]
    envoy = next(c for c in spec["containers"] if c["name"] == "envoy")

    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert envoy["ports"] == [{"name": "ready", "containerPort": GATEWAY_READY_PORT}]
    assert envoy["lifecycle"]["preStop"]["exec"]["command"] == ["ultramarine-gateway", "drain"]
    assert spec["terminationGracePeriodSeconds"] > 60  # what `drain` and `agent` take at most


def test_what_serves_outlives_the_release(chart):
    """An uninstall leaves the gateway running with the rights that it needs: Services of endpoints lead to it."""
    for kind in ("Deployment", "Service", "ServiceAccount", "Role", "RoleBinding"):
        assert gateway(chart, kind)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}, kind


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_two_gateway_pods_are_not_drained_at_once(chart, replicas, budgets):
    """From two replicas on a budget lets one go at a time; a single one has none, which would block the drain."""
    got = [item for item in of(chart.render({"gateway": {"replicas": replicas}}), "PodDisruptionBudget")]

    assert len(got) == budgets
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in got)
