"""Names of objects, inputs and files that the API server admits."""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 40
MAX_SWEEP = 30  # with a pod per trial, whose job's name has a suffix


def object_name(text: str, most: int = MAX_NAME) -> str:
    """Return a name in lower-case letters, digits and '-' that begins with a letter; a long one ends in a hash."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
    if not name[0].isalpha():
        name = f"x-{name}"
    if len(name) > most:
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:5]
        name = f"{name[: most - 6].rstrip('-')}-{digest}"
    return name


def file_name(text: str) -> str:
    """Return the last part of a path or an address, in characters that a URI may have."""
    last = re.split(r"[?#]", text)[0].replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", last).lstrip(".")[:200] or "file"


class Names:
    """Names of one batch, each used once."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def free(self, kind: str, text: str, most: int = MAX_NAME) -> str:
        """Return a name for an object of a kind; a number is appended to a name that is taken."""
        base = name = object_name(text, most)
        number = 1
        while (kind, name) in self._taken:
            number += 1
            name = f"{base[: most - 1 - len(str(number))].rstrip('-')}-{number}"
        self._taken.add((kind, name))
        return name
