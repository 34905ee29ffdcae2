"""Local paths in a manifest: source.path and inputs.NAME.path, uploaded under the name of their content."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pathspec
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.locations import files_below
from ultramarine_contract.meta import Manifest

from .platform import Platform

IGNORE_FILE = ".ultramarineignore"
_ALWAYS = (".git/", "__pycache__/", "*.pyc", ".venv/", ".ipynb_checkpoints/", ".DS_Store", "node_modules/")
WARN_BYTES = 50 * 1024 * 1024
MAX_CODE_BYTES = 2 * 1024 * 1024 * 1024

Note = Callable[[str], None]


class PathInvalid(UltramarineError):
    """A local path of a manifest cannot be uploaded."""

    reason = "PathInvalid"


def upload_local_paths(
    platform: Platform, manifest: Manifest, dry_run: bool = False, folder: Path | None = None, note: Note | None = None
) -> Manifest:
    """Replace the local paths of a manifest by URIs and digests, after their upload. Paths are relative to `folder`.

    With `dry_run` nothing is sent; the URIs are those that an upload would give.
    """
    folder = folder or Path()
    spec = manifest.get("spec")
    for run in (spec, _trial(spec), *_scorings(spec)):
        if not isinstance(run, dict):
            continue
        source = run.get("source")
        if isinstance(source, dict) and "path" in source:
            run["source"] = _code(platform, folder / str(source["path"]), dry_run, note)
        for name, value in (run.get("inputs") or {}).items():
            if isinstance(value, dict) and "path" in value:
                local = folder / str(value.pop("path"))
                value["uri"] = _data(platform, name, local, dry_run, note)
    if manifest.get("kind") == "ModelVersion" and isinstance(spec, dict) and "path" in spec:
        spec["uri"] = _data(platform, "model", folder / str(spec.pop("path")), dry_run, note)
    return manifest


def _scorings(spec: Any) -> list[Any]:
    """Return the parts of an OnlineEndpoint's spec that have a script."""
    deployments = spec.get("deployments") if isinstance(spec, dict) else None
    return [deployment.get("scoring") for deployment in deployments or [] if isinstance(deployment, dict)]


def _trial(spec: Any) -> Any:
    """Return the part of a Sweep's spec that describes its trials."""
    template = spec.get("trialTemplate") if isinstance(spec, dict) else None
    return template.get("spec") if isinstance(template, dict) else None


def _code(platform: Platform, path: Path, dry_run: bool, note: Note | None) -> Manifest:
    archive = code_archive(path)
    digest = hashlib.sha256(archive).hexdigest()
    uri = f"{platform.prefix}code/{digest}.tar.gz"
    if note and len(archive) > WARN_BYTES:
        note(
            f"Warning: the code has {len(archive) / 2**20:.0f} MiB, packed. Name data and other large files in"
            f" {path / IGNORE_FILE}, and give them as inputs."
        )
    if not dry_run and platform.storage.create(uri, archive) and note:
        note(f"Uploaded the code: {len(archive) / 1024:.0f} KiB.")
    return {"uri": uri, "digest": f"sha256:{digest}"}


def code_archive(path: Path) -> bytes:
    """Pack a folder, or one file, as tar.gz: the same bytes for the same content, whatever its times and owners.

    Files that .ultramarineignore matches, in gitignore's syntax, are left out. Raises PathInvalid.
    """
    if path.is_file():
        files = {path.name: path}
    elif path.is_dir():
        files = {name: file for name, file in files_below(path, _skip) if not ignored(path).match_file(name)}
    else:
        raise PathInvalid(f"source.path {path} does not exist. Correct the path; it is relative to the manifest.")
    if not files:
        raise PathInvalid(f"source.path {path} has no files, or {IGNORE_FILE} leaves out all of them.")
    total = sum(file.stat().st_size for file in files.values())
    if total > MAX_CODE_BYTES:
        raise PathInvalid(
            f"source.path {path} has {total / 2**30:.1f} GiB. Name data in {IGNORE_FILE}, and give it as an input."
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            content = files[name].read_bytes()
            entry.size, entry.mode = len(content), 0o755 if files[name].stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def ignored(folder: Path) -> pathspec.PathSpec[Any]:
    """Return the patterns of a folder's ignore file, and those that are always left out."""
    file = folder / IGNORE_FILE
    lines = file.read_text().splitlines() if file.exists() else []
    return pathspec.PathSpec.from_lines("gitwildmatch", [*_ALWAYS, *lines])


def _skip(name: str) -> bool:
    return name in (".git", "__pycache__", ".venv", "node_modules", ".ipynb_checkpoints")


def _data(platform: Platform, name: str, path: Path, dry_run: bool, note: Note | None) -> str:
    """Upload an input by content; return the URI of the object, or of the folder with a slash at its end."""
    prefix = f"{platform.prefix}uploads"
    if path.is_file():
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        uri = f"{prefix}/{digest[:16]}/{path.name}"
        if not dry_run and not platform.storage.exists(uri):
            if note:
                note(f"Uploading input {name}: {path}, {path.stat().st_size / 2**20:.1f} MiB.")
            platform.storage.upload(path, uri)
        return uri
    if not path.is_dir():
        raise PathInvalid(
            f"inputs.{name}.path {path} does not exist. Correct the path; it is relative to the manifest."
        )
    if dry_run:
        return f"{prefix}/CONTENT/"
    if note:
        note(f"Uploading input {name}: folder {path}.")
    return platform.storage.upload_folder(path, prefix).uri
