"""The folder through which captures come from the server to the collector: lines of JSON, in files that are bounded.

The server appends to NUMBER.part. What is large or old enough becomes NUMBER-LINES.jsonl, and while the collector has
it NUMBER-LINES.taken. Numbers are milliseconds since 1970, in the order of time and never twice.
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

_WAITING = re.compile(r"(\d{13})-(\d{1,6})\.jsonl")
FILE_LIMIT = 2 * 1024 * 1024  # bytes; what is larger no server of ours has written
_BLOCK = 4096  # bytes; a smaller file takes as much of a disk


@dataclass(frozen=True)
class Bounds:
    """When a file is passed on, and what all files together may take of the disk (bytes and seconds)."""

    file_bytes: int = 1024 * 1024
    file_seconds: float = 5.0
    bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class Waiting:
    """A file that the collector may take."""

    path: Path
    number: int
    lines: int
    size: int


def waiting(folder: Path) -> list[Waiting]:
    """Return the files that the collector may take, the oldest first."""
    found = [(path, match) for path in folder.iterdir() if (match := _WAITING.fullmatch(path.name))]
    files = (Waiting(path, int(match[1]), int(match[2]), _size(path)) for path, match in found)
    return sorted(files, key=lambda one: one.path.name)


def give_back(folder: Path) -> None:
    """Let files wait that a collector had taken and did not store."""
    for path in folder.glob("*.taken"):
        path.rename(path.with_suffix(".jsonl"))


def pass_on(folder: Path) -> None:
    """Let the collector take what a server that ended at once was still appending to."""
    for path in folder.glob("*.part"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_LIMIT:
            path.unlink()  # none of ours
            continue
        lines = path.read_bytes().count(b"\n")
        path.rename(path.with_name(f"{path.stem}-{min(lines, 999_999)}.jsonl"))


class Spool:
    """The server's end of the folder; used by one thread. Everything raises OSError where the disk fails."""

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self._folder, self._bounds = folder, bounds or Bounds()
        self._file: BinaryIO | None = None
        self._number = self._lines = self._size = 0
        self._began = 0.0
        self._held = self._bounds.bytes + 1  # at most so many bytes are in the folder; not known before it is looked at
        pass_on(folder)

    def add(self, lines: Sequence[bytes]) -> int:
        """Append lines, each with its end, and return how many older ones were thrown away for them."""
        if self._file is None:
            self._number = max(self._number + 1, time.time_ns() // 1_000_000)
            self._file = (self._folder / f"{self._number:013d}.part").open("xb", buffering=0)
            self._lines, self._size, self._began = 0, 0, time.monotonic()
        text = b"".join(lines)
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, "the disk took a part only")
        self._lines += len(lines)
        self._size += len(text)
        return self.turn()

    def turn(self, *, now: bool = False) -> int:
        """Pass the file on if it is large or old enough, or `now`; return how many older lines were thrown away."""
        old_enough = time.monotonic() - self._began >= self._bounds.file_seconds
        if self._file is None or not (now or old_enough or self._size >= self._bounds.file_bytes):
            return 0
        self._file.close()
        self._file = None
        part = self._folder / f"{self._number:013d}.part"
        part.rename(part.with_name(f"{self._number:013d}-{self._lines}.jsonl"))
        self._held += -(-self._size // _BLOCK) * _BLOCK
        return self._make_room() if self._held > self._bounds.bytes else 0

    def _make_room(self) -> int:
        """Throw the oldest files away until a tenth of the room is free, and return how many lines that were."""
        self._held = sum(-(-_size(path) // _BLOCK) * _BLOCK for path in self._folder.iterdir())
        dropped = 0
        if self._held <= self._bounds.bytes:
            return 0
        for one in waiting(self._folder):
            if self._held <= self._bounds.bytes * 9 // 10:
                break
            try:
                one.path.unlink()
            except FileNotFoundError:
                continue  # The collector has just taken it.
            self._held -= -(-one.size // _BLOCK) * _BLOCK
            dropped += one.lines
        return dropped


def _size(path: Path) -> int:
    """The bytes of a file; none where it has just gone."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
