"""What to tell Envoy next, and what it has taken of that: its delta xDS protocol without the wire. No I/O here.

Order is what this is about. A cluster is told first, then its addresses; routes and the listener of an endpoint are
told when Envoy has taken all of its clusters, and clusters go a while after the last route to them. Each endpoint's
news go apart, so that what Envoy refuses of one endpoint holds up no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ultramarine_gateway.rendering import ASSIGNMENT, CERTIFICATE, CLUSTER, LISTENER, ROUTES, Rendered, Resource

# Envoy asks for all clusters and listeners, and for the others by their names.
WILDCARDS = (CLUSTER, LISTENER)
KEEP_SECONDS = 10.0  # a cluster outlives its last route, since requests on old connections may still find their way


@dataclass(frozen=True)
class Wanted:
    """What Envoy shall have: the endpoints, and the addresses of clusters, by name.

    Addresses that are not known yet are left out. While `whole` is false more may come, and nothing is taken away.
    `readiness` is a listener that says that all of this is there.
    """

    endpoints: Mapping[str, Rendered]
    assignments: Mapping[str, Resource]
    whole: bool = True
    readiness: Resource | None = None


@dataclass(frozen=True)
class Heard:
    """What Envoy says: names that it wants or no longer wants, what it has from before, or its answer to a `Told`."""

    type: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True)
class Told:
    """One message to Envoy: resources that are new or changed, names of those that are gone."""

    type: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass
class _Type:
    """What was said of the resources of one type: versions by name."""

    asked: set[str] = field(default_factory=set)
    told: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)


class Conversation:
    """One stream with one Envoy, from its first word on."""

    def __init__(self) -> None:
        self._types = {type: _Type() for type in (CLUSTER, ASSIGNMENT, CERTIFICATE, ROUTES, LISTENER)}
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}
        self._open: dict[str, Told] = {}
        self._unused_since: dict[str, float] = {}
        self._count = 0
        self._begun: set[str] = set()

    def hear(self, heard: Heard) -> None:
        """Take in one word of Envoy."""
        known = self._types.get(heard.type)
        if known is None:
            return
        self._begun.add(heard.type)
        known.told.update(heard.versions)
        known.taken.update(heard.versions)
        for name in heard.unsubscribe:
            known.asked.discard(name)
            known.told.pop(name, None)
            known.taken.pop(name, None)
        for name in heard.subscribe:
            known.asked.add(name)
            if name not in heard.versions:  # asked again: it has lost what it had
                known.told.pop(name, None)
                known.taken.pop(name, None)
        answered = self._open.pop(heard.nonce, None)
        if answered is not None:
            self._answered(known, answered, heard.error)

    def _answered(self, known: _Type, told: Told, error: str) -> None:
        for one in told.resources:
            if not error:
                known.taken[one.name] = one.version
                self._refused.pop((told.type, one.name), None)
            else:
                self._refused[told.type, one.name] = (one.version, error)
                known.told.pop(one.name, None)
                if one.name in known.taken:
                    known.told[one.name] = known.taken[one.name]

    def say(self, wanted: Wanted, now: float) -> list[Told]:
        """What to tell Envoy now; `now` is a clock that never goes back, in seconds."""
        said: list[Told] = []
        endpoints = [wanted.endpoints[name] for name in sorted(wanted.endpoints)]
        for endpoint in endpoints:
            for told in self._tell(CLUSTER, endpoint.clusters):
                said.append(told)
                for cluster in told.resources:
                    # A changed cluster waits for its addresses, even if they are the same. Envoy does not ask for
                    # them, and answers only when it has them, or 15 s later.
                    self._types[ASSIGNMENT].told.pop(cluster.name, None)
                    self._types[ASSIGNMENT].taken.pop(cluster.name, None)
        said += self._tell(ASSIGNMENT, wanted.assignments.values())
        for endpoint in endpoints:
            said += self._tell(CERTIFICATE, filter(None, [endpoint.certificate]))
            if self._reachable(endpoint):
                said += self._tell(ROUTES, [endpoint.configuration])
                said += self._tell(LISTENER, [endpoint.listener])
        settled = all(self.uses(endpoint) or self.refusal(endpoint) for endpoint in endpoints)
        if wanted.readiness is not None and settled and (wanted.whole or endpoints):
            said += self._tell(LISTENER, [wanted.readiness])
        if wanted.whole:
            kept = {*wanted.endpoints, *([wanted.readiness.name] if wanted.readiness is not None else [])}
            said += self._forget(LISTENER, set(self._types[LISTENER].told) - kept)
            said += self._forget(CLUSTER, self._unused(wanted, now))
        return said

    def uses(self, endpoint: Rendered) -> bool:
        """Whether Envoy routes by exactly this."""
        parts = (endpoint.configuration, endpoint.listener, *filter(None, [endpoint.certificate]))
        return self._reachable(endpoint) and all(self.has(one) for one in parts)

    def forgive(self, endpoint: Rendered) -> None:
        """Tell Envoy once more what it has refused of this: a port that was taken may be free now."""
        for one in endpoint.resources:
            self._refused.pop((one.type, one.name), None)

    def refusal(self, endpoint: Rendered) -> str:
        """Why Envoy does not take a part of this, in its own words; nothing if it has not refused any."""
        for one in endpoint.resources:
            version, why = self._refused.get((one.type, one.name), ("", ""))
            if version == one.version:
                return why
        return ""

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that Envoy was told of."""
        return frozenset(self._types[CLUSTER].told)

    def _reachable(self, endpoint: Rendered) -> bool:
        addresses = self._types[ASSIGNMENT].taken
        return all(self.has(one) for one in endpoint.clusters) and all(name in addresses for name in endpoint.pools)

    def has(self, one: Resource) -> bool:
        """Whether Envoy has taken exactly this."""
        return self._types[one.type].taken.get(one.name) == one.version

    def _tell(self, type: str, resources: Iterable[Resource]) -> Iterator[Told]:
        known = self._types[type]
        if type not in self._begun:
            return
        news = tuple(
            one
            for one in resources
            if (type in WILDCARDS or one.name in known.asked)
            and known.told.get(one.name) != one.version
            and self._refused.get((type, one.name), ("", ""))[0] != one.version
        )
        if news:
            known.told.update({one.name: one.version for one in news})
            yield self._message(type, news)

    def _forget(self, type: str, names: set[str]) -> Iterator[Told]:
        known = self._types[type]
        if names:
            for name in names:
                known.told.pop(name, None)
                known.taken.pop(name, None)
            yield self._message(type, removed=tuple(sorted(names)))

    def _unused(self, wanted: Wanted, now: float) -> set[str]:
        used = {one.name for endpoint in wanted.endpoints.values() for one in endpoint.clusters}
        # The old routes of an endpoint lead to its old clusters until Envoy has taken the new ones.
        settling = tuple(f"{name}/" for name, endpoint in wanted.endpoints.items() if not self.uses(endpoint))
        unused = {name for name in self._types[CLUSTER].told if name not in used and not name.startswith(settling)}
        self._unused_since = {name: self._unused_since.get(name, now) for name in unused}
        return {name for name, since in self._unused_since.items() if now - since >= KEEP_SECONDS}

    def _message(self, type: str, resources: tuple[Resource, ...] = (), removed: tuple[str, ...] = ()) -> Told:
        self._count += 1
        told = Told(type, str(self._count), resources, removed)
        self._open[told.nonce] = told
        return told
