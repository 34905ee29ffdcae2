"""Fields of an Azure ML file, each read once: what no converter reads is a loss."""

from __future__ import annotations

import math
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from ultramarine.azureml.reading import Document
from ultramarine.azureml.report import Loss, Place, shown

SILENT = frozenset({"$schema", "type"})  # the kind of the object says the same
RECORDED = frozenset({"properties", "creation_context", "id"})  # what Azure adds to a file that it shows
# Why no run depends on a field.
REASONS = {
    "mode": "inputs are downloaded before the command starts, and outputs are uploaded",
    "credentials": "no pod reaches the account",
    "channels": "packages come from the package index of the platform",
    "default_datastore": "the object storage of the namespace takes all outputs",
    "path": "the platform chooses the place",
}
NO_EFFECT = ("no run depends on it", "Keep it in this file, or remove it")
_DECLARED = ("inputs.", "outputs.", "search_space.", "jobs.")  # beginnings of expressions whose names a file declares
NO_COUNTERPART = "has no counterpart"
REMOVE = "Remove the field if the run does not depend on it"


class Fields:
    """Mapping at a place of a document. Wrong types are losses, and read as missing."""

    def __init__(self, document: Document, losses: list[Loss], path: tuple[str, ...] = (), value: Any = None) -> None:
        self.document, self.path, self._losses = document, path, losses
        self._values: dict[str, Any] = dict(document.value if value is None else value)
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __bool__(self) -> bool:
        return bool(self._values)

    @property
    def keys(self) -> list[str]:
        return list(self._values)

    @property
    def values(self) -> dict[str, Any]:
        """A copy of the fields, none of which counts as read."""
        return dict(self._values)

    def take(self, key: str) -> Any:
        """Return a value of any type, or None."""
        self._read.add(key)
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Set a field that the file writes in an early form."""
        self._values[key] = value

    def text(self, *keys: str) -> str:
        """Return the first of these fields that is there, as a text; empty without any."""
        for key in keys:
            value = self.take(key)
            if isinstance(value, (dict, list)):
                self.lose(key, "must be a text", "Write a text")
            elif value is not None:
                return as_azure_writes(value)
        return ""

    def number(self, key: str) -> float | None:
        """Return a finite number, written as one or as a text."""
        value = self.take(key)
        try:
            number = None if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if number is not None and not math.isfinite(number):
            self.lose(key, "must be a number", "Write a number")
            return None
        return number

    def whole(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number between two bounds; a number outside them becomes the bound, which is a loss."""
        number = self.number(key)
        if number is None:
            return None
        bounded = min(max(round(number), least), most)
        if bounded != number:
            self.lose(key, f"is {number:g}, and became {bounded}", f"Choose a whole number from {least} to {most}")
        return bounded

    def truth(self, key: str) -> bool:
        """Return True for true, also as a text."""
        return str(self.take(key)).lower() == "true"

    def section(self, key: str) -> Fields:
        """Return the fields below a key; none if it is missing."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            self.lose(key, "must be a mapping", "Write fields below it")
        return Fields(self.document, self._losses, (*self.path, key), value if isinstance(value, dict) else {})

    def items(self, key: str) -> list[Any]:
        """Return a list; a single value counts as a list of it."""
        value = self.take(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    def place(self, *keys: str) -> Place:
        path = (*self.path, *keys)
        return Place(shown(self.document.file), self.document.line(path), ".".join(path))

    def lose(self, key: str, problem: str, remedy: str, *below: str, is_mistake: bool = False) -> None:
        """Record that a field, or a value `below` it, is not expressed as it was."""
        self._read.add(key)
        self._losses.append(Loss(self.place(key, *below), problem, remedy, is_mistake))

    def note(self, key: str, reason: str = "") -> None:
        """Record that a field is left out without an effect on any run."""
        self._read.add(key)
        reason = reason or REASONS.get(key, NO_EFFECT[0])
        self._losses.append(Loss(self.place(key), reason, NO_EFFECT[1], is_note=True))

    def lose_expression(self, key: str, expression: str, declared: Collection[str]) -> None:
        """Record that an expression has no value: a mistake unless its name is one of those that are declared."""
        near = [] if expression in declared else get_close_matches(expression, declared, 1)
        remedy = f"Did you mean {near[0]}? Write it, or add {expression}" if near else f"Add it, or correct {key}"
        is_mistake = expression.startswith(_DECLARED) and expression not in declared
        self.lose(key, f"{expression} is not defined, and becomes nothing", remedy, is_mistake=is_mistake)

    def close(self, reasons: dict[str, tuple[str, str]] | None = None, ignored: Collection[str] = ()) -> None:
        """Record each field that was not read as a loss, with its own reason if there is one, or as a note.

        Notes are the `ignored` fields, except name and version of the file, by which others refer to it.
        """
        for key, value in self._values.items():
            if key in self._read or key in SILENT or value in (None, {}, []):
                continue
            if key in RECORDED or key in ignored:
                if self.path or key not in ("name", "version"):
                    self.note(key)
                continue
            problem, remedy = (reasons or {}).get(key, (NO_COUNTERPART, REMOVE))
            self.lose(key, problem, remedy)


def as_azure_writes(value: Any) -> str:
    """Return a value as Azure puts it into a command: as Python writes it."""
    return value if isinstance(value, str) else str(value)
