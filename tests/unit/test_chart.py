"""What the chart installs in each of its modes, rendered by the real helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultramarine.shared.meta import Manifest
from ultramarine_cluster import build, programs

CHART = Path(__file__).parents[2] / "charts" / "ultramarine"
METRICS = {"metrics": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")}}
EXTERNAL = {"storage": {"endpoint": "https://s3.example.com", "region": "eu", "bucket": "lake", "secretName": "s3"}}
MODES: dict[str, Manifest] = {
    "default": {},
    "namespaces": {"namespaces": ["team-a", "team-b"]},
    "clusterWide": {"clusterWide": True},
    "external": EXTERNAL,
    "metrics": METRICS,
    "external clusterWide": {**EXTERNAL, "clusterWide": True, "crds": {"install": False}},
}


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm of the embedded cluster, built where it is not yet."""
    build.ensure(("helm",))
    return str(programs.path("helm"))


class Chart:
    """The chart, rendered for the release `um` in the namespace `platform`."""

    def __init__(self, helm: str, values: Path) -> None:
        self._helm = helm
        self._values = values

    def try_out(self, values: Manifest) -> subprocess.CompletedProcess[str]:
        """`helm template` with these values."""
        self._values.write_text(json.dumps(values))
        command = [self._helm, "template", "um", str(CHART), "--namespace", "platform", "-f", str(self._values)]
        return subprocess.run(command, capture_output=True, text=True)

    def render(self, values: Manifest) -> list[Manifest]:
        """The objects that an installation with these values makes."""
        done = self.try_out(values)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def refusal(self, values: Manifest) -> str:
        """What helm says to values that must be refused."""
        done = self.try_out(values)
        assert done.returncode != 0
        return done.stderr


@pytest.fixture
def chart(helm, tmp_path) -> Chart:
    """The chart."""
    return Chart(helm, tmp_path / "values.json")


@pytest.fixture(params=MODES)
def mode(request) -> Manifest:
    """The values of one mode after the other."""
    return MODES[request.param]


