"""`ultramarine-import MODEL FOLDER`: copy a version of a model out of an MLflow registry. No mlflow needed here.

MODEL is models:/NAME/VERSION or models:/NAME@ALIAS, as MLflow writes it, and MLFLOW_TRACKING_URI the server. What the
version's run has measured is printed as metrics. Source: MLflow's REST API 2.0, and its proxy for artifacts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import counted
from ultramarine_contract.transport import cause, outside
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from ultramarine_trainer.tracking.api import authorization

SECONDS = 60.0  # without a word from the server
MOST_FILES = 10_000
_MODEL = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>[1-9][0-9]*)|@(?P<alias>[\w.-]+))")
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"


class ImportFailed(Exception):
    """The model cannot be copied; the message has the cause and the remedy."""


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Copy, and return the exit code."""
    try:
        if len(arguments) != 2:
            raise ImportFailed("give a model, such as models:/churn/3 or models:/churn@champion, and a folder")
        server = environment.get("MLFLOW_TRACKING_URI", "")
        if not server.startswith(("http://", "https://")):
            raise ImportFailed(
                "MLFLOW_TRACKING_URI is not an http(s) address; set it in spec.env, or the chart's mlflow"
            )
        copy(Registry(server, environment), arguments[0], Path(arguments[1]))
    except ImportFailed as failure:
        print(f"ultramarine-import: {failure}", file=sys.stderr)
        return 1
    return 0


class Registry:
    """An MLflow server; a user or a token as MLflow's own variables have them."""

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        self._uri, self._http = uri.rstrip("/"), outside(uri)
        self._headers = authorization(environment)

    def ask(self, method: str, /, **query: str) -> dict[str, Any]:
        """Return the answer of `/api/2.0/METHOD`."""
        with self._open(f"/api/2.0/{method}?{urllib.parse.urlencode(query)}") as answer:
            try:
                document = answer.json()
            except (HTTPError, ValueError) as error:
                raise ImportFailed(f"{self._uri} answers what MLflow would not to {method}: {error!r}") from error
        if not isinstance(document, dict):
            raise ImportFailed(f"{self._uri} answers what MLflow would not to {method}")
        return document

    def fetch(self, path: str, file: Path) -> int:
        """Write one artifact into `file`, and return its size."""
        with self._open(f"{_PROXY}/{urllib.parse.quote(path)}") as answer, file.open("wb") as out:
            try:
                shutil.copyfileobj(answer, out)
            except (OSError, HTTPError) as error:
                raise ImportFailed(f"{path} could not be copied: {error!r}") from error
            return out.tell()

    def _open(self, path: str) -> BaseHTTPResponse:
        try:
            answer = self._http.request(
                "GET", self._uri + path, headers=self._headers, timeout=SECONDS, preload_content=False
            )
            if answer.status >= 300:
                with answer:
                    text = answer.read(500).decode(errors="replace").strip()
                raise ImportFailed(f"{self._uri} answered {answer.status} to {path}: {text or answer.reason}")
        except HTTPError as error:
            raise ImportFailed(f"{self._uri} does not answer: {cause(error)}; may training pods reach it?") from error
        return answer


def copy(registry: Registry, model: str, folder: Path) -> None:
    """Copy the version's files to `folder`, and print what its run has measured. Raises ImportFailed."""
    version = _version(registry, model)
    name, number = str(version.get("name")), str(version.get("version"))
    where = registry.ask("mlflow/model-versions/get-download-uri", name=name, version=number)
    location = str(where.get("artifact_uri"))
    files = _copy_files(registry, location, folder)
    print(f"{name} version {number} copied from MLflow: {counted(files, 'file')} of {location}")
    if run := version.get("run_id"):
        for line in _metrics(registry, str(run)):
            print(line)


