"""Descriptions of fields: type, meaning, default, limits, rules, an example and the fields below."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from ultramarine_contract.schemas import INT_OR_STRING, bounds, fixed, rules

from .schemas import Kind, Schema, UnknownName, authored, items, kind_named, meant

WIDTH = 100
MAX_EXAMPLE = 30  # lines
_TRIAL = ("spec", "trialTemplate", "spec")
_ANY_ENTRY = ("NAME", "*", "[]")
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


@dataclass(frozen=True)
class Field:
    """One field of a kind."""

    kind: Kind
    path: tuple[str, ...]
    schema: Schema
    required: bool = False
    fixed: bool = False

    @property
    def inner(self) -> Schema:
        """Return the schema that has the fields: that of the entries for lists and maps."""
        schema = self.schema
        while "properties" not in schema and (entry := items(schema)) is not None:
            schema = entry
        return schema

    def child(self, name: str) -> Field:
        """Return a field below. Raises UnknownName with the nearest name."""
        fields = self.inner.get("properties", {})
        if name not in fields:
            where = ".".join((self.kind.name.lower(), *self.path))
            raise UnknownName(f"{where} has no field {name}; {meant(name, list(fields), 'fields')}")
        required = name in self.inner.get("required", ())
        return Field(self.kind, (*self.path, name), fields[name], required, self.fixed or name in fixed(self.inner))


def field_at(path: str) -> Field:
    """Return the field of a path such as trainingjob.spec.outputs. Raises UnknownName."""
    word, *names = path.replace("[]", ".[]").split(".")
    kind = kind_named(word)
    field = Field(kind, (), authored(kind))
    for name in names:
        if name not in _ANY_ENTRY or name in field.inner.get("properties", {}):
            field = field.child(name)
    return field


def explain(path: str) -> str:
    """Return the page of a kind or a field. Raises UnknownName with the nearest name."""
    field = field_at(path)
    title = ".".join((field.kind.name.lower(), *field.path))
    head = f"{title} <{type_of(field.schema)}>" if field.path else f"{field.kind.name} ({', '.join(field.kind.names)})"
    sections = {
        "": head + "".join(f", {word}" for word in _words(field)),
        "DESCRIPTION": _wrapped(field.schema.get("description", "")),
        "LIMITS": "\n".join(_limits(field.schema)),
        "RULES": "\n".join(_wrapped(message, "- ") for message in _rules(field)),
        "EXAMPLE": _example(field),
        "FIELDS": "\n".join(_summaries(field)),
    }
    parts = [f"{name}\n{textwrap.indent(text, '  ')}" if name else text for name, text in sections.items() if text]
    return "\n\n".join(parts)


def type_of(schema: Schema) -> str:
    """Return the type of a field in words, such as list of texts."""
    if schema.get(INT_OR_STRING):
        return "whole number or text"
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {type_of(schema['items'])}"
    if kind == "object":
        entry = items(schema)
        return f"map of {type_of(entry)}" if entry else "object"
    return _TYPES.get(kind, "text, number or boolean")


def _words(field: Field) -> Iterator[str]:
    if field.required:
        yield "required"
    if field.fixed:
        yield "cannot be changed later"
    if field.schema.get("default") not in (None, {}, [], ""):
        yield f"default {json.dumps(field.schema['default'])}"


def _limits(schema: Schema) -> Iterator[str]:
    """Yield the limits of a value, and of the entries of a list or a map."""
    if "enum" in schema:
        yield f"one of {', '.join(map(str, schema['enum']))}"
    yield from bounds(schema)
    entry = items(schema)
    if entry is not None and "properties" not in entry:
        yield from (f"each entry: {limit}" for limit in _limits(entry))


def _rules(field: Field) -> Iterator[str]:
    schema: Schema | None = field.schema
    while schema is not None:
        yield from rules(schema)
        schema = None if "properties" in schema else items(schema)


def _summaries(field: Field) -> Iterator[str]:
    for name in field.inner.get("properties", {}):
        child = field.child(name)
        yield f"{name} <{type_of(child.schema)}>" + "".join(f", {word}" for word in _words(child))
        if text := child.schema.get("description"):
            yield textwrap.indent(_wrapped(text), "  ")


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def _example(field: Field) -> str:
    """Return a valid value of a field of the spec, as YAML; empty if none is known."""
    value = example_of(field)
    if value is None:
        return ""
    text = yaml.safe_dump({field.path[-1]: value}, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip()
    return text if text.count("\n") < MAX_EXAMPLE else ""


def example_of(field: Field) -> Any:
    """Return a value of a field from the first example that has the field; None if no example has it."""
    if field.path[:1] != ("spec",) or len(field.path) < 2:
        return None
    examples = [(example, field.path[1:]) for example in field.kind.examples]
    if field.path[: len(_TRIAL)] == _TRIAL:  # the spec of a trial is that of a TrainingJob
        examples += [(example, field.path[len(_TRIAL) :]) for example in kind_named("TrainingJob").examples]
    for example, names in examples:
        value = _value_at(example, names)
        if value not in (None, {}, []):
            return value
    return None


def _value_at(value: Any, names: tuple[str, ...]) -> Any:
    """Return the value of a field below; of a list or a map, the first entry that has the field."""
    if not names:
        return value
    if isinstance(value, dict) and names[0] in value:
        return _value_at(value[names[0]], names[1:])
    entries = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    found_values = (_value_at(entry, names) for entry in entries)
    return next((inner for inner in found_values if inner is not None), None)
