"""Every limit of a schema, with a value that breaks it and the words that the API server then has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from strategies import compiled, fixed_fields, key_pattern_of
from ultramarine_contract.meta import Manifest

ITEM, VALUE = "[]", "*"  # of a list, and of a map
CEL, OPEN, MIXED = (
    "x-kubernetes-validations",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
)
Path = tuple[str, ...]
# One of them breaks each pattern of the schemas.
ODD = ("", "é", "A", "-", "0x", "s3://lake/../a", "..", "a b", "a\nb", "/mnt/model")
MATCHES = re.compile(r"(?:type\(self\) != string \|\| )?(!?)self\.matches\(r?'(.*)'\)")


@dataclass(frozen=True)
class Limit:
    """A limit of one field, and the refusal of a value beyond it.

    `beyond` makes such a value of the present one; `at` is a value that just keeps the limit, if there is one.
    """

    keyword: str
    path: Path
    beyond: Callable[[Any], Any]
    at: Any
    words: str  # a regular expression
    message: str = ""  # of the CEL rule

    def __str__(self) -> str:
        return f"{self.keyword} of {'.'.join(self.path)}"


class Gone:
    """In place of a value: the field is absent."""


def limits(node: Manifest, path: Path, spare: Path | None = None) -> Iterator[Limit]:
    """All limits at and below a node, except below `spare`."""
    if path == spare:
        return
    yield from _of_value(node, path)
    yield from _of_size(node, path)
    yield from _of_form(node, path)
    at = expression(path)
    for name, child in node.get("properties", {}).items():
        if name in node.get("required", []):
            yield Limit("required", (*path, name), lambda _: Gone, None, rf"{at}\.{name}: Required value")
        yield from limits(child, (*path, name), spare)
    if "properties" in node and not node.get(OPEN):
        yield Limit("unknown", (*path, "nosuch"), lambda _: 1, None, rf'unknown field "{at}\.nosuch"')
    if "items" in node:
        yield from limits(node["items"], (*path, ITEM), spare)
    if isinstance(node.get("additionalProperties"), dict):
        yield from limits(node["additionalProperties"], (*path, VALUE), spare)


def _of_value(node: Manifest, path: Path) -> Iterator[Limit]:
    at = expression(path)
    step = 1 if node.get("type") == "integer" or MIXED in node else 0.001
    if (least := node.get("minimum")) is not None:
        words = rf"{at} in body should be greater than or equal to"
        yield Limit("minimum", path, lambda _: least - step, least, words)
    if (most := node.get("maximum")) is not None:
        words = rf"{at} in body should be less than or equal to"
        more = most + max(step, abs(most) * 1e-9 if step < 1 else 0)
        yield Limit("maximum", path, lambda _: more, most, words)
    if "enum" in node:
        choices = ", ".join(f'"{word}"' for word in node["enum"])
        words = rf"{at}: Unsupported value: .*{re.escape(choices)}"
        yield Limit("enum", path, lambda _: "no-such-word", node["enum"][-1], words)
    if type := "integer,string" if MIXED in node else node.get("type"):
        other = 1.5 if MIXED in node else {"string": 1, "boolean": "true", "array": 0}.get(type, "a")
        form = node["format"] if node.get("format") == "date-time" else type
        yield Limit("type", path, lambda _: other, None, rf"{at} in body must be of type {form}")


def _of_size(node: Manifest, path: Path) -> Iterator[Limit]:
    at = expression(path)
    for keyword, what, empty in (
        ("minLength", "be at least", ""),
        ("minItems", "have at least", []),
        ("minProperties", "have at least", {}),
    ):
        if node.get(keyword):
            words = rf"{at} in body should {what} {node[keyword]}"
            yield Limit(keyword, path, lambda _, empty=empty: empty, None, words)  # type: ignore[misc]
    too = rf"{at}: Too (long|many): .*(more than|at most) \d+ (bytes|items)"
    untyped = OPEN in node and "type" not in node
    if "maxLength" in node and (node.get("type") == "string" or MIXED in node or untyped):
        yield Limit("maxLength", path, lambda _: "a" * (node["maxLength"] + 1), None, too)
    if node.get("type") == "array" and "maxItems" in node:
        yield Limit("maxItems", path, lambda items: too_many(node, items), None, too)
    if node.get("type") == "object" and "maxProperties" in node and "properties" not in node:
        count = node["maxProperties"] + 1
        yield Limit("maxProperties", path, lambda fields: dict.fromkeys(_names(count), _first(fields)), None, too)
    if node.get("x-kubernetes-list-type") in ("set", "map"):
        words = rf"{at}\[\d+\]: Duplicate value"
        yield Limit("twice", path, lambda items: [*items, items[0]] if items else ["a", "a"], None, words)


def _of_form(node: Manifest, path: Path) -> Iterator[Limit]:
    """Patterns of texts and of keys, which are CEL rules."""
    at = expression(path)
    for rule in node.get(CEL, ()):
        message = rule["message"]
        words = rf"{at}: Invalid value: .*{re.escape(message)}"
        if match := MATCHES.fullmatch(rule["rule"]):
            forbids = bool(match[1])
            pattern = re.compile(match[2], re.ASCII) if forbids else compiled(match[2])
            odd = next((text for text in ODD if bool(pattern.search(text)) == forbids), None)
            assert odd is not None, f"add a text to ODD that breaks {rule['rule']}"
            yield Limit("pattern", path, lambda _, odd=odd: odd, None, words, message)  # type: ignore[misc]
        elif re.search(r"^self\.all\(key, key\.matches\('.*?'\)( && size\(key\) <= \d+)?\)$", rule["rule"]):
            found = key_pattern_of({CEL: [rule]})
            assert found is not None
            odd = next(text for text in ODD if not found[0].search(text))
            yield Limit("key", path, lambda fields, odd=odd: {odd: _first(fields)}, None, words, message)  # type: ignore[misc]


def too_many(node: Manifest, items: list[Any] | None) -> list[Any]:
    """One item more than a list may have; they differ if they must, since that would be refused first."""
    if node.get("x-kubernetes-list-type") == "set":
        return list(range(node["maxItems"] + 1))
    keys, item = node.get("x-kubernetes-list-map-keys", []), items[0] if items else {}
    names = _names(node["maxItems"] + 1)
    return [item | dict.fromkeys(keys, name) if isinstance(item, dict) else item for name in names]


def _names(count: int) -> list[str]:
    return [f"a{number}" for number in range(count)]


def _first(fields: Manifest | None) -> Any:
    return next(iter((fields or {"a": ""}).values()))


def expression(path: Path) -> str:
    """A regular expression for a path as the API server writes it."""
    parts = {ITEM: r"\[\d+\]", VALUE: r"(\.[^ :]+?|\[[^\]]*\])"}
    return "".join(parts.get(part, rf"\.{re.escape(part)}") for part in path).removeprefix(r"\.")


def has(base: Any, path: Path) -> bool:
    """True if a value has what a path leads through."""
    for part in path:
        if part in (ITEM, VALUE):
            inner = list(base.values() if isinstance(base, dict) else base or ())
            base = inner[0] if inner else None
        else:
            base = base.get(part) if isinstance(base, dict) else None
    return base is not None


def placed(base: Any, path: Path, value: Callable[[Any], Any]) -> Any:
    """`base` with another value at that path, made of the present one; what leads there is made if it is absent."""
    if not path:
        return value(base)
    first, *rest = path
    if first == ITEM:
        items = base if isinstance(base, list) and base else [None]
        return [placed(items[0], tuple(rest), value), *items[1:]]
    fields = dict(base) if isinstance(base, dict) else {}
    name = next(iter(fields), "a") if first == VALUE else first
    fields[name] = placed(fields.get(name), tuple(rest), value)
    if fields[name] is Gone:
        del fields[name]
    return fields


# ---- What cannot be changed later


@dataclass(frozen=True)
class Change:
    """A change of a field that is immutable."""

    path: Path
    how: str
    value: Callable[[Any], Any]

    def __str__(self) -> str:
        return f"{'.'.join(self.path)} {self.how}"


def changes(node: Manifest, whole: Manifest, path: Path) -> Iterator[Change]:
    """Every immutable field of a whole object, changed and, unless it is required or has a default, removed."""
    for name in fixed_fields(node):
        child = node["properties"][name]
        if name in whole:
            yield Change((*path, name), "changed", lambda value, child=child: _other(value, child))  # type: ignore[misc]
            if name not in node.get("required", ()) and "default" not in child:
                yield Change((*path, name), "removed", lambda _: Gone)
    for name, child in node.get("properties", {}).items():
        if "properties" in child and name in whole and name not in fixed_fields(node):
            yield from changes(child, whole[name], (*path, name))


def _other(value: Any, node: Manifest) -> Any:
    """Another value of the same type; that it breaks rules of its own does not matter."""
    if "enum" in node:
        return next(word for word in node["enum"] if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if value + 1 <= node.get("maximum", value + 1) else value - 1
    if isinstance(value, str):
        return f"{value}1" if len(value) < node.get("maxLength", 1000) else value[:-1]
    if isinstance(value, list):
        return [_other(value[0], node["items"]), *value[1:]]
    name, inner = next(((name, inner) for name, inner in value.items() if inner != {}), ("other", {}))
    if not inner:
        return {**value, name: inner}
    child = node.get("properties", {}).get(name) or node["additionalProperties"]
    return {**value, name: _other(inner, child)}
