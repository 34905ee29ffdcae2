"""Addresses in the object storage, and the files of a folder: those that may be stored, and their deletion."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import StorageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_NOT_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8
_PERCENT_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")


class Location(NamedTuple):
    """Bucket and key; a key that is empty or ends in a slash means everything below it."""

    bucket: str
    key: str

    @property
    def is_prefix(self) -> bool:
        return not self.key or self.key.endswith("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse_uri(uri: str) -> Location:
    """Parse an s3:// URI. Raises StorageError InvalidURI, with the reason, for anything except a plain one."""
    scheme, _, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    if scheme != "s3" or not rest:
        problem = "it must begin with s3:// and name a bucket"
    elif not _BUCKET.fullmatch(bucket) or ".." in bucket:
        problem = f"{bucket!r} is not a bucket name"
    elif not slash:
        problem = "it names a bucket only; end it with a slash to mean everything in the bucket"
    elif "\\" in key or _PERCENT_ENCODED.search(key):
        problem = "backslashes and percent-encoded characters are not allowed; write the key as it is"
    else:
        problem = unsafe(key.removesuffix("/")) if key else ""
    if problem:
        raise StorageError(f"{uri!r} is not a usable URI: {problem}", "InvalidURI")
    return Location(bucket, key)


def unsafe(path: str) -> str:
    """Return why `path` must not become a path below a folder, or nothing."""
    if _NOT_TEXT.search(path) or len(path) > 1024:
        return "control characters, broken UTF-8 and more than 1024 characters are not allowed"
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        return "empty, '.' and '..' segments are not allowed"
    return ""


def empty(folder: Path) -> None:
    """Delete all in a folder, links without what they mean."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def files_below(folder: Path, leave_out: Callable[[str], bool] = lambda path: False) -> Iterator[tuple[str, Path]]:
    """Yield relative path and file for all below `folder` except the paths to leave out; a folder's ends in a slash.

    Raises StorageError for anything that is not a file or leads outside, and FileNotFoundError if a file vanishes.
    """

    def walk(directory: Path, above: frozenset[Path]) -> Iterator[tuple[str, Path]]:
        for file in sorted(directory.iterdir()):
            path = file.relative_to(folder).as_posix()
            if leave_out(f"{path}/" if file.is_dir() else path):
                continue
            target = Path(os.path.realpath(file))  # Path.resolve would fail on a link to itself
            problem = unsafe(path)
            if not target.is_relative_to(folder.resolve()) or target in above:
                problem = "it is a link that leads out of the folder or in a circle; copy what it means"
            elif not target.is_dir() and not target.is_file():
                file.lstat()
                problem = "it is neither file nor folder; remove it"
            if problem:
                raise StorageError(f"{file} cannot be stored: {problem}", "OutputInvalid")
            if target.is_dir():
                yield from walk(file, above | {target})
            else:
                yield path, file

    return walk(folder, frozenset({folder.resolve()}))
