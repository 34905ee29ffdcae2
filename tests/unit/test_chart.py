"""Manifests of the chart in each of its modes, and values that it refuses."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from ultramarine_contract import __version__
from ultramarine_contract.meta import Manifest
from ultramarine_operator.generate import people
from ultramarine_operator.kinds import KINDS
from unit.rendered import CHART, EXTERNAL, METRICS, MODES, names, of, operator_settings, pods


@pytest.mark.attack(
    "operator/token-reviews",
    asset="the cluster",
    threat="`create` on `tokenreviews`, the one right that is not of a namespace: it tells whose a token is, of "
    "tokens that the operator is shown",
    control="nothing is read or written by it; it asks for tokens to itself only; `progress.enabled=false` does "
    "without",
)
@pytest.mark.attack(
    "operator/cluster-wide",
    asset="whole-cluster rights by accident",
    threat="`clusterWide` where a namespace would do",
    control="off by default: the only ClusterRole is the one for `tokenreviews`",
)
def test_by_default_nothing_reaches_beyond_its_namespace(chart):
    """All is in the release's namespace but CRDs, users' roles, rules of deletion and the right to review tokens."""
    got = chart.render({"rbac": {"people": False}})

    (role,) = of(got, "ClusterRole")
    review = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    assert role["rules"] == [review]
    clusterwide = ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicyBinding")
    inside = [item for item in got if item["kind"] not in clusterwide and not outlives(item)]
    assert {item["metadata"].get("namespace") for item in inside} == {"platform"}
    assert names(got, "Role") == [
        f"platform/ultramarine-{name}" for name in ("gateway", "leader", "operator", "storage")
    ]
    assert operator_settings(got).namespaces == ["platform"]
    assert len(of(got, "CustomResourceDefinition")) == len(KINDS)


VOLUMES = {"emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected", "ephemeral", "downwardAPI"}


def outlives(manifest: Manifest) -> bool:
    """True for what is the whole cluster's and stays when the release goes, as the CRDs do."""
    metadata = manifest["metadata"]
    return "namespace" not in metadata and "helm.sh/resource-policy" in metadata.get("annotations", {})


PLATFORM = ("ultramarine-operator", "ultramarine-storage", "ultramarine-mlflow", "ultramarine-gateway")


@pytest.mark.attack("author/priority")
@pytest.mark.parametrize(
    ("values", "name", "made"),
    [
        ({}, "ultramarine-platform-platform", ["/ultramarine-platform-platform"]),
        ({"create": False}, None, []),
        ({"create": False, "name": "infra"}, "infra", []),
        ({"name": "infra"}, "infra", []),
    ],
)
def test_the_platforms_own_pods_go_before_training(chart, values, name, made):
    """They have a PriorityClass of the release's own or of the administrator's, or none."""
    got = chart.render({**MODES["mlflow"], "priorityClass": values})

    classes = {pod: spec.get("priorityClassName") for pod, spec in pods(got)}
    assert {pod: classes[pod] for pod in PLATFORM} == dict.fromkeys(PLATFORM, name)
    assert names(got, "PriorityClass") == made
    assert all(outlives(item) and item["value"] == 1000000 for item in of(got, "PriorityClass"))


def test_which_classes_training_may_name_is_for_the_release_with_the_crds(chart):
    """Its policy admits for the whole cluster: another release's list is refused, and not ignored."""
    listed = {"training": {"priorityClasses": ["low"]}}
    policy = "/priority-classes.ultramarine.dev"

    assert policy in names(chart.render(listed), "ValidatingAdmissionPolicy")
    assert policy not in names(chart.render({}), "ValidatingAdmissionPolicy")
    assert "set it there" in chart.refusal({**listed, "crds": {"install": False}})


def test_a_list_of_namespaces_gets_a_role_in_each(chart):
    """The operator has its Role in the release's own namespace and in the listed ones, and its Lease at home."""
    got = chart.render({"namespaces": ["team-a", "team-b"], "rbac": {"people": False}})

    assert names(got, "ClusterRole", "ClusterRoleBinding") == ["/ultramarine-progress-platform"] * 2
    teams = ("platform", "team-a", "team-b")
    own = [f"{team}/ultramarine-{name}" for team in teams for name in ("gateway", "operator")]
    platform = ["platform/ultramarine-leader", "platform/ultramarine-storage"]
    assert names(got, "Role") == names(got, "RoleBinding") == sorted([*platform, *own])
    assert operator_settings(got).namespaces == ["platform", "team-a", "team-b"]


