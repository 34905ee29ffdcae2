"""Results that runs have stored: outputs, checkpoints, logs, reports."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultramarine_contract.common import (
    ATTEMPTS_NAME,
    LOGS_NAME,
    MANIFEST_NAME,
    RUNS_NAME,
    ArtifactManifest,
    FileEntry,
)
from ultramarine_contract.errors import StorageError, UltramarineError, listed
from ultramarine_contract.locations import files_below, unsafe
from ultramarine_contract.storage import Progress, Storage

from .fetching import Incoming, fetch
from .work import FileInvalid, sha256_of

if TYPE_CHECKING:
    from ultramarine.runs import Run


class NothingStored(UltramarineError):
    """The run has not stored what was asked for."""

    reason = "NothingStored"


class Artifact(NamedTuple):
    """A folder that a run has stored, with the digest that the run's status states, or nothing."""

    uri: str
    digest: str = ""


def outputs_of(run: Run) -> dict[str, Artifact]:
    """Return the outputs of a run by name; of a Sweep those of its best trial."""
    status = run.status
    if "best" in status or run.resource.kind == "Sweep":
        best: dict[str, Any] = next(iter(status.get("best") or []), {})
        return {name: Artifact(uri) for name, uri in (best.get("outputs") or {}).items()}
    stored: dict[str, Any] = status.get("outputs") or {}
    return {name: Artifact(output["uri"], output["digest"]) for name, output in stored.items()}


def output_of(run: Run, name: str) -> Artifact:
    """Return an output of a run by name. Raises NothingStored."""
    outputs = outputs_of(run)
    if name not in outputs:
        names = f"It has {listed(outputs)}." if outputs else f"It is {run.state}."
        raise NothingStored(f"{run.resource.kind} {run.name} has no stored output {name}. {names}")
    return outputs[name]


def mlflow_of(run: Run) -> Artifact | None:
    """Return the files that a job's command logged by mlflow without a tracking server; None without any."""
    status = run.status
    logs, pod = (status.get("logs") or {}).get("uri"), status.get("pod")
    if not logs or not pod:
        return None
    folder = f"{logs.removesuffix(f'{LOGS_NAME}/')}{ATTEMPTS_NAME}/{pod}/{RUNS_NAME}/"
    folders = run.client.storage.folders(folder)
    return Artifact(folders[0]) if folders else None


def checkpoint_of(run: Run) -> Artifact:
    """Return the newest checkpoint of a run. Raises NothingStored."""
    if uri := (run.status.get("lastCheckpoint") or {}).get("uri"):
        return Artifact(uri)
    raise NothingStored(
        f"{run.resource.kind} {run.name} has no checkpoint. Set spec.checkpoint, and write files to /mnt/checkpoints."
    )


def logs_of(run: Run) -> str:
    """Return the URI of the folder with the archived logs of a run. Raises NothingStored."""
    status = run.status
    uri = (status.get("logs") or {}).get("uri")
    if not uri and (journal := (status.get("journal") or {}).get("uri")):
        uri = f"{journal.rstrip('/').rpartition('/')[0]}/{LOGS_NAME}/"
    if not uri:
        raise NothingStored(
            f"{run.resource.kind} {run.name} has no archived log. `ultramarine logs {run.reference}` shows it."
        )
    return str(uri)


def report_of(run: Run) -> str:
    """Return the URI of a Sweep's report. Raises NothingStored."""
    if uri := (run.status.get("report") or {}).get("uri"):
        return str(uri)
    reason = f"it is {run.state}" if run.resource.kind == "Sweep" else "only sweeps have one"
    raise NothingStored(f"{run.resource.kind} {run.name} has no report: {reason}.")


def files_of(storage: Storage, uri: str) -> list[FileEntry]:
    """Return the files of an artifact: those of its list, or the one object. Raises StorageError."""
    if uri.endswith("/"):
        return list(_manifest(storage, uri).files)
    return [FileEntry(uri.rpartition("/")[2], storage.size(uri).bytes, "")]


def _manifest(storage: Storage, uri: str) -> ArtifactManifest:
    try:
        return ArtifactManifest.from_json(storage.read(uri + MANIFEST_NAME))
    except ValueError as error:
        raise StorageError(f"{uri}{MANIFEST_NAME} is unusable: {error}", "ManifestInvalid") from error


def _has(folder: Path, manifest: ArtifactManifest) -> bool:
    """True if a folder has exactly the files of a list, by their digests."""
    if not folder.is_dir():
        return False
    files = dict(files_below(folder))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return sizes == {entry.path: entry.bytes for entry in manifest.files} and all(
        sha256_of(files[entry.path]) == entry.sha256 for entry in manifest.files
    )


def download(storage: Storage, artifact: Artifact, folder: Path, progress: Progress | None = None) -> ArtifactManifest:
    """Fetch an artifact into a folder, which appears when all files have the digests of its list.

    An interrupted download continues. Raises FileInvalid if the folder exists with other content, and StorageError.
    """
    manifest = _manifest(storage, artifact.uri)
    if artifact.digest and manifest.digest != artifact.digest:
        remedy = "the stored content is not what the run stored; restore it or run again"
        message = f"{artifact.uri} has digest {manifest.digest}, expected {artifact.digest}; {remedy}"
        raise StorageError(message, "DigestMismatch")
    for entry in manifest.files:
        if problem := unsafe(entry.path):
            raise StorageError(f"{artifact.uri} lists a file {entry.path!r}: {problem}", "InvalidKey")
    if _has(folder, manifest):
        return manifest
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileInvalid(f"{folder} exists with other content. Remove it, or choose another folder.")
    part = folder.with_name(f".{folder.name}-{manifest.digest.removeprefix('sha256:')[:16]}.part")
    incoming = [
        Incoming(artifact.uri + entry.path, part / entry.path, entry.bytes, entry.sha256) for entry in manifest.files
    ]
    fetch(storage, incoming, progress)
    part.mkdir(parents=True, exist_ok=True)  # without a file, nothing has made it
    if folder.exists():
        shutil.rmtree(folder)  # empty
    part.replace(folder)
    return manifest
