"""Offline validation of manifests: what the API server and the operator would refuse, with its place."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultramarine_contract.meta import (
    API_VERSION,
    DATASET,
    MODEL_VERSION,
    PIPELINE,
    PIPELINE_RUN,
    SCHEDULE,
    SWEEP,
    TRAINING_JOB,
    Manifest,
)
from ultramarine_contract.schemas import ANY

from .checking import Check, Fault, name_of
from .metadata import head_faults, is_foreign, metadata_faults
from .reading import STDIN, Document, Problem, doubles
from .references import reference_faults
from .rules import broken
from .schemas import Keys, Kind, Schema, kinds

if TYPE_CHECKING:
    from ultramarine.resources.pipeline import PipelineSpec

DIGEST = "sha256:" + "0" * 64
ARCHIVE = "s3://bucket/source.tar.gz"  # in place of a local path, which an upload replaces by such a URI
PROJECT = {"compute"}  # fields of an ultramarine.yaml that only maps compute targets of Azure ML
AZUREML = "an Azure ML file, not a manifest; `ultramarine submit` and `ultramarine convert azureml` take it"
RUN_SUFFIX = "-0000000000"  # in place of the time of a run
SUFFIX = "-xxxxx"  # in place of what the API server appends to generateName


@dataclass
class Report:
    """Outcome of a validation: problems, notes on objects that were not checked, and the number of those that were."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    checked: int = 0


def validate(documents: Iterable[Document]) -> Report:
    """Validate objects of files, and what Schedules give to Pipelines; two objects of one name are a problem too."""
    report = Report()
    named, sound = list[Document](), list[Document]()
    for document in documents:
        manifest = document.manifest
        if _is_of_azureml(manifest):
            (report.problems if document.stated else report.notes).append(document.problem((), AZUREML))
            continue
        if manifest.keys() == PROJECT or not (document.stated or manifest.keys() >= {"apiVersion", "kind"}):
            report.notes.append(document.problem((), "not a manifest; not checked"))
            continue
        if is_foreign(manifest):
            report.notes.append(document.problem((), "not a kind of Ultramarine; not checked"))
        else:
            report.checked += 1
            folder = Path() if document.file == STDIN else Path(document.file).parent
            wrong = faults(manifest, folder)
            report.problems += (document.problem(fault.path, fault.message, of_name=fault.of_name) for fault in wrong)
            sound += [] if wrong else [document]
        named.append(document)
    report.problems += doubles(named)
    report.problems += _between(sound)
    report.problems.sort()
    return report


def schedule_faults(schedule: Manifest, pipeline_of: Callable[[str], Manifest | None]) -> list[Fault]:
    """Return the faults of what a valid Schedule gives to a Pipeline; `pipeline_of` returns one by name."""
    from ultramarine.resources.pipeline_checks import template_faults
    from ultramarine.resources.schedule import RunTemplate

    template = RunTemplate.model_validate(schedule["spec"]["template"])
    faults = (fault.partition(": ") for fault in template_faults(template, pipeline_of))
    return [Fault(tuple(field.split(".")), message) for field, _, message in faults]


def _between(documents: list[Document]) -> Iterator[Problem]:
    """Yield the problems of Schedules with Pipelines of the same files."""
    pipelines: dict[str, dict[str, Manifest]] = {}
    for manifest in (document.manifest for document in documents):
        if manifest["kind"] == PIPELINE.kind:
            pipelines.setdefault(_namespace(manifest), {})[str(manifest["metadata"].get("name"))] = manifest
    for document in documents:
        if document.manifest["kind"] == SCHEDULE.kind:
            pipeline_of = pipelines.get(_namespace(document.manifest), {}).get
            for fault in schedule_faults(document.manifest, pipeline_of):
                yield document.problem(fault.path, fault.message)


def _namespace(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("namespace") or "")


def _is_of_azureml(manifest: Manifest) -> bool:
    """True for a file of Azure ML; a conda file alone can have another use."""
    from ultramarine.azureml import is_of_azureml

    return not manifest.keys() & {"apiVersion", "kind", "dependencies"} and is_of_azureml(manifest)


def faults(manifest: Manifest, folder: Path | None = None) -> list[Fault]:
    """Return the faults of an object: those that the API server refuses, then those that only the operator would name.

    Local paths must exist if the `folder` is given to which they are relative.
    """
    refused, stored = _admission(manifest, folder)
    if not stored:
        return refused
    kind = kinds()[manifest["kind"]]
    if not refused:
        refused += _model_faults(kind, stored["spec"])
    if kind.name == SCHEDULE.kind and not any(_touches_template(fault) for fault in refused):
        refused += _template_faults(stored)
    return refused


def admission_faults(manifest: Manifest) -> list[Fault]:
    """Return the faults for which the API server refuses an object."""
    return _admission(manifest)[0]


def _admission(manifest: Manifest, folder: Path | None = None) -> tuple[list[Fault], Manifest]:
    """Return the faults of form, rules and references, and the object with its defaults; empty without a valid head."""
    if head := [*head_faults(manifest)]:
        return head, {}
    check = Check()
    check.faults += metadata_faults(manifest)
    manifest = _named(copy.deepcopy(manifest))
    _list_command(manifest)
    check.faults += uploaded(manifest, folder)
    kind = kinds()[manifest["kind"]]
    stored = check.value(_root(kind), manifest, ())
    for held in check.held:
        check.faults += (Fault(held.path, message) for message in broken(held.rules, held.value))
    if isinstance(spec := manifest.get("spec"), dict):
        check.faults += reference_faults(kind.name, spec)
    return check.faults, stored


