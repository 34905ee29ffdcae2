"""Folder between server and collector: captures as lines of JSON, in files of limited size.

The server appends to NUMBER.part. A large or old file becomes NUMBER-LINES.jsonl, and NUMBER-LINES.taken while the
collector has it. Numbers are milliseconds since 1970; each is greater than the one before.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from ultramarine_contract.common import built

_NAME_PATTERN = re.compile(r"(\d{13})-(\d{1,6})\.jsonl")
MAX_FILE = 2 * 1024 * 1024  # bytes; the server writes no larger file
_BLOCK_BYTES = 4096  # bytes of the disk that the smallest file takes


@dataclass(frozen=True)
class Bounds:
    """Limits of a file, in bytes and seconds, and of all files together, in bytes of the disk."""

    file_bytes: int = 1024 * 1024
    file_seconds: float = 5.0
    bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class Waiting:
    """File that the collector may take."""

    path: Path
    number: int
    lines: int
    size: int


def waiting(folder: Path) -> list[Waiting]:
    """Return the files that the collector may take, the oldest first."""
    matches = [(path, match) for path in folder.iterdir() if (match := _NAME_PATTERN.fullmatch(path.name))]
    files = (Waiting(path, int(match[1]), int(match[2]), _size(path)) for path, match in matches)
    return sorted(files, key=lambda file: file.path.name)


def give_back(folder: Path) -> None:
    """Return files to the folder that a collector took and did not store."""
    for path in folder.glob("*.taken"):
        path.rename(path.with_suffix(".jsonl"))


def pass_on(folder: Path) -> None:
    """Pass the unfinished files of a killed server to the collector."""
    for path in folder.glob("*.part"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE:
            path.unlink()  # not written by the server
            continue
        lines = path.read_bytes().count(b"\n")
        path.rename(path.with_name(f"{path.stem}-{min(lines, 999_999)}.jsonl"))


class Spool:
    """Server's end of the folder, for a single thread. All methods raise OSError if the disk fails."""

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self._folder, self._bounds = folder, bounds or Bounds()
        self._file: BinaryIO | None = None
        self._number = self._lines = self._size = 0
        self._began = 0.0
        self._held = self._bounds.bytes + 1  # upper bound of bytes in the folder; the first look measures them
        pass_on(folder)

    def add(self, lines: Sequence[bytes]) -> int:
        """Append lines, with their line ends, and return the number of older lines that were dropped for them."""
        if self._file is None:
            self._number = max(self._number + 1, time.time_ns() // 1_000_000)
            self._file = (self._folder / f"{self._number:013d}.part").open("xb", buffering=0)
            self._lines, self._size, self._began = 0, 0, time.monotonic()
        text = b"".join(lines)
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, "the disk took only a part")
        self._lines += len(lines)
        self._size += len(text)
        return self.turn()

    def turn(self, *, now: bool = False) -> int:
        """Pass a large or old file on, or any file `now`; return the number of older lines that were dropped."""
        old_enough = time.monotonic() - self._began >= self._bounds.file_seconds
        if self._file is None or not (now or old_enough or self._size >= self._bounds.file_bytes):
            return 0
        self._file.close()
        self._file = None
        part = self._folder / f"{self._number:013d}.part"
        part.rename(part.with_name(f"{self._number:013d}-{self._lines}.jsonl"))
        self._held += -(-self._size // _BLOCK_BYTES) * _BLOCK_BYTES
        return self._make_room() if self._held > self._bounds.bytes else 0

    def _make_room(self) -> int:
        """Drop the oldest files until a tenth of the room is free, and return the number of their lines."""
        self._held = sum(-(-_size(path) // _BLOCK_BYTES) * _BLOCK_BYTES for path in self._folder.iterdir())
        dropped = 0
        if self._held <= self._bounds.bytes:
            return 0
        for file in waiting(self._folder):
            if self._held <= self._bounds.bytes * 9 // 10:
                break
            try:
                file.path.unlink()
            except FileNotFoundError:
                continue  # The collector has just taken it.
            self._held -= -(-file.size // _BLOCK_BYTES) * _BLOCK_BYTES
            dropped += file.lines
        return dropped


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 if it has just gone."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


_NAME = "collected.json"


class Totals(msgspec.Struct):
    """Counts of the collector for the server's metrics: stored captures, unreadable lines, and failed writes."""

    written: int = 0
    unreadable: int = 0
    failed_writes: int = 0


def read_totals(folder: Path) -> Totals:
    """Return the counts so far, which are 0 before the first object."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=built(Totals))
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return Totals()


def write_totals(folder: Path, totals: Totals) -> None:
    """Write the counts. Raises OSError."""
    new = folder / (_NAME + ".new")
    new.unlink(missing_ok=True)
    # Always a new file, because a model's code in the server may have put another one there.
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(file, "wb") as stream:
        stream.write(msgspec.json.encode(totals))
    new.rename(folder / _NAME)
