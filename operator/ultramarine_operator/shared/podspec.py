"""Parts of the pods that the operator makes: lock-down, placement, variables of the storage, certificates, disk."""

from __future__ import annotations

from collections.abc import Collection

from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.tls import AUTHORITY

from .plan import Platform
from .quantities import amount

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
    """The pod's Secrets for a private registry, if the installation has any."""
    names = [{"name": name} for name in platform.image_pull_secrets]
    return {"imagePullSecrets": names} if names else {}


def placed(defaults: Manifest, own: Manifest | None = None) -> Manifest:
    """The author's fields of a pod, with the installation's labels of nodes and tolerations besides."""
    own = own or {}
    selector = {**defaults.get("nodeSelector", {}), **own.get("nodeSelector", {})}
    chosen = own.get("tolerations", [])
    tolerations = [*chosen, *(each for each in defaults.get("tolerations", []) if each not in chosen)]
    fields = {"nodeSelector": selector, "tolerations": tolerations}
    return {**own, **{name: value for name, value in fields.items() if value}}


def outside_env(platform: Platform, authors: Collection[str] = ()) -> list[Manifest]:
    """Proxies, and the file with authorities, except variables that the author sets."""
    return [dict(variable) for variable in platform.pods.env if variable["name"] not in authors]


def storage_env(platform: Platform, authors: Collection[str] = ()) -> list[Manifest]:
    """Where the object storage is, and the way to it; who we are there comes from the storage Secret."""
    own = platform.tls and platform.storage_confined
    authority = [{"name": contract.ENV_STORAGE_CA, "value": f"{contract.TLS_DIR}/{AUTHORITY}"}] if own else []
    return [
        {"name": contract.ENV_STORAGE_ENDPOINT, "value": platform.storage_endpoint},
        {"name": contract.ENV_STORAGE_REGION, "value": platform.storage_region},
        *authority,
        *outside_env(platform, authors),
    ]


def tls_volumes(platform: Platform, *servers: str) -> list[Manifest]:
    """The authority by which a pod knows the platform, and the certificates of what it is itself, if TLS is on.

    The authorities of what lies outside come first, if the installation has any.
    """
    outside = _optional(platform.pods.ca)
    if not platform.tls:
        return outside
    authority = {"secretName": "ultramarine-tls-server", "items": [{"key": AUTHORITY, "path": AUTHORITY}]}
    own = [{"name": f"tls-{name}", "secret": _certificate(name)} for name in servers]
    return [*outside, {"name": "authority", "secret": authority}, *own]


def _optional(source: Manifest) -> list[Manifest]:
    """The volume of that source: without it the program says what is missing, while a pod would hang in silence."""
    return [{"name": "ca", **{kind: {**what, "optional": True} for kind, what in source.items()}}] if source else []


def _certificate(server: str) -> Manifest:
    return {"secretName": f"ultramarine-tls-{server}", "defaultMode": 0o440}


def tls_mounts(platform: Platform, server: str = "") -> list[Manifest]:
    """Where a container finds the authority or, if it serves, its certificate beside it; and authorities of others."""
    own = [{"name": f"tls-{server}" if server else "authority", "mountPath": contract.TLS_DIR, "readOnly": True}]
    return [*ca_mounts(platform), *(own if platform.tls else [])]


def ca_mounts(platform: Platform) -> list[Manifest]:
    """Where a container finds the authorities of what lies outside, if the installation has any."""
    return [{"name": "ca", "mountPath": contract.CA_DIR, "readOnly": True}] if platform.pods.ca else []


DISK = "ephemeral-storage"


def with_disk(resources: Manifest, limit: str) -> Manifest:
    """Resources with a limit on the node's disk: the author's own, or else `limit`, of which nothing is reserved.

    Nothing is, said in so many words: a request that is left out is as large as the limit.
    """
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    if not limit or DISK in limits:
        return resources
    asked = str(requests.get(DISK, "0"))
    most = asked if amount(asked) > amount(limit) else limit
    return {**resources, "requests": {**requests, DISK: asked}, "limits": {**limits, DISK: most}}


def scratch(name: str, resources: Manifest) -> Manifest:
    """A folder on the node's disk that may grow as large as the whole pod."""
    most = (resources.get("limits") or {}).get(DISK)
    return {"name": name, "emptyDir": {"sizeLimit": str(most)} if most else {}}
