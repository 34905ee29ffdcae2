"""The code to run: copied from a mount, unpacked from an archive, or one commit of a git repository."""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Set
from itertools import dropwhile
from pathlib import Path

from backports import tarfile  # Debian 12 has a Python 3.11 whose own has no filters
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import SourceRecord

from ultramarine_trainer.data.credentials import SourceError
from ultramarine_trainer.data.fetching import FILES, fetched
from ultramarine_trainer.data.git import check_out

ARCHIVE_LIMIT = 4 * 2**30  # bytes, unpacked; data belongs into an input


def prepare(task: SourceTask | None, mounted: Path, work: Path, storage: Storage) -> SourceRecord:
    """Put the code into `work`, and say what it is. Raises SourceError and StorageError."""
    work.mkdir(parents=True, exist_ok=True)
    if task is None:
        copy_source(mounted, work)
        return SourceRecord()
    if task.git_secret:
        commit = fetched(mounted)
        copy_source(mounted / FILES, work)
        return SourceRecord(commit=commit)
    if task.git_url:
        return SourceRecord(commit=check_out(task, work))
    if task.uri:
        return SourceRecord(digest=unpack(task, work, storage))
    copy_source(mounted, work)
    if not any(work.iterdir()):
        message = f"ConfigMap {task.config_map} is not there, or empty; create it, or correct spec.source.configMap"
        raise SourceError("SourceNotFound", message, transient=True)
    return SourceRecord(digest=_digest({path.name: path.read_bytes() for path in work.iterdir()}))


def _digest(files: dict[str, bytes]) -> str:
    """`sha256:HEX` over files as the operator makes it of the same files inline."""
    texts = {name: content.decode(errors="surrogateescape") for name, content in files.items()}
    return "sha256:" + hashlib.sha256(json.dumps(texts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def copy_source(source: Path, work: Path) -> None:
    """Copy all files of a ConfigMap mount, through its links, without its hidden `..data`; no source is fine."""
    if not source.is_dir():
        return
    work.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name.startswith(".."):
            continue
        if path.is_dir():
            copy_source(path, work / path.name)
        else:
            # Only content and mode: times and owner belong to the mount.
            shutil.copy(path, work / path.name)


def unpack(task: SourceTask, work: Path, storage: Storage) -> str:
    """Fetch an archive, check its digest, unpack it, and return the digest."""
    with tempfile.TemporaryDirectory() as folder:
        [entry] = storage.download(task.uri, Path(folder))
        archive, digest = Path(folder) / entry.path, f"sha256:{entry.sha256}"
        if task.digest and digest != task.digest:
            message = f"{task.uri} has digest {digest}, but spec.source.digest is {task.digest}; one of them is wrong"
            raise SourceError("DigestMismatch", message)
        try:
            with tarfile.open(archive) as members:
                members.extractall(work, members=_plain(members), filter="data")
        except Exception as error:  # Readers of damaged archives raise whatever they stumble over.
            remedy = "it has to be a tar archive in which no file or link leads outside"
            message = f"spec.source.uri {task.uri} cannot be unpacked: {error}; {remedy}"
            raise SourceError("SourceInvalid", message) from error
        return digest


def _plain(members: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive. Raises TarError once they are too large together, or one lies behind a link.

    tarfile's filter asks the disk where a path leads, and gets no answer once links have made it too long.
    """
    total, links = 0, set[str]()
    for member in members:
        total += member.size
        if total > ARCHIVE_LIMIT:
            raise tarfile.TarError(f"it holds more than {ARCHIVE_LIMIT >> 30} GiB")
        name = _inside(member.name)
        _goes_by(name, links, member.name)
        if member.issym():
            pieces = [piece for piece in member.linkname.split("/") if piece not in ("", ".")]
            if ".." in dropwhile("..".__eq__, pieces):
                raise tarfile.TarError(f"the link {member.name!r} goes down and up again: {member.linkname!r}")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            _goes_by(posixpath.dirname(target), links, member.name)
            links.add(name)
        elif member.islnk():
            _goes_by(_inside(member.linkname), links, member.name)
        yield member


def _inside(name: str) -> str:
    """Return the path that tarfile's filter makes of a name. Raises TarError where the disk may go another way."""
    if ".." in name.split("/"):
        raise tarfile.TarError(f"the name {name!r} goes up")
    return posixpath.normpath(name.lstrip("/"))


def _goes_by(path: str, links: Set[str], name: str) -> None:
    """Raise TarError if one of the links is on the way to a path, or at its end."""
    while path not in ("", ".", "/"):
        if path in links:
            raise tarfile.TarError(f"{name!r} goes by {path!r}, which is a link of the archive")
        path = posixpath.dirname(path)
