"""The catalogue of a pool: which version of each Model its pods answer with, as the operator writes it for them.

Nothing but the standard library is imported: the server image carries this file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .common import UNREADABLE, read_known

LIMIT = 900_000  # bytes in base64: a ConfigMap takes 1 MiB, and the API server a little more for all around it


@dataclass(frozen=True)
class CatalogueEntry:
    """One version of a Model; the fields are those of the ServingTask of the same version."""

    model: str
    version: str
    uri: str
    digest: str
    format: str
    allow_code_execution: bool = False
    signature: dict[str, Any] | None = None


def pack(entries: Iterable[CatalogueEntry]) -> bytes:
    """Return the catalogue's bytes; equal catalogues give equal bytes."""
    usual = {"allow_code_execution": False, "signature": None}
    lines = [
        {name: value for name, value in asdict(entry).items() if name not in usual or value != usual[name]}
        for entry in sorted(entries, key=lambda entry: entry.model)
    ]
    return gzip.compress(json.dumps(lines, sort_keys=True, separators=(",", ":")).encode(), mtime=0)


def unpack(data: bytes) -> dict[str, CatalogueEntry]:
    """Read what `pack` wrote, by the Models' names. Raises ValueError, with the reason, for anything else."""
    try:
        entries = [read_known(CatalogueEntry, document) for document in json.loads(gzip.decompress(data))]
    except (*UNREADABLE, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a catalogue: {error!r}") from error
    return {entry.model: entry for entry in entries}
