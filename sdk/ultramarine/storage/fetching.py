"""Objects to this machine: a file appears whole under its name, with the content that its writer stated."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Progress, Storage

from .journal import FETCHED, Journal
from .work import PARTS_AT_ONCE, FileInvalid, Parts, Work, sha256_of


class Incoming(NamedTuple):
    """An object to fetch. `sha256` in hex, if it is known, is checked instead of the one that the object states."""

    uri: str
    file: Path
    bytes: int
    sha256: str = ""


def fetch(storage: Storage, objects: Sequence[Incoming], progress: Progress | None = None) -> int:
    """Fetch objects; return the number of those whose content was there. Raises FileInvalid for a full disk."""
    work = Work(storage, sum(incoming.bytes for incoming in objects), progress)
    try:
        return work.transfer(objects, partial(_fetch_small, work), partial(_fetch_large, work))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileInvalid(f"the disk of {error.filename} is full. Free room, or choose another folder.") from None
        raise


def _fetch_small(work: Work, incoming: Incoming) -> None:
    if _is_there(incoming.file, incoming.bytes, incoming.sha256):
        work.count(incoming.bytes, skipped=1)
        return
    data, facts = work.request(lambda: work.objects.read(incoming.uri))
    _expect(incoming.uri, incoming.sha256 or facts.sha256, hashlib.sha256(data).hexdigest())
    part = _part_file(incoming, os.getpid())
    try:
        _write(part, data)
        part.replace(incoming.file)
    finally:
        part.unlink(missing_ok=True)
    work.count(incoming.bytes)


def _fetch_large(work: Work, incoming: Incoming) -> None:
    uri, file = incoming.uri, incoming.file
    facts = work.request(lambda: work.objects.facts(uri))
    if facts is None:
        raise StorageError(f"{uri} vanished during its download; list its folder again", "ObjectNotFound")
    digest = incoming.sha256 or facts.sha256
    if _is_there(file, facts.bytes, digest):
        work.count(incoming.bytes, skipped=1)
        return
    part, parts = _part_file(incoming), Parts(facts.bytes)
    journal = Journal("get", uri, facts.etag, part.absolute(), parts.size)
    if not journal.id or not part.exists() or part.stat().st_size != facts.bytes:
        journal.begin("get")
        _write(part, b"", facts.bytes)
    done = parts.bytes_of(journal.parts)
    free = shutil.disk_usage(part.parent).free
    if facts.bytes - done > free:
        _forget(part, journal)
        raise FileInvalid(
            f"{uri} has {facts.bytes / 2**30:.1f} GiB, and the disk of {file.absolute().parent} has {free / 2**30:.1f}"
            " GiB left. Free room, or choose another folder."
        )
    work.count(done)

    def step(number: int) -> None:
        start, length = parts.place(number)
        data = work.request(lambda: work.objects.read_part(uri, facts.etag, start, length))
        try:
            with part.open("r+b") as stream:
                stream.seek(start)
                stream.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(part)) from None
        journal.add(number, FETCHED)
        work.count(len(data))

    try:
        work.run(step, parts.without(journal.parts), PARTS_AT_ONCE)
        _expect(uri, digest, sha256_of(part))
        part.replace(file)
    except (OSError, StorageError) as error:
        # Parts of a lost connection are kept; others are of no use, or fill the disk.
        if isinstance(error, OSError) or not error.transient:
            _forget(part, journal)
        raise
    journal.end()


def _part_file(incoming: Incoming, process: int = 0) -> Path:
    """Return the file beside the target that holds what is not complete yet."""
    incoming.file.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{incoming.uri}\0{incoming.file.name}\0{process}".encode(errors="surrogateescape"))
    return incoming.file.with_name(f".ultramarine-{key.hexdigest()[:16]}.part")


def _write(file: Path, data: bytes, size: int = 0) -> None:
    """Write a file, perhaps with zeros to `size`. Its OSError names the file; Python's for a full disk does not."""
    try:
        with file.open("wb") as stream:
            stream.write(data)
            if size:
                stream.truncate(size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def _forget(part: Path, journal: Journal) -> None:
    journal.end()
    with suppress(OSError):
        part.unlink()


def _is_there(file: Path, size: int, sha256: str) -> bool:
    return bool(sha256) and file.is_file() and file.stat().st_size == size and sha256_of(file) == sha256


def _expect(uri: str, expected: str, actual: str) -> None:
    if expected and expected != actual:
        remedy = "it was damaged on its way or in the storage; fetch it again, or upload it again"
        raise StorageError(
            f"{uri} has the SHA-256 {actual}, but its writer stated {expected}; {remedy}", "DigestMismatch"
        )
