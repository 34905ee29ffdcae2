"""Schemas of the kinds: Kubernetes' extensions of JSON Schema, and limits in words for the reference and `explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

RULES = "x-kubernetes-validations"
ANY = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
FIXED = " cannot be changed; make a new object with another name"  # end of the message of an immutable field's rule
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "minProperties": "at least {} entries",
    "maxProperties": "at most {} entries",
}


def bounds(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the bounds of a value in words, without its enumeration."""
    for key, words in _BOUNDS.items():
        if key in schema:
            text = words.format(f"{schema[key]:,}")
            yield text.replace("entries", "entry").replace("characters", "character") if schema[key] == 1 else text


def fixed(schema: dict[str, Any]) -> set[str]:
    """Return the names of the fields of an object that cannot be changed."""
    messages = [rule["message"] for rule in schema.get(RULES, [])]
    return {message.removesuffix(FIXED) for message in messages if message.endswith(FIXED)}


def rules(schema: dict[str, Any]) -> list[str]:
    """Return the messages of a schema's own rules, except those of immutable fields."""
    return [rule["message"] for rule in schema.get(RULES, []) if not rule["message"].endswith(FIXED)]
