"""Leader election with a coordination.k8s.io Lease: one writer at a time, and a quick hand-over on a clean stop.

The client library's election makes two requests for each renewal and never gives a Lease back. Every roll-out of the
operator would then cost a full lease duration.

Other clients may write to the Lease. A replica that finds it deleted, emptied or under another name waits until the
last leader can no longer believe to hold it. A leader that sees another name in it stops at once. A new replica without
any Lease cannot know if one existed until now, so the chart makes an empty one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import UTC, datetime

from ultramarine_contract.meta import GROUP, LEASE, Manifest

from ..kube.client import ApiError, Client
from ..shared.metrics import LEASE_TRANSITIONS

log = logging.getLogger(__name__)

DURATION = 15.0  # seconds for which a renewal holds
RENEW_EVERY = 5.0
MARGIN = 3.0  # seconds between the end of the holder's writes and the start of others'
MAX_BELIEVED = 30.0  # seconds for which another's renewal counts at most; DURATION is the minimum
ANNOTATION_HELD = f"{GROUP}/held"  # on a Lease that some replica has held
GIVEN_BACK = 1  # leaseDurationSeconds of a Lease that its holder gave back, unlike an emptied one


def _clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, which must not stretch a Lease."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The Lease of a name, held or waited for."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._renewed = -math.inf
        self._own: Manifest | None = None  # the Lease after the last write: a renewal needs no read
        self._observed = ""  # another holder's renewal
        self._believed = -math.inf  # end of that renewal, on the clock of this process
        self.holder = ""  # as last seen
        self.trouble = ""  # error of the last attempt; empty after a success
        self._attempted: float | None = None

    def time_left(self) -> float:
        """Return the seconds for which this process may write; negative if it may not.

        They end MARGIN before the last renewal does.
        """
        return self._renewed + DURATION - MARGIN - _clock()

    @property
    def held(self) -> bool:
        """True if this process may write now."""
        return self.time_left() > 0

    @property
    def idle(self) -> float:
        """Seconds since the Lease was last asked for or renewed, with or without success."""
        return 0.0 if self._attempted is None else _clock() - self._attempted

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        while not await self._attempt():
            await asyncio.sleep(2.0)
        LEASE_TRANSITIONS.labels(to="leader").inc()
        log.info("lease %s/%s acquired as %s", self._namespace, self._name, self._identity)

    async def keep(self) -> None:
        """Renew until the Lease is lost, then return: the caller must stop writing."""
        while self.held:
            try:
                # An answer after the end of the Lease is useless.
                async with asyncio.timeout(self.time_left()):
                    await asyncio.sleep(RENEW_EVERY if await self._attempt() else 1.0)
            except TimeoutError:
                self.trouble = "the Kubernetes API did not answer in time"
        LEASE_TRANSITIONS.labels(to="standby").inc()

    async def release(self) -> None:
        """Give the Lease back, so that the next replica does not wait for its end."""
        if not self.held:
            return
        self._renewed = -math.inf
        LEASE_TRANSITIONS.labels(to="standby").inc()
        try:
            if self._own is not None:
                gone = {"holderIdentity": "", "leaseDurationSeconds": GIVEN_BACK}
                await self._write(self._own, {**self._own["spec"], **gone})
        except ApiError as error:
            log.warning("lease not given back, the next leader waits %d s: %s", DURATION, error)

    async def _attempt(self) -> bool:
        started = self._attempted = _clock()  # before the request: the server counts from a later moment
        try:
            taken = await self._renew() or await self._take()
        except ApiError as error:
            self._own = None  # unknown now: read it before the next write
            if error.code == 409:  # another replica was quicker
                return False
            if str(error) != self.trouble:  # once, not at every attempt
                log.warning("lease %s/%s not renewed: %s", self._namespace, self._name, error)
            self.trouble = str(error)
            return False
        if self.trouble:
            log.info("lease %s/%s can be renewed again", self._namespace, self._name)
        self.trouble = ""
        if taken:
            self._renewed = started
        return taken

    async def _renew(self) -> bool:
        """Renew the Lease of the last write; False if another client has changed it since."""
        if self._own is None:
            return False
        try:
            await self._write(self._own, {**self._own["spec"], "renewTime": _now()})
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            self._own = None
            return False
        return True

    async def _take(self) -> bool:
        try:
            current = await self._client.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if error.code != 404:
                raise
            current = None
        spec: Manifest = (current or {}).get("spec") or {}
        self.holder = str(spec.get("holderIdentity") or "")
        # A Lease that was held and then emptied has a mark; the chart's new one has none.
        unused = current is not None and not spec and not self._observed and not _was_held(current)
        if not unused and self._must_wait(current is None, spec):
            return False
        changes = int(spec.get("leaseTransitions") or 0) + (current is not None and self.holder != self._identity)
        ours: Manifest = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": changes,
        }
        if current is not None:
            await self._write(current, ours)
        else:
            meta = {"name": self._name, "namespace": self._namespace}
            fresh = {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": meta, "spec": ours}
            self._own = await self._client.create(LEASE, fresh)
            self.holder = self._identity
        return True

    def _must_wait(self, gone: bool, spec: Manifest) -> bool:
        """Return True if another replica may still write under the Lease that was read."""
        if self.holder not in ("", self._identity):
            if self.held:
                log.error("lease taken by %s while this replica held it; writes stop", self.holder)
                self._renewed = -math.inf
        elif self.held or self.holder == self._identity:
            return False  # held, though the name was removed; or held by this pod before its container was restarted
        elif gone:
            if self._believed == -math.inf:  # first read, perhaps just after a leader's Lease was deleted
                self._believed = _clock() + DURATION
            return _clock() < self._believed
        elif spec.get("leaseDurationSeconds") == GIVEN_BACK:
            return False
        renewal = f"{self.holder} {spec.get('renewTime')}"
        if self._observed != renewal:
            self._observed = renewal
            seconds = float(spec.get("leaseDurationSeconds") or DURATION)
            self._believed = _clock() + min(max(seconds, DURATION), MAX_BELIEVED)
        return _clock() < self._believed

    async def _write(self, current: Manifest, spec: Manifest) -> None:
        """Replace the Lease that was read; ApiError 409 if another client has written to it since."""
        meta = current["metadata"]
        annotations = {**(meta.get("annotations") or {}), ANNOTATION_HELD: "true"}
        self._own = await self._client.update(
            LEASE, {**current, "metadata": {**meta, "annotations": annotations}, "spec": spec}
        )
        self.holder = str(spec["holderIdentity"])


def _was_held(lease: Manifest) -> bool:
    return ANNOTATION_HELD in (lease["metadata"].get("annotations") or {})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
