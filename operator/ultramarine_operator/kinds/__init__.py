"""All kinds: each package below this one has them, and is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ..shared.kind import Kind
from ..shared.plan import Platform


def _packages() -> tuple[ModuleType, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def _kinds() -> tuple[Kind, ...]:
    kinds = [kind for package in PACKAGES for kind in vars(package).values() if isinstance(kind, Kind)]
    return tuple(kind.over(kinds) if kind.runs else kind for kind in kinds)


PACKAGES = _packages()
KINDS = _kinds()


def kinds_on(platform: Platform) -> tuple[Kind, ...]:
    """Return all kinds with the children that they have on this platform."""
    return tuple(kind.on(platform.features) for kind in KINDS)
