"""Every limit of a schema, with a value that breaks it and the words that the API server then has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.meta import Manifest

ITEM, VALUE = "[]", "*"  # of a list, and of a map
Path = tuple[str, ...]


@dataclass(frozen=True)
class Limit:
    """A limit of one field: a value beyond it, one that just keeps it where that can be said, and the refusal."""

    keyword: str
    path: Path
    beyond: Any
    at: Any
    words: str  # an expression

    def __str__(self) -> str:
        return f"{self.keyword} of {'.'.join(self.path)}"


class Gone:
    """In place of a value: the field is not there."""


def limits(node: Manifest, path: Path, spare: Path | None = None) -> Iterator[Limit]:
    """All limits at and below a node, but for the texts' largest sizes and what lies below `spare`."""
    if path == spare:
        return
    yield from _of_value(node, path)
    at = _expression(path)
    for name, child in node.get("properties", {}).items():
        if name in node.get("required", []):
            yield Limit("required", (*path, name), Gone, None, rf"{at}\.{name}: Required value")
        yield from limits(child, (*path, name), spare)
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        yield Limit("unknown", (*path, "nosuch"), 1, None, rf'unknown field "{at}\.nosuch"')
    if "items" in node:
        yield from limits(node["items"], (*path, ITEM), spare)
    if isinstance(node.get("additionalProperties"), dict):
        yield from limits(node["additionalProperties"], (*path, VALUE), spare)


def _of_value(node: Manifest, path: Path) -> Iterator[Limit]:
    at = _expression(path)
    step = 1 if node.get("type") == "integer" or "x-kubernetes-int-or-string" in node else 0.001
    if (least := node.get("minimum")) is not None:
        words = rf"{at} in body should be greater than or equal to"
        yield Limit("minimum", path, least - step, least, words)
    if (most := node.get("maximum")) is not None:
        words = rf"{at} in body should be less than or equal to"
        yield Limit("maximum", path, most + max(step, abs(most) * 1e-9 if step < 1 else 0), most, words)
    if "enum" in node:
        known = ", ".join(f'"{word}"' for word in node["enum"])
        words = rf"{at}: Unsupported value: .*{re.escape(known)}"
        yield Limit("enum", path, "no-such-word", node["enum"][-1], words)
    for keyword, what, empty in (
        ("minLength", "be at least", ""),
        ("minItems", "have at least", []),
        ("minProperties", "have at least", {}),
    ):
        if node.get(keyword):
            yield Limit(keyword, path, empty, None, rf"{at} in body should {what} {node[keyword]}")


def _expression(path: Path) -> str:
    """What matches that path in the API server's words."""
    told = ""
    for part in path:
        told += {ITEM: r"\[\d+\]", VALUE: r"\.[^. ]+"}.get(part, rf"\.{re.escape(part)}")
    return told.removeprefix(r"\.")


def placed(base: Any, path: Path, value: Any) -> Any:
    """`base` with another value at that path; what leads there is made where it is not."""
    if not path:
        return value
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
