"""Releases of scikit-learn that wrote a model, for messages about models that the installed release cannot load."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import mmap
import re
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

_PACKAGE = "scikit-learn"
_IN_SKOPS = re.compile(rb'"_sklearn_version": \{[^{}]*"content": "\\"([0-9][\w.]{2,19})\\"')
# After the attribute's name, a pickle has an entry of its memo, and an opcode with the text and its length.
_IN_PICKLE = re.compile(rb"_sklearn_version(?:\x94|q.|r.{4})?(?:X(.)\x00{3}|\x8c(.))([0-9][\w.]{2,19})", re.DOTALL)
_LONGEST = 64  # bytes of a match, at least
_BLOCK, _MAX_BLOCKS = 1 << 20, 1 << 10  # of a compressed file, which may unpack to any size


def other_releases(path: Path) -> list[str]:
    """Return the other releases that wrote parts of a file, or of the files of a folder; empty if none is visible."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return sorted({release for file in files for release in _releases(file)} - {_installed()})


def misfit(path: Path, releases: list[str]) -> str:
    """Return the sentence on a file or a folder of other releases."""
    name = "The model" if path.is_dir() else path.name
    return f"{name} was written by {_PACKAGE} {', '.join(releases)} and does not fit {_installed()}, which is here"


def remedy(releases: list[str]) -> str:
    """Return the package for the environment."""
    return f"add {_PACKAGE}=={releases[0]} to environment.requirements of the deployment"


def concerns(error: BaseException) -> bool:
    """True for an attribute or module of scikit-learn that the installed release does not have."""
    return isinstance(error, ImportError | AttributeError) and re.search(r"\bsklearn\.", str(error)) is not None


def _installed() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return "none"


def _releases(path: Path) -> set[str]:
    try:
        with ZipFile(path) as archive:
            return {release.decode() for release in _IN_SKOPS.findall(archive.read("schema.json"))}
    except (BadZipFile, KeyError, OSError):
        pass
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if (opened := next((_OPENED[magic] for magic in _OPENED if head.startswith(magic)), None)) is not None:
                return _in_stream(opened(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _in_pickle(_IN_PICKLE.search(content))
    except (OSError, ValueError, EOFError, ImportError, zlib.error, lzma.LZMAError):  # such as an empty file
        return set()


def _in_stream(stream: Any) -> set[str]:
    """Return the release in a compressed pickle; the stream is closed."""
    with stream:
        rest = b""
        for _ in range(_MAX_BLOCKS):
            block: bytes = stream.read(_BLOCK)
            window = rest + block
            written = _IN_PICKLE.search(window)
            if not block or (written and written.start() < len(window) - _LONGEST):
                return _in_pickle(written)
            rest = window[-_LONGEST:]
    return set()


def _in_pickle(written: re.Match[bytes] | None) -> set[str]:
    return {written[3][: (written[1] or written[2])[0]].decode()} if written else set()


def _zlib_file(path: Path) -> Any:
    from joblib.compressor import BinaryZlibFile

    return BinaryZlibFile(str(path))


def _lz4_file(path: Path) -> Any:
    return importlib.import_module("lz4.frame").open(path)


_OPENED: dict[bytes, Callable[[Path], Any]] = {  # by the first bytes of what joblib compresses
    b"x": _zlib_file,
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7zX": lzma.open,
    b"\x5d\x00": lzma.open,
    b"\x04\x22M\x18": _lz4_file,
}
