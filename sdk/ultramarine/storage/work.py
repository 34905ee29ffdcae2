"""Threads, retries and progress of one transfer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.objects import Objects
from ultramarine_contract.retry import patiently
from ultramarine_contract.storage import Progress, Storage

PART_BYTES = 8 * 1024 * 1024  # a larger file travels in parts of this size
PARTS_AT_ONCE = 4
FILES_AT_ONCE = 16
_MAX_PARTS = 10_000
_WAITS = (1, 2, 4, 8, 15, 30, 60)  # seconds between the attempts of a request

T = TypeVar("T")


class Sized(Protocol):
    """A file to send, or an object to fetch."""

    @property
    def bytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class FileInvalid(UltramarineError):
    """A local file cannot be sent or written."""

    reason = "FileInvalid"


class Work:
    """One transfer: its requests to a storage, and the count of the bytes that are done of `total`."""

    def __init__(self, storage: Storage, total: int, progress: Progress | None = None) -> None:
        self.place, self.objects = storage.name, Objects(storage)
        self.skipped = 0  # files that were there
        self._total, self._progress, self._done = total, progress, 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._answered = False
        self.count(0)

    def count(self, bytes: int, skipped: int = 0) -> None:
        """Add to the bytes that are done, and to the files that were there."""
        with self._lock:
            self._done += bytes
            self.skipped += skipped
            if self._progress:
                self._progress(self._done, self._total)

    def run(self, step: Callable[[T], None], items: Iterable[T], at_once: int) -> None:
        """Do a step for each item in threads. The first error is raised, and begins no further step."""
        self._stop.clear()
        pool = ThreadPoolExecutor(at_once)
        futures = [pool.submit(step, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException as error:
            self._stop.set()
            # Ctrl-C does not wait for requests, which a slow network holds for minutes.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()

    def transfer(self, files: Sequence[S], small: Callable[[S], None], large: Callable[[S], None]) -> int:
        """Transfer small files together, then each large one in parts; return how many were there."""
        self.run(small, [file for file in files if file.bytes <= PART_BYTES], FILES_AT_ONCE)
        for file in files:
            if file.bytes > PART_BYTES:
                large(file)
        return self.skipped

    def request(self, step: Callable[[], T]) -> T:
        """Send a request; again for two minutes if a storage that has answered before is away."""
        result = patiently(step, _WAITS, lambda error, wait: None, retry=self._may_repeat, pause=self._stop.wait)
        self._answered = True
        return result

    def _may_repeat(self, error: StorageError) -> bool:
        return self._answered and error.transient and error.reason != "StorageFull" and not self._stop.is_set()


class Parts(NamedTuple):
    """Division of a file into parts, whose numbers begin at 1; a storage takes 10,000 of them."""

    total: int  # bytes

    @property
    def size(self) -> int:
        """Bytes of each part except the last."""
        mebibyte = 1024 * 1024
        return max(PART_BYTES, -(-self.total // _MAX_PARTS // mebibyte) * mebibyte)

    def place(self, number: int) -> tuple[int, int]:
        """Return where a part begins, and its length."""
        start = (number - 1) * self.size
        return start, min(self.size, self.total - start)

    def bytes_of(self, numbers: Iterable[int]) -> int:
        """Return the bytes of some parts."""
        return sum(self.place(number)[1] for number in numbers)

    def without(self, done: Container[int]) -> list[int]:
        """Return the numbers of the parts that are not done."""
        return [number for number in range(1, -(-self.total // self.size) + 1) if number not in done]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hex, without reading it into memory."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(1024)  # a large input is named by its content, and sent with its SHA-256
def _sha256(file: Path, size: int, modified: int, inode: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
