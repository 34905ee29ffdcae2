"""The children of typical objects, whole, as files that a person can read and a review can see change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
import yaml
from builders import DIGEST, NOW, child, endpoint, model, ours, read, seen, sweep, training_job, version
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import SweepSummary, WantedTrial
from ultramarine_operator.kinds.model.plan import plan_model, plan_version
from ultramarine_operator.kinds.onlineendpoint.plan import plan as plan_endpoint
from ultramarine_operator.kinds.sweep.plan import plan as plan_sweep
from ultramarine_operator.kinds.trainingjob.plan import plan as plan_job
from ultramarine_operator.shared.plan import GatewayApi, Obj, ParentRef, Plan
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact

HERE = Path(__file__).parent
HEADER = "# Written by `pytest tests/golden --update-golden`; read the difference before you commit it.\n"


class Dumper(yaml.SafeDumper):
    """YAML without anchors, and with texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def made(plan: Plan) -> list[Manifest]:
    """What a plan applies, and the Secrets that it has generated, without the values."""
    secrets = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": effect.metadata, "keys": list(effect.keys)}
        for effect in plan.effects
    ]
    return [*plan.apply, *secrets]


def minimal_job() -> Plan:
    """A command, and nothing else."""
    return plan_job(training_job(), seen(), NOW)


def full_job() -> Plan:
    """Every field of a TrainingJob."""
    job = training_job(
        image="team-a/trainer:2",
        source={"inline": {"train.py": "import sys\nprint(sys.argv)\n", "params.json": "{}"}},
        command=["python", "train.py", "--rate=$(params.rate)"],
        args=["$(inputs.data)", "$(outputs.model)"],
        parameters={"rate": "0.1"},
        env=[
            {"name": "MODE", "value": "fast"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "logs", "key": "level"}}},
        ],
        resources={"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": 1}},
        inputs={"data": {"uri": "s3://lake/churn/"}},
        outputs={"model": {"registerAs": "churn", "format": "sklearn"}, "report": {}},
        podTemplate={"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
        suspend=True,
        backoffLimit=1,
        activeDeadlineSeconds=600,
        ttlSecondsAfterFinished=3600,
    )
    return plan_job(job, seen(), NOW)


def endpoint_with_keys() -> Plan:
    """Two deployments, keys that are generated, traffic to the second."""
    one = endpoint(
        deployments=[
            {"name": "blue", "model": "churn@1"},
            {
                "name": "green",
                "model": "churn@latest",
                "replicas": 3,
                "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
            },
        ],
        traffic={"blue": 0, "green": 100},
    )
    signature = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 30]}]}
    return plan_endpoint(one, seen(related=(version(1), version(2, signature=signature))), NOW)


def open_endpoint() -> Plan:
    """No keys, one deployment, at a storage with a region."""
    here = seen(related=(version(1, format={"name": "pickle"}, allowCodeExecution=True),))
    abroad = replace(here, platform=replace(here.platform, storage_endpoint="", storage_region="eu-west-1"))
    return plan_endpoint(endpoint(authMode="none"), abroad, NOW)


def collecting_endpoint() -> Plan:
    """A tenth of the requests is kept, without two names' values, by a sidecar."""
    kept = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/", "redact": ["name", "age"]}
    return plan_endpoint(endpoint(dataCollector=kept), seen(related=(version(1),)), NOW)


def compiled_version() -> Plan:
    """A version that is compiled before it is served."""
    spec = {**version(1)["spec"], "compile": {"to": "onnx", "parity": {"rtol": 0.001}}}
    found = {CheckArtifact(spec["uri"]): ArtifactFacts(DIGEST, 1000)}
    return plan_version(read(ours("ModelVersion", "churn-1", spec)), seen(answers=found), NOW)


def deleted_version() -> Plan:
    """A version is gone, and its artifact is to go."""
    uri = "s3://lake/team-a/trainingjobs/churn/0a-1b/model/0123456789abcdef/"
    left = {"artifacts": [{"version": "1", "uri": uri, "deleting": True}]}
    return plan_model(read({**model(deletionPolicy="Delete"), "status": left}), seen(), NOW)


def split() -> Obj[Any]:
    """Traffic to two deployments, copies to a third, and bounds on requests."""
    return endpoint(
        deployments=[
            {
                "name": "blue",
                "model": "churn@1",
                "requestSettings": {"timeoutSeconds": 5, "maxConcurrentRequests": 8, "maxQueueMilliseconds": 250},
                "batching": {"maxBatchSize": 32, "maxLatencyMilliseconds": 2},
                "warmup": {"request": '{"inputs": []}'},
            },
            {"name": "green", "model": "churn@2"},
            {"name": "purple", "model": "churn@2"},
        ],
        traffic={"blue": 90, "green": 10},
        mirrorTraffic={"purple": 20},
    )


