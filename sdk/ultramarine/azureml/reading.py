"""Reading Azure ML files: YAML or JSON with the line of every field. Nothing in a file can crash a conversion."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ultramarine_contract.errors import UltramarineError

MAX_BYTES = 200_000
MAX_VALUES = 50_000  # aliases can expand a short file without end
SUFFIXES = (".yml", ".yaml", ".json")
# Placeholders that Azure's own examples fill in by sed. In YAML the braces would begin a mapping, so that other
# characters stand for them until the text is parsed. In quotes and blocks they are text, such as that of a prompt.
_PLACEHOLDER = re.compile(r"(?<![$\w{])\{\{\s*([A-Za-z_][\w.-]*)\s*\}\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKED = re.compile(f"{_OPEN}\\s*(.*?)\\s*{_CLOSE}")
_MERGE = "tag:yaml.org,2002:merge"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # no manifest can have them
_BOOLEANS = {"true": True, "false": False}

FieldPath = tuple[str, ...]


class Unreadable(UltramarineError):
    """The file is not readable as YAML or JSON; the message has the place and the cause."""

    reason = "Unreadable"


@dataclass(frozen=True)
class Document:
    """One document of a file: its values, the line of each field, and the placeholders that became plain words."""

    file: Path
    value: dict[str, Any]
    lines: dict[FieldPath, int] = field(default_factory=dict)
    placeholders: tuple[tuple[int, str], ...] = ()

    def line(self, path: FieldPath) -> int:
        """Return the line of a field, or of the nearest field around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def files_in(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the files to read, and True for those that were named.

    Folders are searched, except hidden ones. The files of an MLflow model belong to the model.
    """
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if "MLmodel" in names:
                folders.clear()
                continue
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES):
                    yield Path(folder, name), False


def read(path: Path) -> list[Document]:
    """Return the documents of a file that are mappings. Raises Unreadable."""
    text = _text(path)
    plain = _PLACEHOLDER.sub(lambda match: f"{_OPEN}{match[0][2:-2]}{_CLOSE}", text)
    try:
        documents = [Document(path, *_values(node)) for node in _nodes(plain) if node is not None]
    except yaml.YAMLError as error:
        if not text.lstrip().startswith("{"):
            raise Unreadable(f"is not valid YAML: {_cause(error)}. Correct it there") from error
        documents = [Document(path, _json(text))]
    except RecursionError as error:
        raise Unreadable("is nested too deeply, or contains itself. Flatten it") from error
    if not documents:
        raise Unreadable("is empty. Remove it, or write a job, an asset or an endpoint into it")
    if not all(isinstance(document.value, dict) for document in documents):
        raise Unreadable("is a list or a text instead of a mapping. Azure ML files begin with fields such as type")
    return documents


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise Unreadable(f"cannot be read: {cause}. Check the path and its rights") from error
    if len(data) > MAX_BYTES:
        raise Unreadable(f"has more than {MAX_BYTES} bytes. An Azure ML file is smaller; name another file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is not text in UTF-8. Convert it, or name another file") from error


def _nodes(text: str) -> Iterator[yaml.Node | None]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            yield loader.get_node()
    finally:
        loader.dispose()


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not valid JSON: {error}. Correct it there") from error
    return value if isinstance(value, dict) else {}


def _cause(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _values(root: yaml.Node) -> tuple[Any, dict[FieldPath, int], tuple[tuple[int, str], ...]]:
    """Return the values below a node, the line of each field, and placeholders. Raises Unreadable for no tree."""
    _check_keys(root)
    marks: list[tuple[int, str]] = []
    lines: dict[FieldPath, int] = {}
    merger = yaml.SafeLoader("")

    def value(node: yaml.Node, path: FieldPath) -> Any:
        lines.setdefault(path, node.start_mark.line + 1)
        if len(lines) > MAX_VALUES:
            raise Unreadable(f"has more than {MAX_VALUES} values. Write its aliases out, or split it")
        if isinstance(node, yaml.MappingNode):
            merger.flatten_mapping(node)
            return dict(pair(key, child, path) for key, child in node.value)
        if isinstance(node, yaml.SequenceNode):
            return [value(child, (*path, str(index))) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and _OPEN in node.value:
            if node.style is None:
                marks.extend((node.start_mark.line + 1, match[1]) for match in _MARKED.finditer(node.value))
            node.value = _without_marks(node)
        return _scalar(node)

    def pair(key: yaml.Node, child: yaml.Node, path: FieldPath) -> tuple[str, Any]:
        if not isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            raise Unreadable(f"line {line}: a key is a list or a mapping. Quote it if it is a text")
        below = (*path, _CONTROL.sub("\ufffd", _without_marks(key)))
        lines[below] = key.start_mark.line + 1
        return below[-1], value(child, below)

    values = value(root, ())
    return values, lines, tuple(marks)


def _without_marks(node: yaml.ScalarNode) -> str:
    """Return the text of a scalar: a plain placeholder as its name, others as the file writes them."""
    if node.style is None:
        return _MARKED.sub(lambda match: match[1], node.value)
    return str(node.value).replace(_OPEN, "{{").replace(_CLOSE, "}}")


def _check_keys(root: yaml.Node) -> None:
    """Raise Unreadable for a key that stands twice in a mapping; Azure would take the last one in silence."""
    nodes: list[yaml.Node] = [root]
    seen: set[int] = set()
    for node in nodes:
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            nodes += node.value
            continue
        former: dict[str, int] = {}
        for key, child in node.value:
            nodes.append(child)
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line, name = key.start_mark.line + 1, key.value
            if name in former:
                problem = f"line {line}: {name[:40]} stands twice, first in line {former[name]}"
                raise Unreadable(f"is ambiguous: {problem}. Remove one of the two")
            former[name] = line


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    """Return a scalar as JSON has it: a date, a sexagesimal number, yes and on stay texts."""
    text, kind = _CONTROL.sub("\ufffd", str(node.value)), node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return _BOOLEANS.get(text.lower(), text)
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError:
        return text
