"""Fetched artifact on disk: its digests are checked, and its model is found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from ultramarine_contract.common import MANIFEST_NAME, ArtifactManifest
from ultramarine_contract.formats import FOLDER_FORMATS, FORMATS, HEAD, known_formats, models_among
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server.errors import LoadError


class ModelFile(msgspec.Struct, frozen=True):
    """File or folder of a model, and its format."""

    path: Path
    format: str


def find_model(folder: Path, task: ServingTask) -> ModelFile:
    """Check every file below `folder` against the task's digest and return the model. Raises LoadError."""
    files, stated = check_files(folder, task)
    format = task.format if task.format not in ("", "auto") else stated
    return ModelFile(*_choose(folder, files, format, alone=not task.uri.endswith("/")))


def check_files(folder: Path, task: ServingTask) -> tuple[list[str], str]:
    """Check every file below `folder`; return their paths, and the format that the manifest states, if any."""
    try:
        if task.uri.endswith("/"):
            return _checked_folder(folder, task)
        return [_checked_file(folder, task)], ""
    except OSError as error:
        raise LoadError(
            f"the model is not in {folder} ({error}); see the log of the container that fetches it", "ModelMissing"
        ) from error


def _checked_folder(folder: Path, task: ServingTask) -> tuple[list[str], str]:
    try:
        manifest = ArtifactManifest.from_json((folder / MANIFEST_NAME).read_bytes())
    except ValueError as error:
        raise LoadError(f"{MANIFEST_NAME} of {task.uri} is unusable: {error}", "ModelCorrupt") from error
    _expect(task.uri, task.digest, manifest.digest)
    for entry in manifest.files:
        _expect(task.uri + entry.path, "sha256:" + entry.sha256, _digest(folder / entry.path))
    return [entry.path for entry in manifest.files], manifest.format


def _checked_file(folder: Path, task: ServingTask) -> str:
    name = task.uri.rpartition("/")[2]
    _expect(task.uri, task.digest, _digest(folder / name))
    return name


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _expect(name: str, expected: str, actual: str) -> None:
    if expected != actual:
        message = f"{name} has digest {actual}, expected {expected}; register the model again or restore it"
        raise LoadError(message, "DigestMismatch")


def _choose(folder: Path, files: list[str], format: str, *, alone: bool) -> tuple[Path, str]:
    if format and format not in FORMATS:
        raise LoadError(f"format {format!r} cannot be served; known are {', '.join(FORMATS)}", "FormatUnknown")
    if alone and format in FOLDER_FORMATS:
        message = f"a model of format {format} is a folder, not the file {files[0]}"
        raise LoadError(f"{message}; register a uri that ends in a slash", "FormatUnknown")

    def head(file: str) -> bytes:
        with (folder / file).open("rb") as stream:
            return stream.read(HEAD)

    if alone and format and not models_among(files, "", head):
        return folder / files[0], format  # The name has no known suffix, so the registered format applies.
    models = models_among(files, format, head)
    if len(models) != 1:
        model = f"a model of format {format}" if format else "a model"
        held = ", ".join((list(models) or files)[:5])
        message = f"the artifact must hold {model}, exactly one, but holds {held}; known are {known_formats()}"
        raise LoadError(message, "FormatUnknown")
    [(file, format)] = models.items()
    return folder / file, format
