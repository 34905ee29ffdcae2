"""State of one conversion: the manifests, uploads and losses so far, and the assets that files define."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import API_VERSION, Manifest

from ultramarine.azureml.compute import Compute, read_table
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Document, read
from ultramarine.azureml.report import Loss, Place, Upload, UploadKind

MAX_NAME = 40
MAX_SWEEP = 30  # with a pod per trial, whose job's name has a suffix
MAX_PART, MAX_PATH = 255, 3000  # bytes of a name, characters of a path


def object_name(text: str, most: int = MAX_NAME) -> str:
    """Return a name in lower-case letters, digits and '-' that begins with a letter; a long one ends in a hash."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
    if not name[0].isalpha():
        name = f"x-{name}"
    if len(name) > most:
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:5]
        name = f"{name[: most - 6].rstrip('-')}-{digest}"
    return name


def file_name(text: str) -> str:
    """Return the last part of a path or an address, in characters that a URI may have."""
    last = re.split(r"[?#]", text)[0].replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", last).lstrip(".")[:200] or "file"


class Names:
    """Names of one batch, each used once."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def free(self, kind: str, text: str, most: int = MAX_NAME) -> str:
        """Return a name for an object of a kind; a number is appended to a name that is taken."""
        base = name = object_name(text, most)
        number = 1
        while (kind, name) in self._taken:
            number += 1
            name = f"{base[: most - 1 - len(str(number))].rstrip('-')}-{number}"
        self._taken.add((kind, name))
        return name


class Refused(UltramarineError):
    """The document has no counterpart; the message is a clause that follows the file's name."""

    reason = "Refused"


@dataclass
class Asset:
    """Environment, data asset or model that a file defines.

    `target` is what a reference to it becomes, and `located` where an input that names it finds its content.
    """

    document: Document
    name: str
    version: str
    target: Any = None
    located: Any = None


@dataclass
class Context:
    """Conversion under way. `location` is the folder of the object storage that uploads go to."""

    location: str
    computes: Mapping[str, Compute]
    manifests: list[Manifest] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    assets: dict[str, list[Asset]] = field(default_factory=dict)
    objects: dict[int, list[str]] = field(default_factory=dict)  # by id of a document
    runs: list[Document] = field(default_factory=list)  # files of jobs, sweeps and pipelines
    inputs_only: set[int] = field(default_factory=set)  # ids of models' documents that need no registration
    imported: dict[tuple[str, ...], Any] = field(default_factory=dict)  # models by name, version and path
    beside: list[tuple[Document, str]] = field(default_factory=list)  # not named, and their schemas
    parts: dict[Path, set[Path]] = field(default_factory=dict)  # files that other files read, with these
    tables: dict[Path, Mapping[str, Compute]] = field(default_factory=dict)  # of compute targets, by folder

    def fields(self, document: Document) -> Fields:
        return Fields(document, self.losses)

    def add(self, document: Document, kind: str, name: str, spec: Manifest, metadata: Manifest | None = None) -> None:
        """Add a manifest that a document became."""
        self.manifests.append(
            {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **(metadata or {})}, "spec": spec}
        )
        self.note(document, f"{kind}/{name}")

    def computes_of(self, fields: Fields) -> Mapping[str, Compute]:
        """Return what stands for compute targets in a file: by the table of its project before the given one."""
        folder = fields.document.file.parent
        if folder not in self.tables:
            self.tables[folder] = {**self.computes, **read_table(folder)}
        return self.tables[folder]

    def of_kind(self, kind: str) -> list[Manifest]:
        """Return the manifests of a kind so far."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def note(self, document: Document, text: str) -> None:
        """Record what a document became."""
        self.objects.setdefault(id(document), []).append(text)

    def noted(self, document: Document) -> list[str]:
        """Return what a document became so far."""
        return self.objects.get(id(document), [])

    def is_part(self, document: Document) -> bool:
        """True if another file has read the document's file."""
        file = document.file.resolve()
        return bool(self.parts.get(file, set()) - {file})

    def owners(self, file: Path) -> set[Path]:
        """Return the files that read a file, directly or by other parts."""
        owners: set[Path] = set()
        waiting = [file]
        while waiting:
            new = self.parts.get(waiting.pop(), set()) - owners
            owners |= new
            waiting += new
        return owners

    def asset(self, kind: str, name: str, version: str, fields: Fields, key: str) -> Asset | None:
        """Return the asset that a field names: of this version or of the highest, of the same folder if possible.

        Another version than the named one is a loss.
        """
        near = fields.document.file.parent

        def order(asset: Asset) -> tuple[bool, bool, int]:
            number = int(asset.version) if re.fullmatch(r"[0-9]{1,9}", asset.version) else 0
            return asset.document.file.parent == near, asset.version == version, number

        asset = max((asset for asset in self.assets.get(kind, []) if asset.name == name), key=order, default=None)
        if asset is not None and asset.version and version not in ("latest", asset.version):
            problem = f"version {version} of {name} is not among the files, so version {asset.version} is used"
            fields.lose(key, problem, "Convert its file too, or correct the version")
        return asset

    def upload(self, area: str, source: str, kind: UploadKind, place: Place, name: str, file: str = "") -> str:
        """Record an upload and return its URI, made of area, name and file; the same source is uploaded once."""
        for upload in self.uploads:
            if (upload.source, upload.kind) == (source, kind):
                return upload.uri
        uri = f"{self.location}/{area}/{self.names.free(area, name)}{file}"
        self.uploads.append(Upload(source, uri, kind, place))
        return uri

    def part(self, fields: Fields, path: Path) -> Document:
        """Return the first document of a file that another file names. Raises Unreadable."""
        (document, *_) = read(path)
        self.parts.setdefault(path.resolve(), set()).add(fields.document.file.resolve())
        return document

    def local(self, fields: Fields, text: str) -> Path:
        """Return a path that a file names, relative to the file. Raises Refused for one that no disk has."""
        if any(len(part.encode()) > MAX_PART for part in re.split(r"[\\/]", text)) or len(text) > MAX_PATH:
            raise Refused(f"has a path that is too long: {text[:60]}... Shorten it")
        return Path(os.path.normpath(fields.document.file.parent / text.removeprefix("file:").replace("\\", "/")))


def metadata_of(fields: Fields) -> Manifest:
    """Return labels and annotations for description, experiment and tags."""
    annotations = {
        f"azureml/{key.replace('_', '-')}": text
        for key in ("display_name", "experiment_name", "description")
        if (text := fields.text(key))
    }
    tags = fields.section("tags")
    for key in tags.keys:
        annotations[f"azureml.tags/{_annotation_name(key)}"] = tags.text(key)
    return {"annotations": annotations} if annotations else {}


def _annotation_name(text: str) -> str:
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in text)
    return name.strip("-_.")[:63].rstrip("-_.") or "tag"
