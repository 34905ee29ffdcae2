"""Valid manifests that are broken in one place, with the field that the refusal has to name."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from materials import MATERIALS
from strategies import (
    GONE,
    OPEN,
    SHORT,
    Path,
    Values,
    json_values,
    key_pattern_of,
    pattern_of,
    replaced,
    schema,
    texts,
    valid,
)
from ultramarine_contract.meta import Manifest
from ultramarine_operator.shared.testing import merged


@dataclass(frozen=True)
class Broken:
    """A manifest that must be refused: how it was broken, and the field that the refusal has to name."""

    how: str
    field: str
    manifest: Manifest


Place = tuple[str, Path, Path, Values]  # how, what is replaced, what the refusal names, by what


def spelled(path: Path) -> str:
    """A path with dots only; the API server spells the same one with and without brackets."""
    return ".".join(map(str, path))


def plain(message: str) -> str:
    """A message of the API server in which paths have dots only."""
    return message.replace("[", ".").replace("]", "")


_OTHER: dict[str, Values] = {
    "string": st.sampled_from([0, 1.5, True, [], {}, ["a"], {"a": "b"}]),
    "integer": st.sampled_from(["1", "", 1.5, True, [], {}, 1e300]),
    "number": st.sampled_from(["1", "", True, [], {}]),
    "boolean": st.sampled_from(["true", "", 0, 1, [], {}]),
    "array": st.sampled_from(["a", "", 0, True, {}, {"a": []}]),
    "object": st.sampled_from(["a", "", 0, True, [], ["a"], [{}]]),
}


def _nested(depth: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


def places(node: Manifest, value: Any, path: Path) -> Iterator[Place]:
    """Every way to break a value that its schema admits."""
    if node.get(OPEN) and "type" not in node:
        composites = [value for value, limit in (({"a": 1}, "maxProperties"), ([1], "maxItems")) if not node.get(limit)]
        yield "no plain value", path, path, st.sampled_from([*composites, "a" * (node["maxLength"] + 1)])
        return
    type = node.get("type", "quantity")
    if type == "quantity":
        yield "wrong type", path, path, st.sampled_from([1.5, True, [], {}])
        yield (
            "against the pattern",
            path,
            path,
            st.sampled_from(["", "-1", "1 Gi", "1e3", "NaN", "0x1", "1Gi\n", "\u0661"]),
        )
        yield "out of range", path, path, st.integers(-(2**62), -1)
        return
    yield "wrong type", path, path, _OTHER[type]
    yield (
        "deep nesting",
        path,
        path,
        st.integers(2, 100).map(_nested if type != "array" else lambda n: {"a": _nested(n)}),
    )
    if "enum" in node:
        words = set(node["enum"])
        yield (
            "unknown word",
            path,
            path,
            (texts(SHORT) | st.sampled_from([w.swapcase() for w in words])).filter(lambda text: text not in words),
        )
    elif type == "string":
        yield "too long", path, path, st.characters(codec="utf-8").map(lambda c: c * (node["maxLength"] + 1))
        if node.get("minLength"):
            yield "empty", path, path, st.just("")
        if pattern := pattern_of(node):
            turned = st.sampled_from([f"{value}\n", f" {value}", f"{value}\x00", f"{value}\U0001f4a5", f"é{value}", ""])
            wrong = (texts(SHORT) | turned).filter(lambda text: not pattern.search(text))
            yield "against the pattern", path, path, wrong.filter(lambda text: len(text) <= node["maxLength"])
    elif type == "integer":
        if "minimum" in node:
            yield "out of range", path, path, st.integers(-(2**63), node["minimum"] - 1)
        if "maximum" in node:
            yield "out of range", path, path, st.integers(node["maximum"] + 1, 2**63 - 1) | st.just(10**30)
    elif type == "number":
        if "minimum" in node:
            yield (
                "out of range",
                path,
                path,
                st.floats(max_value=node["minimum"], exclude_max=True, allow_infinity=False),
            )
        if "maximum" in node:
            yield (
                "out of range",
                path,
                path,
                st.floats(min_value=node["maximum"], exclude_min=True, allow_infinity=False),
            )
    elif type == "array":
        yield from _places_of_list(node, value, path)
    elif type == "object":
        yield from _places_of_object(node, value, path)


def too_many(node: Manifest, item: Any) -> list[Any]:
    """Return one item more than a list may have; items with keys differ, since equal keys are refused first."""
    if node.get("x-kubernetes-list-type") == "set":
        return list(range(node["maxItems"] + 1))
    keys = node.get("x-kubernetes-list-map-keys", [])
    return [item | {key: f"a{n}" for key in keys} if keys else item for n in range(node["maxItems"] + 1)]


def _places_of_list(node: Manifest, value: list[Any], path: Path) -> Iterator[Place]:
    if node.get("minItems"):
        yield "too few", path, path, st.just([])
    if value:
        yield "too many", path, path, st.just(too_many(node, value[0]))
        if not node["items"].get(OPEN):
            yield "null", (*path, 0), (*path, 0), st.none()
        if node.get("x-kubernetes-list-type") in ("map", "set"):
            yield "twice", path, (*path, len(value)), st.just([*value, value[0]])
    for number, item in enumerate(value):
        yield from places(node["items"], item, (*path, number))


def _places_of_object(node: Manifest, value: Manifest, path: Path) -> Iterator[Place]:
    if node.get(OPEN):
        yield "too many", path, path, st.just({f"a{n}": n for n in range(node["maxProperties"] + 1)})
        return
    if "additionalProperties" in node:
        values = node["additionalProperties"]
        if node.get("minProperties"):
            yield "too few", path, path, st.just({})
        if value:
            some = next(iter(value.values()))
            yield "too many", path, path, st.just({f"a{n}": some for n in range(node["maxProperties"] + 1)})
            if rule := key_pattern_of(node):
                bad = texts(SHORT).filter(lambda key: not rule[0].search(key))
                yield "odd key", path, path, bad.map(lambda key: value | {key: some})
        for key, child in value.items():
            yield from places(values, child, (*path, key))
        return
    fields = node.get("properties", {})
    for name in node.get("required", []):
        yield "missing", (*path, name), (*path, name), st.just(GONE)
        yield "null", (*path, name), (*path, name), st.none()
    yield "unknown field", (*path, "nosuch"), (*path, "nosuch"), json_values()
    for name, child in value.items():
        yield from places(fields[name], child, (*path, name))


# For each kind, patches that break a rule in any valid manifest, with words of the refusal.
CLASHES = {
    kind: [(rule.words, patch) for rule in material.rules if rule.anywhere for patch in rule.bad]
    for kind, material in MATERIALS.items()
}
NO_NAMES = ["", "A", "a.", "-a", "a_b", "a/b", "é", "a\n", " a", "a" * 254, "a..b", "\x00", "%2e", ".."]


@st.composite
def broken(draw: st.DrawFn, kind: str) -> Broken:
    """A manifest of a kind with one fault."""
    manifest = draw(valid(kind))
    choices = [*places(schema(kind, "spec"), manifest["spec"], ("spec",))]
    choices.append(("odd name", ("metadata", "name"), ("metadata", "name"), st.sampled_from(NO_NAMES)))
    if "default" not in schema(kind, "spec"):
        choices.append(("missing", ("spec",), ("spec",), st.just(GONE)))
    ways = sorted({how for how, *_ in choices} | ({"forbidden together"} if CLASHES[kind] else set()))
    how = draw(st.sampled_from(ways))
    if how == "forbidden together":
        words, patch = draw(st.sampled_from(CLASHES[kind]))
        return Broken(how, plain(words), merged(manifest, patch))
    _, path, named, values = draw(st.sampled_from([place for place in choices if place[0] == how]))
    return Broken(how, spelled(named), replaced(manifest, path, draw(values)))
