"""Where requests wait for the first pod of a deployment that has none: Envoy asks about each, and is kept waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from ultramarine_gateway.rendering import CLUSTER_SAID, SECONDS_SAID

MOST = 2_000  # that wait at this gateway pod: each takes some 20 kB of the agent's memory
_OK, _UNAVAILABLE = 0, 14  # of gRPC


class WaitingRoom:
    """Requests that wait, by the cluster that they go to."""

    def __init__(self, ready: Callable[[str], bool]) -> None:
        self._ready = ready
        self._doors: dict[str, asyncio.Event] = {}
        self.waiting: Counter[str] = Counter()

    def look(self) -> None:
        """Let those go whose cluster has addresses now."""
        for cluster in [name for name in self._doors if self._ready(name)]:
            self._doors.pop(cluster).set()

    async def wait(self, cluster: str, seconds: float) -> str:
        """Wait until the cluster has addresses; returned is why not, where the request must not go on."""
        if self._ready(cluster):
            return ""
        if self.waiting.total() >= MOST:
            return f"no pod of {_name(cluster)} is ready, and {MOST} requests wait already"
        self.waiting[cluster] += 1
        try:
            async with asyncio.timeout(seconds):
                await self._doors.setdefault(cluster, asyncio.Event()).wait()
        except TimeoutError:
            return f"no pod of {_name(cluster)} was ready within {seconds:g} s"
        finally:
            self.waiting[cluster] -= 1
        return ""


def _name(cluster: str) -> str:
    return cluster.rpartition("/")[0]


class Doorman(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """Envoy's protocol for asking whether a request may go on, put to this use."""

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room

    async def Check(self, request: Any, context: Any) -> Any:
        said = request.attributes.context_extensions
        cluster, seconds = said[CLUSTER_SAID], float(said[SECONDS_SAID])
        if not (why := await self._room.wait(cluster, seconds)):
            return external_auth_pb2.CheckResponse(status={"code": _OK})
        answer = {"status": {"code": 503}, "body": why}
        return external_auth_pb2.CheckResponse(status={"code": _UNAVAILABLE}, denied_response=answer)
