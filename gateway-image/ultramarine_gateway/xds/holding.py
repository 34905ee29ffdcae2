"""Holding of requests for a deployment without a pod: Envoy asks for each, and the answer waits for a pod."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from ultramarine_gateway.xds.resources import ABSENCE_SECONDS, CLUSTER_ENTRY, SECONDS_ENTRY

MAX_HELD = 2_000  # requests at this gateway pod: each takes about 20 kB of the agent's memory
_OK, _UNAVAILABLE = 0, 14  # of gRPC


class HeldRequests:
    """Requests that wait, by their cluster."""

    def __init__(self, ready: Callable[[str], bool], cause: Callable[[str], str] = lambda _: "") -> None:
        """`ready` is True for clusters with addresses, and `cause` says why a cluster gets none; empty if it may."""
        self._ready, self._cause = ready, cause
        self._events: dict[str, asyncio.Event] = {}
        self.waiting: Counter[str] = Counter()

    def release(self) -> None:
        """Release the requests whose cluster has addresses now, or cannot get any."""
        for cluster in [name for name in self._events if self._ready(name) or self._cause(name)]:
            self._events.pop(cluster).set()

    async def wait(self, cluster: str, seconds: float) -> str:
        """Wait until the cluster has addresses; return the reason if the request must not go on."""
        if self._ready(cluster):
            return ""
        if self.waiting.total() >= MAX_HELD:
            return f"no pod of {_name(cluster)} is ready, and {MAX_HELD} requests wait already"
        self.waiting[cluster] += 1
        try:
            async with asyncio.timeout(seconds):
                await self._events.setdefault(cluster, asyncio.Event()).wait()
        except TimeoutError:
            return f"no pod of {_name(cluster)} was ready within {seconds:g} s"
        finally:
            self.waiting[cluster] -= 1
        cause = "" if self._ready(cluster) else self._cause(cluster)
        return f"no pod of {_name(cluster)} is ready: {cause}" if cause else ""


def _name(cluster: str) -> str:
    return cluster.rpartition("/")[0]


class HoldService(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """Envoy's external authorization, used to hold requests."""

    def __init__(self, held: HeldRequests) -> None:
        self._held = held

    async def Check(self, request: Any, context: Any) -> Any:
        entries = request.attributes.context_extensions
        cluster, seconds = entries[CLUSTER_ENTRY], float(entries[SECONDS_ENTRY])
        if not (why := await self._held.wait(cluster, seconds)):
            return external_auth_pb2.CheckResponse(status={"code": _OK})
        again = {"header": {"key": "retry-after", "value": str(ABSENCE_SECONDS)}}
        answer = {"status": {"code": 503}, "body": why, "headers": [again]}
        return external_auth_pb2.CheckResponse(status={"code": _UNAVAILABLE}, denied_response=answer)
