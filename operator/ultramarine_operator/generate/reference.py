"""API reference: docs/api.md, a page of fields, limits and rules for each kind, and one of conditions and reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultramarine_contract.meta import API_VERSION

from ..kinds import PACKAGES
from ..runs.reasons import RUNS
from ..shared.kind import Kind
from ..shared.reasons import COMMON, Table

INDEX = Path("docs/api.md")
FOLDER = Path("docs/reference")
RULES = "x-kubernetes-validations"
FIXED = " cannot be changed; make a new object with another name"
# Bounds of a schema, and their words on a page.
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

Schema = Callable[[Kind], dict[str, Any]]


def pages(kinds: tuple[Kind, ...], schema: Schema, plain: str) -> dict[Path, str]:
    """Return the pages by path, from the schemas of the CRDs; `plain` is the name of a field's missing type."""
    kind_pages = {FOLDER / f"{kind.name.lower()}.md": _page(kind, schema, plain) for kind in kinds}
    rows = [
        f"| [{kind.name}](reference/{kind.name.lower()}.md) | `{kind.short}` | {kind.description} |" for kind in kinds
    ]
    lines = [
        "# API reference",
        "",
        f"All kinds are namespaced, in `{API_VERSION}` and in the category `ultramarine`. The schemas make these",
        "pages; `kubectl explain KIND.spec --recursive` shows the same.",
        "",
        "| kind | short name | purpose |",
        "|---|---|---|",
        *rows,
    ]
    return {INDEX: "\n".join(lines) + "\n", FOLDER / "conditions.md": _conditions(), **kind_pages}


def tables() -> Iterator[tuple[str, Table]]:
    """Yield the tables of conditions and reasons, with the kind's package; the common ones have none."""
    yield from (("", COMMON), ("", RUNS))
    for package in PACKAGES:
        name = package.__name__
        if find_spec(f"{name}.reasons"):
            yield from ((name.rpartition(".")[2], table) for table in import_module(f"{name}.reasons").TABLES)


def _conditions() -> str:
    """Return the page of conditions and reasons."""
    lines = [
        "# Conditions and reasons",
        "",
        "`kubectl describe` shows the conditions and events of an object, each with a message that names the remedy.",
        "Programs read the reason. While `Reconciled` is False for a lasting cause, `Ready` or `Running` has the same",
        "reason. A run's `status.failure.reason` is that of its condition `Failed`, and `Succeeded` is then False with",
        "the same reason.",
    ]
    for _, table in tables():
        lines += ["", f"## {table.title}"]
        if table.conditions:
            lines += ["", "| condition | meaning |", "|---|---|"]
            lines += [f"| `{type}` | {meaning} |" for type, meaning in table.conditions.items()]
        sections = {f"Reasons of {type}": reasons for type, reasons in table.reasons.items()}
        for title, reasons in {**sections, "Events": table.events}.items():
            if reasons:
                lines += ["", f"### {title}", "", "| reason | meaning | remedy |", "|---|---|---|"]
                lines += [f"| `{reason}` | {meaning} | {remedy} |" for reason, (meaning, remedy) in reasons.items()]
    return "\n".join(lines) + "\n"


def _page(kind: Kind, schema: Schema, plain: str) -> str:
    lines = [f"# {kind.name}", "", f"{kind.description} Short name: `{kind.short}`."]
    for part, head in (("spec", "Refused at admission unless:"), ("status", "Written only if:")):
        node = schema(kind)["properties"][part]
        columns = ["| field | type | default | limits | meaning |", "|---|---|---|---|---|"]
        lines += ["", f"## {part}", "", *columns, *_rows(node, part, plain)]
        rules = [f"- `{path}`: {message}" for path, message in _rules(node, part)]
        rules += [f"- {message}" for _, message in kind.all_rules] if part == "spec" else []
        if rules:
            lines += ["", head, "", *rules]
    return "\n".join(lines) + "\n"


def _inner(node: dict[str, Any], path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the schemas in a field with their paths: its own, that of a list's entries, and of a map's values."""
    yield node, path
    for key, mark in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(node.get(key), dict):
            yield from _inner(node[key], path + mark)


def _rows(node: dict[str, Any], path: str, plain: str) -> list[str]:
    rows: list[str] = []
    required = set(node.get("required", []))
    fixed = {rule["message"].removesuffix(FIXED) for rule in node.get(RULES, []) if rule["message"].endswith(FIXED)}
    for name, child in node.get("properties", {}).items():
        where = f"{path}.{name}"
        limits = ["required"] if name in required else []
        limits += ["cannot be changed"] if name in fixed else []
        limits += _bounds(child)
        limits += [f"each {bound}" for inner, at in _inner(child, "") if at for bound in _bounds(inner)]
        cells = (f"`{where}`", _type(child, plain), _default(child), ", ".join(limits), child.get("description", ""))
        rows.append(f"| {' | '.join(cell.replace(chr(10), ' ').replace('|', chr(92) + '|') for cell in cells)} |")
        for inner, at in _inner(child, where):
            rows += _rows(inner, at, plain)
    return rows


def _bounds(node: dict[str, Any]) -> list[str]:
    values = [f"`{value}`" for value in node.get("enum", ())]
    return values + [_bound(words, node[key]) for key, words in _BOUNDS.items() if key in node]


def _bound(words: str, value: float) -> str:
    text = words.format(f"{value:,}")
    return text.replace("entries", "entry").replace("characters", "character") if value == 1 else text


def _type(node: dict[str, Any], plain: str) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = str(node.get("type", plain))
    if kind == "array":
        return f"list of {_type(node['items'], plain)}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"map of {_type(node['additionalProperties'], plain)}"
    return kind


def _default(node: dict[str, Any]) -> str:
    default = node.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"


def _rules(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield the messages of a schema's rules by path, except immutability, which the rows show."""
    for inner, at in _inner(node, path):
        for rule in inner.get(RULES, []):
            if not rule["message"].endswith(FIXED):
                yield at, rule["message"]
        for name, child in inner.get("properties", {}).items():
            yield from _rules(child, f"{at}.{name}")
