"""Values and manifests that our own schemas admit, made by hypothesis."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from bare import documents, schema_of
from hypothesis import strategies as st
from materials import MATERIALS
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds import KINDS

Values = st.SearchStrategy[Any]
Path = tuple[str | int, ...]

NAMES = tuple(kind.name for kind in KINDS)
KIND = {kind.name: kind for kind in KINDS}
OPEN = "x-kubernetes-preserve-unknown-fields"
SMALL = 3  # members of a list or map, as a rule
SHORT = 30  # characters, as a rule
ODD = [
    "",
    " ",
    "null",
    "1e3",
    "$(params.a)",
    "$(outputs.model)",
    "$(HOME)",
    "é",
    "\U0001f4a5",
    "\x00",
    "\u2028",
    "a\nb",
]
QUANTITIES = ["cpu", "memory", "nvidia.com/gpu"]
OBJECT_NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)


# ---- What a schema says, beyond OpenAPI's own words: our patterns are CEL rules that speak in sentences.


def says(schema: Manifest) -> Iterator[str]:
    """The CEL rules of a schema node."""
    return (each["rule"] for each in schema.get("x-kubernetes-validations", []))


def _found(schema: Manifest, expression: str) -> re.Match[str] | None:
    return next((found for rule in says(schema) if (found := re.search(expression, rule))), None)


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as the API server reads it: RE2's $ is the very end, and its white space is ASCII's without \\v."""
    return re.compile(pattern.replace(r"\s", r"\t\n\f\r ").removesuffix("$") + r"\Z", re.ASCII)


def pattern_of(schema: Manifest) -> re.Pattern[str] | None:
    """Return the pattern of a string."""
    found = _found(schema, r"(?<!!)self\.matches\(r?'(.*)'\)$")
    return compiled(found[1]) if found else None


def key_pattern_of(schema: Manifest) -> tuple[re.Pattern[str], int] | None:
    """Return the pattern of a map's keys, and their maximum length."""
    found, size = _found(schema, r"key\.matches\('(.*?)'\)"), _found(schema, r"size\(key\) <= (\d+)")
    return (compiled(found[1]), int(size[1]) if size else SHORT) if found else None


def fixed_fields(schema: Manifest) -> list[str]:
    """The fields that cannot be changed."""
    return [found[1] for rule in says(schema) if (found := re.search(r"self\)?\.(\w+)\]? == .*\.\1\]?\)$", rule))]


def with_fixed(schema: Manifest, first: Manifest, later: Manifest) -> Manifest:
    """A later value in which what cannot be changed is as in the first one, however deep."""
    fixed = fixed_fields(schema)
    made = {name: value for name, value in later.items() if name not in fixed}
    made |= {name: first[name] for name in fixed if name in first}
    for name, child in schema.get("properties", {}).items():
        if name not in fixed and "properties" in child and (name in first or name in made):
            below = with_fixed(child, first.get(name) or {}, made.get(name) or {})
            if below or name in made:
                made[name] = below
    return made


@functools.cache
def schema(kind: str, part: str) -> Manifest:
    """The schema of a kind's spec or status."""
    found: Manifest = schema_of(documents()[kind])["properties"][part]
    return found


# ---- Valid


def rarely(odd: Values, usual: Values) -> Values:
    """Now and then something odd; what fails with the usual is shrunk to it."""
    return st.integers(0, 15).flatmap(lambda n: odd if n == 15 else usual)


def texts(limit: int, least: int = 0) -> Values:
    """Any text that JSON can carry, short as a rule and now and then as long as may be."""
    usual = st.text(min_size=least, max_size=min(limit, SHORT)) | st.sampled_from([s for s in ODD if len(s) >= least])
    return rarely(st.characters(codec="utf-8").map(lambda c: c * min(limit, 5000)), usual)


def moments() -> Values:
    """Times in every form that the API server takes for one."""
    years, seconds = st.sampled_from(["0000", "0001", "1970", "2030", "9999"]), st.sampled_from(["00", "59"])
    ends = st.sampled_from(["Z", "z", ".5Z", ",123456789Z", "+00:00", "-23:59", ".000001+14:00"])
    return st.builds("{}-12-31{}23:59:{}{}".format, years, st.sampled_from("Tt"), seconds, ends)


