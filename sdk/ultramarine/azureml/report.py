"""Result of a conversion: manifests, what to upload, what is lost, and what became of each file."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ultramarine_contract.meta import Manifest

UploadKind = Literal["file", "folder", "code"]
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


_REGISTRY = re.compile(r"azureml://registries/([^/]+)/(model|component)s/([^/]+)/(version|label)s/([^/]+)")


def registry_command(source: str) -> str:
    """Return Azure's command that gets a model or component of a registry; empty for other sources."""
    if match := _REGISTRY.fullmatch(source.strip()):
        registry, kind, name, selector, value = match.groups()
        verb = "download" if kind == "model" else "show"
        return f"az ml {kind} {verb} --registry-name {registry} --name {name} --{selector} {value}"
    return ""


@dataclass(frozen=True)
class Place:
    """Field of an Azure ML file. `line` counts from 1; `field` is a path such as resources.shm_size."""

    file: str
    line: int
    field: str


@dataclass(frozen=True)
class Loss:
    """Field that the manifests do not express, or express differently, with the remedy.

    `is_mistake` is True for a fault of the file itself, which Azure would refuse, too. `is_note` is True for a field
    on which no run depends.
    """

    place: Place
    problem: str
    remedy: str
    is_mistake: bool = False
    is_note: bool = False

    def __str__(self) -> str:
        return f"{self.place.file}:{self.place.line}: {self.place.field}: {self.problem}. {self.remedy}."


@dataclass(frozen=True)
class Upload:
    """Content that a manifest expects at `uri`.

    `source` is a local path, or the address of remote content. A folder's `uri` ends in a slash. Code is a folder whose
    `uri` names a tar archive.
    """

    source: str
    uri: str
    kind: UploadKind
    place: Place

    def __str__(self) -> str:
        place = f"{self.place.file}:{self.place.line}: {self.place.field}"
        return f"{place}: {self.source} is expected at {self.uri}. {self.remedy}."

    @property
    def remedy(self) -> str:
        """Commands that put the content there."""
        key = "/".join(self.uri.split("/")[4:])
        if self.kind == "code":
            return f"Run `tar -C {self.source} -czf code.tar.gz .` and `ultramarine data put code.tar.gz {key}`"
        command = registry_command(self.source)
        fetch = "" if self.is_local else f"Run `{command}`, then " if command else "Download it, then "
        verb = "run" if fetch else "Run"
        return f"{fetch}{verb} `ultramarine data put {self.source if self.is_local else 'PATH'} {key}`"

    @property
    def is_local(self) -> bool:
        return _SCHEME.match(self.source) is None


@dataclass(frozen=True)
class ConvertedFile:
    """Outcome of a document. `refusal` is the reason why it was not converted, or empty."""

    file: str
    schema: str
    objects: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Conversion:
    """Result of converting a set of files."""

    manifests: list[Manifest] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    notes: list[Loss] = field(default_factory=list)
    files: list[ConvertedFile] = field(default_factory=list)

    def with_local_paths(self) -> list[Manifest]:
        """Return the manifests with `path` instead of `uri` for local content, as `submit` uploads it."""
        paths = {upload.uri: str(Path(upload.source).absolute()) for upload in self.uploads if upload.is_local}

        def replaced(value: Any) -> Any:
            if isinstance(value, dict):
                if isinstance(uri := value.get("uri"), str) and uri in paths:
                    value = {"path": paths[uri], **{key: child for key, child in value.items() if key != "uri"}}
                return {key: replaced(child) for key, child in value.items()}
            return [replaced(child) for child in value] if isinstance(value, list) else value

        return [replaced(manifest) for manifest in self.manifests]

    def as_document(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "files": [asdict(file) for file in self.files],
            "uploads": [{**_entry(upload), "remedy": upload.remedy} for upload in self.uploads],
            "losses": [_entry(loss) for loss in self.losses],
            "notes": [_entry(note) for note in self.notes],
        }


def _entry(entry: Upload | Loss) -> dict[str, Any]:
    document = asdict(entry)
    place = document.pop("place")
    return {**place, **{key: value for key, value in document.items() if key not in ("is_mistake", "is_note")}}


def shown(path: Path) -> str:
    """Return a path for messages: relative to the working folder if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
