"""Archives of code: deterministic, without what the ignore files name."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec
from ultramarine_contract.errors import listed
from ultramarine_contract.locations import files_below

from .work import FileInvalid

IGNORE_FILE = ".ultramarineignore"
_IGNORE_FILES = (IGNORE_FILE, ".amlignore", ".gitignore")  # in each folder the first that exists
_ALWAYS = (".git/", "__pycache__/", "*.pyc", ".venv/", ".ipynb_checkpoints/", ".DS_Store", "node_modules/")
WARN_BYTES = 50 * 1024 * 1024
MAX_BYTES = 4 * 1024 * 1024 * 1024  # unpacked, as the trainer has it
MAX_INLINE, MAX_INLINE_FILES = 200_000, 32  # characters and files of code in a manifest
_INLINE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")
_TIME = 315532800  # 1980: older files do not fit into a zip archive, which code may make of itself


class Ignored:
    """Patterns of a folder's ignore files, in gitignore's syntax; a file of a subfolder wins over those above it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._always = GitIgnoreSpec.from_lines(_ALWAYS)
        self._specs: dict[str, GitIgnoreSpec | None] = {}

    def __call__(self, path: str) -> bool:
        """Return True for a path to leave out; a folder's path ends in a slash, and what is below it goes with it."""
        for parent in PurePosixPath(path).parents:
            spec = self._spec(parent)
            below = path if str(parent) == "." else path.removeprefix(f"{parent}/")
            if spec and (verdict := spec.check_file(below).include) is not None:
                return verdict
        return bool(self._always.check_file(path).include)

    def _spec(self, folder: PurePosixPath) -> GitIgnoreSpec | None:
        name = str(folder)
        if name not in self._specs:
            files = (self._folder / folder / file for file in _IGNORE_FILES)
            file = next((file for file in files if file.is_file()), None)
            self._specs[name] = GitIgnoreSpec.from_lines(file.read_text().splitlines()) if file else None
        return self._specs[name]


def code_files(path: Path, data: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files of a folder by their paths, or one file by its name. Raises FileInvalid and StorageError.

    Left out are files and folders of `data`, which jobs get as inputs.
    """
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise FileInvalid(f"source.path {path} does not exist. Correct the path; it is relative to the manifest.")
    ignored, root = Ignored(path), Path(os.path.normpath(path.absolute()))
    inside = (Path(os.path.normpath(place.absolute())) for place in data)
    apart = {place.relative_to(root).as_posix() for place in inside if root in place.parents}
    files = dict(files_below(path, lambda name: name.rstrip("/") in apart or ignored(name)))
    if not files:
        raise FileInvalid(f"source.path {path} has no files, or its {IGNORE_FILE} leaves out all of them.")
    sizes = {name: file.stat().st_size for name, file in files.items()}
    if sum(sizes.values()) > MAX_BYTES:
        raise FileInvalid(
            f"source.path {path} has {sum(sizes.values()) / 2**30:.1f} GiB, such as {largest(files)}. Name data in"
            f" {path / IGNORE_FILE}, and give it as an input."
        )
    return files


def inline_content(files: Mapping[str, Path]) -> dict[str, str] | None:
    """Return files as a manifest holds them; None if they are nested, large, many or not text."""
    if len(files) > MAX_INLINE_FILES or not all(map(_INLINE_NAME.fullmatch, files)):
        return None
    try:
        if sum(file.stat().st_size for file in files.values()) > MAX_INLINE:
            return None
        content = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    except (OSError, ValueError):
        return None
    return content if content and not any("\0" in text for text in content.values()) else None


def largest(files: dict[str, Path]) -> str:
    """Return the names of the largest files, for a sentence."""
    return listed(sorted(files, key=lambda name: files[name].stat().st_size, reverse=True)[:3])


def pack(files: dict[str, Path], target: Path) -> None:
    """Write a tar.gz of files by their paths in it: equal bytes for equal contents and modes, whatever times are."""
    with (
        target.open("wb") as stream,
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            with files[name].open("rb") as content:
                entry = tarfile.TarInfo(name)
                entry.mtime = _TIME
                stat = files[name].stat()
                entry.size, entry.mode = stat.st_size, 0o755 if stat.st_mode & 0o100 else 0o644
                try:
                    archive.addfile(entry, content)
                except OSError as error:
                    if error.args == ("unexpected end of data",):
                        raise FileInvalid(f"{files[name]} became shorter while it was read. Try again.") from None
                    raise