def copy_logged(registry: Registry, run_id: str, folder: Path) -> bool:
    """Copy the model that a run logged last; False if it logged none. Raises ImportFailed."""
    run = registry.ask("mlflow/runs/get", run_id=run_id).get("run") or {}
    logged = [str(output["model_id"]) for output in (run.get("outputs") or {}).get("model_outputs") or []]
    models = [registry.ask(f"mlflow/logged-models/{urllib.parse.quote(model)}")["model"]["info"] for model in logged]
    if models:
        newest = max(models, key=lambda model: int(model.get("creation_timestamp_ms") or 0))
        location = str(newest["artifact_uri"])
    else:  # MLflow 2
        tags = {tag["key"]: tag["value"] for tag in run.get("data", {}).get("tags") or []}
        history = json.loads(tags.get("mlflow.log-model.history", "[]"))
        if not history:
            return False
        location = f"{run['info']['artifact_uri']}/{history[-1]['artifact_path']}"
    _copy_files(registry, location, folder)
    return True


def _copy_files(registry: Registry, location: str, folder: Path) -> int:
    """Copy a model's files, and return their number. Raises ImportFailed."""
    root = _proxied(location)
    files = 0
    for path, size in _files(registry, root):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        got = registry.fetch(f"{root}/{path}", file)
        if got != size:
            raise ImportFailed(f"{path} has {got} bytes here and {size} in MLflow; was it cut off?")
        files += 1
    if not (folder / "MLmodel").is_file():
        raise ImportFailed(f"{location} has no file MLmodel: it is not a model, or its files are gone")
    return files


def _version(registry: Registry, model: str) -> dict[str, Any]:
    meant = _MODEL.fullmatch(model)
    if meant is None:
        raise ImportFailed(f"{model!r} is neither models:/NAME/VERSION nor models:/NAME@ALIAS")
    name = urllib.parse.unquote(meant["name"])
    if meant["alias"]:
        document = registry.ask("mlflow/registered-models/alias", name=name, alias=meant["alias"])
    else:
        document = registry.ask("mlflow/model-versions/get", name=name, version=meant["version"])
    version = document.get("model_version")
    if not isinstance(version, dict):
        raise ImportFailed(f"MLflow tells no version for {model}")
    return version


def _proxied(location: str) -> str:
    """The path of a location at MLflow's proxy for artifacts."""
    parts = urllib.parse.urlsplit(location)
    path = parts.path
    if parts.scheme in ("http", "https") and path.startswith(f"{_PROXY}/"):
        path = path.removeprefix(_PROXY)
    elif parts.scheme != "mlflow-artifacts":
        raise ImportFailed(
            f"its files are at {location}, which MLflow does not hand out (mlflow server --serve-artifacts would); "
            "bring them into the bucket, and apply a ModelVersion with their uri and digest"
        )
    return urllib.parse.unquote(path.strip("/"))


def _files(registry: Registry, root: str) -> Iterator[tuple[str, int]]:
    """Each file below `root`, by its path from there, and its size."""
    folders, count = [""], 0
    while folders:
        folder = folders.pop()
        listed = registry.ask("mlflow-artifacts/artifacts", path=f"{root}/{folder}".rstrip("/")).get("files") or []
        for entry in listed:
            count += 1
            name = str(entry.get("path"))
            if count > MOST_FILES or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
                raise ImportFailed(f"MLflow lists more than {MOST_FILES} files, or one with a bad name: {name!r}")
            path = f"{folder}{name}"
            if entry.get("is_dir"):
                folders.append(f"{path}/")
            else:
                yield path, int(entry.get("file_size") or 0)


def _metrics(registry: Registry, run: str) -> Iterator[str]:
    """The last values that the run has logged; none of a run that is gone, which its model outlives."""
    try:
        data = registry.ask("mlflow/runs/get", run_id=run).get("run", {}).get("data", {})
    except ImportFailed as failure:
        print(f"its metrics are left out: {failure}", file=sys.stderr)
        return
    for metric in data.get("metrics") or []:
        yield f"{metric.get('key')}={metric.get('value')}"
