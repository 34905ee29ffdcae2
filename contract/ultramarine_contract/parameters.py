"""Parameters of trials in their commands; the standard library suffices, since the resources import it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MOST_PODS = 1000  # trials of a sweep each of which has a TrainingJob of its own
_REFERENCE = re.compile(r"\$\(params\.([^)]*)\)")


def applicable(command: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the arguments of a trial's command, without those that refer to a parameter which the trial lacks."""
    return [argument for argument in command if all(name in names for name in _REFERENCE.findall(argument))]


def fill(command: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """Return the command of a trial with its $(params.NAME) filled in, and without arguments that do not apply."""
    arguments = applicable(command, params)
    return [_REFERENCE.sub(lambda match: as_text(params[match[1]]), argument) for argument in arguments]


def as_text(value: Any) -> str:
    """Return a parameter's value in a command: numbers as Python writes them, true and false as YAML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
