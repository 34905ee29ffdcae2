"""Delta xDS without the wire: what to send to Envoy next, and what Envoy has accepted.

The order matters. A cluster is sent first, then its addresses. The routes and the listener of an endpoint follow when
Envoy has accepted all of its clusters. Clusters are removed a while after the last route to them. Each endpoint has its
own messages, so that a refusal for one endpoint delays no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ultramarine_gateway.xds.resources import (
    ASSIGNMENT,
    CERTIFICATE,
    CLUSTER,
    LISTENER,
    ROUTES,
    EndpointConfig,
    Resource,
)

# Envoy asks for all clusters and listeners, and for the others by their names.
WILDCARDS = (CLUSTER, LISTENER)
KEEP_SECONDS = 10.0  # a cluster outlives its last route, since old connections may still have requests


@dataclass(frozen=True)
class Snapshot:
    """The state that Envoy must have: endpoints, and the addresses of clusters, by name.

    Unknown addresses are left out. Unless it is `complete`, more may come and nothing is removed. `readiness` is a
    listener that is sent last, and not while an endpoint is `pending`: without routes until its Secrets are read.
    """

    endpoints: Mapping[str, EndpointConfig]
    assignments: Mapping[str, Resource]
    complete: bool = True
    pending: bool = False
    readiness: Resource | None = None


@dataclass(frozen=True)
class DiscoveryRequest:
    """A request of Envoy: subscriptions, versions from an earlier stream, or its answer to a response."""

    type: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True)
class DiscoveryResponse:
    """A message to Envoy: new and changed resources, and the names of removed ones."""

    type: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass
class _Type:
    """Subscriptions and versions of the resources of one type, by name; `answered` after the first response."""

    answered: bool = False
    subscribed: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """Send the resource again when it is needed."""
        self.sent.pop(name, None)
        self.accepted.pop(name, None)


class Conversation:
    """One stream with one Envoy."""

    def __init__(self) -> None:
        self._types = {type: _Type() for type in (CLUSTER, ASSIGNMENT, CERTIFICATE, ROUTES, LISTENER)}
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}
        self._open: dict[str, DiscoveryResponse] = {}
        self._unused_since: dict[str, float] = {}
        self._count = 0
        self._begun: set[str] = set()

    def receive(self, request: DiscoveryRequest) -> None:
        """Process a request of Envoy."""
        state = self._types.get(request.type)
        if state is None:
            return
        self._begun.add(request.type)
        state.sent.update(request.versions)
        state.accepted.update(request.versions)
        for name in request.unsubscribe:
            state.subscribed.discard(name)
            state.forget(name)
        for name in request.subscribe:
            state.subscribed.add(name)
            if name not in request.versions:  # a repeated subscription: Envoy has lost the resource
                state.forget(name)
        answered = self._open.pop(request.nonce, None)
        if answered is not None:
            self._answered(state, answered, request.error)

    def _answered(self, state: _Type, response: DiscoveryResponse, error: str) -> None:
        for resource in response.resources:
            if not error:
                state.accepted[resource.name] = resource.version
                self._refused.pop((response.type, resource.name), None)
            else:
                self._refused[response.type, resource.name] = (resource.version, error)
                state.sent.pop(resource.name, None)
                if resource.name in state.accepted:
                    state.sent[resource.name] = state.accepted[resource.name]

    def responses(self, snapshot: Snapshot, now: float) -> list[DiscoveryResponse]:
        """Return the messages to send now; `now` is a clock that never goes back, in seconds."""
        responses: list[DiscoveryResponse] = []
        endpoints = [snapshot.endpoints[name] for name in sorted(snapshot.endpoints)]
        for endpoint in endpoints:
            for response in self._update(CLUSTER, endpoint.clusters):
                responses.append(response)
                for cluster in response.resources:
                    # A changed cluster waits for its addresses, even if they are the same. Envoy does not ask for
                    # them, and answers only when it has them, or 15 s later.
                    self._types[ASSIGNMENT].forget(cluster.name)
        clusters = self._types[CLUSTER]
        if snapshot.complete and CLUSTER in self._begun and not (clusters.sent or clusters.answered):
            # Without a first answer Envoy asks for listeners only 15 s later.
            responses.append(self._message(CLUSTER))
        responses += self._update(ASSIGNMENT, snapshot.assignments.values())
        for endpoint in endpoints:
            responses += self._update(CERTIFICATE, filter(None, [endpoint.certificate]))
            if self._reachable(endpoint):
                responses += self._update(ROUTES, [endpoint.configuration])
                responses += self._update(LISTENER, [endpoint.listener])
        settled = all(self.uses(endpoint) or self.refusal(endpoint) for endpoint in endpoints)
        settled = settled and not snapshot.pending and (snapshot.complete or bool(endpoints))
        if snapshot.readiness is not None and settled:
            responses += self._update(LISTENER, [snapshot.readiness])
        if snapshot.complete:
            kept = {*snapshot.endpoints, *([snapshot.readiness.name] if snapshot.readiness is not None else [])}
            responses += self._remove(LISTENER, set(self._types[LISTENER].sent) - kept)
            responses += self._remove(CLUSTER, self._unused(snapshot, now))
        return responses

    def uses(self, endpoint: EndpointConfig) -> bool:
        """True if Envoy uses exactly this configuration."""
        parts = (endpoint.configuration, endpoint.listener, *filter(None, [endpoint.certificate]))
        return self._reachable(endpoint) and all(self.has(resource) for resource in parts)

    def forgive(self, endpoint: EndpointConfig) -> None:
        """Forget the refusals of a configuration, so that it is sent again: its port may be free now."""
        for resource in endpoint.resources:
            self._refused.pop((resource.type, resource.name), None)

    def refusal(self, endpoint: EndpointConfig) -> str:
        """Return Envoy's message on a refused part of the configuration; empty if it has refused none."""
        for resource in endpoint.resources:
            version, why = self._refused.get((resource.type, resource.name), ("", ""))
            if version == resource.version:
                return why
        return ""

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that were sent to Envoy."""
        return frozenset(self._types[CLUSTER].sent)

    def _reachable(self, endpoint: EndpointConfig) -> bool:
        addresses = self._types[ASSIGNMENT].accepted
        has_clusters = all(self.has(cluster) for cluster in endpoint.clusters)
        return has_clusters and all(name in addresses for name in endpoint.pools)

    def has(self, resource: Resource) -> bool:
        """True if Envoy has accepted exactly this resource."""
        return self._types[resource.type].accepted.get(resource.name) == resource.version

    def _update(self, type: str, resources: Iterable[Resource]) -> Iterator[DiscoveryResponse]:
        state = self._types[type]
        if type not in self._begun:
            return
        changed = tuple(
            resource
            for resource in resources
            if (type in WILDCARDS or resource.name in state.subscribed)
            and state.sent.get(resource.name) != resource.version
            and self._refused.get((type, resource.name), ("", ""))[0] != resource.version
        )
        if changed:
            state.sent.update({resource.name: resource.version for resource in changed})
            yield self._message(type, changed)

    def _remove(self, type: str, names: set[str]) -> Iterator[DiscoveryResponse]:
        if names:
            for name in names:
                self._types[type].forget(name)
            yield self._message(type, removed=tuple(sorted(names)))

    def _unused(self, snapshot: Snapshot, now: float) -> set[str]:
        used = {cluster.name for endpoint in snapshot.endpoints.values() for cluster in endpoint.clusters}
        # The old routes of an endpoint lead to its old clusters until Envoy has accepted the new ones.
        settling = tuple(f"{name}/" for name, endpoint in snapshot.endpoints.items() if not self.uses(endpoint))
        unused = {name for name in self._types[CLUSTER].sent if name not in used and not name.startswith(settling)}
        self._unused_since = {name: self._unused_since.get(name, now) for name in unused}
        return {name for name, since in self._unused_since.items() if now - since >= KEEP_SECONDS}

    def _message(
        self, type: str, resources: tuple[Resource, ...] = (), removed: tuple[str, ...] = ()
    ) -> DiscoveryResponse:
        self._count += 1
        self._types[type].answered = True
        response = DiscoveryResponse(type, str(self._count), resources, removed)
        self._open[response.nonce] = response
        return response
