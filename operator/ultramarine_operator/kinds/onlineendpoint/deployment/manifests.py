"""The pods of an OnlineEndpoint: a Deployment for each of its deployments, and disruption budgets. No I/O here."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.model import ModelVersionSpec, version_name
from ultramarine.resources.onlineendpoint import Batching, EndpointDeployment, OnlineEndpointSpec, RequestSettings
from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, Manifest, child_labels, child_metadata, content_hash
from ultramarine_contract.serving_records import CollectTask, ServingTask

from ....shared.plan import Obj, Platform
from ....shared.podspec import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    placed,
    pull_secrets,
    scratch,
    storage_env,
    tls_mounts,
    tls_volumes,
    with_disk,
)

Endpoint = Obj[OnlineEndpointSpec]

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_GATEWAY_ONLY = f"{GROUP}/gateway-only"  # on pods that answer the gateway alone, since it has asked for a token
ANNOTATION_REVISION = f"{GROUP}/revision"
ANNOTATION_VERSION = f"{GROUP}/model-version"  # on the Deployment what is wanted, on a pod what it serves
SERVER, TMP = "server", "tmp"
PORT = 8080
GRPC_PORT = 9000  # not among the container's ports, which only inform: a new one there would restart every live pod
DRAIN_SECONDS = 10  # a pod goes on serving this long after it was told to stop, until every proxy has forgotten it


def keys_secret(endpoint: Endpoint) -> str:
    """The name of the Secret with the endpoint's keys, or nothing if everybody may ask."""
    if endpoint.spec.auth_mode != "key":
        return ""
    return endpoint.spec.keys_secret_ref.name if endpoint.spec.keys_secret_ref else f"{endpoint.name}-keys"


def proof_secret(endpoint: Endpoint) -> str:
    """The name of the Secret by which the gateway proves itself to pods that cannot check a token, where these are."""
    return f"{endpoint.name}-gateway" if endpoint.spec.auth_mode == "token" else ""


def pods_secret(endpoint: Endpoint) -> str:
    """The name of the Secret with what opens the pods, or nothing if everybody may ask them."""
    return proof_secret(endpoint) or keys_secret(endpoint)


def pods_ask(endpoint: Endpoint) -> str:
    """What the pods themselves ask of a request: they check keys, and leave tokens to the gateway."""
    return {"key": "key", "token": "gateway", "none": "none"}[endpoint.spec.auth_mode]


def asks_proof(endpoint: Endpoint, live: Manifest) -> bool:
    """Whether the pods of a Deployment, as seen, ask the gateway to prove itself."""
    volumes = live["spec"]["template"]["spec"].get("volumes") or []
    return any((each.get("secret") or {}).get("secretName") == proof_secret(endpoint) for each in volumes)


def gateway_only(endpoint: Endpoint) -> dict[str, str]:
    """The label of pods that the gateway alone may ask, where the endpoint's are such."""
    return {LABEL_GATEWAY_ONLY: "true"} if proof_secret(endpoint) else {}


def selector(endpoint: Endpoint, deployment: str) -> dict[str, str]:
    """The labels of the pods of one deployment."""
    return {**child_labels("OnlineEndpoint", endpoint.name), LABEL_DEPLOYMENT: deployment}


def deployment_name(endpoint: Endpoint, deployment: str) -> str:
    """The name of the Deployment of a deployment."""
    return f"{endpoint.name}-{deployment}"


def serving_task(endpoint: Endpoint, deployment: EndpointDeployment, model: ModelVersionSpec) -> ServingTask:
    """What the pods have to load, and how they answer."""
    return ServingTask(
        model=model.model,
        version=model.version,
        uri=model.uri,
        digest=model.digest,
        format=model.format.name,
        allow_code_execution=model.allow_code_execution,
        auth=pods_ask(endpoint),
        signature=model.signature.model_dump(by_alias=True) if model.signature else None,
        warmup=deployment.warmup.request if deployment.warmup else "",
        collect=collect_task(endpoint, deployment),
        **request_bounds(deployment),
    )


def request_bounds(deployment: EndpointDeployment) -> dict[str, Any]:
    """The fields of a serving task that bound the requests."""
    settings, batching = deployment.request_settings or RequestSettings(), deployment.batching or Batching()
    return {
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_queue_milliseconds": settings.max_queue_milliseconds,
        "timeout_seconds": settings.timeout_seconds,
        "max_batch_size": batching.max_batch_size,
        "max_latency_milliseconds": batching.max_latency_milliseconds,
    }


