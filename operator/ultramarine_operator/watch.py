"""Watches by kopf, which logs in, lists, watches and reconnects, and decides nothing. The only importer of kopf.

Handlers of kopf are edge-based, write annotations and finalizers into users' objects, and forget a change that arrives
while they run. `_handing_over` and `_watch_and_survive` replace two functions of kopf, so its version is pinned.
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


def _handing_over(engine: Engine) -> Any:
    """Return the function that hands each event to the engine, in place of kopf's own processing.

    That serves handlers, of which the operator has none. It would cost 2 ms for each event, to compare deep copies,
    and some kilobytes of memory for each object.
    """
    resources = {(r.group, r.version, r.plural): r for r in engine.watched}

    async def process(*, resource: Any, raw_event: kopf.RawEvent, **_: Any) -> None:
        ours = resources[resource.group, resource.version, resource.plural]
        engine.tell(ours, dict(raw_event["object"]), deleted=raw_event["type"] == "DELETED")

    return process


async def _watch_and_survive(**where: Any) -> AsyncIterator[Any]:
    """Yield the events of one listing and watch of a type; kopf begins the next one after an end or an error.

    By itself kopf ends the whole operator, or hangs, at a 410 for a listing, whose page came too late. It does the
    same at any error in a watch except 410.
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
    """Make kopf watch a type, as its handler."""


class _Patience:
    """Pauses in seconds between attempts at a request, without end: an absent API server comes back."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(10))


def _login(engine: Engine) -> Any:
    """Return a login like that of kopf, with a session that records when a watch is requested and opened."""
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
    # A scan for new CRDs and namespaces would need rights over the whole cluster.
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Patience()
    # A worker for each object holds the last event for this long. The default of 5 s takes a gigabyte at a start with
    # tens of thousands of objects.
    settings.queueing.idle_timeout = 0.1
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.process.ultimate_exiting_timeout = None
    kopf.on.login(registry=registry)(_login(engine))
    processing.process_resource_event = _handing_over(engine)
    watching.continuous_watch = _watch_and_survive
    for resource, selector in engine.watched.items():
        where = (resource.group, resource.version, resource.plural)
        kopf.on.event(*where, registry=registry)(_unused)
        if selector:
            settings.watching.label_selectors[where] = selector
    # The Lease has the identity that counts. kopf makes one of the user's name, which a numeric user lacks.
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
    # By now kopf handles SIGTERM; then the Lease would be given back only after all of kopf has ended.
    started()
    await kopf.run_tasks(tasks, ignored=others)
