"""Record of the parts of a transfer that are done, so that an interrupted transfer continues."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from ultramarine_contract.objects import SentPart

FETCHED = SentPart("", "")  # there is no receipt for a part that was fetched
_MAX_AGE = 7 * 24 * 3600  # seconds; the embedded storage deletes older uploads too


class Journal:
    """Parts that are done of the transfer that `identity` describes; in memory alone if the disk takes no file."""

    def __init__(self, *identity: object) -> None:
        key = hashlib.sha256("\0".join(map(str, identity)).encode(errors="surrogateescape")).hexdigest()
        self._path = cache_folder() / "transfers" / f"{key[:32]}.jsonl"
        self._lock = threading.Lock()
        self.id = ""  # that of the upload; empty if the transfer has not begun
        self.parts: dict[int, SentPart] = {}
        with suppress(OSError, ValueError, TypeError):  # an interrupted writer leaves half a line
            lines = self._path.read_text().splitlines()
            self.id = str(json.loads(lines[0])["id"])
            for line in lines[1:]:
                number, etag, checksum = json.loads(line)
                self.parts[number] = SentPart(etag, checksum)

    def begin(self, id: str) -> None:
        """Record a transfer without parts."""
        self.id, self.parts = id, {}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for path in self._path.parent.iterdir():
                if path.stat().st_mtime < time.time() - _MAX_AGE:
                    path.unlink()
            self._path.write_text(json.dumps({"id": id}) + "\n")

    def add(self, number: int, part: SentPart) -> None:
        """Record a part; any thread may."""
        with self._lock:
            self.parts[number] = part
            with suppress(OSError), self._path.open("a") as file:
                file.write(json.dumps([number, *part]) + "\n")

    def end(self) -> None:
        """Forget the transfer."""
        self.id, self.parts = "", {}
        with suppress(OSError):
            self._path.unlink()


def cache_folder() -> Path:
    """Return the folder for files that only save time: $XDG_CACHE_HOME/ultramarine, or ~/.cache/ultramarine."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ultramarine"
