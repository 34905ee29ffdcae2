"""Offline validation, and the verdict of a real kube-apiserver on the same manifests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from bare import Api, documents, schema_of, whole
from broken import Broken, broken
from hypothesis import HealthCheck, Phase, given, seed, settings
from limits import expression, limits, placed
from materials import MATERIALS
from strategies import NAMES, valid
from ultramarine.files.editors import editor_schema
from ultramarine.files.projects import TEMPLATES, make_project
from ultramarine.files.reading import dotted, load
from ultramarine.files.schemas import kinds
from ultramarine.files.validation import admission_faults, uploaded, validate
from ultramarine_contract.meta import Manifest

PLAIN = """
1 01 017 0o17 09 0x1F 0b101 -0b11 +12 -7 1_000 12e03 1e3 1e-5 1. .5 -.5 1.50 0.10 6.02e23 1e400x 1:20 1.2.3 2001-01-01
9223372036854775807 9223372036854775808 123456789012345678901234567890 2001-12-14t21:59:43.10Z yes No on OFF y n true
True tRUE ~x -- + . .. ._5 0x 0xg 1e e1 _1 1_ '1' "yes" a:b <<x nan 0.1e -0 -0.0 00 0_7 1__0 0b2 0o8 é
"""
EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def empty(namespace) -> Api:
    """A namespace in which nothing is ever stored."""
    return namespace()


def ruled(kind: str) -> Iterator[tuple[str, bool, Manifest]]:
    """Examples of each rule: its words, True if the object keeps it, and the object."""
    for rule in MATERIALS[kind].rules:
        yield str(rule), True, whole(kind, rule.ok)
        for patch in rule.bad:
            yield str(rule), False, whole(kind, patch)


@pytest.mark.parametrize("kind", MATERIALS)
def test_an_example_of_a_rule_has_one_verdict(empty, kind):
    """Each example of each rule is valid offline if the API server accepts it, and a refusal has the rule's words."""
    differing = {}
    for words, ok, manifest in ruled(kind):
        server, offline = empty.verdict(manifest), admission_faults(manifest)
        if bool(server) != bool(offline) or bool(server) == ok:
            differing[words] = (server, offline, manifest)

    assert differing == {}


@pytest.mark.parametrize("kind", MATERIALS)
def test_a_limit_has_one_verdict(empty, kind):
    """A value beyond a bound, a size, an enum or a type is refused by both, at the same field.

    What a kind has borrowed of another kind's spec is asked there.
    """
    differing = {}
    spec = schema_of(documents()[kind])["properties"]["spec"]
    for limit in limits(spec, ("spec",), MATERIALS[kind].borrowed):
        manifest = placed(whole(kind), limit.path, limit.beyond)
        server, offline = empty.verdict(manifest), admission_faults(manifest)
        at = re.compile(expression(limit.path))
        if server and not any(at.search(dotted(fault.path)) for fault in offline):
            differing[str(limit)] = (server, offline)
        if bool(server) != bool(offline):
            differing[str(limit)] = (server, offline)

    assert differing == {}


@pytest.mark.parametrize("kind", MATERIALS)
def test_an_editor_refuses_what_is_beyond_a_limit(kind):
    """Bounds, sizes, words, types, required and unknown fields are in the JSON schema of editors, and most patterns."""
    validator = jsonschema.Draft202012Validator(editor_schema(kinds()[kind]))
    passed = []
    for limit in limits(schema_of(documents()[kind])["properties"]["spec"], ("spec",)):
        if limit.keyword != "twice" and validator.is_valid(placed(whole(kind), limit.path, limit.beyond)):
            passed.append(str(limit))

    # A local path may stand in place of a URI and its digest.
    local = re.compile(r"pattern |required of .*[.](uri|digest)$")
    assert [name for name in passed if not local.match(name)] == []


@pytest.mark.parametrize("kind", NAMES)
def test_a_drawn_manifest_has_one_verdict(empty, kind):
    """Manifests drawn from the schema, whole and broken in one place, are refused by both or by none."""

    @seed(0)
    @EXAMPLES
    @given(valid(kind))
    def whole_ones(manifest: Manifest) -> None:
        server, offline = empty.verdict(manifest), admission_faults(manifest)
        assert bool(server) == bool(offline), (server, offline)

    @seed(0)
    @EXAMPLES
    @given(broken(kind))
    def broken_ones(wrong: Broken) -> None:
        if isinstance(wrong.manifest, dict):
            server, offline = empty.verdict(wrong.manifest), admission_faults(wrong.manifest)
            assert bool(server) == bool(offline), (server, offline)

    whole_ones()
    broken_ones()


def test_scalars_are_those_of_kubectl(empty, tmp_path):
    """A plain YAML scalar has the value that kubectl sends."""
    scalars = [*PLAIN.split(), "!!str 1", "!!int '7'", "!!float 1", "|-\n      x"]
    lines = "".join(f"    a{number}: {text}\n" for number, text in enumerate(scalars))
    file = tmp_path / "job.yaml"
    head = "apiVersion: ultramarine.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: scalars}\n"
    file.write_text(f"{head}spec:\n  command: [a]\n  parameters:\n{lines}")
    (document,) = load([file])
    sent = json.loads(empty.run("create", "-f", str(file), "--dry-run=client", "--validate=false", "-o", "json"))

    ours, theirs = document.manifest["spec"]["parameters"], sent["spec"]["parameters"]
    assert {k: type(v) is bool for k, v in ours.items()} == {k: type(v) is bool for k, v in theirs.items()}
    rounded = {k: float(theirs[k]) if isinstance(v, float) else theirs[k] for k, v in ours.items()}
    assert {scalars[int(k[1:])]: (v, rounded[k]) for k, v in ours.items() if v != rounded[k]} == {}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project_is_admitted(empty, tmp_path: Path, template: str):
    """The manifest of each template is valid offline, and admitted once its local path is uploaded."""
    make_project(tmp_path / "Churn 2", template)
    (document,) = load([tmp_path / "Churn 2" / "ultramarine.yaml"])
    assert validate([document]).problems == []

    assert [*uploaded(document.manifest)] == []
    document.manifest["metadata"] = {"name": document.manifest["metadata"]["generateName"] + "1"}
    assert empty.verdict(document.manifest) == ""
