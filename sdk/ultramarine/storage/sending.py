"""Files to the object storage: small ones at once, large ones in parts that an interrupted transfer keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Progress, Storage

from .journal import Journal
from .work import PARTS_AT_ONCE, FileInvalid, Parts, Work, sha256_of


class Outgoing(NamedTuple):
    """A file to send. `check` is true if an object may be there already with the same content."""

    file: Path
    uri: str
    bytes: int
    check: bool = True


def send(storage: Storage, files: Sequence[Outgoing], progress: Progress | None = None) -> int:
    """Send files; return the number of those whose content was there. An object appears whole or not at all."""
    work = Work(storage, sum(outgoing.bytes for outgoing in files), progress)
    try:
        return work.transfer(files, partial(_send_small, work), partial(_send_large, work))
    except FileNotFoundError as error:
        raise FileInvalid(f"{error.filename} vanished during its upload. Run the command again for the rest.") from None


def _send_small(work: Work, outgoing: Outgoing) -> None:
    data = outgoing.file.read_bytes()
    facts = work.request(lambda: work.objects.facts(outgoing.uri)) if outgoing.check else None
    same = facts is not None and facts.sha256 == hashlib.sha256(data).hexdigest()
    if not same:
        work.request(lambda: work.objects.write(outgoing.uri, data))
    work.count(outgoing.bytes, skipped=int(same))


def _send_large(work: Work, outgoing: Outgoing) -> None:
    file, uri = outgoing.file, outgoing.uri
    before = file.stat()
    digest = sha256_of(file)
    facts = work.request(lambda: work.objects.facts(uri)) if outgoing.check else None
    if facts and facts.sha256 == digest:
        work.count(outgoing.bytes, skipped=1)
        return
    journal = Journal("put", work.place, uri, digest, Parts(outgoing.bytes).size)
    while not _sent(work, outgoing, digest, before.st_mtime_ns, journal):
        pass  # the upload that the journal names is gone
    journal.end()


def _sent(work: Work, outgoing: Outgoing, digest: str, modified: int, journal: Journal) -> bool:
    """Send the parts that are missing, and make the object; False if the upload is gone with its parts."""
    file, uri = outgoing.file, outgoing.uri
    resumed = bool(journal.id)
    if not resumed:
        journal.begin(work.request(lambda: work.objects.begin(uri, digest)))
    parts, upload = Parts(outgoing.bytes), journal.id
    work.count(parts.bytes_of(journal.parts))

    def step(number: int) -> None:
        with file.open("rb") as stream:
            stream.seek(parts.place(number)[0])
            data = stream.read(parts.size)
        journal.add(number, work.request(lambda: work.objects.write_part(uri, upload, number, data)))
        work.count(len(data))

    try:
        work.run(step, parts.without(journal.parts), PARTS_AT_ONCE)
        if file.stat().st_mtime_ns != modified:
            work.objects.abandon(uri, upload)
            journal.end()
            raise FileInvalid(f"{file} changed during its upload. Run the command again when it is complete.")
        _finish(work, uri, digest, journal)
    except StorageError as error:
        if error.reason != "UploadNotFound" or not resumed:
            raise
        work.count(-parts.bytes_of(journal.parts))
        journal.end()
        return False
    return True


def _finish(work: Work, uri: str, digest: str, journal: Journal) -> None:
    """Make the object of its parts. Raises UploadNotFound, and ObjectChanged if another client made it meanwhile."""
    before = work.request(lambda: work.objects.facts(uri))

    def step() -> None:
        try:
            work.objects.finish(uri, journal.id, journal.parts)
        except StorageError as error:
            if not error.transient and error.reason != "UploadNotFound":
                raise
            now = work.objects.facts(uri)
            if now and now.sha256 == digest:  # the answer to an earlier attempt was lost
                return
            if now and (before is None or now.etag != before.etag):
                message = (
                    f"{uri} was written by another client at the same time; put it again if yours is the right one"
                )
                raise StorageError(message, "ObjectChanged") from None
            raise

    work.request(step)
