"""Remedies for names that do not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches


def suggest(name: str, names: Iterable[str], otherwise: str, shown: Callable[[str], object] = str) -> str:
    """Return the question if the nearest of `names` is meant, as `shown`; `otherwise` if none is near."""
    names = list(names)
    near = get_close_matches(name, names, 1) or [longer for longer in names if len(name) > 2 and name in longer]
    return f"Did you mean {shown(near[0])}?" if near else otherwise