def test_another_namespace_takes_nothing_from_the_first(chart):
    """Manifests of the release's own namespace stay unchanged, except keys, when another namespace is listed."""
    moving = {
        *(("Secret", "ultramarine-storage"), ("Secret", "ultramarine-storage-accounts")),
        *(("NetworkPolicy", "ultramarine-storage"), ("NetworkPolicy", "ultramarine-operator")),
        ("Deployment", "ultramarine-operator"),
    }

    def of_the_first(values: Manifest) -> list[Manifest]:
        got = [item for item in chart.render(values) if item["metadata"].get("namespace") == "platform"]
        return [item for item in got if (item["kind"], named(item)) not in moving]

    def named(item: Manifest) -> str:
        return str(item["metadata"]["name"])

    before = of_the_first({})
    assert {"NetworkPolicy", "Role", "Service"} <= {item["kind"] for item in before}
    assert {"ultramarine-gateway", "ultramarine-storage"} <= {
        named(item) for item in before if item["kind"] == "Deployment"
    }
    assert of_the_first({"namespaces": ["team-a"]}) == before
    # In the list or not, the release's own is looked after.
    assert of_the_first({"namespaces": ["team-a", "platform"]}) == before


def test_clusterwide_is_one_cluster_role(chart):
    """The whole cluster is one ClusterRole with the same rules, named after the release's namespace."""
    got = chart.render({"clusterWide": True})
    (role,) = (r for r in of(got, "ClusterRole") if r["metadata"]["name"] == "ultramarine-operator-platform")

    assert names(got, "Role") == [f"platform/ultramarine-{name}" for name in ("gateway", "leader", "storage")]
    bindings = ["/ultramarine-operator-platform", "/ultramarine-progress-platform"]
    assert names(got, "ClusterRoleBinding") == bindings
    (small,) = (r for r in of(chart.render({}), "Role") if r["metadata"]["name"] == "ultramarine-operator")
    assert role["rules"] == small["rules"]
    assert operator_settings(got).clusterwide


def test_progress_is_taken_where_the_operators_service_is(chart):
    """The operator is told the URL of its own Service; the binding of what it needs for that is to itself."""
    got = chart.render({"rbac": {"people": False}})
    (service,) = (item for item in of(got, "Service") if item["metadata"]["name"] == "ultramarine-operator")
    (port,) = service["spec"]["ports"]
    (binding,) = of(got, "ClusterRoleBinding")

    assert operator_settings(got).progress.url == f"http://ultramarine-operator.platform.svc:{port['port']}"
    assert binding["roleRef"]["name"] == of(got, "ClusterRole")[0]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ultramarine-operator", "namespace": "platform"}]


@pytest.mark.attack("operator/token-reviews")
def test_without_progress_there_is_no_right_and_no_way_for_it(chart):
    """progress.enabled=false: no cluster-wide right at all, and no training pod is let to the operator."""
    got = chart.render({"progress": {"enabled": False}, "rbac": {"people": False}})

    assert of(got, "ClusterRole", "ClusterRoleBinding") == []
    assert operator_settings(got).progress.url == ""
    (training,) = (p for p in of(got, "NetworkPolicy") if p["metadata"]["name"] == "ultramarine-training")
    assert 8080 not in [port.get("port") for rule in training["spec"]["egress"] for port in rule["ports"]]


def test_a_storage_of_ones_own_replaces_ours(chart):
    """With an endpoint nothing of the embedded storage is installed, and everybody is told of the other one."""
    got = chart.render(EXTERNAL)

    assert of(got, "PersistentVolumeClaim", "Secret") == []
    ours = ["platform/ultramarine-gateway", "platform/ultramarine-operator"]
    assert names(got, "Deployment") == names(got, "Service") == ours
    storage = operator_settings(got).storage
    assert (storage.endpoint, storage.region, storage.bucket) == ("https://s3.example.com", "eu", "lake")
    for name, pod in pods(got):
        for container in [] if name == "ultramarine-gateway" else pod["containers"]:  # which needs no storage
            (source,) = container["envFrom"]
            assert source["secretRef"]["name"] == "s3", name


