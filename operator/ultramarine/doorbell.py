"""kopf as a doorbell: it watches and rings, and decides nothing. The only importer of kopf.

Its other handlers are edge-based, write annotations and finalizers into people's objects, and forget a change that
arrives while they run; `on.event` does none of this.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import kopf

from .engine.engine import Engine
from .shared.meta import Resource


def _handler(engine: Engine, resource: Resource) -> Any:
    async def ring(event: kopf.RawEvent, **_: Any) -> None:
        # Returns nothing: kopf would write a handler's answer into the object's status.
        engine.tell(resource, dict(event["object"]), deleted=event["type"] == "DELETED")

    return ring


class _Patience:
    """The pauses, in seconds, between attempts at a request: without end, since an absent API server comes back."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(10))


async def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


async def listen(engine: Engine, namespaces: tuple[str, ...], *, clusterwide: bool, stop: asyncio.Event) -> None:
    """Watch every type of the engine in those namespaces until `stop` is set."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # its log lines are not our events
    settings.peering.standalone = True  # the Lease elects
    # No look-out for new CRDs and namespaces: it would need rights over the whole cluster.
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Patience()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.process.ultimate_exiting_timeout = None
    kopf.on.login(registry=registry)(_login)
    for resource, selector in engine.watched.items():
        where = (resource.group, resource.version, resource.plural)
        kopf.on.event(*where, registry=registry)(_handler(engine, resource))
        if selector:
            settings.watching.label_selectors[where] = selector
    # Ours is the Lease's; kopf's own would be made of the user's name, which a numeric user in a container lacks.
    identity: Any = "ultramarine"
    await kopf.operator(
        registry=registry,
        identity=identity,
        settings=settings,
        standalone=True,
        clusterwide=clusterwide,
        namespaces=() if clusterwide else namespaces,
        stop_flag=stop,
    )
