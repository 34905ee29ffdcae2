"""kopf as a doorbell: it logs in, lists, watches and rings, and decides nothing. The only importer of kopf.

Its handlers are edge-based, write annotations and finalizers into people's objects, and forget a change that arrives
while they run. Two functions of kopf are replaced, by `_ring` and `_watch_and_survive`; so its version is pinned.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import kopf
from kopf._cogs.clients import errors, watching
from kopf._core.reactor import processing
from yarl import URL

from .engine.engine import Engine
from .engine.vitals import Watch

log = logging.getLogger(__name__)

REOPEN_SECONDS = 5.0
_watch_once = watching.continuous_watch


def _ring(engine: Engine) -> Any:
    """What kopf does with one event of any object: tell the engine, and nothing else.

    It stands in for kopf's own processing, which serves handlers that we have none of: for each event that costs 2 ms
    (it compares deep copies to find changes), and for each object a memory of some kilobytes that lasts as long as it.
    """
    resources = {(r.group, r.version, r.plural): r for r in engine.watched}

    async def process(*, resource: Any, raw_event: kopf.RawEvent, **_: Any) -> None:
        known = resources[resource.group, resource.version, resource.plural]
        engine.tell(known, dict(raw_event["object"]), deleted=raw_event["type"] == "DELETED")

    return process


async def _watch_and_survive(**where: Any) -> AsyncIterator[Any]:
    """One listing and watch of a type, which kopf begins again whenever it ends, as this one does at an error.

    By itself kopf ends the whole operator, or hangs while it tries to, at a 410 for a listing (a page came too late)
    and at any error but 410 in a watch.
    """
    try:
        async for event in _watch_once(**where):
            yield event
    except errors.APIUnauthorizedError:
        raise  # kopf logs in again
    except (errors.APIClientError, watching.WatchingError) as error:
        log.warning("the watch of %s is opened again in %d s: %s", where["resource"], REOPEN_SECONDS, error)
        await asyncio.sleep(REOPEN_SECONDS)


async def _unused(**_: Any) -> None:
    """The handler that makes kopf watch a type."""


class _Patience:
    """The pauses, in seconds, between attempts at a request: without end, since an absent API server comes back."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(10))


def _login(engine: Engine) -> Any:
    """Log in as kopf does, with a session of our own, in which we see when a watch is asked for and opened."""

    last = -REOPEN_SECONDS

    async def login(**kwargs: Any) -> kopf.AiohttpSession | None:
        nonlocal last
        # kopf logs in again at every 401, and would do so without end while the token stays refused.
        await asyncio.sleep(max(last + REOPEN_SECONDS - time.monotonic(), 0.0))
        last = time.monotonic()
        info = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if info is None:
            return None
        prefix = URL(info.server).path.rstrip("/")

        def meant(url: URL) -> Watch | None:
            return engine.watches.get(url.path.removeprefix(prefix))

        async def asked(_session: Any, _context: Any, params: aiohttp.TraceRequestStartParams) -> None:
            if watch := meant(params.url):
                watch.ask()

        async def answered(_session: Any, _context: Any, params: aiohttp.TraceRequestEndParams) -> None:
            if watch := meant(params.url):
                watch.answer(params.response.status, watching="watch" in params.url.query)

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(asked)
        trace.on_request_end.append(answered)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trust_env=info.trust_env,
            trace_configs=[trace],
        )
        return kopf.AiohttpSession(
            server=info.server, default_namespace=info.default_namespace, aiohttp_session=session
        )

    return login


async def listen(
    engine: Engine,
    namespaces: tuple[str, ...],
    *,
    clusterwide: bool,
    stop: asyncio.Event,
    started: Callable[[], None],
) -> None:
    """Watch every type of the engine in those namespaces until `stop` is set; call `started` once kopf has begun."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # its log lines are not our events
    settings.peering.standalone = True  # the Lease elects
    # No look-out for new CRDs and namespaces: it would need rights over the whole cluster.
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Patience()
    # Its worker for each object holds the last event for this long after it. By default that is 5 s: a gigabyte at the
    # start of an operator with tens of thousands of objects.
    settings.queueing.idle_timeout = 0.1
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.process.ultimate_exiting_timeout = None
    kopf.on.login(registry=registry)(_login(engine))
    processing.process_resource_event = _ring(engine)
    watching.continuous_watch = _watch_and_survive
    for resource, selector in engine.watched.items():
        where = (resource.group, resource.version, resource.plural)
        kopf.on.event(*where, registry=registry)(_unused)
        if selector:
            settings.watching.label_selectors[where] = selector
    # Ours is the Lease's; kopf's own would be made of the user's name, which a numeric user in a container lacks.
    identity: Any = "ultramarine"
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        identity=identity,
        settings=settings,
        standalone=True,
        clusterwide=clusterwide,
        namespaces=() if clusterwide else namespaces,
        stop_flag=stop,
    )
    # kopf has taken SIGTERM for itself by now; left so, the Lease would be given back only when all of kopf has ended.
    started()
    await kopf.run_tasks(tasks, ignored=others)