def server_deployment(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    model: ModelVersionSpec,
    platform: Platform,
    live: Manifest | None,
) -> Manifest:
    """The Deployment whose pods serve `model`.

    A live one that is well keeps its server image, and its limit on the node's disk, until something that its author
    can see changes: a new release of the platform does not restart every model that is served, but may be the cure for
    one that is not.
    """
    task, version = serving_task(endpoint, deployment, model).to_json(), version_name(model.model, model.version)
    return deployment_of(endpoint, deployment, task, {ANNOTATION_VERSION: version}, platform, live)


def deployment_of(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    task: str,
    version: dict[str, str],
    platform: Platform,
    live: Manifest | None,
) -> Manifest:
    """The Deployment whose pods do a serving task; `version` annotates it and them, with what they serve."""
    labels = selector(endpoint, deployment.name)
    asked = [task, deployment.resources.model_dump(mode="json"), pods_secret(endpoint)]
    # Only where there is one, so that others keep their revision.
    revision = content_hash([*asked, *gateway_only(endpoint), *(["tls"] if platform.tls else [])])[:16]
    image, disk = platform.server_image, platform.serving_disk
    if (
        live is not None
        and _is_well(live)
        and (live["metadata"].get("annotations") or {}).get(ANNOTATION_REVISION) == revision
    ):
        pod = live["spec"]["template"]["spec"]
        image = next((c["image"] for c in pod["containers"] if c.get("name") == SERVER), image)
        folders = {volume["name"]: volume.get("emptyDir") or {} for volume in pod.get("volumes") or []}
        disk = str(folders.get(TMP, {}).get("sizeLimit", ""))
    metadata = child_metadata(endpoint.manifest, deployment_name(endpoint, deployment.name))
    metadata["labels"] = labels
    metadata["annotations"] = {ANNOTATION_REVISION: revision, **version}
    # An empty map is not kept by the API server, and would be missed, and written, in each pass.
    annotated = {"annotations": version} if version else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": deployment.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": {"labels": {**labels, **gateway_only(endpoint)}, **annotated},
                "spec": pod_spec(endpoint, deployment, task, image, disk, platform),
            },
        },
    }


def _is_well(live: Manifest) -> bool:
    """Whether a Deployment, as seen, has no pods but new ones, and some of them are available."""
    status = live.get("status") or {}
    return (status.get("replicas") or 0) == (status.get("updatedReplicas") or 0) and bool(
        status.get("availableReplicas")
    )


def pod_spec(
    endpoint: Endpoint, deployment: EndpointDeployment, task: str, image: str, disk: str, platform: Platform
) -> Manifest:
    """A first container fetches the model with the storage keys; the serving one never sees them.

    `disk` is the most of the node's disk that it may use where its author says nothing; none for pods of an older
    release.
    """
    resources = with_disk(deployment.resources.model_dump(by_alias=True, exclude_defaults=True), disk)
    volumes = [scratch("model", resources if disk else {}), scratch(TMP, resources if disk else {})]
    tmp = {"name": TMP, "mountPath": "/tmp"}
    mounts: list[Manifest] = [{"name": "model", "mountPath": contract.MODEL_DIR, "readOnly": True}, tmp]
    if secret := pods_secret(endpoint):
        # Optional, so that the server starts without it and says so; else the pod would hang, and only Events say why.
        volumes.append({"name": "keys", "secret": {"secretName": secret, "defaultMode": 0o440, "optional": True}})
        mounts.append({"name": "keys", "mountPath": contract.KEYS_DIR, "readOnly": True})
    volumes += tls_volumes(platform, SERVER)
    mounts += tls_mounts(platform, SERVER)
    sidecars: list[Manifest] = []
    if endpoint.spec.data_collector is not None:
        volumes.append(CAPTURES)
        mounts.append(CAPTURES_MOUNT)
        sidecars.append(collector(task, image, disk, platform))
    scheme = {"scheme": "HTTPS"} if platform.tls else {}
    ready = {"path": "/v2/health/ready", "port": PORT, **scheme}
    live = {"path": "/v2/health/live", "port": PORT, **scheme}
    common: Manifest = {
        "image": image,
        "imagePullPolicy": platform.image_pull_policy,
        "resources": resources,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "automountServiceAccountToken": False,
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **placed(platform.pods.serving),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + 50,
        "initContainers": [
            {
                "name": "fetch",
                **common,
                "command": ["ultramarine-server", "fetch"],
                "env": [{"name": contract.ENV_TASK, "value": task}, *storage_env(platform)],
                "envFrom": [{"secretRef": {"name": platform.storage_secret}}],
                "volumeMounts": [{"name": "model", "mountPath": contract.MODEL_DIR}, tmp, *tls_mounts(platform)],
            },
            *sidecars,
        ],
        "containers": [
            {
                "name": SERVER,
                **common,
                "command": ["ultramarine-server", "serve", *(["--tls-dir", contract.TLS_DIR] if platform.tls else [])],
                "env": [{"name": contract.ENV_TASK, "value": task}],
                "ports": [{"name": "http", "containerPort": PORT}],
                "volumeMounts": mounts,
                "startupProbe": {"httpGet": ready, "periodSeconds": 1, "failureThreshold": 300},
                "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
                "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
                "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
            }
        ],
        "volumes": volumes,
    }


