"""Test material of all kinds, as `kinds/KIND/testing` has it: a new kind needs no line in the tests."""

from __future__ import annotations

import importlib
import os

from ultramarine_operator.kinds import KINDS, PACKAGES
from ultramarine_operator.shared.testing import Life, Material


def _gathered() -> dict[str, Material]:
    """The material of each kind, in the order of KINDS."""
    gathered: dict[str, Material] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"{package.__name__}.testing")
        gathered |= {value.kind: value for value in vars(module).values() if isinstance(value, Material)}
    names = [kind.name for kind in KINDS]
    assert sorted(gathered) == sorted(names), "a kind has its Material in kinds/KIND/testing.py"
    return {name: gathered[name] for name in names}


MATERIALS = _gathered()
ONLY = os.environ.get("ULTRAMARINE_CHAOS_KIND")  # the kind whose lives alone are lived; by default all
LIVES: tuple[Life, ...] = tuple(
    life for material in MATERIALS.values() for life in material.lives if ONLY in (None, material.kind)
)
