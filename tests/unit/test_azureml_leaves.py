"""Nothing of an Azure ML file is left out in silence, and no text of a file ends in an exception."""

from __future__ import annotations

import codecs
import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_azureml import FILES, checked
from ultramarine.azureml import Conversion, convert
from ultramarine.azureml.reading import read

Leaf = tuple[str | int, ...]
# What the kind of an object says, and by what other files refer to a file.
UNDERSTOOD = ("$schema", "name", "version")
FOLDERS = ("churn", "early", "servers", "steps", "timed")


def leaves(value: Any, path: Leaf = ()) -> Iterator[Leaf]:
    """Paths of the values that hold no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if child not in (None, {}, []):
            yield from leaves(child, (*path, key))
    if path and not isinstance(value, (dict, list)):
        yield path


def variants(document: Any, path: Leaf) -> Iterator[Any]:
    """Copies of a document with another value of a leaf, and without it."""
    for is_kept in (True, False):
        changed = copy.deepcopy(document)
        node = changed
        for key in path[:-1]:
            node = node[key]
        if is_kept:
            node[path[-1]] = other(node[path[-1]])
        else:
            del node[path[-1]]
        yield changed


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + (1 if isinstance(value, int) else 0.25 if isinstance(value, float) else "x")


def content(conversion: Conversion) -> str:
    """All that a conversion says, without lines."""
    said = [(loss.place.field, loss.problem, loss.remedy) for loss in (*conversion.losses, *conversion.notes)]
    uploads = [(upload.source, upload.uri) for upload in conversion.uploads]
    return json.dumps([conversion.manifests, said, uploads, [file.refusal for file in conversion.files]])


def silent(file: Path) -> list[str]:
    """Leaves of a file that no loss and no note names, and whose change changes nothing."""
    (document,) = (document.value for document in read(file))
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    whole = convert([file])
    if any(outcome.refusal for outcome in whole.files):
        return []
    named = [entry.place.field for entry in (*whole.losses, *whole.notes) if Path(entry.place.file).name == file.name]
    found = []
    for path in leaves(document):
        dotted = ".".join(map(str, path))
        if dotted in UNDERSTOOD or path[-1] == "type":
            continue
        if any(dotted == field or dotted.startswith(f"{field}.") for field in named):
            continue
        effects = []
        for variant in variants(document, path):
            file.write_text(yaml.safe_dump(variant, sort_keys=False))
            effects.append(content(convert([file])) != content(whole))
        if not any(effects):
            found.append(dotted)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_field_changes_the_result_or_is_named(tmp_path, folder):
    """A field without an effect is a loss, or a note of the report."""
    shutil.copytree(FILES / folder, tmp_path / folder)
    files = [path for path in sorted((tmp_path / folder).rglob("*.y*ml")) if "{{endpoint" not in path.read_text()]

    assert files
    assert {str(file.relative_to(tmp_path)): found for file in files if (found := silent(file))} == {}


def of_text(tmp_path: Path, text: str) -> Conversion:
    """The conversion of one file."""
    (tmp_path / "file.yml").write_text(text)
    return checked(convert([tmp_path / "file.yml"]))


def test_notes_are_in_the_report_and_no_losses(tmp_path):
    """Fields that change no run are listed apart, with the reason."""
    text = "{type: uri_folder, name: rows, path: s3://b/rows/, description: Rows., tags: {team: a}, id: /x/1}"
    conversion = of_text(tmp_path, text)

    assert conversion.losses == []
    notes = conversion.as_document()["notes"]
    assert [note["field"] for note in notes] == ["description", "tags", "id"]
    assert notes[0]["problem"] == "no run depends on it"
    assert notes[0]["line"] == 1


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("auth_mode: tokens", "auth_mode", "tokens became key"),
        ("deployments: {blue: {tags: {a: b}}}", "deployments.blue.tags", "are not kept"),
        (
            "deployments: {blue: {scale_settings: {scale_type: quick}}}",
            "deployments.blue.scale_settings.scale_type",
            "quick",
        ),
        (
            "deployments: {blue: {scale_settings: {scale_type: manual, max_instances: 3}}}",
            "deployments.blue.scale_settings.max_instances",
            "the number of instances is fixed",
        ),
        (
            "deployments: {blue: {data_collector: {collections: {request: {enabled: true},"
            " response: {enabled: false}}}}}",
            "deployments.blue.data_collector.collections.response.enabled",
            "collected together",
        ),
    ],
)
def test_values_of_endpoints_without_a_counterpart_are_losses(tmp_path, text, field, words):
    """An unknown word is named, and not read as the usual one."""
    (tmp_path / "m.onnx").write_text("x")
    document = {"name": "e", "traffic": {"blue": 100}, "deployments": {"blue": {}}, **yaml.safe_load(text)}
    for deployment in document["deployments"].values():
        deployment |= {"model": {"path": "m.onnx"}}
    conversion = of_text(tmp_path, yaml.safe_dump(document))

    assert words in {loss.place.field: loss.problem for loss in conversion.losses}[field]


def test_an_unknown_goal_of_a_sweep_is_a_loss(tmp_path):
    """A sweep is not turned around in silence."""
    conversion = of_text(
        tmp_path,
        "{type: sweep, trial: {command: ls}, objective: {primary_metric: a, goal: max}, search_space: {x: [1]},"
        " limits: {max_total_trials: 1, max_concurrent_trials: 1}}",
    )

    assert {loss.place.field: loss.problem for loss in conversion.losses}["objective.goal"] == "max became minimize"


def test_descriptions_and_tags_of_assets_become_annotations(tmp_path):
    """An Environment and a component's Pipeline keep what Azure shows of them."""
    text = "{name: e, description: D, tags: {a: b}, image: i, conda_file: {dependencies: [{pip: [numpy]}]}}"
    (environment,) = of_text(tmp_path, text).manifests
    text = "{type: command, name: c, display_name: C, tags: {a: b}, inputs: {x: {type: string}}, command: ls}"
    (pipeline,) = of_text(tmp_path, text).manifests

    assert environment["metadata"]["annotations"] == {"azureml/description": "D", "azureml.tags/a": "b"}
    assert pipeline["metadata"]["annotations"] == {"azureml/display-name": "C", "azureml.tags/a": "b"}


