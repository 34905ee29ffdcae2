"""Local paths in a manifest: source.path and inputs.NAME.path, uploaded under the name of their content."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultramarine_contract.common import ArtifactManifest, FileEntry
from ultramarine_contract.errors import StorageError, counted
from ultramarine_contract.locations import files_below
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.objects import Objects
from ultramarine_contract.storage import Progress

from ..display.terminal import size_text
from ..kube.platform import NoWay, Platform
from .code import (
    IGNORE_FILE,
    MAX_INLINE,
    MAX_INLINE_FILES,
    WARN_BYTES,
    code_files,
    inline_content,
    largest,
    pack,
)
from .sending import Outgoing, send
from .work import FileInvalid, sha256_of

_GROUP = API_VERSION.partition("/")[0]

Note = Callable[[str], None]


def upload_local_paths(
    platform: Platform,
    manifest: Manifest,
    dry_run: bool = False,
    folder: Path | None = None,
    note: Note | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Replace the local paths of a manifest by URIs and digests, after their upload. Paths are relative to `folder`.

    With `dry_run` nothing is sent; the URIs are those that an upload would give. Raises FileInvalid.
    """
    if str(manifest.get("apiVersion", "")).partition("/")[0] == _GROUP:
        _Uploads(platform, folder or Path(), dry_run, note or (lambda text: None), progress).replace_all(manifest)
    return manifest


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings of a document: jobs, a sweep's trials, deployments and environments have sources."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _mappings(child)


