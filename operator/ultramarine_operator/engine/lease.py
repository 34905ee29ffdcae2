"""Leader election with a coordination.k8s.io Lease: one writer at a time, and a quick hand-over on a clean stop.

The client library's own election makes two requests for each renewal and never gives a Lease back, which would cost
every roll-out of the operator a full lease duration; hence this one.

Nobody is trusted to leave the Lease alone. Whoever finds it gone, emptied or in a stranger's name waits out what the
last leader may still believe to have; a leader that sees another name in it stops at once. A new replica that finds no
Lease at all cannot know whether somebody had one until just now; the chart therefore makes it, empty.
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
MARGIN = 3.0  # the holder stops writing this long before others may start
LONGEST = 30.0  # seconds for which another's renewal is believed at most, whatever it says; DURATION is the least
ANNOTATION_HELD = f"{GROUP}/held"  # on a Lease that some replica has held
GIVEN_BACK = 1  # leaseDurationSeconds of a Lease that its holder gave back; one that somebody emptied keeps another


def _clock() -> float:
    """Seconds that also pass while the machine sleeps, which must not stretch a Lease."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Holds, or waits for, the Lease of the given name."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._renewed = -math.inf
        self._own: Manifest | None = None  # the Lease as our last write left it: renewing it needs no look before
        self._observed = ""  # another holder's renewal
        self._believed = -math.inf  # until when that renewal holds, judged by our own clock since we first saw it
        self.holder = ""  # as last seen
        self.trouble = ""  # why the last attempt to look, take or renew failed; empty when it did not
        self._attempted: float | None = None

    def time_left(self) -> float:
        """For how many seconds this process may write; negative when it may not.

        It ends well inside the time that the last renewal bought.
        """
        return self._renewed + DURATION - MARGIN - _clock()

    @property
    def held(self) -> bool:
        """Whether this process may write now."""
        return self.time_left() > 0

    @property
    def idle(self) -> float:
        """Seconds since the Lease was last asked for or renewed, with or without success."""
        return 0.0 if self._attempted is None else _clock() - self._attempted

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self._attempt():
            await asyncio.sleep(2.0)
        LEASE_TRANSITIONS.labels(to="leader").inc()
        log.info("lease %s/%s acquired as %s", self._namespace, self._name, self._identity)

    async def keep(self) -> None:
        """Renew until it cannot be held any longer, then return: the caller must stop writing."""
        while self.held:
            try:
                # An answer that comes later than we may write is no use.
                async with asyncio.timeout(self.time_left()):
                    await asyncio.sleep(RENEW_EVERY if await self._attempt() else 1.0)
            except TimeoutError:
                self.trouble = "the Kubernetes API did not answer in time"
        LEASE_TRANSITIONS.labels(to="standby").inc()

    async def release(self) -> None:
        """Give the Lease back, so that the next replica need not wait it out."""
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
        started = self._attempted = _clock()  # from before the request: the server's clock starts later than ours
        try:
            taken = await self._renew() or await self._take()
        except ApiError as error:
            self._own = None  # we do not know how it is now: look again before the next write
            if error.code == 409:  # somebody else was quicker
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
        """Renew the Lease as we left it; False where somebody touched it since."""
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
        # As the chart makes it: one that was held and emptied since is marked, and a holder that was seen waited out.
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
        """Whether somebody else may still be writing under the Lease as it was seen."""
        if self.holder not in ("", self._identity):
            if self.held:
                log.error("lease taken by %s while it was ours, no more writes", self.holder)
                self._renewed = -math.inf
        elif self.held or self.holder == self._identity:
            return False  # ours, whoever wiped our name; or that of this pod before its container was restarted
        elif gone:
            if self._believed == -math.inf:  # our first look, and perhaps just after it was deleted under a leader
                self._believed = _clock() + DURATION
            return _clock() < self._believed
        elif spec.get("leaseDurationSeconds") == GIVEN_BACK:
            return False
        renewal = f"{self.holder} {spec.get('renewTime')}"
        if self._observed != renewal:
            self._observed = renewal
            said = float(spec.get("leaseDurationSeconds") or DURATION)
            self._believed = _clock() + min(max(said, DURATION), LONGEST)
        return _clock() < self._believed

    async def _write(self, current: Manifest, spec: Manifest) -> None:
        """Replace the Lease that was seen; one that somebody wrote to meanwhile is ApiError 409."""
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
