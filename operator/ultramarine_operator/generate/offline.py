"""Schemas in the package of the SDK, by which the command validates and explains without a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ultramarine_contract.meta import Manifest

from ..kinds import PACKAGES
from ..shared.kind import Kind
from ..shared.testing import Material, merged
from .reference import Schema

FOLDER = Path("sdk/ultramarine/files/schemas")
MAX_EXAMPLE = 8_000  # characters; longer ones try out limits


def documents(kinds: tuple[Kind, ...], schema: Schema) -> dict[Path, str]:
    """Return the file of each kind: its names, its schema, the model of its spec, and valid specs as examples."""
    materials = _materials()
    made: dict[Path, str] = {}
    for kind in kinds:
        document = {
            "name": kind.name,
            "plural": kind.resource.plural,
            "short": kind.short,
            "model": f"{kind.spec.__module__}:{kind.spec.__name__}",
            "examples": examples(materials[kind.name]),
            "schema": schema(kind),
        }
        made[FOLDER / f"{kind.name.lower()}.json"] = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return made


def examples(material: Material) -> list[Manifest]:
    """Return specs that are valid, the first one with nearly all fields, each other one with further fields."""
    whole: Manifest = material.whole["spec"]
    chosen, covered = [whole], set(_places(whole))
    for rule in material.rules:
        spec: Manifest = merged(material.whole, rule.ok)["spec"]
        if (new := set(_places(spec)) - covered) and len(json.dumps(spec)) < MAX_EXAMPLE:
            chosen.append(spec)
            covered |= new
    return chosen


def _places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the fields of a value by their paths, without the places in lists."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from _places(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, path)


def _materials() -> dict[str, Material]:
    """Return the test material of each kind, which images do not have."""
    modules = [import_module(f"{package.__name__}.testing") for package in PACKAGES]
    return {value.kind: value for module in modules for value in vars(module).values() if isinstance(value, Material)}