@dataclass(frozen=True)
class _Uploads:
    platform: Platform
    folder: Path
    dry_run: bool
    note: Note
    progress: Progress | None

    def replace_all(self, manifest: Manifest) -> None:
        """Replace the local paths of a whole manifest. Raises FileInvalid, with the object's name."""
        kind, spec = manifest.get("kind"), manifest.get("spec")
        try:
            for parent in list(_mappings(spec)) if kind != "Dataset" else ():  # its source is not code
                self._replace(parent)
            if kind == "ModelVersion" and isinstance(spec, dict) and "path" in spec:
                format = str((spec.get("format") or {}).get("name", ""))
                spec |= self._model(self.folder / str(spec.pop("path")), format)
        except FileInvalid as error:
            metadata = manifest.get("metadata") or {}
            name = metadata.get("name") or metadata.get("generateName", "")
            raise FileInvalid(f"{kind} {name}: {error}") from None

    def _replace(self, parent: dict[str, Any]) -> None:
        source, inputs = parent.get("source"), parent.get("inputs")
        if isinstance(source, dict) and "path" in source:
            _alone("source", source)
            values = inputs.values() if isinstance(inputs, dict) else ()
            data = [self.folder / str(value["path"]) for value in values if isinstance(value, dict) and "path" in value]
            parent["source"] = self._code(self.folder / str(source["path"]), data)
        for name, value in inputs.items() if isinstance(inputs, dict) else ():
            if isinstance(value, dict) and "path" in value:
                _alone(f"inputs.{name}", value, "mode")
                value["uri"] = self._data(name, self.folder / str(value.pop("path")))

    def _code(self, path: Path, data: Sequence[Path] = ()) -> Manifest:
        files = code_files(path, data)
        if not self.dry_run and (content := self._inline(files)):
            return {"inline": content}
        with tempfile.TemporaryDirectory(prefix="ultramarine-") as folder:
            archive = Path(folder, "code.tar.gz")
            pack(files, archive)
            digest, size = sha256_of(archive), archive.stat().st_size
            if size > WARN_BYTES:
                self.note(
                    f"Warning: the code has {size_text(size)}, packed, such as {largest(files)}. Name data and other"
                    f" large files in {path / IGNORE_FILE}, and give them as inputs."
                )
            uri = f"{self.platform.prefix}code/{digest}.tar.gz"
            if not self.dry_run and not self.platform.storage.exists(uri):
                self._send([Outgoing(archive, uri, size, check=False)])
                self.note(f"Uploaded the code: {size_text(size)}.")
        return {"uri": uri, "digest": f"sha256:{digest}"}

    def _inline(self, files: dict[str, Path]) -> dict[str, str] | None:
        """Return small code for the manifest itself if no way leads to the storage. Raises NoWay if it is not small."""
        try:
            self.platform.storage  # noqa: B018
        except NoWay as error:
            if (content := inline_content(files)) is None:
                raise NoWay(
                    f"{error.message} Or keep the code below {MAX_INLINE // 1000} KB in {MAX_INLINE_FILES} text files"
                    " of one folder, which the manifest can hold."
                ) from None
            self.note(f"No way leads to the storage; the manifest holds the code: {counted(len(content), 'file')}.")
            return content
        return None

    def _data(self, name: str, path: Path) -> str:
        """Upload an input by content; return the URI of the object, or of the folder with a slash at its end."""
        prefix = f"{self.platform.prefix}uploads"
        if path.is_file():
            uri = f"{prefix}/{sha256_of(path)[:16]}/{path.name}"
            outgoing, result = [Outgoing(path, uri, path.stat().st_size, check=False)], uri
        elif path.is_dir():
            files = dict(files_below(path))
            if not files:
                raise FileInvalid(f"inputs.{name}.path {path} has no files. Name a folder with files.")
            manifest = list_files(files)
            result = f"{prefix}/{manifest.digest.removeprefix('sha256:')[:16]}/"
            outgoing = [
                Outgoing(files[entry.path], result + entry.path, entry.bytes, check=False) for entry in manifest.files
            ]
        else:
            raise FileInvalid(
                f"inputs.{name}.path {path} does not exist. Correct the path; it is relative to the manifest."
            )
        if not self.dry_run:
            # The prefix is made of the content, so what has the right size there is the same.
            objects = Objects(self.platform.storage)
            present = {(entry.uri, entry.bytes) for entry in objects.entries(result, deep=True)}
            outgoing = [file for file in outgoing if (file.uri, file.bytes) not in present]
            if outgoing:
                size = sum(file.bytes for file in outgoing)
                count = f"{counted(len(outgoing), 'file')}, " if path.is_dir() else ""
                self.note(f"Uploading input {name}: {path}, {count}{size_text(size)}.")
                self._send(outgoing)
        return result

    def _model(self, path: Path, format: str) -> Manifest:
        """Upload a model, a folder with the list of its files, which servers check; return its URI and digest."""
        if not path.is_dir():
            return {"uri": self._data("model", path), "digest": f"sha256:{sha256_of(path)}"}
        prefix = f"{self.platform.prefix}uploads"
        if not self.dry_run:
            record = self.platform.storage.upload_folder(path, prefix, format)
            return {"uri": record.uri, "digest": record.digest}
        digest = list_files(dict(files_below(path)), format).digest
        return {"uri": f"{prefix}/{digest.removeprefix('sha256:')[:16]}/", "digest": digest}

    def _send(self, outgoing: list[Outgoing]) -> None:
        try:
            send(self.platform.storage, outgoing, self.progress)
        except StorageError as error:
            if error.reason == "Unreachable" and self.platform.problem:
                raise self.platform.problem from None
            raise


def list_files(files: dict[str, Path], format: str = "") -> ArtifactManifest:
    """Return the list of files by their paths, whose digest names their content."""
    entries = (FileEntry(path, file.stat().st_size, sha256_of(file)) for path, file in files.items())
    return ArtifactManifest(tuple(entries), format)


def _alone(field: str, value: dict[str, Any], *allowed: str) -> None:
    """Raise FileInvalid if other fields say where the content is too."""
    if others := sorted(value.keys() - {"path", *allowed}):
        raise FileInvalid(f"{field} has path and {', '.join(others)}. Keep path for a local file, or the others.")
