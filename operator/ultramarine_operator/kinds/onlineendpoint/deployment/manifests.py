"""Kubernetes objects of a deployment: Deployment, disruption budget and autoscaler."""

from __future__ import annotations

from typing import Any, NamedTuple

from ultramarine.resources.model import ModelVersionSpec, version_name
from ultramarine.resources.onlineendpoint_deployment import Batching, EndpointDeployment, RequestSettings
from ultramarine_contract import common as contract
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.meta import Manifest, child_metadata, content_hash
from ultramarine_contract.serving_records import ServingTask

from ....shared.plan import Platform
from ....shared.podspec import (
    POD_SECURITY,
    locked_container,
    placed,
    pull_secrets,
    scratch,
    storage_env,
    tls_mounts,
    tls_volumes,
    with_disk,
)
from ..endpoint import (
    ANNOTATION_ENVIRONMENT,
    ANNOTATION_REVISION,
    ANNOTATION_VERSION,
    PORT,
    Endpoint,
    deployment_name,
    gateway_only,
    pods_secret,
    proof_secret,
    selector,
)
from .own_code import SERVER, SOURCE, TMP, add_own_code, image_of, revision_inputs, scoring_task
from .sidecars import CAPTURES, CAPTURES_MOUNT, COLLECT, collect_task, collector, relay

FETCH = "fetch"
DRAIN_SECONDS = 10  # a pod serves on for this long after its termination began, until every proxy has noticed


class PodEnvironment(NamedTuple):
    """Environment of pods: its name, the archive that they unpack, and its own base image; empty without one."""

    name: str = ""
    archive: EnvironmentArchive | None = None
    image: str = ""


NO_ENVIRONMENT = PodEnvironment()


def pods_auth(endpoint: Endpoint) -> str:
    """Return how the pods authenticate requests: they check keys, and leave tokens to the gateway."""
    return {"key": "key", "token": "gateway", "none": "none"}[endpoint.spec.auth_mode]


def needs_proof(endpoint: Endpoint, live: Manifest) -> bool:
    """True if the pods of a live Deployment expect the gateway to authenticate."""
    volumes = live["spec"]["template"]["spec"].get("volumes") or []
    return any((volume.get("secret") or {}).get("secretName") == proof_secret(endpoint) for volume in volumes)


def serving_task(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    model: ModelVersionSpec,
    environment: EnvironmentArchive | None = None,
) -> ServingTask:
    """Return the model that the pods load, and how they serve it."""
    return ServingTask(
        model=model.model,
        version=model.version,
        uri=model.uri,
        digest=model.digest,
        format=model.format.name,
        allow_code_execution=model.allow_code_execution,
        auth=pods_auth(endpoint),
        signature=model.signature.model_dump(by_alias=True) if model.signature else None,
        warmup=deployment.warmup.request if deployment.warmup else "",
        collect=collect_task(endpoint, deployment),
        environment=environment,
        scoring=scoring_task(deployment),
        **request_bounds(deployment),
    )


def request_bounds(deployment: EndpointDeployment) -> dict[str, Any]:
    """Return the fields of a serving task that limit requests."""
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
    environment: PodEnvironment = NO_ENVIRONMENT,
) -> Manifest:
    """Return the Deployment whose pods serve `model`.

    A healthy live Deployment keeps its server image and its disk limit until its spec changes. So a new release of the
    platform restarts no healthy model, and may repair one that is not healthy.
    """
    version = {ANNOTATION_VERSION: version_name(model.model, model.version)}
    task = serving_task(endpoint, deployment, model, environment.archive).to_json()
    made = deployment_of(endpoint, deployment, task, version, platform, live, environment.image)
    if environment.name:
        made["metadata"]["annotations"][ANNOTATION_ENVIRONMENT] = environment.name
    return made


def deployment_of(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    task: str,
    version: dict[str, str],
    platform: Platform,
    live: Manifest | None,
    own_image: str = "",
) -> Manifest:
    """Return the Deployment whose pods run a serving task; `version` is its annotation and theirs.

    `own_image` is what the server runs in instead of the platform's image.
    """
    labels = selector(endpoint, deployment.name)
    inputs = [task, deployment.resources.model_dump(mode="json"), pods_secret(endpoint)]
    # Added only if set, so that other endpoints keep their revision.
    optional = [
        *gateway_only(endpoint, deployment),
        *(["tls"] if platform.tls else []),
        *revision_inputs(endpoint, deployment),
        *([own_image] if own_image else []),
    ]
    revision = content_hash([*inputs, *optional])[:16]
    image, disk, trainer = platform.server_image, platform.serving_disk, platform.trainer_image
    if (
        live is not None
        and _is_healthy(live)
        and (live["metadata"].get("annotations") or {}).get(ANNOTATION_REVISION) == revision
    ):
        image = image_of(live, FETCH) or image_of(live, COLLECT) or image
        folders = {v["name"]: v.get("emptyDir") or {} for v in live["spec"]["template"]["spec"].get("volumes") or []}
        disk = str(folders.get(TMP, {}).get("sizeLimit", ""))
        trainer = image_of(live, SOURCE) or trainer
    pod = pod_spec(endpoint, deployment, task, image, disk, platform)
    if own_image:
        pod["containers"][0]["image"] = own_image
    add_own_code(pod, endpoint, deployment, platform, trainer)
    metadata = child_metadata(endpoint.manifest, deployment_name(endpoint, deployment.name))
    metadata["labels"] = labels
    metadata["annotations"] = {ANNOTATION_REVISION: revision, **version}
    # The API server drops an empty map, and every pass would write it again.
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
                "metadata": {"labels": {**labels, **gateway_only(endpoint, deployment)}, **annotated},
                "spec": pod,
            },
        },
    }


