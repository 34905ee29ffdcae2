"""Freshness, structure and documentation of the generated files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from ultramarine_contract.meta import SECRET, Manifest
from ultramarine_operator.generate import __main__ as generate
from ultramarine_operator.generate import rbac, reference
from ultramarine_operator.generate.crds import crd
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.trainingjob import KIND as TRAININGJOB


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every object of a document, with its path."""
    if isinstance(node, dict):
        yield path, node
        for name, child in node.items():
            yield from nodes(child, f"{path}.{name}")
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from nodes(child, f"{path}[{number}]")


def fields(schema: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    """Every field of a schema, with its path; the values of maps and the items of lists have no path of their own."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    for below in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(below, dict):
            yield from fields(below, path)


def root(kind: Any) -> Manifest:
    """The schema of a kind, as in its CRD."""
    schema: Manifest = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


files = cache(generate.files)  # to make them takes seconds, which not every worker needs to spend
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.mark.attack(
    "supply/generated-files",
    asset="the installed release",
    threat="generated files that were edited by hand",
    control="they are compared with what the kinds say",
)
def test_the_generated_files_are_fresh():
    """Each committed file equals the output of the generator."""
    stale = [str(path) for path, text in files().items() if path.read_text() != text]
    assert stale == [], "run `make generate` and commit"


def test_nothing_generated_lacks_a_source():
    """The CRDs and pages of a removed kind go with it."""
    assert generate.orphans(files()) == []


def test_what_a_removed_kind_leaves_is_an_orphan(monkeypatch, tmp_path):
    """Its CRD is one, and its page by the header; a page that was written by hand is none."""
    crd, fresh = tmp_path / "crds" / "pizzas.yaml", tmp_path / "crds" / "sweeps.yaml"
    page, by_hand = tmp_path / "docs" / "reference" / "pizza.md", tmp_path / "docs" / "reference" / "glossary.md"
    for path in (crd, fresh, page, by_hand):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(reference.HEADER if path is page else "# Glossary\n")

    monkeypatch.setattr(generate, "ROOT", tmp_path)

    assert generate.orphans([fresh]) == [crd, page]


def test_a_generated_page_says_so():
    """A reader of the source sees that an edit would be lost."""
    pages = [path for path in files() if path.is_relative_to(generate.ROOT / reference.FOLDER)]
    assert pages
    assert [path for path in pages if not path.read_text().startswith(reference.MARK)] == []


def test_no_crd_is_left_of_a_kind_that_is_gone():
    """crds/ has a file for each kind, and no other."""
    assert set((generate.ROOT / "crds").iterdir()) == {path for path in files() if path.parent.name == "crds"}


@pytest.mark.slow
def test_check_names_the_files_that_are_not_fresh(monkeypatch, capsys, tmp_path):
    """`--check` writes nothing, names every stale file, and fails; without it they are written, once."""
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate", "--check"])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    assert ended.value.code == 1
    assert "not fresh: crds/trainingjobs.yaml; run `make generate`" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr("sys.argv", ["generate"])
    generate.main()
    assert "wrote crds/trainingjobs.yaml" in capsys.readouterr().out
    generate.main()
    assert capsys.readouterr().out == ""


@each_kind
def test_a_schema_is_structural(kind):
    """No reference, title, union or pydantic word of ours is left, and every value has a type, or says so."""
    foreign = {"$ref", "$defs", "title", "anyOf", "oneOf", "allOf", "const"}
    for path, node in nodes(root(kind)):
        # Under `properties` the names are fields, and a field may be called title.
        words = set() if path.endswith(".properties") else set(node)
        assert not words & foreign, path
        assert not {word for word in words if word.startswith("x-ultramarine")}, path
    for path, field in fields(root(kind), ""):
        assert {"type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"} & set(field), path


@each_kind
def test_every_field_is_described(kind):
    """Every field of spec and status, however deep, says what it is for, in a sentence."""
    found = [*fields(root(kind)["properties"]["spec"], "spec"), *fields(root(kind)["properties"]["status"], "status")]

    assert len(found) > 10
    assert [path for path, field in found if not str(field.get("description", "")).rstrip().endswith((".", "'"))] == []


@each_kind
def test_a_status_has_no_defaults(kind):
    """A default in a status would make it differ endlessly from the status that the operator wrote."""
    assert [path for path, field in fields(root(kind)["properties"]["status"], "status") if "default" in field] == []


@each_kind
def test_everything_has_a_limit(kind):
    """Every text, list and map of a spec is bounded: no object can fill the store, and every rule has a known cost."""
    limits = {"string": ("maxLength", "enum", "format"), "array": ("maxItems",)}
    for path, node in nodes(root(kind)["properties"]["spec"]):
        wanted = limits.get(str(node.get("type")), ())
        if isinstance(node.get("additionalProperties"), dict) or node.get("x-kubernetes-preserve-unknown-fields"):
            wanted = ("maxProperties",) if "type" in node else ("maxLength",)  # without one a plain value
        assert not wanted or set(wanted) & set(node), path


@each_kind
def test_defaults_say_something(kind):
    """A default is written into people's objects: only those that mean more than absence are in the schema."""
    for path, field in fields(root(kind)["properties"]["spec"], "spec"):
        assert field.get("default", "something") not in (None, "", [], {}), path


def test_yaml_is_for_people():
    """No anchors: what occurs twice is written twice."""
    texts = {path: path.read_text() for path in files() if path.suffix == ".yaml"}
    assert texts
    for path, text in texts.items():
        assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.CSafeLoader)), path


