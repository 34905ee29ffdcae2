"""Schemas of the kinds, as `make generate` writes them beside this module."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from typing import Any

from ultramarine_contract.errors import UltramarineError, listed
from ultramarine_contract.meta import MODEL_VERSION

Schema = dict[str, Any]
Keys = tuple[str | int, ...]  # path of a value


class UnknownName(UltramarineError):
    """A name that no kind or field has."""

    reason = "UnknownName"


@dataclass(frozen=True)
class Kind:
    """One kind of the API: its names, the schema of its objects, examples of its spec.

    `model` is the pydantic model of the spec, as MODULE:CLASS.
    """

    name: str
    plural: str
    short: str
    model: str
    schema: Schema
    examples: list[Schema]

    @property
    def names(self) -> tuple[str, ...]:
        """Names by which commands take the kind, in lower case."""
        return (self.name.lower(), self.plural, self.short)


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return all kinds by name."""
    folder = resources.files(__package__) / "schemas"
    documents = [json.loads(file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".json")]
    return {document["name"]: Kind(**document) for document in sorted(documents, key=lambda document: document["name"])}


def kind_named(word: str) -> Kind:
    """Return the kind with a name such as TrainingJob, trainingjobs or tj. Raises UnknownName for another word."""
    for kind in kinds().values():
        if word.lower() in kind.names:
            return kind
    remedy = meant(word, [name for kind in kinds().values() for name in (kind.name, kind.short)], "kinds")
    raise UnknownName(f"{word} is not a kind of Ultramarine; {remedy}")


def meant(word: str, names: list[str], plural: str) -> str:
    """Return the remedy of an unknown word: the nearest name, or the names that exist."""
    by_lower = {name.lower(): name for name in names}
    if near := get_close_matches(word.lower(), by_lower, 1, 0.6):
        return f"did you mean {by_lower[near[0]]}?"
    return f"the {plural} are: {listed(sorted(names), 30)}" if names else f"no {plural} exist here; remove it"


def authored(kind: Kind) -> Schema:
    """Return the schema of a manifest as its author writes it: with local paths, which `submit` replaces by URIs."""
    schema = copy.deepcopy(kind.schema)
    spec = schema["properties"]["spec"]
    for entry in [*_uploadable(spec), *([spec] if kind.name == MODEL_VERSION.kind else [])]:
        entry["properties"]["path"] = _LOCAL_PATH
        entry["required"] = [name for name in entry.get("required", []) if name not in ("uri", "digest")]
    return schema


def _uploadable(schema: Schema) -> Iterator[Schema]:
    """Yield the schemas of values that may have a local path: sources and inputs."""
    for name, child in schema.get("properties", {}).items():
        if name == "source" and "digest" in child.get("properties", {}):  # code, not the origin of a Dataset
            yield child
        elif name == "inputs" and "uri" in (items(child) or {}).get("properties", {}):
            yield child["additionalProperties"]
        yield from _uploadable(child)
    if (entry := items(schema)) is not None:
        yield from _uploadable(entry)


_LOCAL_PATH: Schema = {
    "type": "string",
    "minLength": 1,
    "description": "Local file or folder, relative to the manifest, instead of uri. `ultramarine submit` and `apply` "
    "upload it and write uri; kubectl does not know this field.",
}


def items(schema: Schema) -> Schema | None:
    """Return the schema of the entries of a list, or of the values of a map; None for another schema."""
    inner = schema.get("items") or schema.get("additionalProperties")
    return inner if isinstance(inner, dict) else None
