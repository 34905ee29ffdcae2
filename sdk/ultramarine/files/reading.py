"""Reading of manifests from files, folders and standard input, with the line and the column of every field."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest

from .nodes import Node, Place, SyntaxFault, nodes
from .schemas import Keys

MAX_BYTES = 4 * 2**20  # of a file
SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT, STDIN = "-", "stdin"  # on the command line, and in messages


@dataclass(frozen=True, order=True)
class Problem:
    """Fault in a file. `subject` is KIND/NAME, `path` the field; `place` is None if the file cannot be read."""

    file: str
    place: Place | None
    subject: str
    path: str
    message: str

    def __str__(self) -> str:
        where = ":".join(map(str, (self.file, *(self.place or ()))))
        return ": ".join(part for part in (where, self.subject, self.path, self.message) if part)


class InvalidFiles(UltramarineError):
    """Files that cannot be applied; the message has a line for each problem."""

    reason = "InvalidFiles"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Document:
    """One object in a file; `stated` is true if the user named the file, false if it came with its folder."""

    file: str
    node: Node
    stated: bool = True

    @property
    def manifest(self) -> Manifest:
        """Return the object as plain values."""
        manifest: Manifest = self.node.value
        return manifest

    @property
    def subject(self) -> str:
        """Return KIND/NAME as far as the object has them."""
        meta = self.manifest.get("metadata")
        name = (meta.get("name") or meta.get("generateName")) if isinstance(meta, dict) else None
        return "/".join(str(part) for part in (self.manifest.get("kind"), name) if part)

    def place(self, keys: Keys, *, of_name: bool = False) -> Place:
        """Return the place of a value, or of a field's name; of an absent field that of the object around it."""
        node, place = self.node, self.node.place
        for last, key in enumerate(keys, 1):
            if key not in node.children:
                break
            name = node.keys.get(str(key))
            node = node.children[key]
            by_name = isinstance(node.value, (dict, list)) or (of_name and last == len(keys))
            place = name if name and by_name else node.place
        return place

    def problem(self, keys: Keys, message: str, *, of_name: bool = False) -> Problem:
        """Return a problem with a field."""
        return Problem(self.file, self.place(keys, of_name=of_name), self.subject, dotted(keys), message)


@dataclass
class Reading:
    """Objects that were read, and problems of files that were not."""

    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def dotted(keys: Keys) -> str:
    """Return a path as the API server writes it, such as spec.deployments[0].name."""
    text = "".join(f"[{key}]" if isinstance(key, int) or "." in key else f".{key}" for key in keys)
    return text.removeprefix(".")


def read(paths: Iterable[str | os.PathLike[str]]) -> Reading:
    """Read files, all manifests below folders, and standard input for `-`; faults become problems."""
    reading = Reading()
    for path in (os.fspath(path) for path in paths):
        if path == STANDARD_INPUT:
            _add(reading, STDIN, sys.stdin.buffer.read(MAX_BYTES + 1), stated=True)
        elif Path(path).is_dir():
            for file in _files(Path(path)):
                _open(reading, file, stated=False)
        else:
            _open(reading, Path(path), stated=True)
    return reading


def load(paths: Iterable[str | os.PathLike[str]]) -> list[Document]:
    """Read manifests. Raises InvalidFiles with all problems if a file cannot be read or two objects have one name."""
    reading = read(paths)
    if problems := [*reading.problems, *doubles(reading.documents)]:
        raise InvalidFiles(problems)
    return reading.documents


def doubles(documents: Iterable[Document]) -> Iterator[Problem]:
    """Yield a problem for each object whose kind, namespace and name an earlier one has."""
    former: dict[tuple[str, ...], Document] = {}
    for document in documents:
        meta = document.manifest.get("metadata")
        if not isinstance(meta, dict) or not meta.get("name") or not document.manifest.get("kind"):
            continue
        identity = (str(document.manifest["kind"]), str(meta.get("namespace")), str(meta["name"]))
        first = former.setdefault(identity, document)
        if first is not document:
            place = f"{first.file}:{first.node.place.line}"
            message = f"stands twice, first at {place}; rename or remove one of the two"
            yield document.problem(("metadata", "name"), message)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the manifests below a folder in order, without hidden files and folders."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)


def _open(reading: Reading, file: Path, *, stated: bool) -> None:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}; correct the path or its rights"
        reading.problems.append(Problem(str(file), None, "", "", message))
    else:
        _add(reading, str(file), content, stated=stated)


def _add(reading: Reading, file: str, content: bytes, *, stated: bool) -> None:
    def refuse(message: str, place: Place | None = None) -> None:
        reading.problems.append(Problem(file, place, "", "", message))

    if len(content) > MAX_BYTES:
        return refuse(f"has more than {MAX_BYTES // 2**20} MiB, too much for manifests; split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return refuse("not a text in UTF-8; save it in UTF-8, or name another file", Place(line, 1))
    before = len(reading.documents)
    try:
        for node in nodes(text):
            reading.documents += _documents(file, node, stated)
    except SyntaxFault as fault:
        return refuse(fault.message, fault.place)
    if stated and len(reading.documents) == before:
        refuse("has no object; write a manifest, or name another file")


def _documents(file: str, node: Node, stated: bool) -> Iterator[Document]:
    """Yield the object of a node, or those of a List."""
    if not isinstance(node.value, dict):
        raise SyntaxFault(node.place, "must be an object with apiVersion, kind, metadata and spec")
    entries = node.children.get("items")
    if node.value.get("kind") == "List" and entries and isinstance(entries.value, list):
        for child in entries.children.values():
            yield from _documents(file, child, stated)
    else:
        yield Document(file, node, stated)
