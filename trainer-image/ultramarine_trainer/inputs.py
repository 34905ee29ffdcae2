"""Fetching an input: not more than the disk holds, and with a line now and then that says how far it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ultramarine_contract.common import ArtifactManifest
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import InputRecord

_TELL_SECONDS = 10.0


def fetch_folder(storage: Storage, name: str, uri: str, folder: Path, say: Callable[[str], None]) -> InputRecord:
    """Fetch what `uri` means into `folder`, and return its digest and size. Raises StorageError, as for a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    size, free = storage.size(uri), shutil.disk_usage(folder).free
    if size.bytes > free:
        raise StorageError(
            f"{uri} has {size.bytes} bytes in {size.files} files, and the node's disk has {free} bytes left; "
            "name less of it, or run on a node with more room",
            "DiskFull",
        )
    started = told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            say(f"input {name}: {done} of {total} bytes ({100 * done // max(total, 1)} %)")

    files = storage.download(uri, folder, progress)
    say(f"input {name}: {len(files)} files, {size.bytes} bytes from {uri} in {time.monotonic() - started:.1f} s")
    return InputRecord(ArtifactManifest(tuple(files)).digest, sum(file.bytes for file in files), len(files))
