"""What the service can offer: one model, loaded before anybody asks, or (in pool.py) many, loaded when they are asked.

A repository runs on the event loop's thread. It raises Problem where a client is to be told why not, and LoadError
where a model cannot be loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ultramarine_server.errors import Problem
from ultramarine_server.model import Loaded


class Repository(Protocol):
    """Models by name."""

    @property
    def only(self) -> str:
        """The name of the one model, or nothing where there can be many."""

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""

    def check(self, name: str, version: str = "") -> None:
        """Let only models and versions through that there are."""

    def answers(self, name: str) -> bool:
        """Whether a model that there is answers requests."""

    def find(self, name: str, version: str = "") -> Loaded | Coroutine[Any, Any, Loaded]:
        """Return a model, at once where it is loaded, else when awaited."""

    def index(self) -> list[dict[str, str]]:
        """All models with their state and, where that is not READY, the reason."""

    async def load(self, name: str) -> None:
        """Load a model again."""

    def unload(self, name: str) -> None:
        """Take a model out of memory; requests that are being answered end well."""


class Single:
    """One model, which `reload` reads from disk again."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded]) -> None:
        self.only, self._version = loaded.name, loaded.version
        self._loaded: Loaded | None = loaded
        self._reload = reload
        self._absence = ""  # why there is no model
        self._loading = asyncio.Lock()  # one at a time: each takes the memory of a whole model

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    def check(self, name: str, version: str = "") -> None:
        """Let only the one model and version through."""
        if name != self.only:
            raise Problem(404, f"model {name!r} is unknown; this server has {self.only!r}")
        if version not in ("", self._version):
            raise Problem(404, f"version {version!r} of {name!r} is not here; this is {self._version!r}")

    def answers(self, name: str) -> bool:
        """Whether the model is loaded."""
        return self.ready

    def find(self, name: str, version: str = "") -> Loaded:
        """Return the model, or say that it was unloaded."""
        self.check(name, version)
        if self._loaded is None:
            raise Problem(400, f"model {name!r} is not loaded ({self._absence}); it has to be loaded first")
        return self._loaded

    def index(self) -> list[dict[str, str]]:
        """The one model."""
        state = "UNAVAILABLE" if self._loaded is None else "READY"
        return [{"name": self.only, "version": self._version, "state": state, "reason": self._absence}]

    async def load(self, name: str) -> None:
        """Load the model from disk again, and leave the one that serves in place until that is done."""
        async with self._loading:
            self._loaded = await asyncio.to_thread(self._reload)
        self._absence = ""

    def unload(self, name: str) -> None:
        """Answer no more requests with the model."""
        self._loaded, self._absence = None, "unloaded"
