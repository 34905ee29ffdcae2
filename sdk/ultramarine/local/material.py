"""Code, data, variables and packages of a job's manifest, as files on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import InvalidSpec, UltramarineError, listed
from ultramarine_contract.meta import Manifest

from ultramarine.resources.trainingjob import TrainingJobSpec

Say = Callable[[str], None]


class Documents:
    """Other objects of the job's file, which stand for those of a namespace."""

    def __init__(self, documents: Sequence[Manifest]) -> None:
        self._documents = documents

    def config_map(self, field: str, name: str) -> dict[str, str]:
        """Return the data of a ConfigMap. Raises InvalidSpec if the file has none of the name."""
        data = self._named("ConfigMap", field, name).get("data") or {}
        return {str(key): str(value) for key, value in data.items()}

    def environment(self, field: str, name: str) -> Manifest:
        """Return the Python packages of an Environment. Raises InvalidSpec if the file has none of the name."""
        python: Manifest = self._named("Environment", field, name)["spec"]["python"]
        return python

    def _named(self, kind: str, field: str, name: str) -> Manifest:
        for document in self._documents:
            if document.get("kind") == kind and (document.get("metadata") or {}).get("name") == name:
                return document
        raise InvalidSpec(f"{field}: {kind} {name} is not in the file of the job. A local run needs it there; add it.")


def code_folder(spec: Manifest, folder: Path, work: Path, documents: Documents) -> Path:
    """Return the folder in which the command starts: that of source.path itself, or `work` with the files.

    `folder` is that of the manifest. Raises UltramarineError.
    """
    source: dict[str, Any] = spec.get("source") or {}
    if "path" in source:
        path = folder / str(source["path"])
        if not path.exists():
            raise InvalidSpec(f"source.path {path} does not exist. Correct the path; it is relative to the manifest.")
        return (path if path.is_dir() else path.parent).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if "inline" in source or "configMap" in source:
        files = source.get("inline") or documents.config_map("spec.source", source["configMap"]["name"])
        for name, content in files.items():
            (work / name).write_text(str(content))
    elif source:
        _fetch_source(source, work)
    else:
        return folder.resolve()
    return work


def _fetch_source(source: Manifest, work: Path) -> None:
    from ultramarine_contract.source_records import SourceTask

    try:
        from ultramarine_trainer.data.credentials import SourceError
        from ultramarine_trainer.data.source import prepare
    except ImportError as error:
        remedy = "Run `pip install 'ultramarine[trainer]'`, or set source.path to a folder of this machine."
        raise UltramarineError(f"spec.source: a local run lacks {error.name} to fetch the code. {remedy}") from error
    git = source.get("git") or {}
    if git.get("secretRef"):
        raise InvalidSpec("spec.source.git.secretRef is a Secret of the cluster. Clone the code, and set source.path.")
    task = SourceTask(
        git_url=git.get("url", ""),
        git_ref=git.get("ref", ""),
        git_path=git.get("path", ""),
        uri=source.get("uri", ""),
        digest=source.get("digest", ""),
    )
    try:
        prepare(task, work / "nothing-is-mounted", work, storage())
    except SourceError as error:
        raise UltramarineError(error.message, error.reason) from error


def storage() -> Any:
    """Return the object storage that the variables of the AWS CLI name."""
    from ultramarine_contract.storage import Storage

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return Storage(endpoint, os.environ.get("AWS_REGION", "us-east-1" if endpoint else ""))


def bring_inputs(inputs: Mapping[str, Manifest], folder: Path, target: Path, say: Say) -> dict[str, str]:
    """Make a folder of each input below `target`; return by name the input's only file, or nothing for a folder.

    Local files are linked, those at s3:// URIs are fetched. Raises UltramarineError.
    """
    only: dict[str, str] = {}
    target.mkdir(parents=True, exist_ok=True)
    for name, source in inputs.items():
        place = target / name
        if "path" in source:
            path = (folder / str(source["path"])).resolve()
            if path.is_dir():
                place.symlink_to(path)
            elif path.is_file():
                place.mkdir()
                (place / path.name).symlink_to(path)
            else:
                message = f"input {name}: {path} does not exist. Correct the path, or give --data {name}=PATH."
                raise InvalidSpec(message)
            only[name] = "" if path.is_dir() else path.name
            continue
        if "dataset" in source:
            message = f"input {name}: {source['dataset']} is a version in a cluster."
            raise InvalidSpec(f"{message} Fetch it by `ultramarine data get`, and give --data {name}=PATH.")
        from ultramarine_trainer.data.inputs import fetch_folder

        uri = str(source.get("uri", ""))
        try:
            fetch_folder(storage(), name, uri, place, say, str(source.get("digest", "")))
        except UltramarineError as error:
            remedy = f"Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or give --data {name}=PATH."
            raise UltramarineError(f"input {name}: {error.message}. {remedy}", error.reason) from error
        only[name] = uri.rpartition("/")[2]
    return only


def variables(spec: TrainingJobSpec, documents: Documents) -> dict[str, str]:
    """Return the variables of spec.envFrom and spec.env. Those of Secrets must be set in the shell.

    Raises InvalidSpec.
    """
    values: dict[str, str] = {}
    for source in spec.env_from:
        if source.config_map_ref is not None:
            data = documents.config_map("spec.envFrom", source.config_map_ref.name)
            values |= {f"{source.prefix}{name}": value for name, value in data.items()}
    for variable in spec.env:
        origin = variable.value_from
        if origin is None:
            values[variable.name] = variable.value or ""
        elif origin.config_map_key_ref is not None:
            key = origin.config_map_key_ref
            data = documents.config_map(f"spec.env {variable.name}", key.name)
            if key.key not in data:
                keys = listed(data) or "none"
                raise InvalidSpec(
                    f"spec.env {variable.name}: ConfigMap {key.name} has no key {key.key} (it has: {keys})."
                )
            values[variable.name] = data[key.key]
        elif variable.name not in os.environ:
            raise InvalidSpec(
                f"spec.env {variable.name} comes from a Secret of the cluster. Set {variable.name} in your shell."
            )
    return values
