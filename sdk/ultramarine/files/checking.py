"""Checks of a value against a schema, as the API server makes them: types, bounds, words, fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ultramarine_contract.schemas import ANY, INT_OR_STRING, RULES

from .schemas import Keys, Schema, meant

_NAMES = {str: "a text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
_EXPECTED: dict[str, tuple[str, Any]] = {
    "string": ("a text", str),
    "integer": ("a whole number", int),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", bool),
    "array": ("a list", list),
    "object": ("an object", dict),
}
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Fault:
    """A fault of the value at a path, or of its name."""

    path: Keys
    message: str
    of_name: bool = False


@dataclass(frozen=True)
class Held:
    """Rules of a schema on the value at a path, which has defaults filled in and no fault."""

    path: Keys
    value: Any
    rules: list[dict[str, str]]


@dataclass
class Check:
    """Check of one object: the faults, and the rules that remain to be evaluated."""

    faults: list[Fault] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def value(self, schema: Schema, value: Any, path: Keys) -> Any:
        """Check a value, and return it as the API server would store it."""
        before = len(self.faults)
        result = self._typed(schema, value, path)
        if len(self.faults) == before and (rules := schema.get(RULES)):
            self.held.append(Held(path, result, rules))
        return result

    def _typed(self, schema: Schema, value: Any, path: Keys) -> Any:
        kind = schema.get("type", "")
        if schema.get(INT_OR_STRING):
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                remedy = f'; write "{shown(value)}" in quotes' if isinstance(value, float) else ""
                self._fault(path, f"must be a whole number or a text, not {name_of(value)}{remedy}")
                return value
        elif kind and not _is(kind, value):
            self._fault(path, _wrong_type(kind, value))
            return value
        if kind == "number":
            value = float(value)
        elif kind == "integer":
            value = int(value)
        for message in limits(schema, value):
            self._fault(path, message)
        if isinstance(value, dict) and not schema.get(ANY):
            return self._object(schema, value, path)
        if isinstance(value, list) and isinstance(schema.get("items"), dict):
            return self._list(schema, value, path)
        return value

    def _object(self, schema: Schema, value: dict[str, Any], path: Keys) -> dict[str, Any]:
        fields, values = schema.get("properties", {}), schema.get("additionalProperties")
        stored: dict[str, Any] = {}
        for name, inner in value.items():
            child = fields.get(name) or values
            if not isinstance(child, dict):
                self._fault((*path, name), f"unknown field; {meant(name, list(fields), 'fields')}", of_name=True)
            elif inner is not None:
                stored[name] = self.value(child, inner, (*path, name))
        for name, child in fields.items():
            if name not in stored and "default" in child:
                stored[name] = self.value(child, child["default"], (*path, name))
        for name in schema.get("required", ()):
            if name not in stored and value.get(name) is None:
                self._fault((*path, name), "required; add it")
        return stored

    def _list(self, schema: Schema, value: list[Any], path: Keys) -> list[Any]:
        stored = [self.value(schema["items"], inner, (*path, place)) for place, inner in enumerate(value)]
        if schema.get("x-kubernetes-list-type") in ("set", "map"):
            keys = schema.get("x-kubernetes-list-map-keys")
            former: dict[str, int] = {}
            for place, inner in enumerate(stored):
                identity = {key: inner.get(key) for key in keys} if keys and isinstance(inner, dict) else inner
                text = json.dumps(identity, sort_keys=True)
                if text in former:
                    what = ", ".join(keys) if keys else "value"
                    self._fault((*path, place), f"has the same {what} as entry {former[text]}; entries count from 0")
                former.setdefault(text, place)
        return stored

    def _fault(self, path: Keys, message: str, *, of_name: bool = False) -> None:
        self.faults.append(Fault(path, message, of_name))


def limits(schema: Schema, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value of the right type."""
    if "enum" in schema and value not in schema["enum"]:
        words = ", ".join(map(str, schema["enum"]))
        yield f"must be one of {words}, not {shown(value)}" if len(schema["enum"]) > 1 else f"must be {words}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            yield f"must be at least {schema['minimum']}, not {shown(value)}"
        if value > schema.get("maximum", value):
            yield f"must be at most {schema['maximum']}, not {shown(value)}"
    elif isinstance(value, (str, list, dict)):
        suffix, plural = {str: ("Length", "characters"), list: ("Items", "entries"), dict: ("Properties", "entries")}[
            type(value)
        ]
        size = len(value)
        if size < schema.get(f"min{suffix}", 0):
            yield f"must have at least {schema[f'min{suffix}']} {plural}; " + ("add some" if size else "it is empty")
        if size > schema.get(f"max{suffix}", size):
            yield f"must have at most {schema[f'max{suffix}']} {plural}, not {size}"


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, float) and kind == "integer":
        return value.is_integer()
    return isinstance(value, _EXPECTED[kind][1]) and (kind == "boolean" or not isinstance(value, bool))


def _wrong_type(kind: str, value: Any) -> str:
    expected = _EXPECTED[kind][0]
    message = f"must be {expected}, not {name_of(value)}"
    if value is None:
        return f"must be {expected}, but has no value; write it, or remove the field"
    if kind == "string" and isinstance(value, (bool, int, float)):
        return f'{message}; write "{shown(value)}" in quotes'
    if kind in ("integer", "number", "boolean") and isinstance(value, str):
        return f"{message}; remove the quotes" if _unquoted(kind, value) else f"{message} such as {shown(value)}"
    if kind == "array":
        return f"{message}; write [{shown(value)}]" if isinstance(value, str) else f"{message}; begin entries with '- '"
    if kind == "object" and isinstance(value, list):
        return f"{message}; write FIELD: VALUE without '- '"
    return message


def _unquoted(kind: str, text: str) -> bool:
    try:
        return _is(kind, json.loads(text))
    except ValueError:
        return False


def name_of(value: Any) -> str:
    """Return the name of a value's type in a message."""
    return "empty" if value is None else _NAMES.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """Return a value in a message: a text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = f"{text[:SHOWN]}..." if len(text) > SHOWN else text
    return text if text.strip() and text.isprintable() else json.dumps(text)
