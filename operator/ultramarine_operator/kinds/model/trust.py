"""Permission of a version to run code when it is loaded: given by its own spec or by its Model, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from ultramarine.resources.model import ModelVersionSpec, trusts
from ultramarine_contract.meta import ANNOTATION_TRUSTED_BY, Manifest

from ...shared.conditions import timestamp
from ...shared.plan import Obj, Platform, Seen
from .manifests import Version


@dataclass(frozen=True)
class Permission:
    """The user who allowed it, if that is known, and the field and object that say so."""

    by: str
    through: str


def permission(version: Manifest, model: Manifest | None, platform: Platform) -> Permission | None:
    """The permission of a version, whose Model is `model`; None if it must not run code."""
    if version["spec"].get("allowCodeExecution") is True:
        field = f"spec.allowCodeExecution of ModelVersion {version['metadata']['name']}"
        return Permission(_who(version, platform), field)
    if model is not None and trusts(model):
        field = f"spec.trust.allowCodeExecution of Model {model['metadata']['name']}"
        return Permission(_who(model, platform), field)
    return None


def model_of(version: Manifest, seen: Seen) -> Manifest | None:
    """The Model of a version, if it is there."""
    name = version["spec"].get("model")
    return next((model for model in seen.others("Model") if model["metadata"]["name"] == name), None)


def permitted(version: Version, seen: Seen) -> Version:
    """The version with the permission of its Model among its own."""
    if version.spec.allow_code_execution:
        return version
    if not trusts(model_of(version.manifest, seen)):
        return version
    return replace(version, spec=version.spec.model_copy(update={"allow_code_execution": True}))


def shown(version: Obj[ModelVersionSpec], seen: Seen, now: datetime) -> Manifest | None:
    """The permission as the version's status shows it."""
    found = permission(version.manifest, model_of(version.manifest, seen), seen.platform)
    if found is None:
        return None
    said = {"through": found.through, **({"allowedBy": found.by} if found.by else {})}
    before = version.status.get("codeExecution")
    before = before if isinstance(before, dict) else {}
    same = {name: value for name, value in before.items() if name != "since"} == said
    since = before.get("since") if same else None
    return {**said, "since": since if isinstance(since, str) else timestamp(now)}


def _who(manifest: Manifest, platform: Platform) -> str:
    """The user that the API server wrote down; elsewhere anybody could have written it.

    For what the operator itself has registered that is who asked for the training.
    """
    annotations = manifest["metadata"].get("annotations") or {}
    user = str(annotations.get(ANNOTATION_TRUSTED_BY) or "")[:500] if platform.knows_requester else ""
    if user and user == platform.username:
        return str((manifest["spec"].get("lineage") or {}).get("requestedBy") or user)[:500]
    return user
