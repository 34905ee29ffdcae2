"""The network policies that the chart installs."""

from __future__ import annotations

import pytest
from builders import endpoint
from ultramarine_contract.common import SWEEP_PORT
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import GATEWAY_PODS, GATEWAY_PORT
from ultramarine_operator.kinds.onlineendpoint.endpoint import GRPC_PORT, PORT
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import FIRST_PORT, PORTS, network_policy
from unit.rendered import names, of


def policy(objects: list[Manifest], namespace: str, name: str) -> Manifest:
    """The spec of one network policy."""
    policies = of(objects, "NetworkPolicy")
    (spec,) = (e["spec"] for e in policies if (e["metadata"]["namespace"], e["metadata"]["name"]) == (namespace, name))
    return dict(spec)


TOKEN = {"issuer": "id", "audiences": ["churn"], "jwksUri": "https://id.example.com/keys"}
PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "168.63.129.16/32"]
METADATA = ["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"]  # where clouds hand out keys
DNS = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


NODES = {"podSelector": {"matchLabels": {"ultramarine.dev/kind": "TrainingJob"}}}  # of the policy's own namespace
COORDINATORS = {"matchLabels": {"ultramarine.dev/kind": "Sweep", "ultramarine.dev/role": "coordinator"}}
SWEEPS = {"podSelector": {"matchLabels": {"ultramarine.dev/kind": "Sweep"}}}
ALL_TCP = [{"protocol": "TCP"}]


@pytest.mark.parametrize(
    ("kind", "own"), [("TrainingJob", 3), ("Sweep", 2), ("ModelVersion", 0), ("OnlineEndpoint", 0)]
)
def test_pods_reach_dns_and_the_storage_alone(chart, kind, own):
    """In each namespace what trains, compiles and serves may reach DNS and the storage's pods; others, what trains."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    names = {"TrainingJob": "training", "Sweep": "sweeps", "ModelVersion": "compiling", "OnlineEndpoint": "serving"}
    name = names[kind]
    selector: Manifest = {"matchLabels": {"ultramarine.dev/kind": kind}}
    if kind == "ModelVersion":  # and what deletes the artifact of one that is gone
        expression = {"key": "ultramarine.dev/kind", "operator": "In", "values": ["Model", kind]}
        selector = {"matchExpressions": [expression]}
    if kind == "OnlineEndpoint":  # except those that only the gateway may ask
        selector["matchExpressions"] = [{"key": "ultramarine.dev/gateway-only", "operator": "DoesNotExist"}]

    for namespace in ("team-a", "team-b"):
        spec = policy(got, namespace, f"ultramarine-{name}")
        dns, storage = spec["egress"][own:]
        (peer,) = storage["to"]
        assert spec["podSelector"] == selector
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert dns == DNS
        assert storage["ports"] == [{"port": 7070, "protocol": "TCP"}]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "platform"}
        assert peer["podSelector"] == policy(got, "platform", "ultramarine-storage")["podSelector"]


def outside(spec: Manifest) -> list[int]:
    """Return the ports at which a policy opens any public address."""
    rules = [rule for rule in spec["egress"] if any("ipBlock" in peer for peer in rule.get("to", []))]
    assert all(peer["ipBlock"]["except"] == PRIVATE for rule in rules for peer in rule["to"])
    return [port["port"] for rule in rules for port in rule["ports"]]


@pytest.mark.attack("network/egress")
def test_building_pods_alone_reach_package_indexes(chart):
    """Their ports are open to pods that build, unless the chart names destinations; a proxy is open to all pods."""
    index = "https://pypi.example.com:8443/simple"
    got = chart.render({"environments": {"indexUrl": index, "extraIndexUrls": ["http://extra.example.com/simple"]}})
    literal = chart.render({"environments": {"indexUrl": "http://10.1.2.3:3141/simple"}})
    named = chart.render({"environments": {"egress": [{"ports": [{"port": 3141, "protocol": "TCP"}]}]}})

    assert outside(policy(got, "platform", "ultramarine-building")) == [443, 80, 8443]
    for name in ("training", "sweeps", "serving", "compiling"):
        assert outside(policy(got, "platform", f"ultramarine-{name}")) == []
    egress = policy(named, "platform", "ultramarine-building")["egress"]
    assert egress[:2] == [{"ports": [{"port": 3141, "protocol": "TCP"}]}, DNS]
    assert policy(literal, "platform", "ultramarine-building")["egress"][2] == {
        "ports": [{"port": 3141, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}],
    }


@pytest.mark.attack("network/training-ingress")
def test_training_pods_reach_each_other_and_the_operator(chart):
    """Of its own namespace a training pod reaches all that train, on any port; and the operator, which hears it."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    operator = {
        **policy(got, "platform", "ultramarine-operator"),
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "platform"}},
    }

    for namespace in ("team-a", "team-b"):
        spec = policy(got, namespace, "ultramarine-training")
        gang, trials, progress = spec["egress"][:3]
        assert spec["ingress"] == [{"ports": ALL_TCP, "from": [NODES]}]
        assert gang == {"ports": ALL_TCP, "to": [NODES]}
        assert trials == {"ports": [{"port": SWEEP_PORT, "protocol": "TCP"}], "to": [SWEEPS]}
        assert progress["ports"] == operator["ingress"][0]["ports"] == [{"port": 8080, "protocol": "TCP"}]
        assert progress["to"] == [{word: operator[word] for word in ("podSelector", "namespaceSelector")}]


