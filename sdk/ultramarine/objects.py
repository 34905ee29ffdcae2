"""Objects as Python classes: the fields of a kind's spec as arguments, beside those of its metadata.

An editor completes the arguments, since each class inherits the model of its spec. A nested part is a model of
ultramarine.resources, or a dict of the same fields. Names may be written as in Python or as in YAML.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic.alias_generators import to_snake
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import (
    AUTOML_JOB,
    DATASET,
    DATASET_VERSION,
    ENVIRONMENT,
    MODEL,
    MODEL_VERSION,
    ONLINE_ENDPOINT,
    PIPELINE,
    PIPELINE_RUN,
    SCHEDULE,
    SWEEP,
    TRAINING_JOB,
    Manifest,
    Resource,
)

from .files.nodes import SyntaxFault, nodes
from .files.writing import yaml_text
from .resources import (
    automl,
    dataset,
    environment,
    model,
    onlineendpoint,
    onlineendpoint_container,
    onlineendpoint_deployment,
    pipeline,
    pods,
    schedule,
    sweep,
    trainingjob,
)
from .resources.base import Schema

_SAYS = "x-ultramarine-says"


class Object(Schema):
    """An object of the platform: metadata, and the fields of its spec.

    Raises InvalidSpec, with the names of the fields, for values that the kind does not have.
    """

    resource: ClassVar[Resource]

    name: str = Field(default="", description="Name of the object.")
    generate_name: str = Field(default="", description="Beginning of a name that the server completes.")
    namespace: str = Field(default="", description="Namespace. Default: that of the client.")
    labels: dict[str, str] = Field(default={}, description="Labels.")
    annotations: dict[str, str] = Field(default={}, description="Annotations.")

    if not TYPE_CHECKING:  # type checkers and editors take the arguments from the fields

        def __init__(self, **fields: Any) -> None:
            try:
                self.__pydantic_validator__.validate_python(fields, self_instance=self, extra="forbid")
            except ValidationError as error:
                what = f"{type(self).resource.kind} {fields.get('name', '')}".rstrip()
                raise InvalidSpec(f"{what}: {'; '.join(_problems(type(self), error))}") from None

    def manifest(self) -> Manifest:
        """Return the object as a manifest, with the fields that were given and no defaults."""
        metadata = self.model_dump(by_alias=True, exclude_unset=True, include=_METADATA)
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": {key: value for key, value in metadata.items() if value},
            "spec": self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=_METADATA),
        }

    def to_yaml(self) -> str:
        """Return the manifest as YAML."""
        return yaml_text(self.manifest())

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Self:
        """Return the object of a manifest, without its status. Raises InvalidSpec for another kind."""
        kind, version = manifest.get("kind"), manifest.get("apiVersion")
        if (kind, version) != (cls.resource.kind, cls.resource.api_version):
            raise InvalidSpec(
                f"expected {cls.resource.kind} of {cls.resource.api_version}, not {kind} of {version}. Use the class of"
                " the manifest's kind."
            )
        metadata, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
        names = {alias for name in _METADATA if (alias := Object.model_fields[name].alias)}
        return cls(**{key: value for key, value in metadata.items() if key in names}, **spec)

    @classmethod
    def from_yaml(cls, source: str | Path) -> Self:
        """Return the object of a YAML text, or of a file if `source` is a Path.

        Local paths in a file are relative to its folder. Raises InvalidSpec unless it has one object of this kind.
        """
        text = source.read_text() if isinstance(source, Path) else source
        try:
            documents = [node.value for node in nodes(text)]
        except SyntaxFault as fault:
            where = f"{source}:" if isinstance(source, Path) else "line "
            raise InvalidSpec(f"{where}{fault.place.line}: {fault.message}") from None
        if not isinstance(source, Path) and len(documents) == 1 and isinstance(documents[0], str):
            raise InvalidSpec(f"{text[:100]!r} is not a manifest. Write from_yaml(Path(FILE)) to read a file.")
        if len(documents) == 1 and not isinstance(documents[0], dict):
            raise InvalidSpec("expected a manifest, which begins with fields such as kind. Correct the file.")
        if len(documents) != 1:
            raise InvalidSpec(f"expected one manifest, not {len(documents)}. Split the file.")
        if isinstance(source, Path):
            _anchor(documents[0], source.parent)
        return cls.from_manifest(documents[0])

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.to_yaml())}</pre>"


_METADATA = set(Object.model_fields)


# ---- Parts with a local path, which the client uploads


class Source(pods.Source):
    """Source of the code: path (a local file or folder, which is uploaded), inline, config_map, git or uri."""

    path: str | Path | None = Field(default=None, description="Local file or folder.")


class Input(trainingjob.Input):
    """Input data of the command: path (a local file or folder, which is uploaded), or uri."""

    uri: str | None = Field(default=None, description="Object or prefix in the object storage.")
    path: str | Path | None = Field(default=None, description="Local file or folder.")


class _Command(Schema):
    source: Source | None = Field(default=None, description="Source of the code.")
    inputs: dict[str, Input] = Field(default={}, description="Input data by name.")


class TrialSpec(_Command, sweep.TrialSpec):  # type: ignore[misc]
    """Spec of a trial: that of a TrainingJob."""


class TrialTemplate(sweep.TrialTemplate):
    """Template of each trial."""

    spec: TrialSpec = Field(description="Spec of a TrainingJob.")


class Scoring(onlineendpoint_container.Scoring):
    """Scoring script: a Python file with init() and run(data)."""

    source: Source = Field(description="Source of the script and its modules.")


class Deployment(onlineendpoint_deployment.EndpointDeployment):
    """Model version of an endpoint, or several of them in a pool, and the pods that serve it."""

    scoring: Scoring | None = Field(default=None, description="Scoring script that answers requests with the model.")


# ---- Kinds


class TrainingJob(_Command, Object, trainingjob.TrainingJobSpec):  # type: ignore[misc]
    """A training: a command that runs to its end in one or several pods."""

    resource = TRAINING_JOB


class Sweep(Object, sweep.SweepSpec):
    """A search for the best parameters of a training."""

    resource = SWEEP
    trial_template: TrialTemplate = Field(description="Template of each trial.")


class Model(Object, model.ModelSpec):
    """A name for a series of model versions, with aliases."""

    resource = MODEL


class ModelVersion(Object, model.ModelVersionSpec):
    """One version of a Model; path (a local file or folder, which is uploaded) stands for uri and digest."""

    resource = MODEL_VERSION
    path: str | Path | None = Field(default=None, description="Local file or folder.")
    uri: str | None = Field(default=None, description="Location of the model.")  # type: ignore[assignment]
    digest: str | None = Field(default=None, description="Digest of the model.")  # type: ignore[assignment]


class OnlineEndpoint(Object, onlineendpoint.OnlineEndpointSpec):
    """A server of one or several model versions."""

    resource = ONLINE_ENDPOINT
    deployments: list[Deployment] = Field(description="Deployments of the endpoint.")  # type: ignore[assignment]


class Environment(Object, environment.EnvironmentSpec):
    """Python packages for pods that run a user's code."""

    resource = ENVIRONMENT


