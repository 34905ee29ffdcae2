"""Placement and metadata of pods: the platform's own by the chart, and those that the operator makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builders import DIGEST, NOW, PLATFORM, endpoint, model, ours, read, sweep, training_job, version
from ultramarine_contract.common import CA_DIR, CA_FILE, ENV_STORAGE_CA, TLS_DIR
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.model.plan import plan_model, plan_version
from ultramarine_operator.kinds.onlineendpoint.plan import plan as plan_endpoint
from ultramarine_operator.kinds.sweep.plan import plan as plan_sweep
from ultramarine_operator.kinds.trainingjob.plan import plan as plan_job
from ultramarine_operator.shared.plan import MadePods, Platform, Seen
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact
from unit.rendered import MODES, of, operator_env, operator_settings, pods

OWN = ("ultramarine-operator", "ultramarine-storage", "ultramarine-mlflow", "ultramarine-gateway", "ultramarine-test")
POOL: Manifest = {"key": "platform", "operator": "Exists", "effect": "NoSchedule"}
ZONES = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
PLACED: Manifest = {
    **MODES["mlflow"],
    "pods": {
        "nodeSelector": {"pool": "platform"},
        "tolerations": [POOL],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [ZONES],
        "annotations": {"sidecar.istio.io/inject": "false"},
        "labels": {"cost-centre": "ml"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "storage": {"nodeSelector": {"disk": "ssd"}, "tolerations": []},
    },
}
OUTSIDE: Manifest = {
    **MODES["mlflow"],
    "proxy": {"https": "http://proxy.lab:3128", "noProxy": [".lab"]},
    "ca": {"configMap": "authorities"},
}


def by_component(objects: list[Manifest]) -> dict[str, Manifest]:
    """The pod template of each component; the gateway's of one namespace."""
    return {item["metadata"]["name"]: item["spec"]["template"] for item in of(objects, "Deployment")}


def test_the_operator_reads_the_authorities_of_the_index_for_all_namespaces(chart):
    """One ConfigMap, in the release's namespace, is mounted where the settings name it; a Secret is for the builds."""
    got = chart.render({"environments": {"ca": {"configMap": "index"}}, "namespaces": ["team-a", "team-b"]})
    [operator] = [spec for name, spec in pods(got) if name == "ultramarine-operator"]
    [mount] = [mount for mount in operator["containers"][0]["volumeMounts"] if mount["name"] == "index-ca"]
    [volume] = [volume for volume in operator["volumes"] if volume["name"] == "index-ca"]
    builds = operator_settings(got).environments
    secret = operator_settings(chart.render({"environments": {"ca": {"secret": "index"}}})).environments

    assert volume["configMap"] == {
        "name": "index",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
        "optional": True,
    }
    assert (builds.authorities, builds.ca) == (f"{mount['mountPath']}/ca.crt", {})
    assert (secret.authorities, secret.ca["secret"]["secretName"]) == ("", "index")


