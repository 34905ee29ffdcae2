"""OnlineEndpoints for the tests: a whole one, and those of the golden files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ultramarine.resources.onlineendpoint import OnlineEndpointSpec
from ultramarine_contract.meta import Manifest

from ....shared.plan import GatewayApi, Obj, ParentRef, Plan, Platform
from ....shared.testing import DIGEST, NOW, Sample, applied, child, seen, stored
from ...model.testing.samples import stored_version
from ..plan import plan


def serving(name: str, model: str, deployment: str = "blue") -> Manifest:
    """An OnlineEndpoint as a user applies it: one deployment of a model, with two pods."""
    return applied("OnlineEndpoint", name, {"deployments": [{"name": deployment, "model": model, "replicas": 2}]})


def endpoint(status: Manifest | None = None, **spec: Any) -> Obj[OnlineEndpointSpec]:
    """An OnlineEndpoint called churn, with one deployment, blue, of churn@latest."""
    whole = {"deployments": [{"name": "blue", "model": "churn@latest"}], **spec}
    return Obj(stored("OnlineEndpoint", "churn", whole, status), OnlineEndpointSpec.model_validate(whole))


WHOLE: Manifest = {
    "metadata": {"name": "churn"},
    "spec": {
        "authMode": "key",
        "keysSecretRef": {"name": "mine"},
        "tls": {"secretName": "churn-tls"},
        "traffic": {"blue": 100, "green": 0},
        "mirrorTraffic": {"green": 0},
        "rollout": {
            "candidate": "purple",
            "steps": [10, 50, 100],
            "stepSeconds": 60,
            "gates": {"errorRateIncrease": 0.01, "p99Ratio": 1.5, "agreement": 0.98},
            "onFailure": "Pause",
        },
        "dataCollector": {
            "samplingRate": 0.1,
            "format": "parquet",
            "uri": "s3://lake/team-a/kept/",
            "redact": ["age"],
        },
        "deployments": [
            {
                "name": "blue",
                "model": "churn@champion",
                "replicas": 2,
                "autoscale": {
                    "minReplicas": 2,
                    "maxReplicas": 8,
                    "metric": "cpu",
                    "target": 70,
                    "scaleDownAfterSeconds": 60,
                },
                "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
                "requestSettings": {
                    "timeoutSeconds": 5,
                    "maxConcurrentRequests": 8,
                    "maxQueueMilliseconds": 500,
                },
                "batching": {"maxBatchSize": 32, "maxLatencyMilliseconds": 2},
                "warmup": {"request": '{"inputs": []}'},
            },
            {"name": "green", "model": "churn@7"},
            {"name": "purple", "model": "churn@challenger"},
        ],
    },
}


# ---- Golden files


def _routed(platform: Platform) -> Platform:
    """The platform with a gateway in the namespace."""
    return replace(platform, gateway="gateway.{namespace}.svc:9902", gateway_namespaces=frozenset({"team-a"}))


def endpoint_with_keys(platform: Platform) -> Plan:
    """Two deployments, keys that are generated, traffic to the second."""
    deployments = [
        {"name": "blue", "model": "churn@1"},
        {
            "name": "green",
            "model": "churn@latest",
            "replicas": 3,
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
        },
    ]
    signature = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 30]}]}
    versions = (stored_version(1), stored_version(2, signature=signature))
    whole = endpoint(deployments=deployments, traffic={"blue": 0, "green": 100})
    return plan(whole, seen(platform=platform, related=versions), NOW)


def open_endpoint(platform: Platform) -> Plan:
    """No keys, one deployment, at a storage with a region."""
    abroad = replace(platform, storage_endpoint="", storage_region="eu-west-1")
    pickled = stored_version(1, format={"name": "pickle"}, allowCodeExecution=True)
    return plan(endpoint(authMode="none"), seen(platform=abroad, related=(pickled,)), NOW)


def collecting_endpoint(platform: Platform) -> Plan:
    """A tenth of the requests is kept, without two names' values, by a sidecar."""
    collector = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/", "redact": ["name", "age"]}
    return plan(endpoint(dataCollector=collector), seen(platform=platform, related=(stored_version(1),)), NOW)


def _split() -> Obj[OnlineEndpointSpec]:
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


TWO_VERSIONS = (stored_version(1), stored_version(2))


def split_endpoint(platform: Platform) -> Plan:
    """Behind the gateway: traffic to two deployments, copies to a third, and bounds on requests."""
    return plan(_split(), seen(platform=_routed(platform), related=TWO_VERSIONS), NOW)


def token_endpoint(platform: Platform) -> Plan:
    """Behind the gateway: tokens of an issuer, and TLS; the network policy was seen, and so its pods are made."""
    token = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwksUri": "https://id.example.com/keys"}
    whole = endpoint(authMode="token", token=token, tls={"secretName": "churn-tls"})
    policy = child("NetworkPolicy", "churn-gateway-only", whole)
    return plan(whole, seen(policy, platform=_routed(platform), related=(stored_version(1),)), NOW)


