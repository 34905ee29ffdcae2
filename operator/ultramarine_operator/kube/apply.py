"""Tell whether a child is already as it should be, and make it so otherwise, with the fewest writes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from ultramarine_contract.errors import Conflict, NotYet
from ultramarine_contract.meta import (
    ANNOTATION_APPLIED,
    FIELD_MANAGER,
    JOB,
    Manifest,
    Ref,
    Resource,
    content_hash,
    controller_uid,
)

from .client import ApiError, Client

OWNING_ATTEMPTS = 5


def with_hash(manifest: Manifest) -> Manifest:
    """Return the manifest with the hash of itself in an annotation."""
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), ANNOTATION_APPLIED: content_hash(manifest)[:16]}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def holds(desired: Any, live: Any, *, quantities: bool = False) -> bool:
    """Return True if `live` has all that `desired` has; additions of the server or of others do not matter."""
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(
            # A selector is one thing: a label more in it selects other pods. So is what a network policy lets in.
            value == live.get(key)
            if key in ("selector", "podSelector", "ingress")
            else holds(value, live.get(key), quantities=quantities or key == "resources")
            for key, value in desired.items()
        )
    if isinstance(desired, list):
        return (
            isinstance(live, list)
            and len(desired) == len(live)
            and all(holds(w, v, quantities=quantities) for w, v in zip(desired, live, strict=True))
        )
    if desired == live:
        return True
    if desired in ("", 0, False, None) and live is None:
        return True  # the server leaves zero values out
    # "1000m" comes back as "1".
    return quantities and _quantity(desired) is not None and _quantity(desired) == _quantity(live)


def _quantity(value: Any) -> Decimal | None:
    try:
        return Decimal(parse_quantity(value))
    except (ValueError, TypeError):
        return None


def up_to_date(desired: Manifest, live: Manifest | None) -> bool:
    """Return True if a child that was built by `with_hash` needs no write."""
    return live is not None and not live["metadata"].get("deletionTimestamp") and holds(desired, live)


async def apply_child(client: Client, resource: Resource, desired: Manifest, live: Manifest | None) -> Manifest | None:
    """Write a child if it differs, and return it as the server has it now; None if the mirror has it already.

    A new child is created, which costs the API server half of a first apply; a child that exists is applied. Raises
    NotYet while a child of an earlier owner of the same name is being deleted. Raises Conflict if the name or a field
    has another owner.
    """
    desired = with_hash(desired)
    meta = desired["metadata"]
    name = f"{resource.kind} {meta['name']}"
    # One without an owner was orphaned by `kubectl delete --cascade=orphan`, and is taken in again.
    if live is not None and controller_uid(live) not in ("", controller_uid(desired)):
        raise NotYet(f"{name} of an earlier object of this name is still being deleted", "WaitingForDeletion")
    hidden = live is None
    if live is None:
        try:
            return await client.create(resource, desired)
        except ApiError as error:
            if error.code != 409 or error.reason != "AlreadyExists":
                raise
        # An earlier pass made it and the mirror does not have it yet, or it has another owner.
        live = await _find(client, resource, meta["namespace"], meta["name"])
        if live is None:
            raise NotYet(f"{name} was deleted just now; it is made again", "WaitingForDeletion")
        if controller_uid(live) != controller_uid(desired):
            raise Conflict(f"{name} already exists and has another owner. Rename this object.")
        if resource == JOB:  # its content is fixed, perhaps by an older release
            return await _labelled(client, resource, live, meta["labels"])
    if live["metadata"].get("deletionTimestamp"):
        raise NotYet(f"{name} is being deleted; it is made again when it is gone", "WaitingForDeletion")
    if up_to_date(desired, live):
        return live if hidden else None  # otherwise each pass would create it until its event arrives
    try:
        await _own_by_apply(client, resource, meta["namespace"], meta["name"])
        # The owner was checked: force restores our fields, and takes over no other owner's object.
        return await client.apply(resource, desired, force=True)
    except ApiError as error:
        if error.code == 409:
            raise Conflict(f"{name} was changed by another client just now: {error.message}") from error
        if error.code == 422 and not controller_uid(live) and "immutable" in error.message:
            command = f"kubectl delete {resource.kind.lower()} {meta['name']} -n {meta['namespace']}"
            raise Conflict(
                f"{name} was left behind by an earlier object of this name, whose deletion has orphaned it, and cannot "
                f"be taken over; delete it: {command}"
            ) from error
        raise


async def _labelled(client: Client, resource: Resource, live: Manifest, labels: Manifest) -> Manifest:
    """Restore the labels of a child, and return it."""
    there = live["metadata"].get("labels") or {}
    if holds(labels, there):
        return live
    operation = {"op": "add", "path": "/metadata/labels", "value": {**there, **labels}}
    return await client.patch(Ref.to(resource, live), [operation])


async def _own_by_apply(client: Client, resource: Resource, namespace: str, name: str) -> None:
    """Turn fields that a create owns into fields that applies own, so that an apply can remove them."""
    for _ in range(OWNING_ATTEMPTS):
        live = await _find(client, resource, namespace, name)
        managed = live["metadata"].get("managedFields") or [] if live is not None else []
        ours = [m for m in managed if (m.get("manager"), m.get("subresource")) == (FIELD_MANAGER, None)]
        if live is None or [m.get("operation") for m in ours] != ["Update"]:
            return
        turned = [{**m, "operation": "Apply"} if m in ours else m for m in managed]
        operation = {"op": "replace", "path": "/metadata/managedFields", "value": turned}
        try:
            await client.patch(Ref.to(resource, live), [operation])
        except ApiError as error:
            if error.code != 409:  # 409: its controller has written to it meanwhile
                raise
        else:
            return


async def _find(client: Client, resource: Resource, namespace: str, name: str) -> Manifest | None:
    try:
        return await client.get(resource, namespace, name)
    except ApiError as error:
        if error.code == 404:
            return None
        raise


async def write_status(client: Client, resource: Resource, manifest: Manifest, status: Manifest) -> Manifest:
    """Write an object's whole status, and return the object as the server has it now."""
    meta = manifest["metadata"]
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        # A new object of this name must never get an old one's status. The server does not compare uids here, but this.
        "metadata": {name: meta[name] for name in ("name", "namespace", "resourceVersion")},
        "status": status,
    }
    return await client.apply(resource, body, force=True, subresource="status")
