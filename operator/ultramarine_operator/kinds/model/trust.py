"""Permission of a version to run code when it is loaded: given by its own spec or by its Model, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from ultramarine.resources.model import CodeExecution, ModelVersionSpec, ModelVersionStatus, trusts
from ultramarine_contract.meta import ANNOTATION_TRUSTED_BY, Manifest

from ...shared import statuses
from ...shared.conditions import timestamp
from ...shared.plan import Obj, Platform, Seen
from .manifests import Version


@dataclass(frozen=True)
class Permission:
    """The user who allowed it, if that is known, and the field and object that say so."""

    by: str
    through: str


def permission(version: Manifest, model: Manifest | None, platform: Platform) -> Permission | None:
    """Return the permission of a version of `model`; None if it must not run code."""
    if version["spec"].get("allowCodeExecution") is True:
        field = f"spec.allowCodeExecution of ModelVersion {version['metadata']['name']}"
        return Permission(_who(version, platform), field)
    if model is not None and trusts(model):
        field = f"spec.trust.allowCodeExecution of Model {model['metadata']['name']}"
        return Permission(_who(model, platform), field)
    return None


def model_of(version: Manifest, seen: Seen) -> Manifest | None:
    """Return the Model of a version, if it exists."""
    name = version["spec"].get("model")
    return next((model for model in seen.others("Model") if model["metadata"]["name"] == name), None)


def permitted(version: Version, seen: Seen) -> Version:
    """Return the version with the permission of its Model among its own."""
    if version.spec.allow_code_execution:
        return version
    if not trusts(model_of(version.manifest, seen)):
        return version
    return replace(version, spec=version.spec.model_copy(update={"allow_code_execution": True}))


def shown(version: Obj[ModelVersionSpec], seen: Seen, now: datetime) -> CodeExecution | None:
    """Return the permission as the version's status shows it."""
    given = permission(version.manifest, model_of(version.manifest, seen), seen.platform)
    if given is None:
        return None
    status = CodeExecution(through=given.through, **({"allowed_by": given.by} if given.by else {}))
    without = version.status.keys() - {"codeExecution"}
    before = statuses.former(version, ModelVersionStatus, without).code_execution or CodeExecution()
    is_same = (before.through, before.allowed_by) == (status.through, status.allowed_by)
    return status.model_copy(update={"since": (before.since if is_same else None) or timestamp(now)})


def _who(manifest: Manifest, platform: Platform) -> str:
    """Return the user that the API server recorded; empty if it does not, since any writer could have set the name.

    For a version that the operator registered it is the user who asked for the training.
    """
    annotations = manifest["metadata"].get("annotations") or {}
    user = str(annotations.get(ANNOTATION_TRUSTED_BY) or "")[:500] if platform.knows_requester else ""
    if user and user == platform.username:
        return str((manifest["spec"].get("lineage") or {}).get("requestedBy") or user)[:500]
    return user
