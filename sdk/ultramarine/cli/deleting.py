"""Safeguards and notes of `ultramarine delete`: what an object is needed for, and what stays after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultramarine_contract.errors import listed
from ultramarine_contract.meta import (
    DATASET,
    DATASET_VERSION,
    MODEL,
    MODEL_VERSION,
    ONLINE_ENDPOINT,
    PIPELINE_RUN,
    Resource,
)

if TYPE_CHECKING:
    from .session import Session

_VERSIONS = {MODEL: ("model", MODEL_VERSION, "mv"), DATASET: ("dataset", DATASET_VERSION, "dsv")}


def delete_object(session: Session, resource: Resource, name: str) -> str:
    """Delete an object, and return a note about what stays; empty without any. Raises InUse and NotFound."""
    note = _note(session, resource, name)
    if resource == MODEL_VERSION:
        spec = session.cluster.get(resource, name)["spec"]
        session.client.models.delete(f"{spec['model']}@{spec['version']}")
    else:
        if resource == MODEL:
            session.client.models.check_unused(name)
        session.cluster.delete(resource, name)
    return note


def _note(session: Session, resource: Resource, name: str) -> str:
    if resource == ONLINE_ENDPOINT:
        from ultramarine.serving.keys import left_by

        return left_by(session.cluster, session.cluster.get(ONLINE_ENDPOINT, name))
    if resource in _VERSIONS:
        noun, version, short = _VERSIONS[resource]
        objects = session.cluster.list(version)
        names = [str(item["metadata"]["name"]) for item in objects if item["spec"].get(noun) == name]
        if names:
            return f"Its versions stay: {listed(names)}. Delete one by `ultramarine delete {short} {names[0]}`."
    if resource == PIPELINE_RUN:
        steps = (session.cluster.get(resource, name).get("status") or {}).get("steps") or []
        if any(step.get("child") for step in steps):
            return "The objects of its steps, such as TrainingJobs, are deleted with it; stored results stay."
    return ""
