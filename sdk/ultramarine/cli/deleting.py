"""Safeguards and notes of `ultramarine delete`: what an object is needed for, and what stays after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultramarine_contract.meta import MODEL, MODEL_VERSION, ONLINE_ENDPOINT, Resource

if TYPE_CHECKING:
    from .session import Session


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
    return ""
