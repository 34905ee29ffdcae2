"""References to parameters, inputs and outputs in the command of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .errors import InvalidSpec, listed

REFERENCE = re.compile(r"\$\((params|inputs|outputs)\.([^)]*)\)")


def filled(
    words: Sequence[str], where: str, values: Mapping[str, Mapping[str, str]], fields: Mapping[str, str]
) -> list[str]:
    """Return the words with their references filled in. Raises InvalidSpec for one without a target.

    `where` is the field of the words. `values` has the values of params, inputs and outputs by name, and `fields` the
    fields that these come from.
    """

    def fill(place: str, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            if name not in values[kind]:
                message = f"{place} refers to {match[0]}, but {fields[kind]} has no {name!r} (it has: "
                remedy = "apply it again under another name, with the parameter or without the reference"
                raise InvalidSpec(f"{message}{listed(sorted(values[kind])) or 'none'}); {remedy}")
            return values[kind][name]

        return REFERENCE.sub(value, text)

    return [fill(f"{where}[{index}]", text) for index, text in enumerate(words)]
