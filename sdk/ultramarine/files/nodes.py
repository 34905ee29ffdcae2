"""Texts of YAML or JSON as trees of values with their places."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from yaml.reader import ReaderError

from .scalars import scalar

MAX_VALUES = 200_000  # of a document, with its aliases filled in
MAX_DEPTH = 60
_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
# Parts of the parser's words, and words for users.
_SYNTAX = {
    "tab character": "a tab indents this line; use spaces",
    "cannot start any token": "this character cannot begin a text; quote the text",
    "mapping values are not allowed": "no field can begin here; check the indentation, or quote a text with a colon",
    "could not find expected ':'": "the colon is missing; write FIELD: VALUE",
    "unexpected end of stream": "the quotes are not closed; close them",
    "expected key": "the indentation differs from that of the lines above; align them",
    "expected '-'": "the indentation differs from that of the lines above; align them",
    "expected ',' or": "a comma or a closing bracket is missing; add it",
    "expected node content": "the value is missing; add it, or close the bracket",
    "control characters": "a control character; remove it",
    "escape": "an unknown escape in double quotes; use single quotes, or double the backslash",
}


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class SyntaxFault(Exception):
    """A text that is not YAML, or a part of YAML that no manifest has."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place, self.message = place, message


@dataclass
class Node:
    """A value with the places of its parts, and of its keys if it is an object; `size` counts its values."""

    value: Any
    place: Place
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    size: int = 1

    def put(self, key: str | int, child: Node) -> None:
        """Add an item or a field, or replace a field."""
        self.children[key] = child
        self.size += child.size
        if self.size > MAX_VALUES:
            raise SyntaxFault(child.place, f"the document has more than {MAX_VALUES:,} values; split it")
        if isinstance(self.value, list):
            self.value.append(child.value)
        else:
            self.value[key] = child.value


def nodes(text: str) -> Iterator[Node]:
    """Yield the documents of a text, except empty ones. Raises SyntaxFault after the documents before the fault."""
    text = _as_yaml(text)
    try:
        yield from _Composer(yaml.parse(text, Loader=_LOADER)).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        line = text.split("\n")[place.line - 1 : place.line]
        tab = any("\t" in part[: place.column] for part in line)
        raise SyntaxFault(place, _in_words("tab character" if tab else f"{error.problem}")) from None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise SyntaxFault(place, _in_words(error.reason)) from None


# libyaml, of which the parser of kubectl is a translation.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _as_yaml(text: str) -> str:
    """Return JSON without tabs and pairs of escapes, which YAML does not have; other texts as they are."""
    if text.lstrip()[:1] != "{" or ("\t" not in text and "\\u" not in text):
        return text
    try:
        json.loads(text)
    except ValueError:
        return text
    return _PAIR.sub(_joined, text.replace("\t", " "))


def _joined(pair: re.Match[str]) -> str:
    high, low = (int(half, 16) for half in pair.groups())
    return f"\\U{0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00:08x}"


def _in_words(problem: str) -> str:
    return next((words for part, words in _SYNTAX.items() if part in problem), f"not YAML: {problem}")


class _Composer:
    """Composer of nodes from the parser's events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = iter(events)
        self._anchors: dict[str, Node | None] = {}  # None while the value is being read
        self._depth = 0

    def documents(self) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                self._anchors = {}
                node = self._node(next(self._events))
                if node.value is not None:
                    yield node

    def _node(self, event: Any) -> Node:
        place = _place(event)
        if isinstance(event, AliasEvent):
            return self._alias(str(event.anchor), place)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SyntaxFault(place, f"the value has more than {MAX_DEPTH} levels; flatten it")
        if isinstance(event, ScalarEvent):
            node = Node(_value(event, place), place)
        elif isinstance(event, MappingStartEvent):
            node = self._object(event, place)
        else:
            node = self._list(event, place)
        self._depth -= 1
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            raise SyntaxFault(
                place, f"*{anchor} has no anchor &{anchor} before it; correct the name, or quote the text"
            )
        node = self._anchors[anchor]
        if node is None:
            raise SyntaxFault(place, f"*{anchor} is part of its own value; write the value out")
        return Node(copy.deepcopy(node.value), place, node.children, node.keys, node.size)

    def _list(self, event: Any, place: Place) -> Node:
        _check_tag(event, place, "seq")
        node = Node([], place)
        while not isinstance(item := next(self._events), SequenceEndEvent):
            node.put(len(node.value), self._node(item))
        return node

    def _object(self, event: Any, place: Place) -> Node:
        _check_tag(event, place, "map")
        node = Node({}, place)
        merged: set[str] = set()
        while not isinstance(item := next(self._events), MappingEndEvent):
            key, value = self._node(item), self._node(next(self._events))
            if isinstance(item, ScalarEvent) and item.value == _MERGE and item.implicit[0]:
                merged |= _merge(node, value)
                continue
            name = _name(item, key)
            if name in node.keys and name not in merged:
                former = node.keys[name].line
                raise SyntaxFault(key.place, f"{name} stands twice, first in line {former}; remove one of the two")
            merged.discard(name)
            node.keys[name] = key.place
            node.put(name, value)
        return node


def _merge(node: Node, value: Node) -> set[str]:
    """Put the fields of a merged object, or of a list of them, into a node, and return their names."""
    sources = list(reversed(value.children.values())) if isinstance(value.value, list) else [value]
    names: set[str] = set()
    for source in sources:
        if not isinstance(source.value, dict):
            raise SyntaxFault(source.place, f"{_MERGE} takes an object; write *NAME, with an anchor before an object")
        for name, child in source.children.items():
            node.keys[str(name)] = source.keys[str(name)]
            node.put(name, child)
            names.add(str(name))
    return names


def _name(event: Any, key: Node) -> str:
    """Return the name of a field: a text, or the text of a number."""
    if isinstance(key.value, str):
        return key.value
    if isinstance(key.value, bool):
        text = "true" if key.value else "false"
        if event.value != text:
            raise SyntaxFault(key.place, f'{event.value} means {text} in YAML; write "{event.value}" in quotes')
        return text
    if isinstance(key.value, int):
        return str(key.value)
    raise SyntaxFault(key.place, "the name of a field must be a text; quote it")


def _value(event: Any, place: Place) -> Any:
    _check_tag(event, place, *_TYPES)
    plain = event.implicit[0] and event.tag is None
    if not plain and event.tag in (None, "!", f"{_TAG}str"):
        return event.value
    value = scalar(event.value)
    if isinstance(value, float) and not math.isfinite(value):
        raise SyntaxFault(place, f"{event.value} is not a number of JSON; quote the text, or write a number")
    if not plain and not isinstance(value, _TYPES[event.tag.removeprefix(_TAG)]):
        raise SyntaxFault(place, f"{event.value} does not fit its tag {_shown(event.tag)}; remove the tag")
    return value


# By the names of tags that a scalar may have.
_TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "null": type(None)}


def _shown(tag: str) -> str:
    return str(tag).replace(_TAG, "!!")


def _check_tag(event: Any, place: Place, *names: str) -> None:
    if event.tag not in (None, "!", *(f"{_TAG}{name}" for name in names)):
        raise SyntaxFault(
            place, f"the tag {_shown(event.tag)} has no meaning in a manifest; remove it, or quote the text"
        )


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
