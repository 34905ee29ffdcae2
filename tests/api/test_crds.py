"""Features of kubectl for each kind: explain, columns, short names, waiting."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
from bare import CRDS, DIGEST, Api, documents, schema_of, whole
from ultramarine.resources.base import UNSEEN
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.kind import Column

NOW = "2030-01-01T12:00:00Z"
KIND = {kind.name: kind for kind in KINDS}
CONDITION = re.compile(r'\.status\.conditions\[\?\(@\.type=="(\w+)"\)\]\.(\w+)')


def condition(type: str) -> dict[str, str]:
    """A condition that is true."""
    message = f"message of {type}"
    return {"type": type, "status": "True", "reason": f"Reason{type}", "message": message, "lastTransitionTime": NOW}


def filled(node: Manifest, name: str) -> Any:
    """A value that has every field of a schema, with texts that say where they are."""
    if "enum" in node:
        return node["enum"][0]
    match node.get("type"):
        case "boolean":
            return True
        case "integer" | "number":
            return max(1, node.get("minimum", 1))
        case "array":
            return [filled(node["items"], name)]
        case "object" if "properties" in node:
            return {field: filled(child, field) for field, child in node["properties"].items()}
        case "object":
            return {"a": filled(node["additionalProperties"], name)} if "additionalProperties" in node else {}
        case "string" if node.get("format") == "date-time":
            return NOW
    return DIGEST if name == "digest" else name[: node.get("maxLength", len(name))]


def whole_status(kind: str) -> Manifest:
    """A status with every field, and with the conditions that columns show."""
    types = {match[1] for column in KIND[kind].all_columns if (match := CONDITION.fullmatch(column.path))}
    status = filled(schema_of(documents()[kind])["properties"]["status"], "")
    return {**status, "conditions": [condition(type) for type in sorted(types)]}


def shown(column: Column, manifest: Manifest) -> str:
    """The text of a column."""
    if match := CONDITION.fullmatch(column.path):
        value = find(manifest["status"], match[1])
        assert value is not None
        return str(value[match[2]])
    return str(functools.reduce(lambda value, name: value[name], column.path.strip(".").split("."), manifest))


def table(api: Api, *what: str) -> list[dict[str, str]]:
    """The rows that `kubectl get` shows, by their headings."""
    head, *rows = api.run("get", *what).splitlines()
    names = head.split()
    starts = [head.index(f"{name} ") if f"{name} " in head else head.index(name) for name in names]
    ends: list[int | None] = [*starts[1:], None]
    return [
        {name: row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for row in rows
    ]


@pytest.mark.parametrize("kind", KIND)
def test_a_whole_status_is_taken_and_shown_in_columns(api, kind):
    """A status written through the subresource is stored completely, and kubectl shows it in the columns."""
    short, status, manifest = KIND[kind].short, whole_status(kind), whole(kind)
    api.apply(manifest)
    api.status(short, manifest["metadata"]["name"], status)

    assert api.get(short, manifest["metadata"]["name"])["status"] == status
    for options, priorities in (((), (0,)), (("-o", "wide"), (0, 1))):
        columns = [column for column in KIND[kind].all_columns if column.priority in priorities]
        expected = {c.name.upper(): shown(c, {**manifest, "status": status}) for c in columns if c.type != "date"}
        (row,) = table(api, short, *options)
        assert row | expected == row
        assert set(row) == {"NAME", *(column.name.upper() for column in columns)}


@pytest.mark.parametrize("kind", KIND)
def test_a_status_cannot_come_in_with_the_spec(api, kind):
    """A status in a user's manifest is dropped: only the operator writes it, and it has not looked yet.

    No column READY is blank meanwhile.
    """
    api.apply(whole(kind, {"status": whole_status(kind)}))

    (manifest,) = api.all(kind)
    (row,) = table(api, KIND[kind].short)
    unseen = {"conditions": [UNSEEN]} if "READY" in row else {}
    assert manifest["status"] == {"observedGeneration": -1, **unseen}
    assert row.get("READY", "Unknown") == "Unknown"


def test_the_category_lists_everything(api):
    """`kubectl get ultramarine` shows the objects of all our kinds."""
    api.apply(*(whole(kind) for kind in documents()))

    listed = json.loads(api.run("get", "ultramarine", "-o", "json"))["items"]
    assert {found["kind"] for found in listed} == set(documents())


def test_waiting_for_a_condition_works(api):
    """`kubectl wait --for=condition=Succeeded` ends when the status says so."""
    api.apply(whole("TrainingJob"))
    api.status("tj", "churn", {"observedGeneration": 1, "conditions": [condition("Succeeded")]})

    assert "condition met" in api.run("wait", "--for=condition=Succeeded", "tj/churn", "--timeout=120s")


def described(schema: dict, path: str) -> list[tuple[str, list[str]]]:
    """Every object of a schema that has fields, as kubectl names it, with their names."""
    while "properties" not in schema:
        below = schema.get("items") or schema.get("additionalProperties")
        if not isinstance(below, dict):
            return []
        schema = below
    found = [(path, list(schema["properties"]))]
    for name, child in schema["properties"].items():
        found += described(child, f"{path}.{name}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KIND)
def test_explain_reads_like_documentation(api, kind):
    """`kubectl explain` has a description for every field of spec and status, however deep."""
    root = schema_of(documents()[kind])["properties"]
    name = kind.lower()
    pages = [page for part in ("spec", "status") for page in described(root[part], f"{name}.{part}")]
    assert len(pages) > 2

    for path, fields in pages:
        said = api.run("explain", path)
        assert "<no description>" not in said, f"{path}\n{said}"
        assert "DESCRIPTION:\n    <empty>" not in said, f"{path}\n{said}"
        assert all(f"\n  {field}\t" in said for field in fields), f"{path}\n{said}"


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_a_crd_can_be_applied_by_hand(api, path):
    """A CRD fits into the annotation of client-side apply, and applying it again changes nothing."""
    assert len(json.dumps(documents_of(path))) < 262_144

    assert "unchanged" in api.run("apply", "-f", str(path))


def documents_of(path) -> dict:
    """The one CRD in a file."""
    return next(crd for crd in documents().values() if crd["spec"]["names"]["plural"] == path.stem)
