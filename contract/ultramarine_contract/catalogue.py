"""The catalogue of a pool: the version of each Model that its pods answer with. The operator writes it for them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from typing import Any

from .common import Document, decode

LIMIT = 900_000  # bytes in base64: a ConfigMap takes 1 MiB, and the API server a little more for all around it


class CatalogueEntry(Document, frozen=True):
    """Version of a Model; the fields are those of the ServingTask of the same version."""

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
        {name: value for name, value in entry.document().items() if name not in usual or value != usual[name]}
        for entry in sorted(entries, key=lambda entry: entry.model)
    ]
    return gzip.compress(json.dumps(lines, sort_keys=True, separators=(",", ":")).encode(), mtime=0)


def unpack(data: bytes) -> dict[str, CatalogueEntry]:
    """Read what `pack` wrote, by the Models' names. Raises ValueError, with the reason, for anything else."""
    try:
        lines = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a catalogue: {error!r}") from error
    return {entry.model: entry for entry in decode(list[CatalogueEntry], lines, "a catalogue")}
