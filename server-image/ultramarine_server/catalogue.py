"""The catalogue of a pool as it is mounted: read when the server starts, and again when the kubelet has changed it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ultramarine_contract.catalogue import CatalogueEntry, unpack
from ultramarine_contract.common import CATALOGUE_NAME

LOOK_SECONDS = 1.0  # The kubelet takes up to a minute, so that no more is lost by this.


class Catalogue:
    """Which models there are now."""

    def __init__(
        self, folder: Path, look_seconds: float = LOOK_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._look_seconds, self._clock = folder / CATALOGUE_NAME, look_seconds, clock
        self._identity: tuple[int, int, int] | None = None
        self._entries: Mapping[str, CatalogueEntry] = {}
        self._look_at = clock()
        self.read = False  # whether there ever was one

    @property
    def entries(self) -> Mapping[str, CatalogueEntry]:
        """The entries by their Models' names; those known last while the file cannot be read."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + self._look_seconds
            self._refresh()
        return self._entries

    def _refresh(self) -> None:
        try:
            found = self._file.stat()
            identity = (found.st_ino, found.st_mtime_ns, found.st_size)
            if identity == self._identity:
                return
            self._entries = unpack(self._file.read_bytes())
            self._identity, self.read = identity, True
        except (OSError, ValueError) as error:
            print(f"ultramarine-server: {self._file} cannot be read: {error}", file=sys.stderr, flush=True)