@pytest.mark.parametrize(
    ("values", "uri"),
    [
        ({}, ""),
        ({"trackingUri": "https://mlflow.example.com/ml"}, "https://mlflow.example.com/ml"),
        ({"embedded": {"enabled": True}}, "http://ultramarine-mlflow.platform.svc:5000"),
    ],
)
def test_the_operator_knows_the_tracking_server(chart, values, uri):
    """The one that is given, or the one that is installed, which answers to the name by which it is called; or none."""
    got = chart.render({"mlflow": values})
    servers = [pod for name, pod in pods(got) if name == "ultramarine-mlflow"]

    assert operator_settings(got).mlflow.uri == uri
    assert len(servers) == ("embedded" in values)
    for server in servers:
        (hosts,) = (word for word in server["containers"][0]["args"] if word.startswith("--allowed-hosts="))
        assert uri.removeprefix("http://") in hosts.removeprefix("--allowed-hosts=").split(",")


def test_crds_can_be_left_to_somebody_else(chart):
    """crds.install=false leaves them out; otherwise they outlive the release."""
    assert of(chart.render({"crds": {"install": False}}), "CustomResourceDefinition") == []
    for crd in of(chart.render({}), "CustomResourceDefinition"):
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_what_holds_data_outlives_the_release(chart):
    """The volume and its keys are kept by `helm uninstall`."""
    for item in of(chart.render({}), "PersistentVolumeClaim", "Secret"):
        assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


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
        ({"images": {"operator": {"repository": ""}}}, ("a repository is missing", "make install")),
        ({"gateway": {"replicas": 0}}, ("/gateway/replicas", "minimum: got 0, want 1")),
        ({"gateway": {"replicas": 11}}, ("/gateway/replicas", "maximum: got 11, want 10")),
        ({"gateway": {"enabled": "no"}}, ("/gateway/enabled", "got string, want boolean")),
        ({"gateway": {"image": {}}}, ("/gateway", "'image' not allowed")),
        ({"images": {"gateway": {"repository": ""}}}, ("images.gateway.repository", "is missing")),
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
        ({"progress": {"enabled": "no"}}, ("/progress/enabled", "got string, want boolean")),
        ({"mlflow": {"trackingUri": "http://a:b@mlflow.lab"}}, ("/mlflow/trackingUri", "does not match pattern")),
        ({"mlflow": {"trackingUri": "http://mlflow.lab", "embedded": {"enabled": True}}}, ("trackingUri", "not both")),
        ({"networkPolicies": {"enabled": 1}}, ("/networkPolicies/enabled", "got number, want boolean")),
        ({"networkPolicies": {"egress": [{"from": []}]}}, ("/networkPolicies/egress/0", "'from' not allowed")),
    ],
)
def test_wrong_values_are_refused_with_their_name(chart, values, words):
    """A typing error in a value is refused before anything is installed, and the refusal names the value."""
    message = chart.refusal(values)

    assert all(word in message for word in words), message


@pytest.mark.attack("author/host")
def test_every_pod_is_restricted(chart, mode):
    """Every pod passes Pod Security `restricted`, and what we promise beyond it, checked word by word."""
    matches = list(pods(chart.render(mode)))
    assert matches
    for name, pod in matches:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES, name
            assert volume.get("emptyDir") != {}, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            where = f"{name}/{container['name']}"
            assert "ephemeral-storage" in container["resources"]["requests"], where
            assert "ephemeral-storage" in container["resources"]["limits"], where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & set(security), where
            assert not any("hostPort" in port for port in container.get("ports", [])), where


@pytest.mark.attack("author/api-token")
def test_a_token_is_only_where_it_is_used(chart, mode):
    """The operator speaks to the API, and the storage reads one Secret; no other pod gets a service-account token."""
    for name, pod in pods(chart.render(mode)):
        if name in ("ultramarine-operator", "ultramarine-storage"):
            assert pod["serviceAccountName"] == name
        else:
            assert pod["automountServiceAccountToken"] is False, name


