"""Cutting a byte stream into lines that cannot hurt, and remembering the last of them."""

from __future__ import annotations

import re
import threading
from collections import deque

from ultramarine_contract.lastwords import last_words

LINE_LIMIT = 4096  # bytes; a longer line is not a log line, and is dropped
TAIL_LIMIT = 2000  # characters of the tail
_MEMORY = 16_000  # characters of all remembered lines together

_LINE_END = re.compile(rb"[\r\n]+")  # a progress bar ends its lines with a carriage return
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")  # colours, and what a terminal would not show


class LineCutter:
    """Gives whole lines out of chunks of any size and never holds more than LINE_LIMIT bytes between two of them."""

    def __init__(self) -> None:
        self._rest = b""
        self._overlong = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that `chunk` completes, without empty and overlong ones."""
        *ended, rest = _LINE_END.split(chunk)
        lines = []
        for piece in ended:
            lines += self._complete(piece)
        self._keep(rest)
        return lines

    def close(self) -> list[str]:
        """Return the last line, if it came without an end."""
        return self._complete(b"")

    def _complete(self, piece: bytes) -> list[str]:
        self._keep(piece)
        line, overlong = self._rest, self._overlong
        self._rest, self._overlong = b"", False
        text = _ESCAPES.sub("", line.decode(errors="replace")).rstrip()
        return [text] if text and not overlong else []

    def _keep(self, piece: bytes) -> None:
        if self._overlong or len(self._rest) + len(piece) > LINE_LIMIT:
            self._rest, self._overlong = b"", True
        else:
            self._rest += piece


class Tail:
    """The last lines of several streams, in the order in which they came; safe to feed from several threads."""

    def __init__(self, limit: int = TAIL_LIMIT) -> None:
        self._limit = limit
        self._lines: deque[tuple[str, bool]] = deque()  # with whether they are of stdout
        self._size = 0
        self._lock = threading.Lock()

    def add(self, line: str, is_stdout: bool = False) -> None:
        """Remember `line`, and forget the oldest ones that have no room beside it."""
        with self._lock:
            self._lines.append((line, is_stdout))
            self._size += len(line) + 1
            while self._size > _MEMORY + 1 and len(self._lines) > 1:
                self._size -= len(self._lines.popleft()[0]) + 1

    @property
    def words(self) -> str:
        """The line that says why the command failed, which a long stack may have pushed out of the tail."""
        return self._words(alone=False)

    @property
    def own_line(self) -> str:
        """The same without the lines that follow it."""
        return self._words(alone=True)

    def _words(self, *, alone: bool) -> str:
        with self._lock:
            stdout = {index for index, (_, is_stdout) in enumerate(self._lines) if is_stdout}
            return last_words([line for line, _ in self._lines], stdout, alone=alone)

    def __str__(self) -> str:
        kept: list[str] = []
        left = self._limit
        with self._lock:
            for line, _ in reversed(self._lines):
                if kept and len(line) > left:
                    break
                kept.append(line[-self._limit :])
                left -= len(line) + 1
        return "\n".join(reversed(kept))
