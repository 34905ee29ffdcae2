"""Partitions of a dataset's version: folders whose names are COLUMN=VALUE, as Hive, Spark and DuckDB write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol
from urllib.parse import unquote

from .common import ArtifactManifest, FileEntry
from .errors import StorageError

_FOLDER = re.compile("[^=]+=.+")


@dataclass(frozen=True)
class Partition:
    """Folder of a version: its path, the values of its columns, and the digest over the list of its files."""

    key: str
    values: tuple[tuple[str, str], ...]
    digest: str


class Storage(Protocol):
    """Reading side of the object storage."""

    def manifest(self, uri: str) -> ArtifactManifest: ...


def read_partitions(storage: Storage, uri: str, digest: str) -> tuple[Partition, ...]:
    """Return the partitions of a version. Raises StorageError if its list of files has another digest (DataChanged)."""
    manifest = storage.manifest(uri)
    if manifest.digest != digest:
        message = f"{uri} has changed since its version was made; register its files as a new version"
        raise StorageError(message, "DataChanged")
    return partitions_of(manifest)


def partitions_of(manifest: ArtifactManifest) -> tuple[Partition, ...]:
    """Return the partitions of an artifact by its list of files, in the order of their paths.

    Raises StorageError if a file lies outside them, or if they have different columns. Files at the top whose names
    begin with a dot or an underscore are marks of other programs.
    """
    files: dict[tuple[str, ...], list[FileEntry]] = {}
    for entry in manifest.files:
        *folders, name = entry.path.split("/")
        key = tuple(takewhile(_FOLDER.fullmatch, folders))
        if not key and not folders and name.startswith((".", "_")):
            continue
        path = entry.path.split("/", len(key))[-1]
        files.setdefault(key, []).append(FileEntry(path, entry.bytes, entry.sha256))
    if not any(files):
        return ()
    if () in files:
        raise StorageError(f"{files[()][0].path} lies outside of the partitions; move it into one", "PartitionsInvalid")
    columns = {key: [folder.partition("=")[0] for folder in key] for key in sorted(files)}
    first, *others = columns
    if odd := next((key for key in others if columns[key] != columns[first]), None):
        message = f"{'/'.join(first)} and {'/'.join(odd)} have different columns; partition all files by the same ones"
        raise StorageError(message, "PartitionsInvalid")
    return tuple(
        Partition(
            "/".join(key),
            tuple(
                (column, unquote(folder.partition("=")[2])) for column, folder in zip(columns[key], key, strict=True)
            ),
            ArtifactManifest(tuple(entries)).digest,
        )
        for key, entries in sorted(files.items())
    )
