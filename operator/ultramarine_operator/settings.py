"""The operator's settings, each from one environment variable; the chart sets them from its values."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from .shared.plan import GatewayApi, MadePods, ParentRef, Platform


@dataclass(frozen=True)
class Settings:
    """What one replica of the operator has to know."""

    namespaces: tuple[str, ...]  # ULTRAMARINE_NAMESPACES: comma-separated; `*` for the whole cluster; default: its own
    own_namespace: str  # where the Lease is
    identity: str  # HOSTNAME: the pod's name, which the Lease shows
    port: int  # ULTRAMARINE_PORT: /healthz, /readyz, /metrics, and /progress where pods may post it
    platform: Platform

    @property
    def clusterwide(self) -> bool:
        return self.namespaces == ("*",)


def _gateway_api(text: str) -> GatewayApi | None:
    """Read the chart's value gatewayApi, as JSON; nothing where it names no Gateway."""
    try:
        said = json.loads(text or "{}")
        parents = tuple(
            ParentRef(str(p["name"]), str(p.get("namespace", "")), str(p.get("sectionName", "")), int(p.get("port", 0)))
            for p in said.get("parentRefs") or ()
        )
        found = GatewayApi(parents, str(said.get("url", "")), said.get("grpc", True) is True) if parents else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the environment variable ULTRAMARINE_GATEWAY_API cannot be read: {error!r}") from error
    if found and not all(part in found.url for part in ("://", "{endpoint}", "{namespace}")):
        raise ValueError(
            "the environment variable ULTRAMARINE_GATEWAY_API needs a url such as "
            f"https://{{endpoint}}.{{namespace}}.ml.example.com, not {found.url!r}"
        )
    return found


def _made_pods(text: str) -> MadePods:
    """Read what the chart says of pods that the operator makes, as JSON."""
    try:
        said = json.loads(text or "{}")
        return MadePods(**{**said, "env": tuple(said.get("env") or ())})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the environment variable ULTRAMARINE_PODS cannot be read: {error!r}") from error


def from_environment(own_namespace: str) -> Settings:
    """Read the settings. Raises ValueError naming the variable that is missing or wrong."""

    def need(name: str) -> str:
        value = os.environ.get(name, "")
        if not value:
            raise ValueError(f"the environment variable {name} is not set; the Helm chart sets it from its values")
        return value

    names = os.environ.get("ULTRAMARINE_NAMESPACES", "") or own_namespace
    port = os.environ.get("ULTRAMARINE_PORT", "8080")
    if not port.isdigit():
        raise ValueError(f"the environment variable ULTRAMARINE_PORT must be a port number, not {port!r}")
    if "*" in names and names.strip() != "*":
        raise ValueError(f"the environment variable ULTRAMARINE_NAMESPACES is * or a list of names, not {names!r}")
    gateway = os.environ.get("ULTRAMARINE_GATEWAY", "")
    if gateway and not gateway.rpartition(":")[2].isdigit():
        raise ValueError(f"the environment variable ULTRAMARINE_GATEWAY must be HOST:PORT, not {gateway!r}")
    return Settings(
        namespaces=tuple(sorted({name.strip() for name in names.split(",") if name.strip()})),
        own_namespace=own_namespace,
        identity=os.environ.get("HOSTNAME") or socket.gethostname(),
        port=int(port),
        platform=Platform(
            trainer_image=need("ULTRAMARINE_TRAINER_IMAGE"),
            server_image=need("ULTRAMARINE_SERVER_IMAGE"),
            storage_endpoint=os.environ.get("ULTRAMARINE_STORAGE_ENDPOINT", ""),
            storage_region=os.environ.get("ULTRAMARINE_STORAGE_REGION", ""),
            storage_bucket=need("ULTRAMARINE_STORAGE_BUCKET"),
            storage_secret=need("ULTRAMARINE_STORAGE_SECRET"),
            image_pull_policy=os.environ.get("ULTRAMARINE_IMAGE_PULL_POLICY", "IfNotPresent"),
            image_pull_secrets=tuple(filter(None, os.environ.get("ULTRAMARINE_IMAGE_PULL_SECRETS", "").split(","))),
            training_disk=os.environ.get("ULTRAMARINE_TRAINING_EPHEMERAL_STORAGE", ""),
            serving_disk=os.environ.get("ULTRAMARINE_SERVING_EPHEMERAL_STORAGE", ""),
            storage_confined=os.environ.get("ULTRAMARINE_STORAGE_CONFINED", "") == "true",
            username=f"system:serviceaccount:{own_namespace}:ultramarine-operator",
            knows_requester=os.environ.get("ULTRAMARINE_KNOWS_REQUESTER", "") == "true",
            progress_url=os.environ.get("ULTRAMARINE_PROGRESS_URL", "").rstrip("/"),
            mlflow_uri=os.environ.get("ULTRAMARINE_MLFLOW_URI", "").rstrip("/"),
            mlflow_secret=os.environ.get("ULTRAMARINE_MLFLOW_SECRET", ""),
            gateway=gateway,
            tls=os.environ.get("ULTRAMARINE_TLS", "") == "true",
            gateway_namespaces=frozenset(filter(None, os.environ.get("ULTRAMARINE_GATEWAY_NAMESPACES", "").split(","))),
            pods=_made_pods(os.environ.get("ULTRAMARINE_PODS", "")),
            gateway_api=_gateway_api(os.environ.get("ULTRAMARINE_GATEWAY_API", "")),
        ),
    )