def _is_healthy(live: Manifest) -> bool:
    """True if a live Deployment has only new pods, and at least one is available."""
    status = live.get("status") or {}
    return (status.get("replicas") or 0) == (status.get("updatedReplicas") or 0) and bool(
        status.get("availableReplicas")
    )


def pod_spec(
    endpoint: Endpoint, deployment: EndpointDeployment, task: str, image: str, disk: str, platform: Platform
) -> Manifest:
    """Return the pod; an init container fetches the model, and the server never sees the storage keys.

    `disk` is the default limit on the node's disk; empty for pods of an older release.
    """
    resources = with_disk(deployment.resources.model_dump(by_alias=True, exclude_defaults=True), disk)
    volumes = [scratch("model", resources if disk else {}), scratch(TMP, resources if disk else {})]
    tmp = {"name": TMP, "mountPath": "/tmp"}
    mounts: list[Manifest] = [{"name": "model", "mountPath": contract.MODEL_DIR, "readOnly": True}, tmp]
    if secret := pods_secret(endpoint):
        # Optional, so that the server starts without it and reports it; otherwise only Events would tell.
        volumes.append({"name": "keys", "secret": {"secretName": secret, "defaultMode": 0o440, "optional": True}})
        mounts.append({"name": "keys", "mountPath": contract.KEYS_DIR, "readOnly": True})
    volumes += tls_volumes(platform, SERVER)
    mounts += tls_mounts(platform, SERVER)
    sidecars: list[Manifest] = []
    if endpoint.spec.data_collector is not None:
        volumes.append(CAPTURES)
        mounts.append(CAPTURES_MOUNT)
        sidecars.append(collector(task, image, disk, platform))
        if deployment.container is not None:
            sidecars.append(relay(deployment.container.ports, task, image, disk, platform))
    scheme = {"scheme": "HTTPS"} if platform.tls else {}
    ready = {"path": "/v2/health/ready", "port": PORT, **scheme}
    live = {"path": "/v2/health/live", "port": PORT, **scheme}
    fetch = locked_container(
        platform,
        FETCH,
        image,
        resources,
        command=["ultramarine-server", "fetch"],
        env=[{"name": contract.ENV_TASK, "value": task}, *storage_env(platform)],
        envFrom=[{"secretRef": {"name": platform.storage_secret}}],
        volumeMounts=[{"name": "model", "mountPath": contract.MODEL_DIR}, tmp, *tls_mounts(platform)],
    )
    server = locked_container(
        platform,
        SERVER,
        image,
        resources,
        command=["ultramarine-server", "serve", *(["--tls-dir", contract.TLS_DIR] if platform.tls else [])],
        env=[{"name": contract.ENV_TASK, "value": task}],
        ports=[{"name": "http", "containerPort": PORT}],
        volumeMounts=mounts,
        startupProbe={"httpGet": ready, "periodSeconds": 1, "failureThreshold": 300},
        readinessProbe={"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
        livenessProbe={"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        lifecycle={"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    )
    return {
        # The token is for own code that asks for an identity of its own.
        "automountServiceAccountToken": bool(deployment.pod_template.service_account_name),
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **placed(platform.pods.serving, deployment.pod_template),
        "terminationGracePeriodSeconds": DRAIN_SECONDS + 50,
        "initContainers": [fetch, *sidecars],
        "containers": [server],
        "volumes": volumes,
    }


def has_tls(pod: Manifest) -> bool:
    """True if the server of a live pod speaks TLS."""
    servers = [container for container in pod["spec"].get("containers") or [] if container.get("name") == SERVER]
    mounts = [mount for server in servers for mount in server.get("volumeMounts") or []]
    return any(mount["mountPath"] == contract.TLS_DIR for mount in mounts)


def disruption_budget(endpoint: Endpoint, deployment: EndpointDeployment) -> Manifest | None:
    """Return a budget of one pod at a time for a node drain; None for a single pod, which would block the drain."""
    if deployment.replicas < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(endpoint.manifest, deployment_name(endpoint, deployment.name)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(endpoint, deployment.name)}},
    }


def pod_autoscaler(endpoint: Endpoint, deployment: EndpointDeployment) -> Manifest | None:
    """Return the HorizontalPodAutoscaler; None unless the deployment scales by CPU."""
    autoscale = deployment.autoscale
    if autoscale is None or autoscale.metric != "cpu":
        return None
    name = deployment_name(endpoint, deployment.name)
    target = {"type": "Utilization", "averageUtilization": autoscale.target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": child_metadata(endpoint.manifest, name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": autoscale.min_replicas,
            "maxReplicas": autoscale.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": autoscale.scale_down_after_seconds}},
        },
    }
