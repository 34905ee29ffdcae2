"""The code to run: copied from a mount, unpacked from an archive, or one commit of a git repository."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backports import tarfile  # Debian 12 has a Python 3.11 whose own has no filters
from dulwich.client import HTTPUnauthorized, get_transport_and_path
from dulwich.errors import GitProtocolError, NotGitRepository
from dulwich.index import build_index_from_tree
from dulwich.objects import Commit, ObjectID, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo
from ultramarine.outside.storage import Storage
from ultramarine.shared.training_records import SourceRecord, SourceTask
from urllib3.exceptions import HTTPError

GIT_SECONDS = 30.0  # without a word from the repository's server
ARCHIVE_LIMIT = 4 * 2**30  # bytes, unpacked; data belongs into an input


class SourceError(Exception):
    """The code cannot be had; `transient` where another attempt may find it."""

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.transient = reason, message, transient


def prepare(task: SourceTask | None, mounted: Path, work: Path, storage: Storage) -> SourceRecord:
    """Put the code into `work`, and say what it is. Raises SourceError and StorageError."""
    work.mkdir(parents=True, exist_ok=True)
    if task is None:
        copy_source(mounted, work)
        return SourceRecord()
    if task.git_url:
        return SourceRecord(commit=_check_out(task, work))
    if task.uri:
        return SourceRecord(digest=_unpack(task, work, storage))
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


def _unpack(task: SourceTask, work: Path, storage: Storage) -> str:
    """Fetch an archive, check its digest, unpack it, and return the digest."""
    with tempfile.TemporaryDirectory() as folder:
        [entry] = storage.download(task.uri, Path(folder))
        archive, digest = Path(folder) / entry.path, f"sha256:{entry.sha256}"
        if task.digest and digest != task.digest:
            message = f"{task.uri} has digest {digest}, but spec.source.digest is {task.digest}; one of them is wrong"
            raise SourceError("DigestMismatch", message)
        try:
            with tarfile.open(archive) as members:
                members.extractall(work, members=_bounded(members), filter="data")
        except (tarfile.FilterError, tarfile.TarError, EOFError, OSError) as error:
            remedy = "it has to be a tar archive in which no file or link leads outside"
            message = f"spec.source.uri {task.uri} cannot be unpacked: {error}; {remedy}"
            raise SourceError("SourceInvalid", message) from error
        return digest


def _bounded(members: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, until they are too large together."""
    total = 0
    for member in members:
        total += member.size
        if total > ARCHIVE_LIMIT:
            raise tarfile.TarError(f"it holds more than {ARCHIVE_LIMIT >> 30} GiB")
        yield member


def _check_out(task: SourceTask, work: Path) -> str:
    """Fetch one commit, write its files to `work`, and return its id."""
    with tempfile.TemporaryDirectory() as folder, _telling(task), Repo.init(folder) as repository:
        client, path = get_transport_and_path(task.git_url)
        wanted: list[ObjectID] = []

        def choose(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
            wanted[:] = [_commit_of(task, refs)]
            return wanted

        client.fetch(path, repository, determine_wants=choose, depth=1)
        found = repository[wanted[0]]
        while isinstance(found, Tag):
            found = repository[found.object[1]]
        if not isinstance(found, Commit):
            raise SourceError("GitRefNotFound", f"{task.git_ref} of {task.git_url} is no commit")
        tree = repository[found.tree]
        for part in filter(None, task.git_path.split("/")):
            try:
                tree = repository[tree[part.encode()][1]] if isinstance(tree, Tree) else tree
            except KeyError as error:
                message = f"spec.source.git.path {task.git_path} is not in {task.git_url} at {found.id.decode()}"
                raise SourceError("GitPathNotFound", message) from error
        if not isinstance(tree, Tree):
            raise SourceError("GitPathNotFound", f"spec.source.git.path {task.git_path} is a file; name its folder")
        build_index_from_tree(str(work), f"{folder}/index", repository.object_store, tree.id)
        return found.id.decode()


def _commit_of(task: SourceTask, refs: Mapping[Ref, ObjectID]) -> ObjectID:
    """What the branch, the tag or the commit id stands for."""
    ref = task.git_ref.encode()
    for name in (b"refs/heads/" + ref, b"refs/tags/" + ref, ref) if ref else (b"HEAD",):
        if Ref(name) in refs:
            return refs[Ref(name)]
    if _is_commit_id(task.git_ref):
        return ObjectID(ref)  # many servers give any commit that one of their branches leads to
    branches = sorted(name.decode().rpartition("/")[2] for name in refs if name.startswith(b"refs/heads/"))
    there = ", ".join(branches[:10]) or "none"
    message = f"{task.git_url} has no branch, tag or commit {task.git_ref or 'HEAD'!r}; its branches are: {there}"
    raise SourceError(
        "GitRefNotFound", message + "; correct spec.source.git.ref, and apply it again under another name"
    )


def _is_commit_id(ref: str) -> bool:
    return len(ref) == 40 and not ref.strip("0123456789abcdef")


@contextmanager
def _telling(task: SourceTask) -> Iterator[None]:
    """Turn what a fetch may raise into a SourceError that says what to check."""
    socket.setdefaulttimeout(GIT_SECONDS)
    try:
        yield
    except (NotGitRepository, HTTPUnauthorized) as error:
        message = f"there is no git repository at {task.git_url}, or it wants a password; check spec.source.git.url"
        raise SourceError("SourceNotFound", message) from error
    except (HTTPError, OSError, GitProtocolError) as error:
        answered = isinstance(error, GitProtocolError) and not isinstance(error.__cause__, HTTPError)
        if answered and _is_commit_id(task.git_ref):
            message = f"{task.git_url} does not give commit {task.git_ref} ({error}); name a branch or a tag"
            raise SourceError("GitRefNotFound", message) from error
        remedy = "check the address, and that the namespace's network policies let training pods reach it"
        message = f"{task.git_url} does not answer ({error}); {remedy}"
        raise SourceError("SourceUnreachable", message, transient=True) from error
    finally:
        socket.setdefaulttimeout(None)