def test_pods_of_sweeps_reach_coordinators_and_the_operator(chart):
    """A pod of a sweep reaches those of sweeps in its own namespace, on the coordinator's port; and the operator. So do
    training pods, which may be trials."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    port = [{"port": SWEEP_PORT, "protocol": "TCP"}]
    kinds = {"key": "ultramarine.dev/kind", "operator": "In", "values": ["Sweep", "TrainingJob"]}

    for namespace in ("team-a", "team-b"):
        spec, training = (policy(got, namespace, f"ultramarine-{name}") for name in ("sweeps", "training"))
        assert spec["ingress"] == [{"ports": port, "from": [{"podSelector": {"matchExpressions": [kinds]}}]}]
        assert spec["egress"][0] == {"ports": port, "to": [SWEEPS]}
        assert spec["egress"][1] == training["egress"][2]


@pytest.mark.attack(
    "network/training-ingress",
    asset="training pods",
    threat="somebody connects to them",
    control="only the training pods of the same namespace, which the nodes of one job need",
)
def test_only_what_serves_is_asked(chart, mode):
    """Compiling pods take no connections, training ones each other's, coordinators workers'; others serve."""
    got = chart.render(mode)

    for item in of(got, "NetworkPolicy"):
        ports = [rule["ports"] for rule in item["spec"].get("ingress", [])]
        name = item["metadata"]["name"].removeprefix("ultramarine-")
        servers = {"storage": 7070, "mlflow": 5000}
        expected = [[{"port": servers.get(name, 8080), "protocol": "TCP"}]]
        if name == "training":
            expected = [ALL_TCP]
        if name == "sweeps":
            expected = [[{"port": SWEEP_PORT, "protocol": "TCP"}]]
        if name in ("building", "compiling", "coordinators", "datasets"):
            expected = []
        if name == "serving":
            expected = [[{"port": port, "protocol": "TCP"} for port in (PORT, GRPC_PORT)]]
        if name == "serving-guarded":
            expected = [network_policy(endpoint(authMode="token", token=TOKEN))["spec"]["ingress"][0]["ports"]]
        if name == "gateway":
            last = FIRST_PORT + PORTS - 1
            expected = [
                [{"port": FIRST_PORT, "endPort": last, "protocol": "TCP"}],
                [{"port": GATEWAY_PORT, "protocol": "TCP"}],
            ]
        assert ports == expected


def test_pods_without_a_check_are_asked_by_the_gateway_alone(chart):
    """A pod without a key check is not in the open policy, and has the rules of its endpoint's own policy."""
    got = chart.render({"namespaces": ["team-a"]})
    open_to_all, closed = (policy(got, "team-a", f"ultramarine-{name}") for name in ("serving", "serving-guarded"))
    own = network_policy(endpoint(authMode="token", token=TOKEN))["spec"]
    (label,) = own["podSelector"]["matchLabels"].keys() - {"ultramarine.dev/name"}
    gateway = {"podSelector": policy(got, "team-a", "ultramarine-gateway")["podSelector"]}

    assert open_to_all["podSelector"]["matchExpressions"] == [{"key": label, "operator": "DoesNotExist"}]
    assert closed["podSelector"]["matchExpressions"] == [{"key": label, "operator": "Exists"}]
    assert closed["ingress"] == own["ingress"]
    assert closed["ingress"][0]["from"] == [gateway]
    assert closed["egress"] == open_to_all["egress"]


def test_policies_select_the_pods_that_the_chart_makes(chart):
    """The storage answers the operator and `helm test`, by labels that their pods carry."""
    got = chart.render({})
    labels = {"operator": {}, "storage": {}, "test": {}}
    for item in of(got, "Pod", "Deployment"):
        metadata = item["metadata"] if item["kind"] == "Pod" else item["spec"]["template"]["metadata"]
        labels[metadata["labels"]["app.kubernetes.io/component"]] = metadata["labels"]
    ours, pods_of_kinds, gateways = policy(got, "platform", "ultramarine-storage")["ingress"][0]["from"]

    for component in ("operator", "storage"):
        selector = policy(got, "platform", f"ultramarine-{component}")["podSelector"]["matchLabels"]
        assert selector.items() <= labels[component].items()
    (expression,) = ours["podSelector"]["matchExpressions"]
    for component in ("operator", "test"):
        assert ours["podSelector"]["matchLabels"].items() <= labels[component].items()
        assert labels[component][expression["key"]] in expression["values"]
    expression = {"key": "ultramarine.dev/kind", "operator": "Exists"}
    assert pods_of_kinds["podSelector"]["matchExpressions"] == [expression]
    assert gateways["podSelector"]["matchLabels"] == GATEWAY_PODS