def has_tls(pod: Manifest) -> bool:
    """True if the server of a pod, as seen, speaks TLS."""
    servers = [each for each in pod["spec"].get("containers") or [] if each.get("name") == SERVER]
    return any(each["mountPath"] == contract.TLS_DIR for server in servers for each in server.get("volumeMounts") or [])


def may_sleep(deployment: EndpointDeployment) -> bool:
    """Whether a deployment may have no pod at all while nobody asks it."""
    return deployment.autoscale is not None and deployment.autoscale.min_replicas == 0


def disruption_budget(endpoint: Endpoint, deployment: EndpointDeployment) -> Manifest | None:
    """Let a node drain take one pod at a time; a single pod has none, since it would block the drain for ever."""
    if deployment.replicas < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(endpoint.manifest, deployment_name(endpoint, deployment.name)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(endpoint, deployment.name)}},
    }


def pod_autoscaler(endpoint: Endpoint, deployment: EndpointDeployment) -> Manifest | None:
    """Kubernetes' own autoscaler, where the CPU that the pods use decides how many there are."""
    wish = deployment.autoscale
    if wish is None or wish.metric != "cpu":
        return None
    name = deployment_name(endpoint, deployment.name)
    target = {"type": "Utilization", "averageUtilization": wish.target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": child_metadata(endpoint.manifest, name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": wish.min_replicas,
            "maxReplicas": wish.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": wish.scale_down_after_seconds}},
        },
    }


# The server keeps at most 64 MiB there, and the collector 4 MiB more: the kubelet would end the pod at this.
CAPTURES: Manifest = {"name": "captures", "emptyDir": {"sizeLimit": "128Mi"}}
CAPTURES_MOUNT: Manifest = {"name": "captures", "mountPath": contract.CAPTURES_DIR}
# Not the deployment's own, which are what the model takes.
RESOURCES: Manifest = {
    "requests": {"cpu": "20m", "memory": "128Mi"},
    "limits": {"cpu": "500m", "memory": "256Mi"},
}

DISK_FOR_LOGS = "1Gi"


def collect_task(endpoint: Endpoint, deployment: EndpointDeployment) -> CollectTask | None:
    """What is kept of the requests to a deployment."""
    wanted = endpoint.spec.data_collector
    if wanted is None:
        return None
    names = tuple(sorted(wanted.redact))
    return CollectTask(endpoint.name, deployment.name, wanted.uri, wanted.sampling_rate, names)


def collector(task: str, image: str, disk: str, platform: Platform) -> Manifest:
    """The container that stores what the server has captured; it has the storage keys, the server has not.

    As a sidecar it is told to end when the server has ended, so it gets what was captured until then. It shares no
    more with the server than the captures: not /tmp, where a model's code could write a configuration of boto3's.
    """
    return {
        "name": "collect",
        "image": image,
        "imagePullPolicy": platform.image_pull_policy,
        "restartPolicy": "Always",
        "resources": with_disk(RESOURCES, DISK_FOR_LOGS if disk else ""),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["ultramarine-server", "collect"],
        "env": [
            {"name": contract.ENV_TASK, "value": task},
            {"name": contract.ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *storage_env(platform),
        ],
        "envFrom": [{"secretRef": {"name": platform.storage_secret}}],
        "volumeMounts": [CAPTURES_MOUNT, *tls_mounts(platform)],
    }
