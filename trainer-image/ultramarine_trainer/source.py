"""Copying the mounted source to where the command may write."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_source(source: Path, work: Path) -> None:
    """Copy all files of a ConfigMap mount, through its links, without its hidden `..data`; no source is fine."""
    if not source.is_dir():
        return
    work.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name.startswith(".."):
            continue
        if path.is_dir():
            copy_source(path, work / path.name)
        else:
            # Only content and mode: times and owner belong to the mount.
            shutil.copy(path, work / path.name)
