"""Ways to break the engine on purpose: each is called in the operator's process before it starts."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ultramarine.engine import engine, lease, mirror, queue
from ultramarine.kinds.trainingjob import registration
from ultramarine.kube.client import Client
from ultramarine.shared.meta import Ref


def numbers_are_no_compare_and_swap() -> None:
    """A version gets a number that nobody can have taken, so no create is ever refused."""
    numbers = itertools.count()
    registration._newest = lambda *_: next(numbers)


def older_versions_are_news() -> None:
    """The mirror takes in what is older than what it has."""
    numbers = itertools.count(1)
    mirror._version = lambda _: next(numbers)


def nothing_is_listed_again() -> None:
    """No listing but the first one."""
    engine.RELIST_SECONDS = engine.SECOND_LISTING_SECONDS = 1e9


def deletes_have_no_preconditions() -> None:
    """A delete hits whatever has the name now."""

    async def delete(self: Client, ref: Ref) -> None:
        path = ref.resource.path(ref.namespace, ref.name)
        await self._request("delete", "DELETE", ref.resource, path, body={"kind": "DeleteOptions", "apiVersion": "v1"})

    Client.delete = delete  # type: ignore[method-assign]


def a_failure_is_final() -> None:
    """A pass that the API server refused is not tried again."""

    def failed(self: queue.Queue, key: Any, at_least: float = 0.0) -> float:
        self.done(key)
        return 0.0

    queue.Queue.failed = failed  # type: ignore[method-assign]


def the_lease_is_ignored() -> None:
    """Every replica leads at once, and for ever."""

    async def acquire(self: lease.Lease) -> None:
        return None

    async def keep(self: lease.Lease) -> None:
        await asyncio.Event().wait()

    lease.Lease.time_left = lambda self: 1e9  # type: ignore[method-assign]
    lease.Lease.acquire, lease.Lease.keep = acquire, keep  # type: ignore[method-assign]
