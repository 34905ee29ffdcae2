"""Data: where an input, a data asset or a model lies in the object storage, and what has to be uploaded there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ultramarine.azureml.commands import PLAIN
from ultramarine.azureml.context import Asset, Context, Names, Refused, file_name
from ultramarine.azureml.fields import Fields, as_azure_writes
from ultramarine.azureml.report import UploadKind, shown
from ultramarine.resources.base import URI_PATTERN

ASSET = re.compile(r"azureml:(?!/)(?P<name>[^:@/]+)(?:[:@](?P<version>[^/]+))?")
REGISTERED = re.compile(r"azureml:/.*/(?P<kind>\w+)/(?P<name>[^/]+)/(?:versions|labels)/(?P<version>[^/]+)")
MODELS = {"mlflow_model": "mlflow", "custom_model": "custom", "triton_model": "custom"}
LITERALS = frozenset({"string", "number", "integer", "boolean"})
MAX_INPUTS, MAX_LITERAL, LARGEST = 32, 4096, 2**53
ANY_FILE = "*"  # a file whose name only a run knows
_DATASTORE = re.compile(r"^azureml:/.*\bdatastores/(?P<name>[^/]+)/paths/(?P<path>[^?#]+)")
_CONTAINER = ("container_name", "filesystem", "file_share_name", "store_name")
_STORED = re.compile(r"(azureml:/|wasbs?:|abfss?:|adl:|runs:/)")  # content without a type, which no script opens
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}$")


@dataclass(frozen=True)
class Located:
    """Object, or folder that ends in a slash. `file` is the name of the one file that a command gets."""

    uri: str
    file: str = ""


def reference(text: str) -> tuple[str, str] | None:
    """Return name and version of `azureml:NAME:VERSION`, `azureml:NAME@LABEL` or a path of a registry, or None."""
    match = ASSET.fullmatch(text) or REGISTERED.fullmatch(text)
    return (match["name"], match["version"] or "latest") if match else None


def locate(context: Context, fields: Fields, key: str, text: str, type: str) -> Located:
    """Return where the content of a path will be, and record its upload."""
    text = text.strip()
    if "${{" in text:
        fields.lose(key, f"{text[:80]} has an expression without a counterpart", "Write its value")
    if re.fullmatch(URI_PATTERN, text):
        return Located(text, file_name(text) if type == "uri_file" else "")
    if (stored := _DATASTORE.search(text)) and (folder := _folder_of(context, stored["name"])):
        uri = folder + re.sub(r"[^A-Za-z0-9._=+/-]", "_", stored["path"].strip("/"))
        is_file = type == "uri_file" or (type in ("", *MODELS) and SUFFIX.search(uri) is not None)
        return Located(uri, file_name(uri) if type == "uri_file" else "") if is_file else Located(f"{uri.rstrip('/')}/")
    named = reference(text)
    if named is not None:
        area = "models" if type in MODELS else "data"
        asset = context.asset(area, *named, fields, key)
        if asset is not None and isinstance(asset.located, Located):
            return asset.located
        file = file_name(named[0]) if type == "uri_file" else ""
        name = f"{named[0]}-{named[1]}"
        kind: UploadKind = "file" if file else "folder"
        return Located(context.upload(area, text, kind, fields.place(key), name, f"/{file}"), file)
    source, is_file = text, type == "uri_file" or (type in ("", *MODELS) and SUFFIX.search(text) is not None)
    if not _REMOTE.match(text) or text.startswith("file:"):
        path = context.local(fields, text)
        source, is_file = shown(path), path.is_file() or (is_file and not path.is_dir())
        if not path.exists():
            fields.lose(key, f"{source} does not exist", "Correct the path, or put the content there before the upload")
    name = re.sub(SUFFIX, "", file_name(source if source != "." else path.resolve().name))
    area = "models" if type in MODELS else "data"
    file = file_name(source) if is_file else ""
    uri = context.upload(area, source, "file" if is_file else "folder", fields.place(key), name, f"/{file}")
    return Located(uri, file if type == "uri_file" else "")


@dataclass(frozen=True)
class Bound:
    """Value of an input: content, or a literal, for which `reference` may stand; None is a literal of the run."""

    located: Located | None = None
    literal: Any = None
    reference: str = ""


@dataclass
class Inputs:
    """Inputs and parameters of a job, and what expressions stand for."""

    inputs: dict[str, Any]
    parameters: dict[str, Any]
    values: dict[tuple[str, str], str]
    unsafe: set[str]
    paths: dict[tuple[str, str], str]  # as `values`, with folders instead of references, for environment variables

    @property
    def literals(self) -> list[str]:
        """Texts of the parameters."""
        return [as_azure_writes(value) for value in self.parameters.values()]


def value_of(context: Context, inputs: Fields, key: str, type: str = "") -> Bound | None:
    """Return the value of an input, of a type that its component may declare; None without any."""
    value, place, place_key = inputs.take(key), inputs, key
    if isinstance(value, dict):
        explicit = str(value.get("type") or "").lower()
        place, guessed, value, place_key = _content(inputs.section(key))
        type = explicit or type or guessed
        place.close(ignored=("optional", "description", "name", "version", "min", "max", "enum"))
    elif isinstance(value, str) and not type and reference(value.strip()):
        type = "uri_folder"
    elif isinstance(value, str) and not type and _STORED.match(value.strip()):
        type = "uri_file" if SUFFIX.search(value.strip()) else "uri_folder"
    if value is None:
        return None
    if type and type not in LITERALS:
        return Bound(locate(context, place, place_key, as_azure_writes(value), type))
    if isinstance(value, (list, dict)):
        place.lose(place_key, "is a list or a mapping, and became a text", "Write a text that the script parses")
    text = as_azure_writes(value)
    if len(text) > MAX_LITERAL:
        raise Refused(f"has an input {key} of more than {MAX_LITERAL} characters. Put it into a file")
    if "${{" in text:
        place.lose(place_key, f"{text[:60]} has an expression without a counterpart", "Write its value")
    if text.startswith(("http://", "https://")):
        place.lose(place_key, "is an address, which network policies may close", "Give it type: uri_file and a path")
    return Bound(literal=value if is_written_alike(value) else text)


def as_inputs(values: Mapping[str, Bound]) -> Inputs:
    """Return the inputs of a job: content becomes an input, a literal becomes a parameter."""
    result, names = Inputs({}, {}, {}, set(), {}), Names()
    for key, value in values.items():
        if value.located is not None:
            name, file = names.free("input", key), value.located.file
            result.inputs[name] = {"uri": value.located.uri}
            below = f"/{file}" if file and file != ANY_FILE else ""
            result.values["inputs", key] = f"$(inputs.{name}){below}"
            if file == ANY_FILE:
                result.values["inputs", key] = f"$AZURE_ML_INPUT_{name.replace('-', '_')}"
            result.paths["inputs", key] = f"/mnt/inputs/{name}{below}"
            continue
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", key)
        name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"
        text = as_azure_writes(value.literal)
        result.parameters[name] = value.reference or value.literal
        result.values["inputs", key] = f"$(params.{name})"
        result.paths["inputs", key] = text
        if value.literal is None or not PLAIN.fullmatch(text):
            result.unsafe.add(f"$(params.{name})")
    if len(result.inputs) > MAX_INPUTS:
        raise Refused(f"has {len(result.inputs)} inputs, and a job takes {MAX_INPUTS}. Put several into a folder")
    return result


def _content(fields: Fields) -> tuple[Fields, str, Any, str]:
    """Return place, type, value and field of an input that is a mapping; early releases nest the path below data."""
    type = fields.text("type").lower()
    mode = fields.text("mode")
    if mode == "direct" or mode.startswith("eval"):
        fields.lose("mode", f"{mode} has no counterpart", "Read the files that the command gets a path of")
    elif mode:
        fields.note("mode")
    if type == "mltable":
        fields.lose("type", "mltable is not interpreted", "Read the folder, which has the file MLTable too")
    for key in ("path", "local_path", "file", "folder", "data", "dataset", "uri"):
        value = fields.take(key)
        if isinstance(value, dict):
            place, nested, value, key = _content(fields.section(key))
            return place, type or nested, value, key
        if isinstance(value, str):
            is_file = key == "file" or (not reference(value) and SUFFIX.search(value) is not None)
            return fields, type or ("uri_file" if is_file else "uri_folder"), value, key
    value, default = fields.take("value"), fields.take("default")
    key = "default" if value is None else "value"
    return fields, type if type in LITERALS else "string", default if value is None else value, key


def is_written_alike(value: Any) -> bool:
    """True if a command gets the same text of a number here as in Azure."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return isinstance(value, float) and not value.is_integer() and abs(value) < 1e15


