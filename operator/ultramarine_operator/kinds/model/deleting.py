"""Artifacts of a Model's versions: their own files, and their compiled models."""

from __future__ import annotations

from collections.abc import Iterable

from ultramarine_contract.common import artifact_folder, compiled_folder
from ultramarine_contract.meta import MODEL_VERSION, Manifest

from ...runs.deleting import Series
from ...shared.plan import Seen
from .serving import Model, server_of, versions_of


def series_of(model: Model, seen: Seen) -> Series:
    """Return the versions of a Model, which stay stored while an endpoint serves them."""

    def user_of(number: str) -> str:
        server = server_of(model, number, seen)
        return f"served by {server}" if server else ""

    folders = (artifact_folder, compiled_folder)
    return Series(model, MODEL_VERSION, versions_of(model, seen), _places, folders, user_of)


def _places(version: Manifest) -> Iterable[str]:
    compiled = (version.get("status") or {}).get("compiled") or {}
    return (str(version["spec"]["uri"]), compiled_folder(str(compiled.get("uri", ""))))