@pytest.mark.attack(
    "network/storage-port",
    asset="the embedded storage",
    threat="other pods of the cluster try keys on it",
    control="it answers the operator, `helm test` and the pods of the namespaces looked after",
)
@pytest.mark.parametrize(
    ("values", "selector"),
    [
        ({}, {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["platform"]}]}),
        ({"clusterWide": True}, {}),
        ({"clusterWide": True, "namespaces": ["team-a"]}, {}),
    ],
)
def test_the_storage_answers_the_namespaces_looked_after(chart, values, selector):
    """Pods of other namespaces reach the storage only where the operator looks after the whole cluster."""
    peers = policy(chart.render(values), "platform", "ultramarine-storage")["ingress"][0]["from"]

    assert [peer.get("namespaceSelector") for peer in peers] == [None, selector, selector]


@pytest.mark.attack(
    "network/metadata-address",
    asset="cloud credentials",
    threat="a pod asks the metadata address",
    control="excepted where any address is allowed for a storage elsewhere",
)
@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("https://s3.example.com", 443),
        ("http://s3.example.com", 80),
        ("http://s3-2.example.com:9000/", 9000),
        ("http://10.0.0.1", 80),
        ("https://[2001:db8::1]", 443),
    ],
)
def test_a_storage_elsewhere_is_known_by_its_port(chart, endpoint, port):
    """With an external storage its port is open to any address but the one where clouds hand out keys."""
    got = chart.render({"storage": {"endpoint": endpoint}})
    _, storage = policy(got, "platform", "ultramarine-serving")["egress"]

    assert "platform/ultramarine-storage" not in names(got, "NetworkPolicy")
    assert storage["ports"] == [{"port": port, "protocol": "TCP"}]
    assert storage["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": METADATA}}]


def test_more_egress_is_added_and_policies_can_be_left_out(chart):
    """A rule of the values stands beside DNS and the storage; with enabled=false there is no policy."""
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5000, "protocol": "TCP"}]}
    got = chart.render({"networkPolicies": {"egress": [rule]}})

    for name in ("training", "serving"):
        assert policy(got, "platform", f"ultramarine-{name}")["egress"][-1] == rule
    assert of(chart.render({"networkPolicies": {"enabled": False}}), "NetworkPolicy") == []


@pytest.mark.attack(
    "network/egress",
    asset="services in the cluster, the node, the API server",
    threat="a training command or a model's code looks around",
    control="NetworkPolicies: what trains and serves reaches DNS and the object storage; what trains also the "
    "operator's port, MLflow where there is one (of a sweep its coordinator alone, not its workers), and "
    "what trains beside it in its namespace; what builds environments also package indexes; nothing else",
)
def test_training_pods_and_coordinators_alone_reach_the_embedded_mlflow(chart):
    """Of the namespaces looked after; those that serve and the workers of sweeps do not, nor MLflow's anything."""
    got = chart.render({"mlflow": {"embedded": {"enabled": True}}, "namespaces": ["team-a", "team-b"]})
    spec = policy(got, "platform", "ultramarine-mlflow")
    (server,) = (item for item in of(got, "Deployment") if item["metadata"]["name"] == "ultramarine-mlflow")
    peers = spec["ingress"][0]["from"]

    assert spec["podSelector"] == server["spec"]["selector"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    assert [peer["podSelector"] for peer in peers] == [
        COORDINATORS,
        NODES["podSelector"],
        {"matchLabels": GATEWAY_PODS},
    ]
    for peer in peers:
        assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["platform", "team-a", "team-b"]
    for namespace in ("platform", "team-a", "team-b"):
        way = {
            "ports": [{"port": 5000, "protocol": "TCP"}],
            "to": [
                {
                    "podSelector": spec["podSelector"],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "platform"}},
                }
            ],
        }
        assert way in policy(got, namespace, "ultramarine-training")["egress"]
        assert policy(got, namespace, "ultramarine-coordinators") == {
            "podSelector": COORDINATORS,
            "policyTypes": ["Egress"],
            "egress": [way],
        }
        for name in ("serving", "sweeps"):
            assert way not in policy(got, namespace, f"ultramarine-{name}")["egress"]


@pytest.mark.parametrize(("uri", "port"), [("https://mlflow.example.com/ml", 443), ("http://mlflow.lab:5000", 5000)])
def test_an_mlflow_elsewhere_is_known_by_its_port(chart, uri, port):
    """With a tracking server of one's own, its port is open to what trains, at any address but the clouds' keys."""
    got = chart.render({"mlflow": {"trackingUri": uri}})
    block = {"cidr": "0.0.0.0/0", "except": METADATA}
    way = {"ports": [{"port": port, "protocol": "TCP"}], "to": [{"ipBlock": block}]}

    assert way in policy(got, "platform", "ultramarine-training")["egress"]
    assert policy(got, "platform", "ultramarine-coordinators")["egress"] == [way]
    for name in ("serving", "sweeps"):
        assert way not in policy(got, "platform", f"ultramarine-{name}")["egress"]
