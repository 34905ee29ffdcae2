"""Sidecars of a deployment whose requests are captured: the collector, and the relay before an author's container."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.onlineendpoint_container import ContainerPorts
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.serving_records import CollectTask

from ....shared.plan import Platform
from ....shared.podspec import locked_container, storage_env, tls_mounts, with_disk
from ..endpoint import Endpoint

COLLECT, RELAY = "collect", "relay"  # containers
# The server keeps at most 64 MiB in it, and the collector 4 MiB more; the kubelet evicts the pod at the limit.
CAPTURES: Manifest = {"name": "captures", "emptyDir": {"sizeLimit": "128Mi"}}
CAPTURES_MOUNT: Manifest = {"name": "captures", "mountPath": contract.CAPTURES_DIR}
# The deployment's own resources are those of the model.
COLLECTOR_RESOURCES: Manifest = {
    "requests": {"cpu": "20m", "memory": "128Mi"},
    "limits": {"cpu": "500m", "memory": "256Mi"},
}
DISK_FOR_LOGS = "1Gi"
ENV_POD_IP = "ULTRAMARINE_POD_IP"
RELAY_PORTS = (9903, 9904, 9905)  # a container has at most two of them
RELAY_RESOURCES: Manifest = {
    "requests": {"cpu": "20m", "memory": "96Mi"},
    "limits": {"cpu": "1", "memory": "256Mi"},
}


def collect_task(endpoint: Endpoint, deployment: EndpointDeployment) -> CollectTask | None:
    """Return the sample of requests to keep; None if none is kept."""
    collect = endpoint.spec.data_collector
    if collect is None:
        return None
    redacted = tuple(sorted(collect.redact))
    return CollectTask(endpoint.name, deployment.name, collect.uri, collect.sampling_rate, redacted)


def collector(task: str, image: str, disk: str, platform: Platform) -> Manifest:
    """Return the container that stores captured requests; unlike the server, it has the storage keys.

    As a sidecar it ends after the server, so it stores the last captures too. It shares only the captures with the
    server, and not /tmp, where a model's code could write a configuration of boto3.
    """
    return _sidecar(
        COLLECT,
        COLLECTOR_RESOURCES,
        image,
        disk,
        platform,
        command=["ultramarine-server", COLLECT],
        env=[
            {"name": contract.ENV_TASK, "value": task},
            {"name": contract.ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *storage_env(platform),
        ],
        envFrom=[{"secretRef": {"name": platform.storage_secret}}],
        volumeMounts=[CAPTURES_MOUNT, *tls_mounts(platform)],
    )


def relay(ports: ContainerPorts, task: str, image: str, disk: str, platform: Platform) -> Manifest:
    """Return the container through which the gateway reaches an author's container, and which captures requests.

    It has no storage keys. It connects to the pod's address, since a server may trust clients on loopback.
    """
    port = next(port for port in RELAY_PORTS if port not in (ports.http, ports.grpc))
    to = ["--to-host", f"$({ENV_POD_IP})", "--to-port", str(ports.http)]
    return _sidecar(
        RELAY,
        RELAY_RESOURCES,
        image,
        disk,
        platform,
        command=["ultramarine-server", RELAY, "--port", str(port), *to],
        env=[
            {"name": contract.ENV_TASK, "value": task},
            {"name": ENV_POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        ports=[{"name": "http", "containerPort": port}],
        startupProbe={"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 60},
        volumeMounts=[CAPTURES_MOUNT],
    )


def _sidecar(name: str, resources: Manifest, image: str, disk: str, platform: Platform, **fields: Any) -> Manifest:
    disk_limit = DISK_FOR_LOGS if disk else ""
    return locked_container(platform, name, image, with_disk(resources, disk_limit), restartPolicy="Always", **fields)
