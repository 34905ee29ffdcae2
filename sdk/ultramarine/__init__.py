"""Ultramarine: train, register and serve models as plain Kubernetes resources."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client as Client
    from .endpoints import Endpoint as Endpoint
    from .runs import Run as Run

# Imported when they are used: the command starts without the models of the resources.
_PLACES = {"Client": "client", "Endpoint": "endpoints", "Run": "runs", "RunFailed": "runs"}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
