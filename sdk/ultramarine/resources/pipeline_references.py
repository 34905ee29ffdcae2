"""References of steps to parameters, to other steps and to the entry of forEach: $(params.X), $(steps.S.outputs.O)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ultramarine_contract.parameters import as_text

Root = Literal["params", "steps", "item"]
REFERENCE = re.compile(r"\$\((params|steps|item)((?:\.[^.()\s]+)*)\)")
CODE = ("source", "inline")  # fields whose texts are a program's, and are never filled in
TEXTS = frozenset({"command", "args"})  # fields of texts, whatever a reference in them is to


@dataclass(frozen=True)
class Reference:
    """Reference in a text, such as $(steps.clean.outputs.table); `path` are the names after its root."""

    root: Root
    path: tuple[str, ...]
    text: str

    @property
    def step(self) -> str:
        """Return the step that it refers to; empty for another root."""
        return self.path[0] if self.root == "steps" and self.path else ""

    @property
    def is_output(self) -> bool:
        """True for the output of a step."""
        return self.root == "steps" and len(self.path) == 3 and self.path[1] == "outputs"

    @property
    def is_metric(self) -> bool:
        """True for a metric of a step."""
        return self.root == "steps" and len(self.path) == 3 and self.path[1] == "metrics"


Place = tuple[str | int, ...]
Resolve = Callable[[Reference], Any]


def references(value: Any, own: Collection[str] = (), place: Place = ()) -> Iterator[tuple[Place, Reference]]:
    """Yield the references in a step's document with their places.

    `own` are parameters of the document itself: $(params.X) of those is left to the object that is made of it.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            if (*place, name)[-2:] != CODE:
                yield from references(inner, own, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from references(inner, own, (*place, index))
    elif isinstance(value, str):
        for match in REFERENCE.finditer(value):
            reference = _read(match)
            if not _is_own(reference, own, place):
                yield place, reference


def filled(value: Any, resolve: Resolve, own: Collection[str] = (), place: Place = ()) -> Any:
    """Return a step's document with its references filled in.

    A text that is one reference becomes the value itself, with its type, except in a command. Other texts stay texts.
    """
    if isinstance(value, dict):
        return {
            name: inner if (*place, name)[-2:] == CODE else filled(inner, resolve, own, (*place, name))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [filled(inner, resolve, own, (*place, index)) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if (reference := whole(value)) is not None and not TEXTS.intersection(place):
        return value if _is_own(reference, own, place) else resolve(reference)

    def text(match: re.Match[str]) -> str:
        reference = _read(match)
        return match[0] if _is_own(reference, own, place) else plain(resolve(reference))

    return REFERENCE.sub(text, value)


def whole(text: Any) -> Reference | None:
    """Return the reference that a text consists of; None if it has anything beside it."""
    match = REFERENCE.fullmatch(text) if isinstance(text, str) else None
    return _read(match) if match else None


def plain(value: Any) -> str:
    """Return a value within a text: lists and objects as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) or value is None else as_text(value)


def entry(value: Any, path: tuple[str, ...]) -> Any:
    """Return the part of a forEach's entry that $(item.PATH) names. Raises KeyError if it is absent."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise KeyError(name)
        value = value[name]
    return value


def _read(match: re.Match[str]) -> Reference:
    path = tuple(match[2].split(".")[1:])
    return Reference(match[1], path, match[0])  # type: ignore[arg-type]


def _is_own(reference: Reference, own: Collection[str], place: Place) -> bool:
    """True for a parameter of the document itself; the value of a parameter refers to the pipeline's."""
    is_parameter = reference.root == "params" and len(reference.path) == 1
    return is_parameter and reference.path[0] in own and "parameters" not in place