def gateway_api_endpoint(platform: Platform) -> Plan:
    """The same behind two Gateways of the installation; without its pods, which are the same."""
    public, inner = ParentRef("public", "infra", "https"), ParentRef("inner", port=8080)
    gateway = GatewayApi((public, inner), "https://{endpoint}.{namespace}.ml.example.com")
    whole = plan(_split(), seen(platform=replace(platform, gateway_api=gateway), related=TWO_VERSIONS), NOW)
    return replace(whole, apply=tuple(m for m in whole.apply if m["kind"] != "Deployment"), effects=())


def autoscaled_endpoint(platform: Platform) -> Plan:
    """As many pods as the CPU that they use calls for."""
    limits = {"minReplicas": 2, "maxReplicas": 8, "metric": "cpu", "target": 70}
    blue = {"name": "blue", "model": "churn@1", "resources": {"requests": {"cpu": "500m"}}, "autoscale": limits}
    return plan(endpoint(deployments=[blue]), seen(platform=platform, related=(stored_version(1),)), NOW)


def pooled_endpoint(platform: Platform) -> Plan:
    """A pool of the Models that are labelled tier: small, of which one has no version yet."""
    pool = {"selector": {"matchLabels": {"tier": "small"}}, "maxLoadedMebibytes": 512}
    whole = endpoint(deployments=[{"name": "many", "pool": pool, "replicas": 2}])
    models = [stored("Model", name, {}, labels={"tier": "small"}) for name in ("churn", "fraud")]
    related = (*models, stored_version(1, format={"name": "onnx"}))
    return plan(whole, seen(platform=platform, related=related), NOW)


def _with_own_code(source: Manifest, **fields: Any) -> Obj[OnlineEndpointSpec]:
    scoring = {"source": source, "entry": "score.py"}
    return endpoint(deployments=[{"name": "blue", "model": "churn@1", "scoring": scoring, **fields}])


def scoring_endpoint(platform: Platform) -> Plan:
    """A scoring script and its packages; variables, a volume and shared memory for it."""
    archive = {"uri": "s3://lake/team-a/environments/ours/environment.tar.zst", "digest": DIGEST, "bytes": 1000}
    ready = {"conditions": [{"type": "Ready", "status": "True", "message": ""}], **archive}
    built = stored("Environment", "ours", {"python": {"requirements": ["lightgbm"]}}, ready)
    whole = _with_own_code(
        {"inline": {"score.py": "def run(data): return data"}},
        environment={"name": "ours"},
        env=[{"name": "LEVEL", "value": 3}],
        envFrom=[{"configMapRef": {"name": "settings"}}],
        podTemplate={
            "nodeSelector": {"pool": "gpu"},
            "sharedMemory": "1Gi",
            "volumes": [{"claimName": "weights", "mountPath": "/mnt/weights"}],
        },
    )
    return plan(whole, seen(platform=platform, related=(stored_version(1), built)), NOW)


def scoring_endpoint_from_git(platform: Platform) -> Plan:
    """A scoring script in a private repository, and requirements that are not built yet."""
    git = {"url": "https://git.example.com/churn.git", "ref": "v1", "secretRef": {"name": "churn-git"}}
    waiting = plan(
        _with_own_code({"git": git}, environment={"requirementsFile": "requirements.txt"}),
        seen(platform=platform, related=(stored_version(1),)),
        NOW,
    )
    served = plan(_with_own_code({"git": git}), seen(platform=platform, related=(stored_version(1),)), NOW)
    return replace(served, create=waiting.create)


def container_endpoint(platform: Platform) -> Plan:
    """A container with a model and GPUs beside a model of the platform's server; the network policy was seen."""
    chat = {
        "name": "chat",
        "model": "churn@1",
        "container": {
            "image": "registry.example.com/chat:1",
            "args": ["--port=8000"],
            "ports": {"http": 8000, "grpc": 9001},
            "readiness": {"path": "/health"},
            "liveness": {"path": "/health", "periodSeconds": 30},
            "writable": ["/var/run"],
        },
        "env": [{"name": "MODE", "value": "fast"}],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "podTemplate": {"sharedMemory": "1Gi"},
        "requestSettings": {"timeoutSeconds": 600},
    }
    blue = {"name": "blue", "model": "churn@2"}
    whole = endpoint(deployments=[chat, blue], traffic={"chat": 90, "blue": 10})
    policy = child("NetworkPolicy", "churn-gateway-only", whole)
    return plan(whole, seen(policy, platform=_routed(platform), related=TWO_VERSIONS), NOW)


def collecting_container(platform: Platform) -> Plan:
    """A container without a model, and a relay before it that captures JSON."""
    server = {"image": "registry.example.com/chat:1", "ports": {"http": 8000}, "readiness": {"path": "/health"}}
    collector = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/"}
    whole = endpoint(deployments=[{"name": "chat", "container": server}], dataCollector=collector)
    policy = child("NetworkPolicy", "churn-gateway-only", whole)
    return plan(whole, seen(policy, platform=_routed(platform)), NOW)


SAMPLES: tuple[Sample, ...] = (
    endpoint_with_keys,
    open_endpoint,
    split_endpoint,
    gateway_api_endpoint,
    token_endpoint,
    autoscaled_endpoint,
    collecting_endpoint,
    pooled_endpoint,
    scoring_endpoint,
    scoring_endpoint_from_git,
    container_endpoint,
    collecting_container,
)
