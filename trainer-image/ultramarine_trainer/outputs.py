"""Finding out what an output folder holds, before anything is stored."""

from __future__ import annotations

import shutil
from pathlib import Path

from ultramarine.shared.contract import FORMAT_BY_SUFFIX
from ultramarine.shared.errors import StorageError

AUTO = "auto"


def empty(folder: Path) -> None:
    """Remove all that is in a folder; the folder itself may be a mount, and stays. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        message = f"{folder} cannot be emptied: {error}; the command has to leave its folders writable"
        raise StorageError(message, "LocalDiskError") from error


def format_of(name: str, folder: Path, wanted: str) -> str:
    """Return the model format of output `name`: nothing for a plain folder, else that of its one model file.

    Raises StorageError OutputEmpty or OutputInvalid, which name what was found.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not files:
        raise StorageError(f"output {name} is empty; the command has to write its result to {folder}", "OutputEmpty")
    if not wanted:
        return ""
    known = ", ".join(f"{suffix} ({format})" for suffix, format in FORMAT_BY_SUFFIX.items())
    if wanted != AUTO and wanted not in FORMAT_BY_SUFFIX.values():
        raise StorageError(f"output {name} has the unknown format {wanted!r}; known are {known}", "OutputInvalid")
    models = {file: FORMAT_BY_SUFFIX.get(Path(file).suffix, "") for file in files}
    models = {file: format for file, format in models.items() if format and wanted in (AUTO, format)}
    if len(models) == 1:
        return next(iter(models.values()))
    what = "a model" if wanted == AUTO else f"a model of format {wanted}"
    if not models:
        found = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
        raise StorageError(f"output {name} shall be {what} but holds {found}; known are {known}", "OutputInvalid")
    raise StorageError(
        f"output {name} shall be {what} but holds several: {', '.join(list(models)[:5])}; keep one in this output",
        "OutputInvalid",
    )
