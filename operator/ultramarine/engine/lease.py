"""Leader election with a coordination.k8s.io Lease: one writer at a time, and a quick hand-over on a clean stop.

The client library's own election makes two requests for each renewal and never gives a Lease back, which would cost
every roll-out of the operator a full lease duration; hence this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from datetime import UTC, datetime

from ..kube.client import ApiError, Client
from ..shared.meta import LEASE, Manifest
from ..shared.metrics import LEADER

log = logging.getLogger(__name__)

DURATION = 15.0  # seconds for which a renewal holds
RENEW_EVERY = 5.0
MARGIN = 3.0  # the holder stops writing this long before others may start


class Lease:
    """Holds, or waits for, the Lease of the given name."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._renewed = -math.inf
        self._own: Manifest | None = None  # the Lease as our last write left it: renewing it needs no look before
        self._observed: tuple[str, float] = ("", 0.0)  # another holder's renewal, and when we first saw it

    @property
    def held(self) -> bool:
        """Whether this process may write now. True only well inside the time that the last renewal bought."""
        return time.monotonic() < self._renewed + DURATION - MARGIN

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self._attempt():
            await asyncio.sleep(2.0)
        LEADER.set(1)
        log.info("lease %s/%s acquired as %s", self._namespace, self._name, self._identity)

    async def keep(self) -> None:
        """Renew until it cannot be held any longer, then return: the caller must stop writing."""
        while self.held:
            with contextlib.suppress(TimeoutError):
                # An answer that comes later than we may write is no use.
                async with asyncio.timeout(self._renewed + DURATION - MARGIN - time.monotonic()):
                    await asyncio.sleep(RENEW_EVERY if await self._attempt() else 1.0)
        LEADER.set(0)

    async def release(self) -> None:
        """Give the Lease back, so that the next replica need not wait it out."""
        if not self.held:
            return
        self._renewed = -math.inf
        LEADER.set(0)
        try:
            if self._own is not None:
                await self._write(self._own, {**self._own["spec"], "holderIdentity": ""})
        except ApiError as error:
            log.warning("lease not given back, the next leader waits %d s: %s", DURATION, error)

    async def _attempt(self) -> bool:
        started = time.monotonic()  # counted from before the request: the server's clock starts later than ours
        try:
            taken = await self._renew() if self._own is not None else await self._take()
        except ApiError as error:
            self._own = None  # somebody wrote to it, or we do not know: look again before the next write
            if error.code != 409:
                log.warning("lease not renewed: %s", error)
            return False
        if taken:
            self._renewed = started
        return taken

    async def _renew(self) -> bool:
        assert self._own is not None
        await self._write(self._own, {**self._own["spec"], "renewTime": _now()})
        return True

    async def _take(self) -> bool:
        ours: Manifest = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": _now(),
            "renewTime": _now(),
        }
        try:
            current = await self._client.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if error.code != 404:
                raise
            meta = {"name": self._name, "namespace": self._namespace}
            fresh = {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": meta, "spec": ours}
            self._own = await self._client.create(LEASE, fresh)
            return True
        spec = current.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder and holder != self._identity:
            # Judged by our own clock since we first saw this renewal: clocks of two nodes may differ.
            renewal = f"{holder} {spec.get('renewTime')}"
            if self._observed[0] != renewal:
                self._observed = (renewal, time.monotonic())
            if time.monotonic() < self._observed[1] + float(spec.get("leaseDurationSeconds") or DURATION):
                return False
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        await self._write(current, {**ours, "leaseTransitions": changes})
        return True

    async def _write(self, current: Manifest, spec: Manifest) -> None:
        """Replace the Lease that was seen; one that somebody wrote to meanwhile is ApiError 409."""
        self._own = await self._client.update(LEASE, {**current, "spec": spec})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
