"""Finding out what an output folder holds, before anything is stored."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from ultramarine_contract.common import AUTO, MAX_UNTRUSTED, MAX_UNTRUSTED_NAME
from ultramarine_contract.errors import StorageError, listed
from ultramarine_contract.formats import FORMATS, HEAD, known_formats, models_among
from ultramarine_contract.trusted_types import untrusted_in


def empty(folder: Path) -> None:
    """Remove all that is in a folder; the folder itself may be a mount, and stays. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                _remove(path)
            else:
                path.unlink()
    except OSError as error:
        message = f"{folder} cannot be emptied: {error}; the command has to leave its folders writable"
        raise StorageError(message, "LocalDiskError") from error


def is_empty(folder: Path) -> bool:
    """True if no file lies in a folder or below it."""
    return not any(path.is_file() for path in folder.rglob("*"))


def _remove(folder: Path) -> None:
    """Remove a folder, also with subfolders that the command has made read-only."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        folder.chmod(0o700)
        for above, names, _ in os.walk(folder):
            for path in (Path(above, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)


def format_of(name: str, folder: Path, format: str) -> str:
    """Return the model format of output `name`: nothing for a plain folder, otherwise that of its one model.

    Raises StorageError OutputEmpty or OutputInvalid, which name what was found.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not files:
        raise StorageError(f"output {name} is empty; the command has to write its result to {folder}", "OutputEmpty")
    if not format:
        return ""
    if format not in (AUTO, *FORMATS):
        formats = ", ".join(FORMATS)
        raise StorageError(f"output {name} has the unknown format {format!r}; known are {formats}", "OutputInvalid")

    def head(file: str) -> bytes:
        try:
            with (folder / file).open("rb") as stream:
                return stream.read(HEAD)
        except OSError as error:
            message = f"output {name}: {file} cannot be read ({error}); the command has to leave its files readable"
            raise StorageError(message, "LocalDiskError") from error

    models = models_among(files, "" if format == AUTO else format, head)
    if models and all(of == "lightgbm" and not head(file).startswith(b"tree") for file, of in models.items()):
        message = f"output {name}: {listed(models, 5)} is not a LightGBM model, which begins with 'tree'"
        raise StorageError(f"{message}; write it by booster.save_model", "OutputInvalid")
    if len(models) == 1:
        return next(iter(models.values()))
    what = "a model" if format == AUTO else f"a model of format {format}"
    if not models:
        names = listed(files, 5)
        is_python = format == AUTO and models_among(files, "python", head)  # for others, `auto` has seen what they are
        hint = "as python it would be one, which has to be said by its format" if is_python else ""
        hint = hint or f"known are {known_formats()}; set format custom for files that your own code reads"
        raise StorageError(f"output {name} must be {what} but holds {names}; {hint}", "OutputInvalid")
    raise StorageError(
        f"output {name} holds several models: {listed(models, 5)}; keep one in this output",
        "OutputInvalid",
    )


def untrusted_types(folder: Path, format: str) -> str:
    """Return what a server will refuse of a .skops model, as an OutputRecord has it. Loads nothing of the model."""
    if format != "sklearn":
        return ""
    names: set[str] = set()
    for file in folder.rglob("*.skops"):
        try:
            names.update(untrusted_in(file))
        except (OSError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error):
            continue  # a damaged file is the server's to name
    return ", ".join(name[:MAX_UNTRUSTED_NAME] for name in sorted(names)[:MAX_UNTRUSTED])