def of(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    """The objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def names(objects: list[Manifest], *kinds: str) -> list[str]:
    """Namespace and name of the objects of these kinds."""
    return sorted(f"{e['metadata'].get('namespace', '')}/{e['metadata']['name']}" for e in of(objects, *kinds))


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The spec of every pod, with the name of what it is in."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each["spec"]
        elif "template" in (each.get("spec") or {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def operator_env(objects: list[Manifest]) -> dict[str, str]:
    """What the operator is told."""
    (spec,) = (spec for name, spec in pods(objects) if name == "ultramarine-operator")
    return {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"]}


def test_by_default_nothing_reaches_beyond_its_namespace(chart):
    """No cluster role, no binding of one: every object but the CRDs is in the release's namespace."""
    got = chart.render({})

    assert of(got, "ClusterRole", "ClusterRoleBinding") == []
    assert {each["metadata"].get("namespace") for each in got if each["kind"] != "CustomResourceDefinition"} == {
        "platform"
    }
    assert names(got, "Role") == ["platform/ultramarine-leader", "platform/ultramarine-operator"]
    assert operator_env(got)["ULTRAMARINE_NAMESPACES"] == "platform"
    assert len(of(got, "CustomResourceDefinition")) == 4


def test_a_list_of_namespaces_gets_a_role_in_each(chart):
    """The operator has its Role in the listed namespaces, and only its Lease at home."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})

    assert of(got, "ClusterRole", "ClusterRoleBinding") == []
    roles = ["platform/ultramarine-leader", "team-a/ultramarine-operator", "team-b/ultramarine-operator"]
    assert names(got, "Role") == names(got, "RoleBinding") == roles
    assert operator_env(got)["ULTRAMARINE_NAMESPACES"] == "team-a,team-b"
    secrets = of(got, "Secret")
    assert names(got, "Secret") == [f"{n}/ultramarine-storage" for n in ("platform", "team-a", "team-b")]
    assert len({json.dumps(secret["data"]) for secret in secrets}) == 1, "pods everywhere open the same storage"


def test_clusterwide_is_one_cluster_role(chart):
    """The whole cluster is one ClusterRole with the same rules, named after the release's namespace."""
    got = chart.render({"clusterWide": True})
    (role,) = of(got, "ClusterRole")

    assert names(got, "Role") == ["platform/ultramarine-leader"]
    assert names(got, "ClusterRoleBinding") == ["/ultramarine-operator-platform"]
    (small,) = (r for r in of(chart.render({}), "Role") if r["metadata"]["name"] == "ultramarine-operator")
    assert role["rules"] == small["rules"]
    assert operator_env(got)["ULTRAMARINE_NAMESPACES"] == "*"


def test_a_storage_of_ones_own_replaces_ours(chart):
    """With an endpoint nothing of the embedded storage is installed, and everybody is told of the other one."""
    got = chart.render(EXTERNAL)

    assert of(got, "PersistentVolumeClaim", "Secret") == []
    assert names(got, "Deployment", "Service") == ["platform/ultramarine-operator"] * 2
    env = operator_env(got)
    assert env["ULTRAMARINE_STORAGE_ENDPOINT"] == "https://s3.example.com"
    assert (env["ULTRAMARINE_STORAGE_REGION"], env["ULTRAMARINE_STORAGE_BUCKET"]) == ("eu", "lake")
    for name, pod in pods(got):
        for container in pod["containers"]:
            (source,) = container["envFrom"]
            assert source["secretRef"]["name"] == "s3", name


def test_crds_can_be_left_to_somebody_else(chart):
    """crds.install=false leaves them out; else they stay when the release goes."""
    assert of(chart.render({"crds": {"install": False}}), "CustomResourceDefinition") == []
    for crd in of(chart.render({}), "CustomResourceDefinition"):
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_what_holds_data_outlives_the_release(chart):
    """The volume and its keys are kept by `helm uninstall`."""
    for each in of(chart.render({}), "PersistentVolumeClaim", "Secret"):
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def policy(objects: list[Manifest], namespace: str, name: str) -> Manifest:
    """The spec of one network policy."""
    found = of(objects, "NetworkPolicy")
    (spec,) = (e["spec"] for e in found if (e["metadata"]["namespace"], e["metadata"]["name"]) == (namespace, name))
    return dict(spec)


DNS = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


@pytest.mark.parametrize("kind", ["TrainingJob", "OnlineEndpoint"])
def test_pods_reach_dns_and_the_storage_alone(chart, kind):
    """In each namespace what trains and what serves may reach DNS and the storage's pods, and nothing else."""
    got = chart.render({"namespaces": ["team-a", "team-b"]})
    name = {"TrainingJob": "ultramarine-training", "OnlineEndpoint": "ultramarine-serving"}[kind]

    for namespace in ("team-a", "team-b"):
        spec = policy(got, namespace, name)
        dns, storage = spec["egress"]
        (peer,) = storage["to"]
        assert spec["podSelector"] == {"matchLabels": {"ultramarine.dev/kind": kind}}
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert dns == DNS
        assert storage["ports"] == [{"port": 7070, "protocol": "TCP"}]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "platform"}
        assert peer["podSelector"] == policy(got, "platform", "ultramarine-storage")["podSelector"]


def test_only_what_serves_is_asked(chart, mode):
    """Training pods take no connection at all; serving pods and the operator take them on one port."""
    got = chart.render(mode)

    for each in of(got, "NetworkPolicy"):
        ports = [rule["ports"] for rule in each["spec"].get("ingress", [])]
        name = each["metadata"]["name"].removeprefix("ultramarine-")
        assert ports == {"training": [], "storage": [[{"port": 7070, "protocol": "TCP"}]]}.get(
            name, [[{"port": 8080, "protocol": "TCP"}]]
        )


