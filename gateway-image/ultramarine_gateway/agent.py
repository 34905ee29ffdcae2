"""The agent: follows the namespace, configures Envoy, and reports which version of each endpoint Envoy uses."""

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

from ultramarine_gateway.config.bootstrap import AGENT_SOCKET, KEY_SETS_SOCKET
from ultramarine_gateway.config.clusters import Address
from ultramarine_gateway.keysets import KeySets
from ultramarine_gateway.memory import Memory
from ultramarine_gateway.pods.agreement import Agreement
from ultramarine_gateway.pods.asking import Peer
from ultramarine_gateway.state import DesiredState, Namespace
from ultramarine_gateway.xds.conversation import Conversation
from ultramarine_gateway.xds.holding import HeldRequests
from ultramarine_gateway.xds.resources import EndpointConfig, cluster_name
from ultramarine_gateway.xds.stream import Stream
from ultramarine_gateway.xds.tokens import TokenUsage

_log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0  # until a refused configuration is sent again: its port may be free by then
ADDRESSES_SECONDS = 1.0  # between two writes of the addresses, which serve a start without an API server


class Agent:
    """One namespace, one Envoy."""

    def __init__(self, namespace: str, folder: Path, host: str, issuers: Iterable[str] = ()) -> None:
        self._folder, self._key_sets = folder, KeySets(issuers)
        self._memory = Memory(folder / "memory")
        self.reader = self._memory.reader()  # names this gateway pod to the servers whose answers it reads
        self._desired = DesiredState(namespace, host, self._memory.endpoints(), self.reader)
        self._addresses = self._memory.addresses()
        self._changed = asyncio.Event()
        self._dirty = True
        self._held = HeldRequests(self._has_addresses, self._cause)
        self.tokens = TokenUsage(self.routes)
        self._stream = Stream(lambda: self._desired.snapshot, self._changed.set, self._held, self.tokens)
        self.secrets_changed = asyncio.Event()  # set after each turn, which may need other Secrets
        self._in_use: dict[str, tuple[EndpointConfig, str]] = {}
        self._agreements: dict[tuple[str, str], Agreement] = {}
        self._ready: dict[str, int] = {}
        self._kept = 0.0
        self._conversation: object = None
        self.settled = False

    @property
    def connected(self) -> bool:
        """True if Envoy is connected."""
        return self._stream.conversation is not None

    def report(self) -> dict[str, RouteState]:
        """Return by endpoint the version that Envoy uses, and why it does not use newer routes."""
        report = dict(self._desired.problems)
        for name, (endpoint, _) in self._in_use.items():
            ready = {
                d.name: min(self._ready.get(cluster_name(name, d.name, protocol), 0) for protocol in d.protocols)
                for d in endpoint.routes.deployments
            }
            state, away, routes = report.get(name, RouteState()), tuple(sorted(endpoint.away)), endpoint.routes
            no_key_set = self._key_sets.failures.get(routes.auth.jwks_uri, "")
            report[name] = structs.replace(state, version=routes.version, ready=ready, away=away, no_key_set=no_key_set)
        return report

    def since(self, name: str) -> str:
        """Return when Envoy began to use the current routes of an endpoint (RFC 3339, UTC); empty without routes."""
        return self._in_use[name][1] if name in self._in_use else ""

    def routes(self, name: str) -> EndpointRoutes | None:
        """Return the routes of an endpoint that Envoy uses; None without routes."""
        return self._in_use[name][0].routes if name in self._in_use else None

    def waiting(self, name: str, deployment: str) -> int:
        """Return the number of requests that wait for the first pod of a deployment."""
        return sum(self._held.waiting[cluster_name(name, deployment, protocol)] for protocol in PROTOCOLS)

    def all_routes(self) -> list[EndpointRoutes]:
        """Return the routes that Envoy uses, of each endpoint."""
        return [endpoint.routes for endpoint, _ in self._in_use.values()]

    def agreement(self, name: str, deployment: str) -> Agreement:
        """Return the counts of compared answers of a deployment since the agent started, to which `compare` adds."""
        return self._agreements.setdefault((name, deployment), Agreement())

    def pods(self, cluster: str) -> tuple[Address, ...]:
        """Return the addresses of the pods of a cluster."""
        return self._desired.assigned[cluster][0] if cluster in self._desired.assigned else ()

    def peer(self, routes: EndpointRoutes, deployment: str) -> Peer | None:
        """Return the identity that the pods of a deployment must prove; None if they do not speak TLS."""
        tls = any(d.tls for d in routes.deployments if d.name == deployment)
        return Peer(self.seen.authority, server_name("server", routes.namespace)) if tls else None

    def credentials(self, routes: EndpointRoutes) -> list[dict[str, str]]:
        """Return headers of which one authenticates to the pods of an endpoint; empty if they check none."""
        return self._desired.credentials(routes)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation with the connected Envoy; None without Envoy."""
        return self._stream.conversation

    @property
    def seen(self) -> Namespace:
        """The observed namespace; callers that change it call `ring` afterwards."""
        return self._desired.seen

    def ring(self) -> None:
        """Start a turn, since the namespace has changed."""
        self._dirty = True
        self._changed.set()

    def needed_secrets(self) -> set[str]:
        """Return the names of the Secrets to which the endpoints refer."""
        return self._desired.needed_secrets()

    def _has_addresses(self, cluster: str) -> bool:
        conversation, addresses = self._stream.conversation, self._desired.addresses_of(cluster)
        return conversation is not None and addresses is not None and conversation.has(addresses)

    def _cause(self, cluster: str) -> str:
        """Return why a cluster gets no address, by the routes that Envoy uses; empty if it may get one."""
        name, deployment, _ = cluster.split("/")
        routes = self.routes(name)
        return next((d.cause for d in routes.deployments if d.name == deployment), "") if routes else ""

    async def run(self) -> None:
        """Configure Envoy until cancelled; after a bug the kubelet restarts the agent, and Envoy goes on meanwhile."""
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
                    await self._changed.wait()
            self._changed.clear()
            news = self._review()
            self._held.release()
            if news or self._dirty:
                self._dirty = False
                self._desired.decide(self._addresses)
                self.secrets_changed.set()
                self._stream.changed()
            self._keep()

    def _review(self) -> bool:
        """Record the configurations that Envoy accepted and refused; True if the desired state changes."""
        changed = False
        conversation = self._stream.conversation
        if conversation is not self._conversation:
            self._conversation, self._in_use, self._ready = conversation, {}, {}
        if conversation is None:
            return False
        snapshot = self._desired.snapshot
        for name, endpoint in snapshot.endpoints.items():
            if conversation.uses(endpoint):
                if self._in_use.get(name, (None, ""))[0] != endpoint:
                    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                    self._in_use[name] = (endpoint, now)
                    _log.info("endpoint %s uses version %s of its routes", name, endpoint.routes.version)
                if self._desired.accepted.get(name) != endpoint:
                    self._desired.accept(endpoint)
                    changed = True
                    self._memory.keep(endpoint)
            elif why := conversation.refusal(endpoint):
                _log.warning("endpoint %s: Envoy refuses version %s: %s", name, endpoint.routes.version, why)
                self._desired.refuse(endpoint, why, time.monotonic())
                changed = True
        for name, (endpoint, _, since) in list(self._desired.refused.items()):
            if time.monotonic() - since > RETRY_SECONDS:
                del self._desired.refused[name]
                conversation.forgive(endpoint)
                changed = True
        for cluster, (pods, assignment) in self._desired.assigned.items():
            if conversation.has(assignment):
                self._ready[cluster] = len(pods)
        self._in_use = {name: used for name, used in self._in_use.items() if name in snapshot.endpoints}
        if snapshot.complete:
            self.tokens.keep(snapshot.endpoints)
        if snapshot.complete and not snapshot.pending:
            self.settled |= len(self._in_use) == len(snapshot.endpoints)
        return changed

    def _keep(self) -> None:
        snapshot = self._desired.snapshot
        if snapshot.complete and time.monotonic() - self._kept >= ADDRESSES_SECONDS:
            if self._addresses != snapshot.assignments:
                self._addresses = dict(snapshot.assignments)
                self._memory.keep_addresses(self._addresses)
            self._memory.forget(self._memory.names() - set(self._desired.accepted))
            self._kept = time.monotonic()
