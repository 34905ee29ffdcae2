"""Repositories of models: the interface, and the repository of a single model, loaded before the first request.

A repository runs on the event loop's thread. It raises Problem for an error of the client, and LoadError if a model
cannot be loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ultramarine_server.errors import Problem
from ultramarine_server.models.model import Loaded


class Repository(Protocol):
    """Models by name."""

    @property
    def only(self) -> str:
        """Name of the only model; empty for a pool."""

    @property
    def ready(self) -> bool:
        """True if requests can be answered."""

    def check(self, name: str, version: str = "") -> None:
        """Raise Problem 404 unless the model and version exist."""

    def answers(self, name: str) -> bool:
        """True if an existing model answers requests."""

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model if it is loaded, otherwise a coroutine that loads it."""

    def index(self) -> list[dict[str, str]]:
        """Return all models with their state, and with the reason if a state is not READY."""

    async def load(self, name: str) -> None:
        """Load a model again."""

    def unload(self, name: str) -> None:
        """Unload a model; requests in progress still get their answers."""


class Single:
    """Repository of a single model, which `reload` reads from disk again."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded]) -> None:
        self.only, self._version = loaded.name, loaded.version
        self.loaded: Loaded | None = loaded
        self._reload = reload
        self._absence = ""  # reason for a missing model
        self._loading = asyncio.Lock()  # a load at a time: each takes the memory of a whole model

    @property
    def ready(self) -> bool:
        """True if the model is loaded, and its process runs if it has its own."""
        return self.loaded is not None and self.loaded.alive()

    def check(self, name: str, version: str = "") -> None:
        """Raise Problem 404 for another model or version."""
        if name != self.only:
            raise Problem(404, f"model {name!r} is unknown; this server has {self.only!r}")
        if version not in ("", self._version):
            raise Problem(404, f"version {version!r} of {name!r} is not here; this is {self._version!r}")

    def answers(self, name: str) -> bool:
        """True if the model is loaded."""
        return self.ready

    def find(self, name: str, version: str = "") -> Loaded:
        """Return the model. Raises Problem 400 if it is unloaded."""
        self.check(name, version)
        if self.loaded is None:
            raise Problem(400, f"model {name!r} is not loaded ({self._absence}); it has to be loaded first")
        return self.loaded

    def index(self) -> list[dict[str, str]]:
        """Return the model and its state."""
        state = "UNAVAILABLE" if self.loaded is None else "READY"
        return [{"name": self.only, "version": self._version, "state": state, "reason": self._absence}]

    async def load(self, name: str) -> None:
        """Load the model from disk again; the present model serves until then."""
        async with self._loading:
            self.loaded = await asyncio.to_thread(self._reload)
        self._absence = ""

    def unload(self, name: str) -> None:
        """Unload the model."""
        self.loaded, self._absence = None, "unloaded"
