"""CustomResourceDefinitions: the structural schema, columns and rules of each kind."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from ultramarine.resources.base import NOT_OBSERVED, UNSEEN
from ultramarine_contract.meta import GROUP, VERSION
from ultramarine_contract.schemas import FIXED, INT_OR_STRING, RULES

from ..shared.kind import READY, Kind


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The structural OpenAPI schema of a model: no references, titles or unions, immutable fields as CEL rules."""
    document = model.model_json_schema(by_alias=True)
    return _structural(document, document.get("$defs", {}))


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        both = [*target.get(RULES, []), *node.get(RULES, [])]  # a field's own rules stand beside those of its type
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}, **({RULES: both} if both else {})}
    if "anyOf" in node:
        rest = {k: v for k, v in node.items() if k != "anyOf"}
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        if node.get(INT_OR_STRING):
            return _structural(rest, definitions)
        (only,) = options  # a structural schema has no unions
        merged = _structural(only, definitions)
        if rest.get("default", ...) is None:
            rest.pop("default")
        return {**merged, **_structural(rest, definitions)}
    out: dict[str, Any] = {}
    for name, value in node.items():
        match name:
            case "title" | "$defs" | "x-ultramarine-immutable":
                continue
            case "properties":
                out[name] = {key: _structural(child, definitions) for key, child in value.items()}
            case "items" | "additionalProperties":
                out[name] = _structural(value, definitions) if isinstance(value, dict) else value
            case "const":
                out["enum"] = [value]
            case _:
                out[name] = value
    if isinstance(out.get("additionalProperties"), bool):
        del out["additionalProperties"]
    # Only a default that is not empty is written into users' objects: null and empty ones equal an absent field.
    if _is_empty(out.get("default")):
        out.pop("default", None)
    elif isinstance(out["default"], dict):
        out["default"] = {name: value for name, value in out["default"].items() if not _is_empty(value)}
    if out.pop("x-ultramarine-defaults-unwritten", False):
        out = _with_defaults_in_words(out)
    if sentence := out.pop("x-ultramarine-says", ""):
        # A refusal by a pattern shows the expression, a refusal by a rule its message.
        rule = f"self.matches(r'{out.pop('pattern')}')"
        if out.get(INT_OR_STRING):
            rule = f"type(self) != string || {rule}"
        out.setdefault(RULES, []).insert(0, {"rule": rule, "message": sentence})
    fixed = [key for key, child in (node.get("properties") or {}).items() if child.get("x-ultramarine-immutable")]
    for key in fixed:
        now, before = f"self.{key}", f"oldSelf.{key}"
        if not _is_seen(out["properties"][key]):
            now, before = f"dyn(self).{key}", f"dyn(oldSelf).{key}"
        # In lists, whose size CEL knows beforehand: it would reckon with the largest value of an unknown type.
        equal = f"{now} == {before}" if now.startswith("self") else f"[{now}] == [{before}]"
        same = f"has({now}) == has({before}) && (!has({now}) || {equal})"
        message = f"{key}{FIXED}"
        out.setdefault(RULES, []).append({"rule": same, "message": message})
    return out


def _is_seen(node: dict[str, Any]) -> bool:
    """True if CEL knows the field: one without a type is hidden from it, and so are lists and maps of those."""
    inner = node.get("items") or node.get("additionalProperties")
    return _is_seen(inner) if isinstance(inner, dict) else "type" in node or INT_OR_STRING in node


def _is_empty(default: Any) -> bool:
    if isinstance(default, dict):
        return all(_is_empty(value) for value in default.values())
    return default is None or default == "" or default == []


def _with_defaults_in_words(node: Any) -> Any:
    """The same schema, with defaults in the descriptions alone: the API server writes none into objects."""
    if not isinstance(node, dict):
        return node
    out = {key: _with_defaults_in_words(value) for key, value in node.items()}
    if not isinstance(node.get("default", {}), dict):
        out["description"] = f"{out.get('description', '')} Default: {out.pop('default')}.".lstrip()
    return out


def _without_defaults(node: Any) -> Any:
    """A status has no defaults: what the server filled in would differ from what the operator wrote, forever."""
    if isinstance(node, dict):
        return {
            key: _without_defaults(value) for key, value in node.items() if key != "default" or isinstance(value, dict)
        }
    return node


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    resource = kind.resource
    spec = schema(kind.spec)
    if "required" not in spec:
        # Server-side apply makes null of a spec whose last field was taken away (kubernetes/kubernetes#135841).
        spec["default"] = {}
    # Without any status kstatus (Flux, Helm) would take a new object for done.
    unseen: dict[str, Any] = {"observedGeneration": NOT_OBSERVED}
    if READY in kind.columns:  # which is never blank then
        unseen["conditions"] = [UNSEEN]
    status = {**_without_defaults(schema(kind.status)), "default": unseen}
    root: dict[str, Any] = {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if kind.all_rules:
        root[RULES] = [{"rule": rule, "message": message} for rule, message in kind.all_rules]
    columns = [
        {"name": c.name, "type": c.type, "jsonPath": c.path} | ({"priority": c.priority} if c.priority else {})
        for c in kind.all_columns
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["ultramarine"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }
