"""Schemas for editors, and explanations of fields."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from materials import MATERIALS
from ultramarine.files.editors import editor_schema, schema_text
from ultramarine.files.explaining import example_of, explain, field_at
from ultramarine.files.schemas import Kind, UnknownName, kind_named, kinds
from ultramarine.files.validation import faults
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.testing import merged

each_kind = pytest.mark.parametrize("kind", kinds().values(), ids=lambda kind: kind.name)


def applied(kind: Kind, patch: Manifest | None = None) -> Manifest:
    """A whole object of a kind."""
    return {"apiVersion": API_VERSION, "kind": kind.name, **merged(MATERIALS[kind.name].whole, patch or {})}


def test_every_kind_is_there() -> None:
    """The package has the schema of each kind, by all of its names."""
    assert set(kinds()) == {kind.name for kind in KINDS}
    assert kind_named("tj") is kind_named("TrainingJob") is kind_named("trainingjobs")


@each_kind
def test_examples_are_valid_offline(kind: Kind) -> None:
    """The examples of a kind have no fault, as part of the object that they came from."""
    for rule in MATERIALS[kind.name].rules:
        assert faults(applied(kind, rule.ok)) == []


@each_kind
def test_an_editor_schema_takes_what_is_valid(kind: Kind) -> None:
    """The JSON schema is one of draft 2020-12, and takes whole objects and what keeps each rule."""
    schema = editor_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    assert json.loads(schema_text(kind)) == schema
    for rule in MATERIALS[kind.name].rules:
        manifest = applied(kind, rule.ok)
        if isinstance(
            manifest["spec"].get("command", []), list
        ):  # an editor asks for the list, the API server does not
            validator.validate(manifest)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("TrainingJob", {"source": {"inline": None, "path": "."}, "inputs": {"data": {"uri": None, "path": "."}}}),
        (
            "Sweep",
            {"trialTemplate": {"spec": {"source": {"path": "."}, "inputs": {"data": {"uri": None, "path": "."}}}}},
        ),
        ("OnlineEndpoint", {"deployments": [{"name": "a", "model": "m@1", "scoring": {"source": {"path": "."}}}]}),
        ("ModelVersion", {"uri": None, "digest": None, "path": "."}),
    ],
)
def test_local_paths_are_fields_for_authors(tmp_path: Path, kind: str, spec: Manifest) -> None:
    """Local paths, which `submit` and `apply` replace, are valid for editors and offline, and must exist."""
    manifest = applied(kinds()[kind], {"spec": spec, "status": None})
    if kind == "OnlineEndpoint":
        manifest["spec"] = spec

    jsonschema.validate(manifest, editor_schema(kinds()[kind]))
    assert faults(manifest, tmp_path) == []
    assert faults(manifest, tmp_path / "absent") != []


def test_a_page_has_all_about_a_field() -> None:
    """A field's page has type, default, limits, rules, an example and the fields below, through lists and maps."""
    page = explain("tj.spec.outputs")
    assert page.startswith("trainingjob.spec.outputs <map of object>, cannot be changed later\n")
    for part in ("at most 16 entries", "- each key must be lower-case", "outputs:\n    model:\n", "registerAs <text>"):
        assert part in page
    assert "cannot be changed later" in explain("trainingjob.spec.resources.limits").splitlines()[0]
    assert "default 3" in explain("trainingjob.spec.backoffLimit")
    assert "required" in explain("sweep.spec.searchSpace").splitlines()[0]
    for path in ("oe.spec.deployments.model", "oe.spec.deployments[].model", "onlineendpoint.spec.deployments.*.model"):
        assert explain(path).startswith("onlineendpoint.spec.deployments.model <text>\n")
    assert "uri" in explain("trainingjob.spec.source.path")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("trainingjob.spec.output", "trainingjob.spec has no field output; did you mean outputs?"),
        ("traningjob", "traningjob is not a kind of Ultramarine; did you mean TrainingJob?"),
        ("tj.spec.nodes.a", "trainingjob.spec.nodes has no field a; no fields exist here"),
        ("pod", "pod is not a kind of Ultramarine; the kinds are: AutoMLJob, Dataset, DatasetVersion"),
    ],
)
def test_a_mistyped_field_has_its_nearest_name(path: str, words: str) -> None:
    """An unknown kind or field is refused with the nearest name, or with the names that exist."""
    with pytest.raises(UnknownName) as caught:
        explain(path)

    assert words in caught.value.message


@each_kind
def test_most_fields_of_a_spec_have_an_example(kind: Kind) -> None:
    """Pages of fields show a valid value, except of fields that no example of the tests has."""

    def paths(path: str) -> list[str]:
        below = field_at(path).inner.get("properties", {})
        return [inner for name in below for inner in (f"{path}.{name}", *paths(f"{path}.{name}"))]

    every = [path for path in paths(f"{kind.name}.spec") if not path.endswith(".path")]
    lacking = [path for path in every if example_of(field_at(path)) in (None, [], {})]
    assert len(lacking) <= len(every) / 3, lacking
    assert all(explain(path) for path in every)