def test_the_rights_are_the_least():
    """Secrets can be created and nothing else; no wildcard, no escalation; a status can be written, a spec cannot, but
    for that of a kind which is another's child, or which a user has a pipeline edit."""
    children = {child for kind in KINDS for child in (*kind.children, *kind.edits)}
    for rule in [*rbac.rbac(), *rbac.lease_rules(), *rbac.feature_rules()["gatewayApi"]]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
        if SECRET.plural in rule["resources"]:
            assert rule["verbs"] == ["create"]
        for kind in KINDS:
            if kind.resource.plural in rule["resources"] and kind.resource not in children:
                assert not {"patch", "update"} & set(rule["verbs"])


def test_rights_on_routes_are_given_only_where_they_are_written():
    """The rules of every installation have nothing of Gateway API; those for it have nothing else."""
    apart = [
        {group for rule in rules for group in rule["apiGroups"]}
        for rules in (rbac.rbac(), rbac.feature_rules()["gatewayApi"])
    ]

    assert "gateway.networking.k8s.io" not in apart[0]
    assert apart[1] == {"gateway.networking.k8s.io"}


@each_kind
def test_the_reference_has_every_field_and_every_rule(kind):
    """A kind's page names each field of spec and status, however deep, once, and each rule's message."""
    pages = reference.pages(KINDS, root, generate.PLAIN)
    text = pages[reference.FOLDER / f"{kind.name.lower()}.md"]
    parts = {part: root(kind)["properties"][part] for part in ("spec", "status")}
    listed = re.findall(r"^\| `([\w.\[\]]+)` \|", text, re.MULTILINE)
    messages = {message for node in parts.values() for message in said(node)}

    assert sorted(listed) == sorted(path for part, node in parts.items() for path in below(node, part))
    assert f"({reference.FOLDER.name}/{kind.name.lower()}.md)" in pages[reference.INDEX]
    assert all(message in text for message in messages if "make a new object" not in message)


def below(node: Manifest, path: str) -> Iterator[str]:
    """The paths of all fields below a schema."""
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from below(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(node.get(key), dict):
            yield from below(node[key], path + mark)


def said(node: Any) -> Iterator[str]:
    """The messages of all rules of a schema."""
    if isinstance(node, dict):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
        for child in node.values():
            yield from said(child)


def test_explain_names_what_the_trainer_image_has():
    """Each package that `kubectl explain tj.spec.image` promises is a requirement of the image."""
    extras = tomllib.loads((generate.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = root(TRAININGJOB)["properties"]["spec"]["properties"]["image"]["description"]
    listed = re.search(r"trainer image, with (.*); docs/images.md", told)
    assert listed
    promised = {{"xgboost": "xgboost-cpu"}.get(name, name) for name in re.split(r", | and ", listed[1])}
    assert len(promised) > 5
    assert promised <= {*extras["trainer"], *extras["sweep"]}