def test_every_pod_of_the_platform_goes_where_the_values_say(chart):
    """One section places all of them, and a component's own field replaces the common one."""
    got = chart.render(PLACED)
    by_name = dict(pods(got))

    assert set(by_name) == set(OWN)
    for name, spec in by_name.items():
        is_storage = name == "ultramarine-storage"
        assert spec["nodeSelector"] == ({"disk": "ssd"} if is_storage else {"pool": "platform"}), name
        assert spec.get("tolerations") == (None if is_storage else [POOL]), name
        assert "nodeAffinity" in spec["affinity"], name
        (spread,) = spec["topologySpreadConstraints"]
        assert {key: spread[key] for key in ZONES} == ZONES, name
        for container in spec["containers"]:
            assert {"name": "TZ", "value": "UTC"} in container["env"], name
    (test,) = of(got, "Pod")
    for made in (test, *by_component(got).values()):
        assert made["metadata"]["labels"]["cost-centre"] == "ml"
        assert made["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert test["metadata"]["labels"]["app.kubernetes.io/component"] == "test", "the operator's Service selects its own"
    for name, template in by_component(got).items():
        labels = template["metadata"]["labels"]
        (spread,) = template["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
        assert name == f"ultramarine-{labels['app.kubernetes.io/component']}"


def test_the_way_out_is_told_to_whom_goes_out(chart):
    """The operator gets proxy and authorities; names in the cluster go past it; an own variable goes first."""
    by_name = dict(pods(chart.render(OUTSIDE)))
    env = {
        name: {item["name"]: item.get("value") for container in spec["containers"] for item in container.get("env", [])}
        for name, spec in by_name.items()
    }
    for name in ("ultramarine-operator", "ultramarine-test"):
        assert env[name]["HTTPS_PROXY"] == "http://proxy.lab:3128"
        assert env[name]["SSL_CERT_FILE"] == env[name]["AWS_CA_BUNDLE"] == "/etc/ultramarine/ca/ca.crt"
        (volume,) = (volume for volume in by_name[name]["volumes"] if volume["name"] == "ca")
        assert volume["configMap"]["name"] == "authorities"
        assert {"name": "ca", "mountPath": "/etc/ultramarine/ca", "readOnly": True} in by_name[name]["containers"][0][
            "volumeMounts"
        ]
    past = env["ultramarine-operator"]["NO_PROXY"].split(",")
    assert {"localhost", "127.0.0.1", ".svc", ".cluster.local", "kubernetes.default", ".lab"} <= set(past)
    for name in ("ultramarine-gateway", "ultramarine-storage", "ultramarine-mlflow"):
        assert not {"HTTPS_PROXY", "SSL_CERT_FILE"} & set(env[name]), name
    own = {**OUTSIDE, "pods": {"operator": {"extraEnv": [{"name": "NO_PROXY", "value": "*"}]}}}
    assert operator_env(chart.render(own))["NO_PROXY"] == "*"


def made(chart: Any, values: Manifest) -> MadePods:
    """Return the settings that the operator reads from the chart."""
    return operator_settings(chart.render(values)).platform("platform").pods


def templates(platform: Platform) -> dict[str, Manifest]:
    """The pods that the operator makes: they train, fetch code, coordinate, work, compile, delete and serve."""
    git = {"git": {"url": "https://git.lab/a.git", "secretRef": {"name": "git"}}}
    theirs = {"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    job = training_job(source=git, podTemplate=theirs, env=[{"name": "HTTPS_PROXY", "value": "http://mine:1"}])
    spec = {**version(1)["spec"], "compile": {"to": "onnx"}}
    answers = {CheckArtifact(spec["uri"]): ArtifactFacts(DIGEST, 1000)}
    left = {
        "artifacts": [
            {
                "version": "1",
                "uri": "s3://lake/team-a/trainingjobs/churn/0a-1b/model/0123456789abcdef/",
                "deleting": True,
            }
        ]
    }
    plans = {
        "training": plan_job(job, Seen(platform), NOW),
        "sweep": plan_sweep(sweep(), Seen(platform), NOW),
        "compiling": plan_version(read(ours("ModelVersion", "churn-1", spec)), Seen(platform, answers=answers), NOW),
        "deleting": plan_model(read({**model(deletionPolicy="Delete"), "status": left}), Seen(platform), NOW),
        "serving": plan_endpoint(endpoint(dataCollector=KEPT), Seen(platform, related=(version(1),)), NOW),
    }
    return {
        f"{what} {item['metadata']['name']}": item["spec"]["template"]["spec"]
        for what, plan in plans.items()
        for item in plan.apply
        if item["kind"] in ("Job", "Deployment")
    }


KEPT = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/"}
KEYLESS = ("compile", "server")  # they ask nothing outside


def test_pods_that_the_operator_makes_get_what_the_values_say(chart):
    """Nodes, proxies and authorities reach each of them; an author's template adds, and an own variable goes first."""
    training, serving = {"pool": "gpu", "zone": "b"}, {"pool": "cpu"}
    values = {
        **OUTSIDE,
        "training": {"nodeSelector": training, "tolerations": [POOL]},
        "serving": {"nodeSelector": serving},
    }
    platform = replace(PLATFORM, pods=made(chart, values))
    by_name = templates(platform)

    assert {name.split()[0] for name in by_name} == {"training", "sweep", "compiling", "deleting", "serving"}
    assert len(by_name) == 6
    for name, spec in by_name.items():
        what = name.split()[0]
        expected = training if what in ("training", "sweep") else serving
        assert spec["nodeSelector"] == (expected | {"zone": "a"} if what == "training" else expected), name
        assert (POOL in spec.get("tolerations", [])) == (expected is training), name
        (volume,) = (item for item in spec["volumes"] if item["name"] == "ca")
        assert volume["configMap"] == {
            "name": "authorities",
            "items": [{"key": "ca.crt", "path": CA_FILE}],
            "optional": True,
        }
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            env = [(item["name"], item.get("value")) for item in container.get("env", [])]
            if container["name"] in KEYLESS:
                assert "NO_PROXY" not in dict(env), name
                continue
            mine = container["name"] == "trainer" and what == "training"
            proxies = [value for variable, value in env if variable == "HTTPS_PROXY"]
            assert proxies == ["http://mine:1" if mine else "http://proxy.lab:3128"], (name, container["name"])
            assert dict(env)["SSL_CERT_FILE"] == f"{CA_DIR}/{CA_FILE}"
            assert CA_DIR in [mount["mountPath"] for mount in container["volumeMounts"]], (name, container["name"])
    (job,) = (spec for name, spec in by_name.items() if name.startswith("training"))
    assert job["tolerations"] == [{"key": "gpu", "operator": "Exists"}, POOL]


def test_a_private_authority_goes_with_tls_inside(chart):
    """The embedded storage is known by its own authority, and what lies outside by the other, in one pod."""
    pods = made(chart, OUTSIDE)
    for name, spec in templates(replace(PLATFORM, pods=pods, tls=True, storage_confined=True)).items():
        first = [*spec.get("initContainers", []), *spec["containers"]][-1 if "training" in name else 0]
        env = {item["name"]: item.get("value") for item in first["env"]}
        assert env[ENV_STORAGE_CA] == f"{TLS_DIR}/ca.crt", name
        assert env["AWS_CA_BUNDLE"] == f"{CA_DIR}/{CA_FILE}", name
        assert {TLS_DIR, CA_DIR} <= {mount["mountPath"] for mount in first["volumeMounts"]}, name


def test_policies_let_pods_reach_the_proxy(chart):
    """The port of a proxy is open to pods that train or serve."""

    def ports(values: Manifest) -> set[int]:
        policies = of(chart.render(values), "NetworkPolicy")
        rules = [rule for policy in policies for rule in policy["spec"].get("egress", [])]
        return {port.get("port", 0) for rule in rules for port in rule["ports"]}

    assert ports(OUTSIDE) - ports(MODES["mlflow"]) == {3128}