def from_schema(schema: Manifest) -> Values:
    """Values that a schema admits, but for rules that bind several fields together."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(schema.get("minimum", 0), schema.get("maximum", 2**40)) | _from_pattern(schema)
    if schema.get(OPEN) and "type" not in schema:
        return st.sampled_from(["a", "b", "", 1, 2, 0.5, True, False])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            found = _found(schema, r"^self >= (\d+)$")
            least = int(found[1]) if found else schema.get("minimum", -(2**63))
            return st.integers(least, schema.get("maximum", 2**63 - 1))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "string" if schema.get("format") == "date-time":
            return moments()
        case "string":
            return (
                _from_pattern(schema) if pattern_of(schema) else texts(schema["maxLength"], schema.get("minLength", 0))
            )
        case "array":
            return _lists(schema)
        case "object" if schema.get(OPEN):  # Kubernetes' own, of which we know no more than this
            return st.sampled_from([{}, {"preferredDuringSchedulingIgnoredDuringExecution": []}])
        case "object" if "additionalProperties" in schema:
            return _maps(schema)
        case "object":
            fields = {name: from_schema(child) for name, child in schema.get("properties", {}).items()}
            needed = {name: fields.pop(name) for name in schema.get("required", [])}
            return st.fixed_dictionaries(needed, optional=fields)
    raise AssertionError(f"no values for {schema}")


def _from_pattern(schema: Manifest) -> Values:
    pattern = pattern_of(schema)
    assert pattern is not None
    found = st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= schema["maxLength"])
    forbidden = [
        re.compile(match[1]) for rule in says(schema) if (match := re.search(r"^!self\.matches\('(.*)'\)$", rule))
    ]
    return found.filter(lambda text: not any(each.search(text) for each in forbidden))


def _lists(schema: Manifest) -> Values:
    keys = schema.get("x-kubernetes-list-map-keys")
    different: Callable[[Any], Any] | None = (lambda item: tuple(item[key] for key in keys)) if keys else None
    if schema.get("x-kubernetes-list-type") == "set":
        different = _itself
    most = min(schema["maxItems"], SMALL)
    return st.lists(
        from_schema(schema["items"]), min_size=schema.get("minItems", 0), max_size=most, unique_by=different
    )


def _itself(item: Any) -> Any:
    return item


def _maps(schema: Manifest) -> Values:
    values = schema["additionalProperties"]
    if rule := key_pattern_of(schema):
        pattern, limit = rule
        keys = st.from_regex(pattern, fullmatch=True).filter(lambda key: len(key) <= limit)
    elif values.get("x-kubernetes-int-or-string"):
        keys = rarely(texts(SHORT), st.sampled_from(QUANTITIES))
    else:
        keys = texts(SHORT)
    most = min(schema["maxProperties"], SMALL)
    return st.dictionaries(keys, from_schema(values), min_size=schema.get("minProperties", 0), max_size=most)


def whole(kind: str, name: str, spec: Manifest) -> Manifest:
    """A manifest of that spec in which the fields agree with each other."""
    spec = copy.deepcopy(spec)
    manifest = {"apiVersion": KIND[kind].resource.api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    MATERIALS[kind].complete(manifest, spec)
    return manifest


@functools.cache
def specs(kind: str) -> Values:
    """Specs of a kind."""
    return from_schema(schema(kind, "spec"))


@functools.cache
def valid(kind: str) -> Values:
    """Manifests of a kind that keep all its rules."""
    return st.builds(whole, st.just(kind), OBJECT_NAMES, specs(kind))


@functools.cache
def statuses(kind: str) -> Values:
    """Statuses that the API server admits, whatever they say."""
    return from_schema(schema(kind, "status"))


def json_values() -> Values:
    """Any JSON."""
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts(SHORT)
    leaves |= st.floats(allow_nan=False, allow_infinity=False)

    def deeper(inner: Values) -> Values:
        return st.lists(inner, max_size=3) | st.dictionaries(texts(8), inner, max_size=3)

    return st.recursive(leaves, deeper, max_leaves=5)


GONE = object()


def replaced(document: Any, path: Path, value: Any) -> Any:
    """A copy of a document with another value at one place, or, for GONE, without that place."""
    head, rest = path[0], path[1:]
    made = copy.copy(document)
    if rest:
        made[head] = replaced(document[head], rest, value)
    elif value is GONE:
        made.pop(head, None)
    else:
        made[head] = value
    return made
