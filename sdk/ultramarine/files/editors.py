"""JSON schemas of draft 2020-12 for editors, from the schemas of the kinds."""

from __future__ import annotations

import json
import re

from ultramarine_contract.meta import API_VERSION, GROUP
from ultramarine_contract.schemas import ANY, INT_OR_STRING, RULES

from .schemas import Kind, Schema, authored

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KEPT = (
    "type", "description", "enum", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "required", "format",
)  # fmt: skip
_PATTERN = re.compile(r"(?:type\(self\) != string \|\| )?self\.matches\(r?'(.*)'\)")
_KEYS = re.compile(r"self\.all\(key, key\.matches\(r?'(.*)'\)(?: && size\(key\) <= (\d+))?\)")
_METADATA: Schema = {
    "type": "object",
    "description": "Name, labels and annotations of the object.",
    "anyOf": [{"required": ["name"]}, {"required": ["generateName"]}],
    "properties": {
        "name": {"type": "string", "maxLength": 253, "description": "Name of the object."},
        "generateName": {"type": "string", "description": "Beginning of a name that is new for each submission."},
        "namespace": {"type": "string", "maxLength": 63, "description": "Namespace. Default: that of the command."},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Labels."},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Annotations."},
    },
}


def schema_text(kind: Kind) -> str:
    """Return the JSON schema of a kind as the text of a file."""
    return json.dumps(editor_schema(kind), indent=1, ensure_ascii=False) + "\n"


def editor_schema(kind: Kind) -> Schema:
    """Return the JSON schema of a kind's manifests. A status, as in output of kubectl, is not checked."""
    spec = _node(authored(kind)["properties"]["spec"])
    rules = [rule["message"] for rule in kind.schema.get(RULES, [])]
    return {
        "$schema": DIALECT,
        "$id": f"https://{GROUP}/schemas/{kind.name.lower()}.json",
        "title": kind.name,
        "description": _described(kind.schema["description"], rules),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", *kind.schema.get("required", [])],
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "Version of the API."},
            "kind": {"const": kind.name, "description": "Kind of the object."},
            "metadata": _METADATA,
            "spec": spec,
            "status": {"description": "Written by the operator; ignored in a manifest."},
        },
        "additionalProperties": False,
    }


def _node(node: Schema) -> Schema:
    rules = node.get(RULES, [])
    out: Schema = {key: node[key] for key in _KEPT if key in node}
    patterns = [(match[1], rule["message"]) for rule in rules if (match := _PATTERN.fullmatch(rule["rule"]))]
    texts = [rule["message"] for rule in rules if "oldSelf" not in rule["rule"]]
    if texts:
        out["description"] = _described(node.get("description", ""), texts)
    for pattern, message in patterns:
        if "(?" not in pattern:  # flags, which ECMA's expressions do not have
            out |= {"pattern": pattern, "patternErrorMessage": message}
    if node.get(INT_OR_STRING):
        text = {key: out.pop(key) for key in ("maxLength", "pattern", "patternErrorMessage") if key in out}
        number = {"minimum": out.pop("minimum")} if "minimum" in out else {}
        out["anyOf"] = [{"type": "integer", **number}, {"type": "string", **text}]
    elif node.get(ANY) and "type" not in node:
        out["type"] = (
            ["string", "number", "boolean"]
            if "maxLength" in node and not node.get("maxItems")
            else ["object", "array", "string", "number", "boolean"]
        )
    if "properties" in node:
        out["properties"] = {name: _node(child) for name, child in node["properties"].items()}
        out["additionalProperties"] = bool(node.get(ANY))
    elif isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _node(node["additionalProperties"])
        keys = next((match for rule in rules if (match := _KEYS.fullmatch(rule["rule"]))), None)
        if keys:
            out["propertyNames"] = {"pattern": keys[1], **({"maxLength": int(keys[2])} if keys[2] else {})}
    if isinstance(node.get("items"), dict):
        out["items"] = _node(node["items"])
        if node.get("x-kubernetes-list-type") == "set":
            out["uniqueItems"] = True
    return out


def _described(text: str, rules: list[str]) -> str:
    """Return a description with the rules, each as a line."""
    return "\n".join([text, *(f"- {rule}" for rule in rules)]).strip()