def split_endpoint() -> Plan:
    """Behind the gateway: traffic to two deployments, copies to a third, and bounds on requests."""
    one, here = split(), seen(related=(version(1), version(2)))
    near = replace(here.platform, gateway="gateway.{namespace}.svc:9902", gateway_namespaces=frozenset({one.namespace}))
    return plan_endpoint(one, replace(here, platform=near), NOW)


def token_endpoint() -> Plan:
    """Behind the gateway: tokens of an issuer, and TLS; the network policy was seen, and so its pods are made."""
    token = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwksUri": "https://id.example.com/keys"}
    one = endpoint(authMode="token", token=token, tls={"secretName": "churn-tls"})
    policy = child("NetworkPolicy", "churn-gateway-only", one)
    here = seen(policy, related=(version(1),))
    near = replace(here.platform, gateway="gateway.{namespace}.svc:9902", gateway_namespaces=frozenset({one.namespace}))
    return plan_endpoint(one, replace(here, platform=near), NOW)


def gateway_api_endpoint() -> Plan:
    """The same behind two Gateways of the people's own; without its pods, which are the same."""
    public, inner = ParentRef("public", "infra", "https"), ParentRef("inner", port=8080)
    gateway = GatewayApi((public, inner), "https://{endpoint}.{namespace}.ml.example.com")
    here = seen(related=(version(1), version(2)))
    got = plan_endpoint(split(), replace(here, platform=replace(here.platform, gateway_api=gateway)), NOW)
    return replace(got, apply=tuple(m for m in got.apply if m["kind"] != "Deployment"), effects=())


def autoscaled_endpoint() -> Plan:
    """As many pods as the CPU that they use calls for."""
    wish = {"minReplicas": 2, "maxReplicas": 8, "metric": "cpu", "target": 70}
    blue = {"name": "blue", "model": "churn@1", "resources": {"requests": {"cpu": "500m"}}, "autoscale": wish}
    return plan_endpoint(endpoint(deployments=[blue]), seen(related=(version(1),)), NOW)


def pooled_endpoint() -> Plan:
    """A pool of the Models that are labelled tier: small, of which one has no version yet."""
    pool = {"selector": {"matchLabels": {"tier": "small"}}, "maxLoadedMebibytes": 512}
    one = endpoint(deployments=[{"name": "many", "pool": pool, "replicas": 2}])
    labels = {"labels": {"tier": "small"}}
    models = [ours("Model", name, {}, **labels) for name in ("churn", "fraud")]
    return plan_endpoint(one, seen(related=(*models, version(1, format={"name": "onnx"}))), NOW)


def minimal_sweep() -> Plan:
    """Ten trials, two at a time."""
    return plan_sweep(sweep(), seen(), NOW)


def full_sweep() -> Plan:
    """A grid with conditions and a budget, four trials at a time, whose best one is registered."""
    one = sweep(
        objective={"metric": "accuracy", "goal": "maximize", "stopAt": 0.99},
        algorithm={"type": "grid", "seed": 7},
        searchSpace={
            "booster": {"choice": ["gbtree", "dart"]},
            "drop": {"uniform": {"min": 0, "max": 1, "step": 0.5}, "when": {"booster": ["dart"]}},
            "depth": {"int": {"min": 2, "max": 8, "step": 2}},
            "task": {"constant": "binary"},
        },
        earlyTermination={"type": "asha", "minSteps": 1, "maxSteps": 27},
        limits={"parallelTrials": 4, "maxFailedTrials": 5, "trialTimeoutSeconds": 600},
        budget={"cpuHours": 10, "gpuHours": 2.5},
        canaryTrial=True,
        activeDeadlineSeconds=3600,
        registerBest="churn",
        trialTemplate={
            "spec": {
                "image": "team-a/trainer:2",
                "source": {"git": {"url": "https://git.example.com/churn", "ref": "main"}},
                "command": ["python", "train.py", "--depth=$(params.depth)"],
                "args": ["--rounds=$(params.rounds)", "$(inputs.data)", "$(outputs.model)"],
                "parameters": {"rounds": "100"},
                "env": [{"name": "MODE", "value": "fast"}],
                "resources": {"requests": {"cpu": "500m"}, "limits": {"nvidia.com/gpu": 1}},
                "inputs": {"data": {"uri": "s3://lake/churn/"}},
                "outputs": {"model": {}, "report": {}},
                "podTemplate": {"nodeSelector": {"gpu": "a100"}, "priorityClassName": "low"},
                "checkpoint": {},
            }
        },
    )
    here = seen()
    return plan_sweep(one, replace(here, platform=replace(here.platform, progress_url="http://operator:8080")), NOW)


def sweep_with_pods() -> Plan:
    """A Sweep each of whose trials is a TrainingJob of two nodes; its coordinator wants the first one."""
    template = {
        "source": {"inline": {"train.py": "print('loss=1')"}},
        "command": ["python", "train.py", "--lr=$(params.lr)"],
        "nodes": 2,
        "framework": "torch",
    }
    one = sweep(execution="PodPerTrial", trialTemplate={"spec": template})
    here = replace(seen(), report=SweepSummary(wanted=(WantedTrial(0, {"lr": 0.001}),)))
    return plan_sweep(one, replace(here, platform=replace(here.platform, progress_url="http://operator:8080")), NOW)


EXAMPLES = [minimal_job, full_job, endpoint_with_keys, open_endpoint, split_endpoint, gateway_api_endpoint]
EXAMPLES += [
    token_endpoint,
    autoscaled_endpoint,
    collecting_endpoint,
    compiled_version,
    deleted_version,
    pooled_endpoint,
    minimal_sweep,
    full_sweep,
    sweep_with_pods,
]


@pytest.mark.attack(
    "author/host",
    asset="the node",
    threat="root, capabilities, host paths, host network, a writable image",
    control="no raw pod fields in the API; every pod satisfies Pod Security `restricted`, which the tests' "
    "namespaces enforce",
)
@pytest.mark.attack(
    "author/api-token",
    asset="the Kubernetes API",
    threat="a pod uses a service account's token",
    control="no pod that serves gets one; one that trains gets a token that only the operator takes, and the "
    "API's own only where its job names a ServiceAccount. The network policies close the API server to "
    "all of them",
)
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_children_are_as_in_the_file(example, request):
    """The children of this object are, to the letter, those in the golden file."""
    path = HERE / f"{example.__name__}.yaml"
    text = yaml.dump_all(made(example()), Dumper=Dumper, sort_keys=False, width=110)
    if request.config.getoption("--update-golden"):
        path.write_text(f"{HEADER}# {example.__doc__}\n{text}")

    assert path.exists(), f"there is no {path.name}; write it with --update-golden"
    before, now = (list(yaml.load_all(words, Loader=yaml.CSafeLoader)) for words in (path.read_text(), text))
    assert before == now
    assert path.read_text().endswith(text), f"{path.name} says the same in other words; write it with --update-golden"


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_child_says_what_the_server_leaves_out(example):
    """No child has an empty map that the API server does not keep: it would be missed, and written, in each pass."""
    kept = {"emptyDir", "resources"}

    def empty(value: Any, name: str = "") -> list[str]:
        if isinstance(value, dict) and value:
            return [line for key, each in value.items() for line in empty(each, key)]
        if isinstance(value, list):
            return [line for each in value for line in empty(each, name)]
        return [name] if value == {} and name not in kept else []

    assert [line for child in example().apply for line in empty(child)] == []


@pytest.mark.attack(
    "network/posing",
    asset="the platform's names",
    threat="a training pod that is taken over shows a certificate of the platform",
    control="pods that only ask mount the authority's certificate and no key; keys of storage, operator, "
    "gateway and authority are closed to jobs beside the platform",
)
@pytest.mark.parametrize("example", EXAMPLES)
def test_with_tls_each_container_has_what_it_needs_and_no_more(example, monkeypatch):
    """What serves has the key of its kind; whatever else asks the storage or the operator has the authority alone."""
    by_tls = replace(builders.PLATFORM, tls=True, storage_confined=True)
    monkeypatch.setattr(builders, "PLATFORM", by_tls)
    keys = {"server": "ultramarine-tls-server", "coordinator": "ultramarine-tls-sweep"}
    for one in example().apply:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        volumes = {volume["name"]: volume.get("secret") or {} for volume in pod.get("volumes", [])}
        for container in (*pod.get("initContainers", []), *pod.get("containers", [])):
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            mounted = mounts.get(contract.TLS_DIR, {})
            if (key := keys.get(container["name"])) is not None:
                assert (mounted["secretName"], mounted.get("items")) == (key, None)
                probes = [container[name] for name in container if name.endswith("Probe")]
                assert {probe["httpGet"]["scheme"] for probe in probes} <= {"HTTPS"}
            elif mounted:
                assert [item["key"] for item in mounted["items"]] == ["ca.crt"]
            env = {variable["name"]: variable.get("value") for variable in container["env"]}
            if contract.ENV_STORAGE_ENDPOINT in env:
                assert env[contract.ENV_STORAGE_CA] == f"{contract.TLS_DIR}/ca.crt"
                assert mounted
            sweep = json.loads(env.get(contract.ENV_SWEEP) or env.get(contract.ENV_TRIAL) or "{}")
            assert sweep.get("coordinator", "https:").startswith("https:")


def test_every_golden_file_has_its_example():
    """No file is left behind by an example that is gone."""
    examples = {example.__name__ for example in EXAMPLES}

    assert {path.stem for path in HERE.glob("*.yaml")} == examples