@pytest.mark.parametrize(
    "text",
    [
        "{name: c, type: git, target: 'https://a.b', credentials: {type: pat, pat: x}}",
        "{name: c, type: azuresqldb, target: {server_name: a}, credentials: {type: sql_auth}}",
    ],
)
def test_a_connection_without_a_schema_is_recognized(tmp_path, text):
    """It is refused with what to use instead."""
    (file,) = of_text(tmp_path, text).files

    assert file.refusal == "is a connection, for which no resource exists yet. Use a Secret"


TEXTS = [path.read_text() for path in sorted(FILES.rglob("*.y*ml")) if path.parent.name != "others"]
LINES = [
    "extra: &a {x: 1}",
    "more: {<<: *a}",
    "<<: {command: ls}",
    "<<: 3",
    "---",
    "...",
    "\ttabbed: 1",
    "command: ls",
    "name: name",
    "day: 2026-01-31",
    "big: 1" + "0" * 5000,
    "big: 1e999",
    "octal: 0o17",
    "time: 12:30:45",
    "type: unheard",
    "$schema: https://a.b/latest/unheard.schema.json",
    "$schema: 3",
    "type: [command]",
    "inputs: [1, 2]",
    "inputs: {? [1] : 2}",
    "outputs: text",
    "jobs: null",
    "jobs: {a: null}",
    "jobs: {a: {type: sweep}}",
    "limits: 1",
    "environment: {image: [a]}",
    "environment: !!python/object:os.system {}",
    "tags: !!set {a}",
    "code: !!binary aGk=",
    "resources: yes",
]


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A file of the samples whose lines are dropped, doubled, replaced or moved, in some encoding."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        edit = draw(st.sampled_from(["drop", "double", "insert", "indent", "empty", "null", "list"]))
        line = lines[at] if lines else ""
        key = line.partition(":")[0]
        indent = line[: len(line) - len(line.lstrip())]
        lines[at : at + 1] = {
            "drop": [],
            "double": [line, line],
            "insert": [line, indent + draw(st.sampled_from(LINES))],
            "indent": [f"  {line}"],
            "empty": [f"{key}:"],
            "null": [f"{key}: ~"],
            "list": [f"{key}: [1, two, {{three: 3}}]"],
        }[edit]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    encode: Callable[[str], bytes] = draw(
        st.sampled_from([str.encode, lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode("utf-16")])
    )
    return encode(text)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=edited())