class Schedule(Object, schedule.ScheduleSpec):
    """Runs that begin at the times of a cron expression."""

    resource = SCHEDULE


class Pipeline(Object, pipeline.PipelineSpec):
    """Steps that run in the order of their references."""

    resource = PIPELINE


class PipelineRun(Object, pipeline.PipelineRunSpec):
    """One run of a Pipeline with its parameters."""

    resource = PIPELINE_RUN


class AutoMLJob(Object, automl.AutoMLJobSpec):
    """A search for the best model of a table within a time limit."""

    resource = AUTOML_JOB


class Dataset(Object, dataset.DatasetSpec):
    """A name for a series of data, with the requirements that its versions meet."""

    resource = DATASET


class DatasetVersion(Object, dataset.DatasetVersionSpec):
    """One version of a Dataset; `Client.datasets.add` uploads files and makes one."""

    resource = DATASET_VERSION


# ---- Errors and paths


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yield a line for each field that is wrong: its path, and what to do."""
    lines: dict[str, str] = {}
    for entry in error.errors(include_url=False, include_context=True):
        place = entry["loc"]
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")
        match entry["type"]:
            case "extra_forbidden":
                parent = _model_at(model, place[:-1])
                near = difflib.get_close_matches(to_snake(str(place[-1])), parent.model_fields, 1)
                text = f"unknown field, did you mean {near[0]}?" if near else "unknown field"
            case "missing":
                path, text = to_snake(path), "required"
            case "string_pattern_mismatch":
                pattern = entry["ctx"]["pattern"]
                text = _says(_model_at(model, place[:-1]).model_json_schema(), pattern) or f"must match {pattern}"
            case "list_type" if isinstance(entry["input"], str):
                text = f"must be a list, such as {_words(entry['input'][:200])}"
            case _:
                text = entry["msg"][:1].lower() + entry["msg"][1:]
        lines.setdefault(path, text)
    for path, text in lines.items():
        yield f"{path}: {text}"


def _words(text: str) -> list[str]:
    """Return the words of a command, or the command of a shell if only a shell can read the text."""
    try:
        return ["sh", "-c", text] if re.search(r"[|&;<>`*?\n]", text) else shlex.split(text)
    except ValueError:
        return ["sh", "-c", text]


def _anchor(value: Any, folder: Path) -> None:
    """Make the local paths of sources and inputs relative to the folder of their file."""
    for key, part in value.items() if isinstance(value, dict) else ():
        for place in [part] if key == "source" else part.values() if key == "inputs" and isinstance(part, dict) else ():
            if isinstance(place, dict) and isinstance(place.get("path"), str):
                place["path"] = str(folder / place["path"])
        _anchor(part, folder)
    for part in value if isinstance(value, list) else ():
        _anchor(part, folder)


def _model_at(model: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    """Return the model of the value at a place; a key of a map and an index lead to the model of the values."""
    for key in place:
        fields = (field for name, field in model.model_fields.items() if key in (name, field.alias))
        if field := next(fields, None):
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _says(schema: Any, pattern: str) -> str:
    """Return the words that a schema has for a pattern, or nothing."""
    if isinstance(schema, dict):
        if schema.get("pattern") == pattern and _SAYS in schema:
            return str(schema[_SAYS])
        return next((text for part in schema.values() if (text := _says(part, pattern))), "")
    return next((text for part in schema if (text := _says(part, pattern))), "") if isinstance(schema, list) else ""
