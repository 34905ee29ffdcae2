"""Remedies for names that do not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches


def suggest(name: str, names: Iterable[str], otherwise: str, shown: Callable[[str], object] = str) -> str:
    """Return the question if the nearest of `names` is meant, as `shown`; `otherwise` if none is near."""
    near = get_close_matches(name, list(names), 1)
    return f"Did you mean {shown(near[0])}?" if near else otherwise