def test_policies_select_the_pods_that_the_chart_makes(chart):
    """The storage answers the operator and `helm test`, by labels that their pods carry."""
    got = chart.render({})
    labels = {"operator": {}, "storage": {}, "test": {}}
    for each in of(got, "Pod", "Deployment"):
        metadata = each["metadata"] if each["kind"] == "Pod" else each["spec"]["template"]["metadata"]
        labels[metadata["labels"]["app.kubernetes.io/component"]] = metadata["labels"]
    ours, pods_of_kinds = policy(got, "platform", "ultramarine-storage")["ingress"][0]["from"]

    for component in ("operator", "storage"):
        selector = policy(got, "platform", f"ultramarine-{component}")["podSelector"]["matchLabels"]
        assert selector.items() <= labels[component].items()
    (expression,) = ours["podSelector"]["matchExpressions"]
    for component in ("operator", "test"):
        assert ours["podSelector"]["matchLabels"].items() <= labels[component].items()
        assert labels[component][expression["key"]] in expression["values"]
    (expression,) = pods_of_kinds["podSelector"]["matchExpressions"]
    assert expression["values"] == ["TrainingJob", "OnlineEndpoint"]


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

    assert peers[1]["namespaceSelector"] == selector


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
    _, storage = policy(got, "platform", "ultramarine-training")["egress"]

    assert "platform/ultramarine-storage" not in names(got, "NetworkPolicy")
    assert storage["ports"] == [{"port": port, "protocol": "TCP"}]
    assert storage["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}]


def test_more_egress_is_added_and_policies_can_be_left_out(chart):
    """A rule of the values stands beside DNS and the storage; with enabled=false there is no policy."""
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5000, "protocol": "TCP"}]}
    got = chart.render({"networkPolicies": {"egress": [rule]}})

    for name in ("training", "serving"):
        assert policy(got, "platform", f"ultramarine-{name}")["egress"][2:] == [rule]
    assert of(chart.render({"networkPolicies": {"enabled": False}}), "NetworkPolicy") == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"namespace": ["team-a"]}, ("namespace", "not allowed")),
        ({"storage": {"bukket": "a"}}, ("/storage", "bukket", "not allowed")),
        ({"namespaces": "team-a"}, ("/namespaces", "got string, want array")),
        ({"namespaces": ["Team A"]}, ("/namespaces/0", "does not match pattern")),
        ({"namespaces": ["a", "a"]}, ("/namespaces", "are equal")),
        ({"clusterWide": "yes"}, ("/clusterWide", "got string, want boolean")),
        ({"operator": {"replicas": "2"}}, ("/operator/replicas", "got string, want integer")),
        ({"operator": {"replicas": -1}}, ("/operator/replicas", "minimum: got -1, want 0")),
        ({"storage": {"endpoint": "s3.example.com"}}, ("/storage/endpoint", "does not match pattern")),
        ({"storage": {"bucket": ""}}, ("/storage/bucket", "does not match pattern")),
        ({"storage": {"secretName": None}}, ("/storage", "missing property 'secretName'")),
        ({"storage": {"embedded": {"size": 10}}}, ("/storage/embedded/size", "got number, want string")),
        ({"images": {"pullPolicy": "Sometimes"}}, ("/images/pullPolicy", "'Always', 'IfNotPresent', 'Never'")),
        ({"images": {"operator": {"repository": ""}}}, ("/images/operator/repository", "minLength")),
        ({"operator": {"replicas": 6}}, ("/operator/replicas", "maximum: got 6, want 5")),
        ({"operator": {"resources": {"limit": {}}}}, ("/operator/resources", "limit", "not allowed")),
        ({"operator": {"resources": {"limits": {"memory": "1 GB"}}}}, ("/operator/resources/limits/memory",)),
        (
            {"storage": {"embedded": {"resources": {"requests": {"cpu": []}}}}},
            ("/storage/embedded/resources/requests",),
        ),
        ({"storage": {"endpoint": "https://s3.example.com/lake"}}, ("/storage/endpoint", "does not match pattern")),
        ({"storage": {"region": 1}}, ("/storage/region", "got number, want string")),
        ({"storage": {"embedded": {"generateKeys": 0}}}, ("/storage/embedded/generateKeys", "want boolean")),
        ({"images": {"trainer": {"digest": "a"}}}, ("/images/trainer", "digest", "not allowed")),
        ({"images": {"pullSecrets": [{"name": "a"}]}}, ("/images/pullSecrets/0", "got object, want string")),
        ({"crds": {"install": "no"}}, ("/crds/install", "got string, want boolean")),
        ({"metrics": {"rules": True}}, ("/metrics/rules", "got boolean, want object")),
        ({"metrics": {"labels": {"release": 1}}}, ("/metrics/labels/release", "got number, want string")),
        ({"networkPolicies": {"enabled": 1}}, ("/networkPolicies/enabled", "got number, want boolean")),
        ({"networkPolicies": {"egress": [{"from": []}]}}, ("/networkPolicies/egress/0", "'from' not allowed")),
    ],
)
def test_wrong_values_are_refused_with_their_name(chart, values, words):
    """A typing error in a value is refused before anything is installed, and the refusal names the value."""
    said = chart.refusal(values)

    assert all(word in said for word in words), said


