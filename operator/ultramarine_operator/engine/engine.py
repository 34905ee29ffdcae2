"""The engine: it takes in watch events, runs passes on workers, and lists again so that no change is missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ultramarine_contract.errors import NotLeading
from ultramarine_contract.logs import about
from ultramarine_contract.meta import CHILD_SELECTOR, Key, Manifest, Resource

from ..kube.admission import objection
from ..kube.apply import write_status
from ..kube.client import ApiError, Client
from ..kube.events import refusal
from ..outside import gateway
from ..shared.conditions import Condition, merge
from ..shared.kind import Kind
from ..shared.metrics import RECONCILE_SECONDS, RECONCILES, WATCH_EVENTS
from ..shared.plan import Platform
from ..shared.questions import Clients, Storage
from .inquiries import Inquiries
from .lease import Lease
from .mirror import Mirror, owner_key
from .queue import Queue
from .reconcile import ASKS, OK, Reconciler
from .recorder import Recorder
from .reports import Reports
from .vitals import Vitals, Watch

log = logging.getLogger(__name__)

WORKERS = 16
RELIST_SECONDS = 600.0
# The watches and the first listing start together; this early second listing finds a delete between the two.
SECOND_LISTING_SECONDS = 30.0
UNLISTED_SECONDS = 5.0  # between attempts at the first listing
LASTING_SECONDS = 3.0  # a back-off longer than this becomes a condition
MAX_RETRY_AFTER = 60.0
PARTING_SECONDS = 5.0  # for running passes to end when this replica stops


class Engine:
    """Holds the mirror and the queue of one process, for one or more namespaces (None: all of them)."""

    def __init__(
        self,
        kinds: Iterable[Kind],
        namespaces: tuple[str | None, ...],
        mirror: Mirror,
        client: Client,
        storage: Storage,
        platform: Platform,
        lease: Lease,
        recorder: Recorder | None = None,
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._recorder = recorder
        self._namespaces = namespaces
        self._mirror = mirror
        self._client = client
        clients = Clients(storage, gateway.routes_of, partial(refusal, client), partial(objection, client))
        self._inquiries = Inquiries(clients, lambda key: self.queue.add(key))
        self.queue = Queue()
        self.reports = Reports(mirror, self._kinds.values(), self.queue.add)
        self._reconciler = Reconciler(
            self._kinds.values(), mirror, self.take_in, client, self._inquiries, self.reports, platform
        )
        self._reconciler.lose = self._lose
        if recorder is not None:
            self._reconciler.notice = recorder.notice
        self._reconciler.accounting.begin(self._kinds.values(), namespaces)
        self._lease = lease
        self._leading = False  # from the moment that this replica leads
        self._stopping = False
        now = time.monotonic()
        self._tried = now  # of the last listing's start
        self._listed: float | None = None  # end of the last full listing
        self._unlisted = ""  # its error
        self._refused: frozenset[str] = frozenset()  # paths that it may not list
        self._passed = now  # end of the last pass, or begin of the lead
        self._done: float | None = None  # end of the last pass that succeeded
        self._lag = 0.0
        self.watches = {
            resource.path(namespace): Watch(resource.kind, now) for resource in self.watched for namespace in namespaces
        }

    @property
    def watched(self) -> dict[Resource, str]:
        """Every type to watch, with the label selector for it: none for our kinds, ours for their children."""
        children = {child: CHILD_SELECTOR for kind in self._kinds.values() for child in kind.children}
        return children | {kind.resource: "" for kind in self._kinds.values()}

    @property
    def leads(self) -> bool:
        """True if this replica works on objects."""
        return self._leading and self._lease.held

    def reply(self, key: Key, report: Any) -> Manifest | None:
        """Return the reply to a pod's report."""
        return self._reconciler.reply(key, report)

    def vitals(self) -> Vitals:
        """Return the health of this replica now."""
        now = time.monotonic()

        def ago(moment: float | None) -> float | None:
            return None if moment is None else now - moment

        return Vitals(
            leading=self._lease.held,
            holder=self._lease.holder,
            lease_trouble=self._lease.trouble,
            lease_idle=self._lease.idle,
            depth=self.queue.depth if self._lease.held else 0,  # a standby's keys are the leader's work
            oldest=self.queue.age if self._lease.held else 0.0,
            passed=now - self._passed,
            done=ago(self._done),
            tried=now - self._tried,
            listed=ago(self._listed),
            unlisted=self._unlisted,
            refused=self._refused,
            watches=self.watches,
            now=now,
            lag=self._lag,
            tasks=len(asyncio.all_tasks()),
        )

    def states(self) -> dict[str, Iterable[str]]:
        """The states of all known objects, by kind."""
        return {name: self._mirror.states(kind.resource) for name, kind in self._kinds.items()}

    def tell(self, resource: Resource, manifest: Manifest, *, deleted: bool = False) -> None:
        """Take in one watch event. Never raises: a malformed object must not stop the watch of the good ones."""
        WATCH_EVENTS.labels(kind=resource.kind).inc()
        if not deleted:
            return self._learn(resource, manifest)
        try:
            self._lose(resource, manifest)
            if self._leading and resource.kind in self._kinds:
                kind = self._kinds[resource.kind]
                children = self._mirror.children(kind.key(manifest))
                self._reconciler.accounting.deleted(kind, manifest, children, datetime.now(UTC))
        except Exception:
            with about(Key.named(resource.kind, manifest)):
                log.exception("cannot take in the end of a %s", resource.kind)

    def _lose(self, resource: Resource, manifest: Manifest) -> None:
        """Take out an object that the server lacks, and record its end, of which an event may tell again."""
        self._mirror.drop(resource, manifest)
        self._ring(resource, manifest)
        self._record_end(resource, manifest)

    def _record_end(self, resource: Resource, manifest: Manifest) -> None:
        if self._recorder is not None and self._leading and resource.kind in self._kinds:
            self._recorder.notice(manifest, is_gone=True)

    def _learn(self, resource: Resource, manifest: Manifest) -> None:
        try:
            if resource.kind in self._kinds:
                kind = self._kinds[resource.kind]
                self._reconciler.accounting.notice(kind, manifest["metadata"]["namespace"])
            edited = self._mirror.is_edited(resource, manifest)
            if self._mirror.put(resource, manifest):
                self._ring(resource, manifest, edited=edited)
        except Exception:
            with about(Key.named(resource.kind, manifest)):
                log.exception("cannot take in a %s, it is left out", resource.kind)

    def take_in(self, resource: Resource, manifest: Manifest, writer: Key | None) -> None:
        """Take in the server's answer to a write of a pass; it concerns all keys except `writer`."""
        edited = self._mirror.is_edited(resource, manifest)
        if self._mirror.put(resource, manifest):
            self._ring(resource, manifest, but=writer, edited=edited)

    def _ring(self, resource: Resource, manifest: Manifest, but: Key | None = None, *, edited: bool = True) -> None:
        if not self._leading:
            return  # a standby has no work; when it begins to lead, it adds all keys
        for key in self._concerned(resource, manifest, edited=edited):
            if key != but:
                self.queue.add(key)

    def _concerned(self, resource: Resource, manifest: Manifest, *, edited: bool) -> Iterator[Key]:
        meta = manifest["metadata"]
        if resource.kind in self._kinds:
            yield Key(resource.kind, meta["namespace"], meta["name"])
        owner = owner_key(manifest)
        if owner is not None and owner.kind in self._kinds:
            yield owner
        for kind in self._kinds.values():
            if resource in kind.rung_by or (edited and resource in kind.rung_by_edits):
                topics = self._kinds[resource.kind].topics(manifest)
                for name in self._mirror.lookers(kind.resource, meta["namespace"], topics):
                    yield Key(kind.name, meta["namespace"], name)

    async def run(self) -> None:
        """List, lead, work; wait for the Lease again when it is lost. Never returns by itself."""
        background = [asyncio.create_task(self._relist_forever()), asyncio.create_task(self._measure())]
        try:
            while self._listed is None:
                await asyncio.sleep(0.1)
            while True:
                await self._lease.acquire()
                self._passed = time.monotonic()
                await self._lead()
        finally:
            await _end(background)
            self._inquiries.close()
            await self._lease.release()

    async def _lead(self) -> None:
        """Look at every object, and work until the Lease is lost; every worker has stopped before this returns."""
        self._leading = True
        self.reports.clear()  # of an earlier lead: the status knows newer ones by now
        self._inquiries.clear()
        for kind in self._kinds.values():
            for namespace, name in self._mirror.versions(kind.resource, None):
                self.queue.add(Key(kind.name, namespace, name))
        workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        if self._recorder is not None:
            self._recorder.begin()
            workers.append(asyncio.create_task(self._recorder.run()))
        try:
            await self._lease.keep()
            log.error("lease lost, waiting for it: another replica may go on")
        except asyncio.CancelledError:
            await self._let_passes_end()
            raise
        finally:
            self._leading = False
            await _end(workers)
            self.queue.clear()

    async def _let_passes_end(self) -> None:
        """Wait for the answers to running writes: the Lease is given back next, and another replica begins."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                while self.queue.working:
                    await asyncio.sleep(0.02)

    async def _relist(self) -> None:
        refused = []
        for resource, selector in self.watched.items():
            for namespace in self._namespaces:
                before = self._mirror.versions(resource, namespace)
                self._tried = time.monotonic()
                try:
                    listed = await self._take_in_all(resource, namespace, selector)
                except ApiError as error:
                    if error.code not in (403, 404):
                        raise
                    # One namespace that is gone, with its Role, must not stop the others.
                    log.warning("%s in %s cannot be listed: %s", resource.plural, namespace or "the cluster", error)
                    refused.append(resource.path(namespace))
                    continue
                for manifest in self._mirror.prune(resource, *listed, before):
                    self._ring(resource, manifest)
                    self._record_end(resource, manifest)
        self._mirror.forget_the_gone()
        self._refused = frozenset(refused)

    async def _take_in_all(self, resource: Resource, namespace: str | None, selector: str) -> tuple[set[str], int]:
        """Take in what a listing brings, page by page, and return the uids in it and the version that it is of."""
        uids, version = set(), 0
        async for page in self._client.list(resource, namespace, selector):
            version = int((page.get("metadata") or {}).get("resourceVersion") or 0)
            for manifest in page.get("items") or []:
                uids.add(str(manifest["metadata"]["uid"]))
                self._learn(resource, manifest)
        return uids, version

    async def _relist_forever(self) -> None:
        while True:
            first = self._listed is None
            try:
                await self._relist()
                self._listed, self._unlisted = time.monotonic(), ""
                pause = SECOND_LISTING_SECONDS if first else RELIST_SECONDS
            except ApiError as error:
                pause = UNLISTED_SECONDS if first else SECOND_LISTING_SECONDS
                self._unlisted = str(error)
                log.warning("the listing failed, tried again in %d s: %s", pause, error)
            except Exception as error:
                pause = SECOND_LISTING_SECONDS
                self._unlisted = repr(error)
                log.exception("the listing failed by a bug of the operator, tried again in %d s", pause)
            await asyncio.sleep(pause)

    async def _measure(self) -> None:
        """Feel how late the event loop is; a peak fades within half a minute."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(1.0)
            self._lag = max(time.monotonic() - before - 1.0, self._lag * 0.9)

    async def _work(self) -> None:
        while True:
            # A pass that finds all well waits for nothing, and neither does a key that is there: ten thousand of them
            # after a restart would let neither the Lease be renewed nor a probe be answered.
            await asyncio.sleep(0)
            key = await self.queue.get()
            if self._stopping or not self._lease.held:  # about to be lost, or late to be renewed
                self.queue.failed(key)
                continue
            try:
                with about(key):
                    await self._pass(key)
            except asyncio.CancelledError:
                self.queue.failed(key)  # otherwise it would count as running forever
                raise
            except Exception:  # _pass handles those of the pass; this one comes from the handling
                log.exception("%s: a bug of the operator", key)
                self.queue.failed(key)

    async def _pass(self, key: Key) -> None:
        started = time.monotonic()
        try:
            after, outcome = await self._reconciler.reconcile(key)
        except NotLeading as error:
            outcome = "fenced"
            self.queue.failed(key)
            log.warning("%s: the pass is broken off: %s", key, error)
        except ApiError as error:
            outcome = "refused"
            delay = max(self.queue.backoff(key), min(error.retry_after or 0.0, MAX_RETRY_AFTER))
            log.warning("%s: the API server refused, tried again in %.1f s: %s", key, delay, error)
            # The key is released only afterwards: otherwise this write could replace a newer status.
            if error.code in (400, 403, 422) or delay > LASTING_SECONDS:  # lasting, so it is shown
                await self._report_error(key, error.reason, error.message)
            self.queue.failed(key, delay)
        except Exception as error:
            outcome = "bug"
            log.exception("%s: a bug of the operator, tried again in %.1f s", key, self.queue.backoff(key))
            await self._report_error(
                key, "OperatorError", f"the operator failed on this object: {error!r}; see its log"
            )
            self.queue.failed(key)
        else:
            # A pass that only asks has not reached the point of the last failure, so its back-off stays.
            self.queue.done(key, after.total_seconds() if after is not None else None, well=outcome != ASKS)
            self._done = time.monotonic()
        self._passed = time.monotonic()
        RECONCILES.labels(kind=key.kind, outcome=OK if outcome == ASKS else outcome).inc()
        RECONCILE_SECONDS.labels(kind=key.kind).observe(time.monotonic() - started)

    async def _report_error(self, key: Key, reason: str, message: str) -> None:
        """Set the condition Reconciled of an object whose pass failed; a failure of that write is only logged."""
        manifest = self._mirror.get(key)
        if manifest is None:
            return
        status = manifest.get("status") or {}
        old = [c for c in status.get("conditions") or [] if c.get("type") != "Reconciled"]
        generation = int(manifest["metadata"].get("generation", 0))
        merged = merge(
            status.get("conditions") or [],
            [Condition("Reconciled", False, reason, message)],
            generation,
            datetime.now(UTC),
        )
        if merged[0] in (status.get("conditions") or []):
            return
        resource = self._kinds[key.kind].resource
        try:
            answer = await write_status(self._client, resource, manifest, {**status, "conditions": [*old, *merged]})
            self.take_in(resource, answer, key)
        except NotLeading:
            return  # the next leader repeats the pass, with the same result
        except ApiError as error:  # its namespace ends, say
            log.warning("%s: its status cannot be written: %s", key, error)
        except Exception:
            log.exception("%s: its status cannot be written", key)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel these tasks, and return when all have ended.

    Several times if needed: aiohttp takes a cancellation for its own if a request times out at that moment. Requests of
    a leader do so just when the Lease is lost.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)