def define_data(context: Context, asset: Asset) -> None:
    """Locate a data asset; inputs that name it get its URI, and no object is made for it."""
    fields = context.fields(asset.document)
    type = fields.text("type").lower()
    _early_paths(fields)
    key = next((key for key in ("path", "local_path", "file", "folder") if key in fields), "path")
    path = fields.text(key)
    if store := fields.text("datastore"):
        path = f"azureml://datastores/{store.removeprefix('azureml:')}/paths/{path.lstrip('/')}"
    if type not in ("uri_file", "uri_folder", "mltable"):
        type = "uri_file" if SUFFIX.search(path) else "uri_folder"
    fields.close(ignored=("name", "version", "description", "tags", "stage", "auto_delete_setting"))
    if not path:
        raise Refused("has no path. Name a file or a folder in path")
    if type == "mltable":
        fields.lose("type", "mltable is not interpreted", "Read the folder, which has the file MLTable too")
    asset.located = locate(context, fields, key, path, type)
    context.note(asset.document, f"data {asset.name}: {asset.located.uri}")


def define_datastore(context: Context, asset: Asset) -> None:
    """Give a datastore a folder of the object storage; its paths lie there, and no object is made for it."""
    fields = context.fields(asset.document)
    container = fields.text(*_CONTAINER) or asset.name
    account = fields.text("account_name", "store_name", "one_lake_workspace_name")
    asset.target = f"{context.location}/datastores/{context.names.free('datastores', asset.name)}/"
    fields.lose(
        next((key for key in _CONTAINER if key in fields), "name"),
        f"the content of {container} is expected in {asset.target}",
        f"Copy it there, such as by rclone from the account {account or asset.name}",
    )
    ignored = (
        "name",
        "description",
        "tags",
        "credentials",
        "protocol",
        "endpoint",
        "artifact",
        "one_lake_workspace_name",
    )
    fields.close(ignored=(*ignored, "account_name", "container_name", "filesystem", "file_share_name", "store_name"))
    context.note(asset.document, f"datastore {asset.name}: {asset.target}")


def _folder_of(context: Context, name: str) -> str:
    """Return the folder of a datastore that a file defines; empty for another one."""
    return next((str(asset.target) for asset in context.assets.get("datastores", []) if asset.name == name), "")


def _early_paths(fields: Fields) -> None:
    """Accept `paths` with one entry, as early releases and MLTable files wrote it."""
    paths = fields.items("paths")
    if len(paths) > 1:
        fields.lose("paths", "has several entries, and the first counts", "Put the files into one folder")
    if paths and isinstance(paths[0], dict):
        for key in ("file", "folder", "pattern"):
            if isinstance(paths[0].get(key), str):
                fields.put("path", paths[0][key])
