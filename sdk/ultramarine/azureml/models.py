"""Models: a local file becomes a ModelVersion, anything else a TrainingJob that imports it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.context import Asset, Context, Refused, file_name, object_name
from ultramarine.azureml.data import MODELS, Located, locate, reference
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Document
from ultramarine.azureml.report import registry_command

SAFE = {".onnx": "onnx", ".skops": "sklearn", ".ubj": "xgboost", ".lgb": "lightgbm"}
PICKLES = ("*.pkl", "*.pickle", "*.joblib")


@dataclass(frozen=True)
class ModelTarget:
    """Model of a deployment: its field `model`, format and URI, and the folder below which scripts look for it."""

    reference: str
    format: str = ""
    folder: str = ""
    uri: str = ""


def define_model(context: Context, asset: Asset) -> None:
    """Make the manifests of a model file; a model that is only an input of jobs beside it is just located."""
    fields, count = context.fields(asset.document), len(context.manifests)
    asset.target = import_model(context, fields, asset.document, asset.name, described=True)
    asset.located = Located(asset.target.uri)
    if id(asset.document) in context.inputs_only:
        del context.manifests[count:]
        context.objects[id(asset.document)] = [f"model {asset.name}: {asset.target.uri}"]
    elif id(asset.document) not in context.objects:  # another file has the same model
        context.note(asset.document, f"model {asset.target.reference}")


def import_model(
    context: Context, fields: Fields, document: Document, name: str, described: bool = False
) -> ModelTarget:
    """Return how a deployment names the model of a path, and make the manifests that register it, once."""
    key = next((key for key in ("path", "local_path", "model_uri") if key in fields), "path")
    path, version = fields.text(key), fields.text("version")
    if not path:
        raise Refused("has no path of a model. Name a file or a folder in path")
    if store := fields.text("datastore"):
        path = f"azureml://datastores/{store.removeprefix('azureml:')}/paths/{path.lstrip('/')}"
        fields.put(key, path)
    identity = (name, version, str(context.local(fields, path)))
    if identity not in context.imported:
        description, model = fields.text("description") if described else "", object_name(name)
        if description and all(manifest["metadata"]["name"] != model for manifest in context.of_kind("Model")):
            context.add(document, "Model", model, {"description": description[:4096]})
        context.imported[identity] = _register(context, fields, document, name, key)
    fields.close(ignored=("name", "version", "description", "tags", "flavors", "stage", "job_name", "datastore"))
    return cast(ModelTarget, context.imported[identity])


def _register(context: Context, fields: Fields, document: Document, name: str, key: str) -> ModelTarget:
    type = fields.text("type").lower() or f"{fields.text('model_format')}_model"
    type = type if type in MODELS else "custom_model"
    path, version, format = fields.text(key), fields.text("version"), MODELS[type]
    located = locate(context, fields, key, path, type)
    local = context.local(fields, path)
    is_object = not located.uri.endswith("/")
    if is_object and local.is_file():
        model, number = _free(context, fields, name, version)
        _add_version(context, document, model, number, located.uri, local)
        return ModelTarget(f"{model}@{number}", format, uri=located.uri)
    if format == "mlflow" and local.is_dir() and any(any(local.rglob(pattern)) for pattern in PICKLES):
        fields.lose(
            key, "the model has a pickle, which runs code when it is loaded", "Set allowCodeExecution after a review"
        )
    if version not in ("", "1"):
        fields.lose("version", f"{version} became the next free number", "Name the version by its number or an alias")
    model = object_name(name)
    folder = "" if is_object or format == "mlflow" else file_name(local.name or local.resolve().name)
    _add_import(context, document, model, located.uri, format, folder)
    return ModelTarget(f"{model}@latest", format, folder, located.uri)


def _free(context: Context, fields: Fields, name: str, version: str) -> tuple[str, str]:
    """Return model and number of a version that no other file has."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        if version:
            fields.lose("version", f"{version} became 1", "Versions are numbers; use aliases for names")
        version = "1"
    model = context.names.free(f"version {version}", name)
    if model != object_name(name):
        fields.lose("name", f"{name} became {model}, since another file has version {version}", "Choose one of them")
    return model, version


def _add_version(context: Context, document: Document, model: str, number: str, uri: str, file: Path) -> None:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    spec: Manifest = {
        "model": model,
        "version": number,
        "uri": uri,
        "digest": f"sha256:{digest}",
        "format": {"name": SAFE.get(file.suffix.lower(), "custom")},
    }
    context.add(document, "ModelVersion", f"{model}-{number}", spec)


def _add_import(context: Context, document: Document, model: str, uri: str, format: str, folder: str) -> None:
    """Add a job that copies a model; a folder keeps its name, below which scripts of Azure look for it."""
    name = context.names.free("TrainingJob", f"import-{model}")
    target = f"$(outputs.model)/{folder}" if folder else "$(outputs.model)"
    uri = uri if uri.endswith("/") else uri.rpartition("/")[0] + "/"
    spec: Manifest = {
        "inputs": {"model": {"uri": uri}},
        "command": ["cp", "-rT", "$(inputs.model)", target],
        "outputs": {"model": {"registerAs": model, "format": format}},
    }
    context.add(document, "TrainingJob", name, spec)


def model_of(context: Context, fields: Fields, name: str) -> ModelTarget | None:
    """Return the model of a deployment: registered, in a file, or inline, which makes manifests; None without one."""
    value = fields.take("model")
    if isinstance(value, dict):
        section = fields.section("model")
        if any(key in section for key in ("path", "local_path", "model_uri")):
            text = section.text("name") or name
            return import_model(context, section, fields.document, text)
        value = f"azureml:{section.text('name') or name}:{section.text('version') or 'latest'}"
        section.close()
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    named = reference(text)
    if named is None:
        inline = Fields(fields.document, context.losses, (*fields.path, "model"), {"path": text})
        return import_model(context, inline, fields.document, name)
    asset = context.asset("models", *named, fields, "model")
    if asset is not None and isinstance(asset.target, ModelTarget):
        return asset.target
    model, version = object_name(named[0]), named[1]
    label = version if re.fullmatch(r"[1-9][0-9]{0,8}", version) else object_name(version)
    if any(_registers(manifest, model) for manifest in context.manifests):
        return ModelTarget(f"{model}@{label}", folder=file_name(named[0]))
    remedy = f"Unless the namespace has model {model}, convert its file too, or register it (docs/importing.md)"
    if command := registry_command(text):
        remedy = f"Run `{command}`, then `ultramarine models import PATH --as {model}`"
    fields.lose("model", f"no file of this conversion defines model {named[0]}", remedy)
    return ModelTarget(f"{model}@{label}", folder=file_name(named[0]))


def _registers(value: Any, model: str) -> bool:
    """True if a run in a manifest registers an output as this model."""
    if isinstance(value, dict):
        return value.get("registerAs") == model or any(_registers(child, model) for child in value.values())
    return isinstance(value, list) and any(_registers(child, model) for child in value)