def test_edited_texts_convert_or_are_refused_in_one_sentence(data):
    """Each document has objects, or a reason of one or two sentences with what to do."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file.yml")
        file.write_bytes(data)
        conversion = checked(convert([file]))
    assert conversion.files
    for outcome in conversion.files:
        assert outcome.objects or outcome.refusal
        assert "\n" not in outcome.refusal
        assert not outcome.refusal or ". " in outcome.refusal
    for loss in (*conversion.losses, *conversion.notes):
        assert loss.place.field
        assert loss.problem
        assert loss.remedy
        assert loss.place.line >= 1


def test_placeholders_in_quotes_and_blocks_are_text(tmp_path):
    """A template of a prompt stays as it is; a placeholder that scripts of Azure fill in is named."""
    text = (
        "type: command\ncommand: |\n  ask '{{ question }}'\n"
        'description: "{{a}}"\ncompute: azureml:{{cluster}}\n# {{comment}}\nname: {{NAME}}\n'
    )
    conversion = of_text(tmp_path, text)
    (manifest,) = conversion.manifests

    assert "{{ question }}" in manifest["spec"]["command"][-1]
    assert manifest["metadata"]["annotations"]["azureml/description"] == "{{a}}"
    placeholders = [(loss.place.line, loss.place.field) for loss in conversion.losses if "placeholder" in loss.problem]
    assert placeholders == [(5, "cluster"), (7, "NAME")]


def test_an_import_without_a_query_is_refused(tmp_path):
    """A query of another type counts as missing."""
    (file,) = of_text(tmp_path, "{type: mltable, name: o, source: {type: database, query: [], connection: c}}").files

    assert "Write a SELECT into query" in file.refusal


@pytest.mark.parametrize(("type", "words"), [("if_else", "Write `when`"), ("do_while", "Write `while`")])
def test_a_step_that_controls_others_names_the_field_of_steps(tmp_path, type, words):
    """Conditions and repetitions are fields of a step here."""
    (file,) = of_text(tmp_path, f"{{type: pipeline, jobs: {{a: {{command: ls}}, b: {{type: {type}}}}}}}").files

    assert words in file.refusal


def test_the_python_environment_of_an_mlflow_model_has_lines_of_pip(tmp_path):
    """Its dependencies are those of pip, and its build dependencies are not installed."""
    (tmp_path / "requirements.txt").write_text("numpy==2.1\n")
    text = "{python: 3.8.5, build_dependencies: [pip==23.2], dependencies: [-r requirements.txt, cloudpickle==3.0]}"
    conversion = of_text(tmp_path, text)

    assert conversion.manifests[0]["spec"]["python"]["requirements"] == ["numpy==2.1", "cloudpickle==3.0"]
    assert [loss.place.field for loss in conversion.losses] == ["python"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nodes: [{name: a}], inputs: {x: {type: string}}, outputs: {}}", "is a prompt flow"),
        ("{features: [{name: a}], index_columns: [{name: id}], source: {path: p}}", "is a feature store or set"),
    ],
)
def test_files_of_other_services_are_recognized(tmp_path, text, words):
    """They are refused with what to use instead."""
    (file,) = of_text(tmp_path, text).files

    assert words in file.refusal
