"""Jobs and sweeps that another object makes: their manifests, later changes of them, and why they failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultramarine_contract.cache_records import ANNOTATION_CACHE
from ultramarine_contract.meta import (
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    Manifest,
    Resource,
    asked_by,
    child_metadata,
)

from ..runs import queues
from ..shared.conditions import find
from ..shared.plan import Obj, Platform
from .environment import ANNOTATION as ANNOTATION_ENVIRONMENT

_KEPT = (ANNOTATION_CACHE, ANNOTATION_ENVIRONMENT, ANNOTATION_REQUESTED_BY)


def child_of(
    owner: Obj[Any],
    resource: Resource,
    name: str,
    spec: Manifest,
    platform: Platform,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Return an object that works for its owner, in the owner's queue and in the name of the owner's user."""
    metadata = queues.labelled(child_metadata(owner.manifest, name), owner.manifest)
    if annotated := {**asked_by(platform.requester(owner.manifest)), **(annotations or {})}:
        metadata["annotations"] = annotated
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata, "spec": spec}


def edited(owner: Obj[Any], child: Manifest, **changes: Any) -> Manifest:
    """Return an existing object with changed fields; the rest of it may have been made by an older operator."""
    meta = child["metadata"]
    metadata = queues.labelled(child_metadata(owner.manifest, meta["name"]), owner.manifest)
    annotations = meta.get("annotations") or {}
    if kept := {name: annotations[name] for name in _KEPT if name in annotations}:
        metadata["annotations"] = kept
    spec = {**child["spec"], **changes}
    return {"apiVersion": API_VERSION, "kind": child["kind"], "metadata": metadata, "spec": spec}


def failure_of(child: Manifest) -> str:
    """Return why an object has failed, and the remedy."""
    status = child.get("status") or {}
    failure = status.get("failure") or {}
    condition = find(status, "Failed") or find(status, "Accepted") or {}
    message = "; ".join(filter(None, (failure.get("message"), failure.get("hint")))) or condition.get("message")
    return f"{child['kind']} {child['metadata']['name']}: {message or 'it failed'}"