def _touches_template(fault: Fault) -> bool:
    """True for a fault of the template, or of an object that may have none."""
    return fault.path[:2] == ("spec", "template") or len(fault.path) < 2


def _template_faults(manifest: Manifest) -> Iterator[Fault]:
    """Yield the faults of the run that a Schedule would create."""
    template, meta = manifest["spec"]["template"], manifest["metadata"]
    run = {"apiVersion": API_VERSION, "metadata": {"name": f"{meta['name']}{RUN_SUFFIX}"}, **template}
    for fault in faults(run):
        path = ("spec", "template", *fault.path) if fault.path[0] == "spec" else ("metadata", "name")
        yield Fault(path, fault.message, of_name=fault.of_name)


def _root(kind: Kind) -> Schema:
    """Return the schema of an object whose head has a check of its own."""
    fields = kind.schema["properties"]
    return {**kind.schema, "properties": {name: {ANY: True} for name in fields} | {"spec": fields["spec"]}}


def _named(manifest: Manifest) -> Manifest:
    """Return an object with a name for the rules on it, also if the API server would complete it."""
    meta = manifest.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    prefix = meta.get("generateName")
    name = meta.get("name") or (f"{prefix}{SUFFIX}" if isinstance(prefix, str) else "a")
    return {**manifest, "metadata": {**meta, "name": name if isinstance(name, str) else "a"}}


def _list_command(manifest: Manifest) -> None:
    """Make a command that is a text a list of it, as the chart's policy does: a rule then says how to write it."""
    run = _at(manifest, _RUNS[manifest["kind"]]) if manifest["kind"] in _RUNS else None
    if isinstance(run, dict) and isinstance(run.get("command"), str):
        run["command"] = [run["command"]]


# Places of the spec of a run, by kind.
_RUNS: dict[str, Keys] = {TRAINING_JOB.kind: ("spec",), SWEEP.kind: ("spec", "trialTemplate", "spec")}


def uploaded(manifest: Manifest, folder: Path | None = None) -> Iterator[Fault]:
    """Put a URI in place of each local path, as an upload does, and yield the faults of the paths."""
    spec = manifest.get("spec")
    versions = [(("spec",), spec)] if manifest["kind"] == MODEL_VERSION.kind else []
    places = () if manifest["kind"] == DATASET.kind else _uploadable(spec, ("spec",))  # its source is not code
    for keys, value in [*places, *versions]:
        if isinstance(value, dict) and "path" in value:
            yield from _path_faults((*keys, "path"), value["path"], "uri" in value, folder)
            del value["path"]
            value |= {"uri": ARCHIVE} | ({"digest": DIGEST} if versions else {})


def _uploadable(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    """Yield the values that may have a local path: sources and inputs."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        if key == "source":
            yield (*keys, key), inner
        elif key == "inputs" and isinstance(inner, dict):
            yield from (((*keys, key, name), entry) for name, entry in inner.items())
        yield from _uploadable(inner, (*keys, key))


def _at(value: Any, keys: Keys) -> Any:
    """Return the value at a path; None if it is absent."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _path_faults(keys: Keys, path: Any, has_uri: bool, folder: Path | None) -> Iterator[Fault]:
    if has_uri:
        yield Fault(keys, "has uri beside it; give one of the two")
    if not isinstance(path, str) or not path:
        yield Fault(keys, f"must be a path, not {name_of(path)}")
    elif folder is not None and not _exists(folder / path):
        yield Fault(keys, f"{path} does not exist; correct the path, which is relative to the manifest")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # such as a name that is too long for any file
        return False


def _model_faults(kind: Kind, spec: Manifest) -> Iterator[Fault]:
    """Yield what only the operator refuses: texts that it parses, such as the JSON of a warmup request."""
    from pydantic import ValidationError

    module, _, name = kind.model.partition(":")
    try:
        read = getattr(import_module(module), name).model_validate(spec)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            if detail["type"] == "value_error":  # of a validator; the schema has all limits
                yield Fault(("spec", *detail["loc"]), detail["msg"].removeprefix("Value error, "))
        return
    if kind.name == PIPELINE.kind:
        yield from _pipeline_faults(read, ("spec",))
    elif kind.name == PIPELINE_RUN.kind and read.pipeline_spec is not None:
        yield from _pipeline_faults(read.pipeline_spec, ("spec", "pipelineSpec"))


def _pipeline_faults(spec: PipelineSpec, at: Keys) -> Iterator[Fault]:
    """Yield the faults of steps and their references, each at its step."""
    from ultramarine.resources.pipeline_checks import pipeline_faults

    steps = {step.name: ("steps", index) for index, step in enumerate(spec.steps)}
    steps |= {step.name: ("finally", index) for index, step in enumerate(spec.finally_)}
    for message in dict.fromkeys(pipeline_faults(spec)):
        step = re.match(r"step ([a-z0-9-]+): ", message)
        yield Fault((*at, *steps.get(step[1] if step else "", ())), message)
