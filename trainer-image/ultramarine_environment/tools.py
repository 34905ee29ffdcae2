"""The programs that a build needs: uv, and this package."""

from __future__ import annotations

import shutil
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def uv() -> Path:
    """Return uv's program: beside this package, or as pip installed it."""
    copied = PACKAGE.parent / "uv"
    if copied.is_file():
        return copied
    from uv import find_uv_bin

    return Path(find_uv_bin())


def copy(folder: Path) -> None:
    """Copy uv and this package to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(uv(), folder / "uv")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
