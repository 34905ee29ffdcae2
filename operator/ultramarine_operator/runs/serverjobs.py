"""Jobs that run a command of the server's image on the files of a version. No I/O here."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ..shared.plan import Obj, Platform
from ..shared.podspec import locked_container, platform_job, platform_pod, scratch, with_disk

DEADLINE_SECONDS = 1800  # from the Job's start, whatever its pods wait for: then the native model is served
RETRIES = 2
# Little is asked for, so that compiling takes what others leave; without requests and limits a quota admits no pod.
RESOURCES: Manifest = {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
KEPT_SECONDS = 600  # after its end, for a look at the log
TMP = {"name": "tmp", "mountPath": "/tmp"}


def server_job(owner: Obj[Any], name: str, pod: Manifest) -> Manifest:
    """Return a Job of an owner with that pod."""
    return platform_job(
        owner.manifest, name, pod, retries=RETRIES, deadline_seconds=DEADLINE_SECONDS, kept_seconds=KEPT_SECONDS
    )


def server_container(command: str, platform: Platform) -> Manifest:
    """Return a container that runs `ultramarine-server COMMAND`."""
    resources = with_disk(RESOURCES, platform.serving_disk)
    run = ["ultramarine-server", command]
    return locked_container(platform, command, platform.server_image, resources, command=run)


def storage_keys(platform: Platform) -> Manifest:
    """Return the field of a container that gets the storage keys of its namespace."""
    return {"envFrom": [{"secretRef": {"name": platform.storage_secret}}]}


def server_pod(platform: Platform, *, volumes: tuple[str, ...], **containers: list[Manifest]) -> Manifest:
    """Return a pod with empty folders as its volumes."""
    folders = [scratch(name, with_disk(RESOURCES, platform.serving_disk)) for name in volumes]
    return platform_pod(platform, platform.pods.serving, **containers, volumes=folders)
