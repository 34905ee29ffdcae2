"""What a pod of an OnlineEndpoint has for its data collector: a container that stores. No I/O here."""

from __future__ import annotations

from ultramarine.resources.onlineendpoint import EndpointDeployment, OnlineEndpointSpec
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.serving_records import CollectTask

from ...shared.plan import Obj, Platform
from ...shared.podspec import CONTAINER_SECURITY, storage_env, tls_mounts, with_disk

# The server keeps at most 64 MiB there, and the collector 4 MiB more: the kubelet would end the pod at this.
CAPTURES: Manifest = {"name": "captures", "emptyDir": {"sizeLimit": "128Mi"}}
CAPTURES_MOUNT: Manifest = {"name": "captures", "mountPath": contract.CAPTURES_DIR}
# Not the deployment's own, which are what the model takes.
RESOURCES: Manifest = {
    "requests": {"cpu": "20m", "memory": "128Mi"},
    "limits": {"cpu": "500m", "memory": "256Mi"},
}

DISK_FOR_LOGS = "1Gi"


def collect_task(endpoint: Obj[OnlineEndpointSpec], deployment: EndpointDeployment) -> CollectTask | None:
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
