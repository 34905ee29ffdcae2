"""Parts of the pods that the operator makes: lock-down, placement, variables of the storage, certificates, disk."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ultramarine.resources.pods import PodTemplate
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest, child_labels, child_metadata
from ultramarine_contract.quantities import amount
from ultramarine_contract.tls import AUTHORITY

from .plan import Platform

USER = 65532  # any number but 0: the images name the same one

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pull_secrets(platform: Platform) -> Manifest:
    """Return the pod's Secrets for a private registry, if the installation has any."""
    names = [{"name": name} for name in platform.image_pull_secrets]
    return {"imagePullSecrets": names} if names else {}


def placed(defaults: Manifest, template: PodTemplate | None = None) -> Manifest:
    """Return the author's fields of a pod, together with the installation's node labels and tolerations."""
    not_fields = {"shared_memory", "volumes"}  # see `template_volumes`
    own = template.model_dump(by_alias=True, exclude_defaults=True, exclude=not_fields) if template else {}
    selector = {**defaults.get("nodeSelector", {}), **own.get("nodeSelector", {})}
    chosen = own.get("tolerations", [])
    tolerations = [*chosen, *(default for default in defaults.get("tolerations", []) if default not in chosen)]
    fields = {"nodeSelector": selector, "tolerations": tolerations}
    return {**own, **{name: value for name, value in fields.items() if value}}


def template_volumes(template: PodTemplate) -> tuple[list[Manifest], list[Manifest]]:
    """Return the author's volumes of a pod, shared memory among them, and their mounts."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    for number, volume in enumerate(template.volumes):
        claim = {"claimName": volume.claim_name}
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": claim})
        read_only = {"readOnly": True} if volume.read_only else {}
        mounts.append({"name": f"claim-{number}", "mountPath": volume.mount_path, **read_only})
    if template.shared_memory is not None:
        size = str(template.shared_memory)
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return volumes, mounts


def outside_env(platform: Platform, authors: Collection[str] = ()) -> list[Manifest]:
    """Return proxies and the file with authorities, except variables that the author sets."""
    return [dict(variable) for variable in platform.pods.env if variable["name"] not in authors]


def storage_env(platform: Platform, authors: Collection[str] = ()) -> list[Manifest]:
    """Return the address of the object storage and the proxies; the keys come from the storage Secret."""
    own = platform.tls and platform.storage_confined
    authority = [{"name": contract.ENV_STORAGE_CA, "value": f"{contract.TLS_DIR}/{AUTHORITY}"}] if own else []
    return [
        {"name": contract.ENV_STORAGE_ENDPOINT, "value": platform.storage_endpoint},
        {"name": contract.ENV_STORAGE_REGION, "value": platform.storage_region},
        *authority,
        *outside_env(platform, authors),
    ]


def tls_volumes(platform: Platform, *servers: str) -> list[Manifest]:
    """Return the volumes of the platform's authority and of the pod's own certificates, if TLS is on.

    The authorities of external services come first, if the installation has any.
    """
    outside = _optional(platform.pods.ca)
    if not platform.tls:
        return outside
    authority = {"secretName": "ultramarine-tls-server", "items": [{"key": AUTHORITY, "path": AUTHORITY}]}
    own = [{"name": f"tls-{name}", "secret": _certificate(name)} for name in servers]
    return [*outside, {"name": "authority", "secret": authority}, *own]


def _optional(source: Manifest) -> list[Manifest]:
    """Return the volume of that source; optional, so that the program reports what is missing and no pod hangs."""
    return [{"name": "ca", **{kind: {**what, "optional": True} for kind, what in source.items()}}] if source else []


def _certificate(server: str) -> Manifest:
    return {"secretName": f"ultramarine-tls-{server}", "defaultMode": 0o440}


def tls_mounts(platform: Platform, server: str = "") -> list[Manifest]:
    """Return the mounts of the authority or, for a server, of its certificate; and of external authorities."""
    own = [{"name": f"tls-{server}" if server else "authority", "mountPath": contract.TLS_DIR, "readOnly": True}]
    return [*ca_mounts(platform), *(own if platform.tls else [])]


def ca_mounts(platform: Platform) -> list[Manifest]:
    """Return the mount of the authorities of external services, if the installation has any."""
    return [{"name": "ca", "mountPath": contract.CA_DIR, "readOnly": True}] if platform.pods.ca else []


DISK = "ephemeral-storage"


def with_disk(resources: Manifest, limit: str) -> Manifest:
    """Return resources with a limit on the node's disk: the author's own, otherwise `limit` with a request of 0.

    The request is explicit, since a request that is left out is as large as the limit.
    """
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    if not limit or DISK in limits:
        return resources
    asked = str(requests.get(DISK, "0"))
    most = asked if amount(asked) > amount(limit) else limit
    return {**resources, "requests": {**requests, DISK: asked}, "limits": {**limits, DISK: most}}


def scratch(name: str, resources: Manifest) -> Manifest:
    """Return the volume of a folder on the node's disk that may grow as large as the pod's limit."""
    most = (resources.get("limits") or {}).get(DISK)
    return {"name": name, "emptyDir": {"sizeLimit": str(most)} if most else {}}


def locked_container(platform: Platform, name: str, image: str, resources: Manifest, **fields: Any) -> Manifest:
    """Return a locked-down container, whose log explains a failure if it leaves no termination message.

    `fields` are its command, mounts and more.
    """
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": platform.image_pull_policy,
        "resources": resources,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **fields,
    }


def platform_pod(platform: Platform, placement: Manifest, **fields: Any) -> Manifest:
    """Return the spec of a pod of the platform's own programs, which runs once; `fields` are its containers and more.

    Its `volumes` get those of TLS.
    """
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        **pull_secrets(platform),
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **placed(placement),
        **fields,
        "volumes": [*fields["volumes"], *tls_volumes(platform)],
    }


def platform_job(
    owner: Manifest, name: str, pod: Manifest, *, retries: int, deadline_seconds: int, kept_seconds: int
) -> Manifest:
    """Return a Job of the platform's own programs, which is kept for a while after its end."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(owner, name),
        "spec": {
            "backoffLimit": retries,
            "activeDeadlineSeconds": deadline_seconds,
            "ttlSecondsAfterFinished": kept_seconds,
            # An eviction is not the pod's fault: it does not count against backoffLimit.
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {"labels": child_labels(owner["kind"], owner["metadata"]["name"])},
                "spec": pod,
            },
        },
    }