def test_every_pod_is_restricted(chart, mode):
    """Every pod passes Pod Security `restricted`, and what we promise beyond it, checked word by word."""
    found = list(pods(chart.render(mode)))
    assert found
    for name, pod in found:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        for volume in pod.get("volumes", []):
            allowed = {"emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected", "ephemeral"}
            assert set(volume) - {"name"} <= allowed, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            where = f"{name}/{container['name']}"
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & set(security), where
            assert not any("hostPort" in port for port in container.get("ports", [])), where


def test_a_token_is_only_where_it_is_used(chart, mode):
    """The operator speaks to the API; no other pod gets a service-account token."""
    for name, pod in pods(chart.render(mode)):
        if name == "ultramarine-operator":
            assert pod["serviceAccountName"] == "ultramarine-operator"
        else:
            assert pod["automountServiceAccountToken"] is False, name


def test_the_rights_are_the_least(chart, mode):
    """Secrets can be created and nothing else; no wildcard, no exec, no escalation; Leases only at home."""
    for role in of(chart.render(mode), "Role", "ClusterRole"):
        for rule in role["rules"]:
            words: list[Any] = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(words)
            assert not {"pods/exec", "pods/attach", "serviceaccounts", "serviceaccounts/token"} & set(words)
            assert "secrets" not in rule["resources"] or rule["verbs"] == ["create"]
            if "leases" in rule["resources"]:
                assert role["metadata"]["name"] == "ultramarine-leader"
                assert role["metadata"]["namespace"] == "platform"


def test_every_container_that_stays_asks_for_what_it_needs(chart, mode):
    """Each long-running container has requests, and a limit on its memory."""
    for each in of(chart.render(mode), "Deployment"):
        for container in each["spec"]["template"]["spec"]["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert "readinessProbe" in container


def test_every_object_is_labelled_and_named_once(chart, mode):
    """Every object but the CRDs carries the release's labels, and none is there twice."""
    got = chart.render(mode)
    ids = [(e["kind"], e["metadata"].get("namespace"), e["metadata"]["name"]) for e in got]

    assert len(ids) == len(set(ids))
    for each in got:
        if each["kind"] != "CustomResourceDefinition":
            assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "um"


def test_what_needs_foreign_crds_is_asked_for(chart):
    """Without a word nothing of the Prometheus Operator's is installed, and no dashboard."""
    got = chart.render({})

    assert of(got, "ServiceMonitor", "PrometheusRule") == []
    assert not [each for each in got if "grafana_dashboard" in each["metadata"].get("labels", {})]


def test_prometheus_and_grafana_find_what_is_for_them(chart):
    """The ServiceMonitor selects the operator's Service alone and its port by name; labels of one's own are added."""
    values = {"metrics": {**METRICS["metrics"], "labels": {"release": "prometheus"}}}
    got = chart.render(values)
    (monitor,) = of(got, "ServiceMonitor")
    (rule,) = of(got, "PrometheusRule")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (each for each in of(got, "Service") if wanted <= each["metadata"]["labels"].items())

    assert service["metadata"]["name"] == "ultramarine-operator"
    assert [port["name"] for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
    assert rule["metadata"]["labels"]["release"] == monitor["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    (board,) = (each for each in of(got, "ConfigMap") if each["metadata"]["labels"].get("grafana_dashboard") == "1")
    assert json.loads(board["data"]["ultramarine.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())
