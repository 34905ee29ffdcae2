"""Datasets: versions from files of this machine, aliases, profiles, and files to this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultramarine_contract.common import MANIFEST_NAME, ArtifactManifest
from ultramarine_contract.dataset_records import PROFILE_JSON
from ultramarine_contract.errors import InvalidSpec, StorageError, UltramarineError
from ultramarine_contract.locations import files_below
from ultramarine_contract.meta import DATASET, DATASET_VERSION, Manifest
from ultramarine_contract.storage import Progress

from .versions.series import Series, why

if TYPE_CHECKING:
    from .client import Client

_CHECK_SECONDS = 600.0  # for which the requirements on a new version may be checked
_PROFILE_SECONDS = 60.0  # for which a command waits for the profile of a version that can be read
PROFILING = "Profiling"  # reason of the condition Profiled while the profile is made
_ENDED = ("Ready", "Quarantined", "Refused", "Invalid")  # states


class NotUsable(UltramarineError):
    """The version is quarantined, refused or invalid."""

    reason = "NotUsable"


class Added(NamedTuple):
    """A version with the content of an upload; `is_new` is false if the newest version had it before."""

    version: Manifest
    is_new: bool


class Datasets:
    """The datasets of a namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cluster = client.cluster
        self._series = Series(client, "dataset", DATASET, DATASET_VERSION)

    def versions(self, dataset: str) -> list[Manifest]:
        """Return the DatasetVersions of a dataset, the newest first. Raises NotFound with the nearest name."""
        return self._series.versions(dataset)

    def version(self, reference: str) -> Manifest:
        """Return the DatasetVersion of DATASET@VERSION, DATASET@ALIAS, or the newest ready one of DATASET@latest."""
        return self._series.find(reference)

    def aliases(self, dataset: str) -> dict[str, str]:
        """Return the version's number of each alias; empty if the dataset has none."""
        return self._series.aliases(dataset)

    def promote(self, reference: str, alias: str) -> Manifest:
        """Let an alias lead to a version, and return that version. Raises InvalidSpec for one that is not ready."""
        return self._series.promote(reference, alias)

    def add(self, path: Path | str, dataset: str, progress: Progress | None = None) -> Added:
        """Upload a file or the files of a folder, and register them as the next version of `dataset`.

        The Dataset is made if it does not exist. Content that the newest version has makes no other version. Raises
        FileInvalid and StorageError.
        """
        from .storage.uploads import list_files

        path = Path(path)
        files = _files(path)
        manifest = list_files(files)
        newest = self._series.newest(dataset)
        if newest is not None and newest["spec"].get("digest") == manifest.digest:
            return Added(newest, False)
        uri = self._upload(dataset, files, manifest, progress)
        self._series.ensure_parent(dataset)
        spec = {"uri": uri, "digest": manifest.digest, "lineage": {"source": f"upload of {path.name}"}}
        return Added(self._series.register(dataset, spec), True)

    def wait(self, version: Manifest) -> Manifest:
        """Return a version once it can be read. Raises NotUsable with the cause."""
        name, latest = version["metadata"]["name"], version
        if state_of(version) not in _ENDED:
            for event in self._cluster.watch(DATASET_VERSION, name, seconds=_CHECK_SECONDS):
                latest = event.object
                if state_of(latest) in _ENDED:
                    break
        if state_of(latest) != "Ready":
            raise NotUsable(f"DatasetVersion {name} is {state_of(latest) or 'being checked'}: {why(latest)}")
        return latest

    def download(self, reference: str, folder: Path | str = "", progress: Progress | None = None) -> Path:
        """Fetch the files of a version into a folder, checked by their digests, and return it.

        The default is DATASET-VERSION. An interrupted download continues. Raises FileInvalid for a folder with other
        content.
        """
        return self._series.download(reference, folder, progress)

    def profile(self, version: Manifest) -> dict[str, Any]:
        """Return the profile of a table, once it is made: rows, and the figures of each column.

        Raises NotUsable if the version gets none.
        """
        name = version["metadata"]["name"]
        version = self._profiled(version, _CHECK_SECONDS)
        uri = ((version.get("status") or {}).get("profile") or {}).get("uri")
        if not uri:
            text = _profiling(version).get("message", "it is not a table")
            raise NotUsable(f"DatasetVersion {name} has no profile: {text}")
        document: dict[str, Any] = json.loads(self._client.storage.read(f"{uri}{PROFILE_JSON}", limit=1 << 28))
        return document

    def violations(self, name: str) -> list[dict[str, Any]]:
        """Return what a version's profile finds, after a wait for a profile that is being made."""
        version = self._profiled(self._cluster.get(DATASET_VERSION, name), _PROFILE_SECONDS)
        violations: list[dict[str, Any]] = (version.get("status") or {}).get("violations") or []
        return violations

    def _profiled(self, version: Manifest, seconds: float) -> Manifest:
        """Return a version once its profile is made, or as it is after that time."""
        if _profiling(version).get("reason") == PROFILING:
            for event in self._cluster.watch(DATASET_VERSION, version["metadata"]["name"], seconds=seconds):
                version = event.object
                if event.type == "DELETED" or _profiling(version).get("reason") != PROFILING:
                    break
        return version

    def files(self, version: Manifest) -> ArtifactManifest:
        """Return the list of a version's files, with sizes and digests."""
        uri = str(version["spec"]["uri"])
        if uri.endswith("/"):
            return self._client.storage.manifest(uri)
        name = version["metadata"]["name"]
        raise InvalidSpec(f"DatasetVersion {name} is one object without a list of files. Read spec.uri instead.")

    def _upload(
        self, dataset: str, files: dict[str, Path], manifest: ArtifactManifest, progress: Progress | None
    ) -> str:
        """Upload files and, last, their list; return the folder. What an earlier attempt has sent is skipped."""
        from ultramarine_contract.objects import Objects

        from .storage.sending import Outgoing, send

        platform = self._client.platform
        uri = f"{platform.prefix}datasets/{dataset}/{manifest.digest.removeprefix('sha256:')[:16]}/"
        try:
            present = {(entry.uri, entry.bytes) for entry in Objects(platform.storage).entries(uri, deep=True)}
            outgoing = [Outgoing(files[entry.path], uri + entry.path, entry.bytes, False) for entry in manifest.files]
            send(platform.storage, [file for file in outgoing if (file.uri, file.bytes) not in present], progress)
            platform.storage.write(uri + MANIFEST_NAME, manifest.to_json())
        except StorageError as error:
            if error.reason == "Unreachable" and platform.problem:
                raise platform.problem from None
            raise
        return uri


def _files(path: Path) -> dict[str, Path]:
    """Return the files of an upload by their paths. Raises FileInvalid."""
    from .storage.work import FileInvalid

    if path.is_file():
        return {path.name: path}
    files = dict(files_below(path)) if path.is_dir() else {}
    if not files:
        raise FileInvalid(f"{path} {'has no files' if path.is_dir() else 'does not exist'}. Give a file or a folder.")
    if MANIFEST_NAME in files:
        raise FileInvalid(f"{path} has a file {MANIFEST_NAME}, the name of the list of files. Rename it.")
    return files


def _profiling(version: Manifest) -> dict[str, Any]:
    """Return the condition of a version's profile; empty without one."""
    conditions = (version.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == "Profiled"), {})


def state_of(version: Manifest) -> str:
    """Return the state of a DatasetVersion; empty before its first pass."""
    return str((version.get("status") or {}).get("state", ""))