@pytest.mark.attack(
    "training/accounts-secret",
    asset="the accounts' Secret",
    threat="the storage's own token",
    control="`get` on that one Secret, by name; its pod runs one static program without a shell",
)
@pytest.mark.attack("operator/secrets")
@pytest.mark.attack("operator/escalation")
def test_the_rights_are_the_least(chart, mode):
    """The operator creates Secrets, the gateway reads them by name, the storage its own; no wildcard, no escalation."""
    for role in of(chart.render({**mode, "rbac": {"people": False}}), "Role", "ClusterRole"):
        for rule in role["rules"]:
            words: list[Any] = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(words)
            assert not {"pods/exec", "pods/attach", "serviceaccounts", "serviceaccounts/token"} & set(words)
            reads = role["metadata"]["name"] in ("ultramarine-gateway", "ultramarine-storage")
            assert "secrets" not in rule["resources"] or rule["verbs"] == (["get"] if reads else ["create"])
            if role["metadata"]["name"] == "ultramarine-storage":
                assert rule["resourceNames"] == ["ultramarine-storage-accounts"]
            if "leases" in rule["resources"]:
                assert role["metadata"]["name"] == "ultramarine-leader"
                assert role["metadata"]["namespace"] == "platform"


def test_every_container_that_stays_asks_for_what_it_needs(chart, mode):
    """Each long-running container has requests, and a limit on its memory."""
    for item in of(chart.render(mode), "Deployment"):
        for container in item["spec"]["template"]["spec"]["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert "readinessProbe" in container


def test_every_object_is_labelled_and_named_once(chart, mode):
    """Every object but the whole cluster's carries the release's labels, and none is there twice."""
    got = chart.render(mode)
    ids = [(e["kind"], e["metadata"].get("namespace"), e["metadata"]["name"]) for e in got]

    assert len(ids) == len(set(ids))
    for item in got:
        if not outlives(item):
            assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "um"


def test_a_deployment_is_selected_by_its_component(chart):
    """As runbooks do, in all namespaces."""
    made = of(chart.render({"namespaces": ["team-a"]}), "Deployment")

    assert len(made) == 4
    for item in made:
        component = item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
        assert item["metadata"]["labels"]["app.kubernetes.io/component"] == component


def test_people_have_roles_where_the_crds_are_installed(chart):
    """With the CRDs come the roles, whose Secret is the one that the values name; either can be left out."""
    roles = {"ultramarine-viewer", "ultramarine-data-scientist", "ultramarine-approver"}

    def rendered(values: Manifest) -> dict[str, Manifest]:
        matches = of(chart.render(values), "ClusterRole")
        return {item["metadata"]["name"]: item for item in matches if item["metadata"]["name"] in roles}

    assert set(rendered({})) == roles
    scientist = rendered(EXTERNAL)["ultramarine-data-scientist"]
    assert [rule["resourceNames"] for rule in scientist["rules"] if "resourceNames" in rule] == [
        ["ultramarine-platform"],
        ["s3", "ultramarine-mlflow"],
    ]
    assert rendered({"rbac": {"people": False}}) == {}
    assert rendered({"crds": {"install": False}}) == {}


@pytest.mark.attack("author/roles")
def test_no_role_of_people_reads_secrets_or_enters_pods():
    """Two Secrets by their names are all that can be read; no wildcard, no exec, no status, no roles, no tokens."""
    for role in (item for item in people.manifests() if item["kind"] == "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["create"] or rule["resourceNames"] == [
                    "ultramarine-storage",
                    "ultramarine-mlflow",
                ]
            assert not [what for what in rule["resources"] if what.endswith(("/status", "/finalizers", "/exec"))]
            assert not {"escalate", "bind", "impersonate"} & {*rule["verbs"]}
            if {*rule["verbs"]} & {"create", "patch", "update", "delete"}:
                ours = rule["apiGroups"] == ["ultramarine.dev"]
                assert ours or rule["resources"] in (["secrets"], ["pods/portforward"])


def test_what_needs_foreign_crds_is_asked_for(chart):
    """Without a word nothing of the Prometheus Operator's is installed, and no dashboard."""
    got = chart.render({})

    assert of(got, "ServiceMonitor", "PodMonitor", "PrometheusRule") == []
    assert not [item for item in got if "grafana_dashboard" in item["metadata"].get("labels", {})]


def test_prometheus_finds_the_gateways_and_the_servers(chart):
    """A PodMonitor for each selects pods by labels that they have and a port by name, and may reach the gateway's."""
    got = chart.render({**METRICS, "namespaces": ["one", "two"]})
    gateway, serving = of(got, "PodMonitor")
    pods = of(got, "Deployment")
    selected = gateway["spec"]["selector"]["matchLabels"].items()
    matches = [item for item in pods if selected <= item["spec"]["template"]["metadata"]["labels"].items()]

    assert {item["metadata"]["namespace"] for item in matches} == {"platform", "one", "two"}
    assert (
        gateway["spec"]["namespaceSelector"]
        == serving["spec"]["namespaceSelector"]
        == {"matchNames": ["platform", "one", "two"]}
    )
    # The Prometheus Operator names the port in a label, which would hide the one that Envoy counts by.
    assert gateway["spec"]["podMetricsEndpoints"][0]["relabelings"] == [{"action": "labeldrop", "regex": "endpoint"}]
    ports = [port for container in matches[0]["spec"]["template"]["spec"]["containers"] for port in container["ports"]]
    (port,) = (port for port in ports if port["name"] == gateway["spec"]["podMetricsEndpoints"][0]["port"])
    for policy in of(got, "NetworkPolicy"):
        if policy["metadata"]["name"] == "ultramarine-gateway":
            (rule,) = (r for r in policy["spec"]["ingress"] if r["ports"][0]["port"] == port["containerPort"])
            assert {"namespaceSelector": {}} in rule["from"]


def test_prometheus_and_grafana_find_what_is_for_them(chart):
    """The ServiceMonitor selects the operator's Service alone and its port by name; labels of one's own are added."""
    values = {"metrics": {**METRICS["metrics"], "labels": {"release": "prometheus"}}}
    got = chart.render(values)
    (monitor,) = of(got, "ServiceMonitor")
    (rule,) = of(got, "PrometheusRule")
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (item for item in of(got, "Service") if selector <= item["metadata"]["labels"].items())

    assert service["metadata"]["name"] == "ultramarine-operator"
    assert [port["name"] for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
    assert rule["metadata"]["labels"]["release"] == monitor["metadata"]["labels"]["release"] == "prometheus"
    text = (CHART / "files" / "alerts.yaml").read_text()
    own = 'absent(ultramarine_leader{namespace="platform"})'  # another release's operator must not stand in for ours
    wanted_rules = yaml.safe_load(text.replace("absent(ultramarine_leader)", own))
    assert rule["spec"] == wanted_rules
    runbooks = {"enabled": True, "runbooks": "https://wiki/alerts"}
    (linked,) = of(chart.render({"metrics": {**values["metrics"], "rules": runbooks}}), "PrometheusRule")
    first, *_ = linked["spec"]["groups"][0]["rules"]
    assert first["annotations"].pop("runbook_url") == "https://wiki/alerts#ultramarineabsent"
    assert first == wanted_rules["groups"][0]["rules"][0]
    (board,) = (item for item in of(got, "ConfigMap") if item["metadata"]["labels"].get("grafana_dashboard") == "1")
    assert json.loads(board["data"]["ultramarine.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_the_images_of_an_installation_are_listed_by_the_command_of_the_docs(chart):
    """The pipe of docs/versions.md behind `helm template` gives every image once, and no other line."""
    (pipe,) = re.findall(
        r"^helm template [^|]*\| (.*) > images.txt$",
        (CHART.parents[1] / "docs" / "versions.md").read_text(),
        re.MULTILINE,
    )
    rendered = chart.try_out(MODES["mlflow"]).stdout
    images = subprocess.run(["sh", "-c", pipe], input=rendered, capture_output=True, text=True, check=True).stdout
    own = [f"ultramarine/{name}:{__version__}" for name in ("gateway", "operator", "server", "storage", "trainer")]

    assert [image for image in images.split() if "mlflow" not in image] == own
    assert len(images.split()) == 6
