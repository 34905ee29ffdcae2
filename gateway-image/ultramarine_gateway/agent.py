"""The agent: follows the namespace, tells Envoy, and knows which version of each endpoint Envoy routes by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs
from ultramarine_contract.routes import PROTOCOLS, EndpointRoutes, RouteState
from ultramarine_contract.tls import server_name

from ultramarine_gateway.agreement import Compared
from ultramarine_gateway.asking import Peer
from ultramarine_gateway.bootstrap import AGENT_SOCKET, KEY_SETS_SOCKET
from ultramarine_gateway.conversation import Conversation
from ultramarine_gateway.keysets import KeySets
from ultramarine_gateway.memory import Memory
from ultramarine_gateway.rendering import Rendered, cluster_name
from ultramarine_gateway.slices import Address
from ultramarine_gateway.state import Desk, Namespace
from ultramarine_gateway.stream import Stream
from ultramarine_gateway.waiting import WaitingRoom

_log = logging.getLogger(__name__)

FORGIVEN_SECONDS = 30.0  # what Envoy refuses is tried again after so long: a port may be free by then
ADDRESSES_SECONDS = 1.0  # the addresses are kept for a start without an API server at most this often


class Agent:
    """One namespace, one Envoy."""

    def __init__(self, namespace: str, folder: Path, host: str, issuers: Iterable[str] = ()) -> None:
        self._folder, self._key_sets = folder, KeySets(issuers)
        self._memory = Memory(folder / "memory")
        self.word = self._memory.word()  # by which servers know that this gateway pod asks for answers
        self._desk = Desk(namespace, host, self._memory.endpoints(), self.word)
        self._addresses = self._memory.addresses()
        self._rung = asyncio.Event()
        self._dirty = True
        self._room = WaitingRoom(self._leads)
        self._stream = Stream(lambda: self._desk.wanted, self._rung.set, self._room)
        self.asked = asyncio.Event()  # set after each look, since that may ask for other Secrets
        self._in_use: dict[str, tuple[Rendered, str]] = {}
        self._compared: dict[tuple[str, str], Compared] = {}
        self._ready: dict[str, int] = {}
        self._kept = 0.0
        self._conversation: object = None
        self.settled = False

    @property
    def connected(self) -> bool:
        """Whether Envoy is there."""
        return self._stream.conversation is not None

    def report(self) -> dict[str, RouteState]:
        """By endpoint: what Envoy routes by now, and why not by what is newer."""
        told = dict(self._desk.problems)
        for name, (endpoint, _) in self._in_use.items():
            ready = {
                one.name: min(self._ready.get(cluster_name(name, one.name, protocol), 0) for protocol in one.protocols)
                for one in endpoint.routes.deployments
            }
            state, away, routes = told.get(name, RouteState()), tuple(sorted(endpoint.away)), endpoint.routes
            no_key_set = self._key_sets.failures.get(routes.auth.jwks_uri, "")
            told[name] = structs.replace(state, version=routes.version, ready=ready, away=away, no_key_set=no_key_set)
        return told

    def since(self, name: str) -> str:
        """When Envoy began to route an endpoint as it does now (RFC 3339, UTC); nothing where it does not."""
        return self._in_use[name][1] if name in self._in_use else ""

    def routes(self, name: str) -> EndpointRoutes | None:
        """What Envoy routes an endpoint by; nothing where it does not."""
        return self._in_use[name][0].routes if name in self._in_use else None

    def waiting(self, name: str, deployment: str) -> int:
        """How many requests wait for the first pod of a deployment."""
        return sum(self._room.waiting[cluster_name(name, deployment, protocol)] for protocol in PROTOCOLS)

    def all_routes(self) -> list[EndpointRoutes]:
        """What Envoy routes each endpoint by."""
        return [endpoint.routes for endpoint, _ in self._in_use.values()]

    def compared(self, name: str, deployment: str) -> Compared:
        """What was compared of a deployment's answers since the agent started; whoever compares adds to it."""
        return self._compared.setdefault((name, deployment), Compared())

    def pods(self, cluster: str) -> tuple[Address, ...]:
        """The addresses of the pods behind a cluster."""
        return self._desk.assigned[cluster][0] if cluster in self._desk.assigned else ()

    def peer(self, routes: EndpointRoutes, deployment: str) -> Peer | None:
        """What the pods of a deployment have to show; nothing where they speak no TLS."""
        tls = any(each.tls for each in routes.deployments if each.name == deployment)
        return Peer(self.seen.authority, server_name("server", routes.namespace)) if tls else None

    def credentials(self, routes: EndpointRoutes) -> list[dict[str, str]]:
        """Headers of which one opens the pods of an endpoint; none where they ask for none."""
        return self._desk.credentials(routes)

    @property
    def conversation(self) -> Conversation | None:
        """What was said with the Envoy that is connected."""
        return self._stream.conversation

    @property
    def seen(self) -> Namespace:
        """What there is in the namespace: whoever changes it rings afterwards."""
        return self._desk.seen

    def ring(self) -> None:
        """Something has changed."""
        self._dirty = True
        self._rung.set()

    def secrets_asked(self) -> set[str]:
        """The names of the Secrets that the endpoints refer to."""
        return self._desk.secrets_asked()

    def _leads(self, cluster: str) -> bool:
        conversation, addresses = self._stream.conversation, self._desk.leads(cluster)
        return conversation is not None and addresses is not None and conversation.has(addresses)

    async def run(self) -> None:
        """Tell Envoy until cancelled. A bug ends it, and the kubelet starts it anew; Envoy goes on meanwhile."""
        await self._key_sets.start(self._folder / KEY_SETS_SOCKET)
        await self._stream.start(self._folder / AGENT_SOCKET)
        self.ring()
        try:
            await self._turns()
        finally:
            await self._stream.stop()
            await self._key_sets.stop()

    async def _turns(self) -> None:
        while True:
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 may lose a cancellation.
                async with asyncio.timeout(ADDRESSES_SECONDS):
                    await self._rung.wait()
            self._rung.clear()
            news = self._judge()
            self._room.look()
            if news or self._dirty:
                self._dirty = False
                self._desk.decide(self._addresses)
                self.asked.set()
                self._stream.changed()
            self._keep()

    def _judge(self) -> bool:
        """Take note of what Envoy has taken and what it has refused; say whether other things are wanted for it."""
        changed = False
        conversation = self._stream.conversation
        if conversation is not self._conversation:
            self._conversation, self._in_use, self._ready = conversation, {}, {}
        if conversation is None:
            return False
        wanted = self._desk.wanted
        for name, endpoint in wanted.endpoints.items():
            if conversation.uses(endpoint):
                if self._in_use.get(name, (None, ""))[0] != endpoint:
                    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                    self._in_use[name] = (endpoint, now)
                    _log.info("endpoint %s is routed by version %s", name, endpoint.routes.version)
                if self._desk.accepted.get(name) != endpoint:
                    self._desk.accept(endpoint)
                    changed = True
                    self._memory.keep(endpoint)
            elif why := conversation.refusal(endpoint):
                _log.warning("endpoint %s: Envoy refuses version %s: %s", name, endpoint.routes.version, why)
                self._desk.refuse(endpoint, why, time.monotonic())
                changed = True
        for name, (endpoint, _, since) in list(self._desk.refused.items()):
            if time.monotonic() - since > FORGIVEN_SECONDS:
                del self._desk.refused[name]
                conversation.forgive(endpoint)
                changed = True
        for cluster, (found, one) in self._desk.assigned.items():
            if conversation.has(one):
                self._ready[cluster] = len(found)
        self._in_use = {name: used for name, used in self._in_use.items() if name in wanted.endpoints}
        self.settled |= wanted.whole and len(self._in_use) == len(wanted.endpoints)
        return changed

    def _keep(self) -> None:
        wanted = self._desk.wanted
        if wanted.whole and time.monotonic() - self._kept >= ADDRESSES_SECONDS:
            if self._addresses != wanted.assignments:
                self._addresses = dict(wanted.assignments)
                self._memory.keep_addresses(self._addresses)
            self._memory.forget(self._memory.names() - set(self._desk.accepted))
            self._kept = time.monotonic()
