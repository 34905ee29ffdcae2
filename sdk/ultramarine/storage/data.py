"""Files of a namespace in the object storage: put, get, list, remove."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ultramarine_contract.errors import StorageError, UltramarineError, counted, listed
from ultramarine_contract.locations import files_below, parse_uri, unsafe
from ultramarine_contract.objects import Entry, Objects
from ultramarine_contract.storage import Progress

from ..suggestions import suggest
from .fetching import Incoming, fetch
from .sending import Outgoing, send
from .work import FILES_AT_ONCE, FileInvalid, Work

if TYPE_CHECKING:
    from ultramarine.kube.platform import Platform


class RemoteNotFound(UltramarineError):
    """No object or folder has this name."""

    reason = "RemoteNotFound"


class Transfer(NamedTuple):
    """Files that were transferred, and where they are now; `skipped` of them were there with the same content."""

    uri: str
    path: Path
    files: int
    bytes: int
    skipped: int


class Data:
    """Files below the namespace's prefix of the bucket.

    A remote name is relative to the prefix, as in churn/churn.csv, or a whole s3:// URI; a folder's may end in a slash.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def uri(self, remote: str) -> str:
        """Return the URI of a remote name. Raises StorageError InvalidURI."""
        uri = remote if "://" in remote else self._platform.prefix + remote.lstrip("/").removeprefix("./")
        return str(parse_uri(uri))

    def name(self, uri: str) -> str:
        """Return the shortest remote name of a URI."""
        return uri.removeprefix(self._platform.prefix) or uri

    def put(self, local: str | Path, remote: str = "", progress: Progress | None = None) -> Transfer:
        """Upload a file or a folder; what is there with the same content is skipped, an interrupted upload continues.

        A file gets its own name if `remote` is empty or ends in a slash. The files of a folder lie directly below
        `remote`, which is by default the folder's name. `progress` gets the bytes that are done and all bytes, from
        many threads. Raises FileInvalid and StorageError.
        """
        local = Path(local)
        if not local.exists():
            raise _no_file(local)
        if local.is_file():
            uri = self.uri(f"{remote}{local.name}" if not remote or remote.endswith("/") else remote)
            outgoing = [Outgoing(local, uri, local.stat().st_size)]
        else:
            uri = self.uri((remote or local.resolve().name).rstrip("/") + "/")
            outgoing = []
        with self._explained(uri):
            if not outgoing:
                outgoing = self._outgoing(local, uri)
            skipped = send(self._platform.storage, outgoing, progress)
        return Transfer(uri, local, len(outgoing), sum(file.bytes for file in outgoing), skipped)

    def _outgoing(self, folder: Path, uri: str) -> list[Outgoing]:
        present = {entry.uri for entry in Objects(self._platform.storage).entries(uri, deep=True)}
        outgoing = []
        for path, file in files_below(folder):
            target = str(parse_uri(f"{uri}{path}"))
            outgoing.append(Outgoing(file, target, file.stat().st_size, target in present))
        if not outgoing:
            raise FileInvalid(f"{folder} has no files. Name a folder with files.")
        return outgoing

    def get(self, remote: str, local: str | Path | None = None, progress: Progress | None = None) -> Transfer:
        """Download an object or a folder; what is there with the same content is skipped, a large file continues.

        An object becomes a file in `local` if that is a folder, by default the current one. The files of a folder lie
        directly below `local`, which is by default named as the folder. A file appears when it is complete. Raises
        RemoteNotFound, FileInvalid for a full disk, and StorageError.
        """
        uri = self.uri(remote)
        with self._explained(uri):
            uri, entries = self._tree(uri)
            entries = [entry for entry in entries if not entry.uri.endswith("/")]
            if uri.endswith("/"):
                target = Path(local) if local else Path(uri.rstrip("/").rpartition("/")[2])
                incoming = [Incoming(entry.uri, target / _path(uri, entry), entry.bytes) for entry in entries]
            else:
                name = uri.rpartition("/")[2]
                target = Path(local) if local else Path(name)
                if str(local or "").endswith(("/", "\\")) or target.is_dir():
                    target = target / name
                incoming = [Incoming(uri, target, entries[0].bytes)]
            skipped = fetch(self._platform.storage, incoming, progress)
        return Transfer(uri, target, len(incoming), sum(entry.bytes for entry in entries), skipped)

    def ls(self, prefix: str = "") -> list[Entry]:
        """Return the objects and folders directly below a folder, or the object of this name. Raises RemoteNotFound."""
        uri = self.uri(prefix)
        objects = Objects(self._platform.storage)
        with self._explained(uri):
            if not uri.endswith("/"):
                parent, _, name = uri.rpartition("/")
                matches = [entry for entry in objects.entries(uri) if entry.uri in (uri, f"{uri}/")]
                if matches and matches[0].uri == uri:
                    return matches[:1]
                uri = f"{parent}/{name}/"
            entries = list(objects.entries(uri))
            if not entries and uri != self._platform.prefix:
                raise self._absent(uri)
        return entries

    def rm(self, remote: str, recursive: bool = False) -> int:
        """Delete an object, or with `recursive` a folder; return the number of objects. Raises RemoteNotFound."""
        uri = self.uri(remote)
        if uri == self._platform.prefix:
            raise FileInvalid(f"{uri} has all results of the namespace. Name a file or folder below it.")
        entries = self.tree(remote)
        if not recursive and entries[0].uri != uri:
            raise FileInvalid(f"{uri} is a folder with {counted(len(entries), 'object')}. Delete it with -r.")
        with self._explained(uri):
            work = Work(self._platform.storage, 0)
            step = work.objects.delete
            work.run(lambda entry: work.request(lambda: step(entry.uri)), entries, FILES_AT_ONCE)
        return len(entries)

    def tree(self, remote: str) -> list[Entry]:
        """Return the object of this name, or all objects below the folder. Raises RemoteNotFound."""
        uri = self.uri(remote)
        with self._explained(uri):
            return self._tree(uri)[1]

    def _tree(self, uri: str) -> tuple[str, list[Entry]]:
        """Return an object, or what lies below the folder; with the URI, which ends in a slash for a folder."""
        objects = Objects(self._platform.storage)
        if not uri.endswith("/"):
            if facts := objects.facts(uri):
                return uri, [Entry(uri, facts.bytes)]
            uri += "/"
        if entries := list(objects.entries(uri, deep=True)):
            return uri, entries
        raise self._absent(uri)

    def _absent(self, uri: str) -> RemoteNotFound:
        """Return an error with the names that are nearest to an absent one."""
        parent, _, name = uri.rstrip("/").rpartition("/")
        siblings = []
        if parent.count("/") > 2:  # below a bucket's folder, which may be listed
            entries = Objects(self._platform.storage).entries(f"{parent}/")
            siblings = [entry.uri.removeprefix(f"{parent}/") for entry in entries]
        near = difflib.get_close_matches(name, siblings, 3)
        names = [self.name(f"{parent}/{sibling}") for sibling in near]
        remedy = (
            f"Did you mean {listed(names)}?" if names else f"`ultramarine data ls` lists {self.name(parent + '/')}."
        )
        return RemoteNotFound(f"{uri.rstrip('/')} does not exist. {remedy}")

    @contextmanager
    def _explained(self, uri: str) -> Iterator[None]:
        """Replace errors whose cause is on the way to the storage, or in the namespace's rights."""
        try:
            yield
        except StorageError as error:
            if error.reason == "Unreachable" and self._platform.problem:
                raise self._platform.problem from None
            if error.reason == "AccessDenied" and not uri.startswith(self._platform.prefix):
                raise StorageError(
                    f"namespace {self._platform.cluster.namespace} has no right to {uri}. It reads and writes"
                    f" {self._platform.prefix}, and reads shared/. Choose another name, or another namespace with -n.",
                    error.reason,
                ) from None
            raise


def _path(uri: str, entry: Entry) -> str:
    """Return the path of an object below a folder. Raises StorageError for a key that would lead elsewhere."""
    path = entry.uri.removeprefix(uri)
    if problem := unsafe(path):
        raise StorageError(f"{uri} holds a key {path!r} that cannot be a file: {problem}", "InvalidKey")
    return path


def _no_file(path: Path) -> FileInvalid:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    remedy = suggest(path.name, names, "Correct the path.", shown=lambda name: folder / name)
    return FileInvalid(f"{path} does not exist on this machine. {remedy}")
