"""Evidence of a rollout step: requests that the gateway pods counted since its weights were confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ultramarine.resources.onlineendpoint_rollout import RolloutCounters
from ultramarine_contract.routes import DeploymentFigures, RouteState

from ....shared.statuses import cut

MAX_COUNT = 2**63  # above any counter; the API accepts more digits than a float has


@dataclass(frozen=True)
class Counts:
    """Counts of requests, errors (5xx), client errors (4xx), and requests within each latency bound.

    Counts may have fractions. `latency` is empty before the first time is known. `compared` are copies of others'
    requests, `agreed` copies with the same answer, and `unlike` copies that could not be compared. `absent` are errors
    because no pod existed.
    """

    requests: float = 0
    errors: float = 0
    latency: tuple[float, ...] = ()
    compared: float = 0
    agreed: float = 0
    unlike: float = 0
    client_errors: float = 0
    absent: float = 0

    @property
    def timed(self) -> float:
        """Number of requests with a time."""
        return self.latency[-1] if self.latency else 0

    def within(self, bound: int) -> float:
        """Return the number of requests within the bound of that index."""
        return self.latency[bound] if self.latency else 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        length = max(len(self.latency), len(other.latency))
        latency = tuple(self._at(index) + other._at(index) for index in range(length))
        sums = [count + more for count, more in zip(self._single, other._single, strict=True)]
        return Counts(sums[0], sums[1], latency, *sums[2:])

    def minus(self, other: Counts) -> Counts | None:
        """Return the counts since `other`; None if a counter has fallen."""
        length = max(len(self.latency), len(other.latency))
        latency = tuple(self._at(index) - other._at(index) for index in range(length))
        requests, errors, *copies = [count - less for count, less in zip(self._single, other._single, strict=True)]
        if min(requests, errors, *copies, *latency) < 0 or (self.latency and len(self.latency) != length):
            return None
        # An error may be counted a moment before its request.
        return Counts(requests, min(errors, requests), latency, *copies)

    def times(self, factor: float) -> Counts:
        """Return the counts after `factor` times as many requests at the same rates."""
        requests, errors, *copies = [count * factor for count in self._single]
        return Counts(requests, errors, tuple(n * factor for n in self.latency), *copies)

    @property
    def present(self) -> Counts:
        """The counts without requests that met no pod, which say nothing about a model."""
        missed = min(self.absent, self.errors)
        requests = self.requests - missed
        return replace(
            self,
            requests=requests,
            errors=self.errors - missed,
            client_errors=min(self.client_errors, requests),
            absent=0,
        )

    def with_copies_of(self, other: Counts) -> Counts:
        """Return the counts with the copies of `other`."""
        return replace(self, compared=other.compared, agreed=other.agreed, unlike=other.unlike)

    @property
    def _single(self) -> tuple[float, ...]:
        copies = (self.compared, self.agreed, self.unlike)
        return (self.requests, self.errors, *copies, self.client_errors, self.absent)

    def _at(self, index: int) -> float:
        return self.latency[index] if index < len(self.latency) else 0

    @classmethod
    def of(cls, figures: DeploymentFigures) -> Counts:
        """Read the figures of a gateway pod."""
        copies = (figures.compared, figures.agreed, figures.unlike)
        rest = (*copies, figures.client_errors or 0, figures.absent)
        return cls(figures.requests, figures.errors, tuple(count for _, count in figures.latency), *rest)

    @classmethod
    def read(cls, counters: RolloutCounters) -> Counts:
        """Read the counters in a status, which any writer may have edited."""
        texts = counters.latency.split()
        numbers = [min(int(text), MAX_COUNT) for text in texts if text.isascii() and text.isdigit()]
        copies = (counters.compared, counters.agreed, counters.unlike)
        rest = (*copies, counters.client_errors or 0, counters.absent)
        return cls(counters.requests, counters.errors, tuple(numbers), *rest)

    def written(self, pod: str = "", deployment: str = "") -> RolloutCounters:
        """Return the counters for the status, in whole numbers."""
        latency = " ".join(str(int(count)) for count in self.latency)
        requests, errors, compared, agreed, unlike, client_errors, absent = (int(count) for count in self._single)
        return RolloutCounters(
            **cut(RolloutCounters, pod=pod, deployment=deployment, latency=latency),
            requests=requests,
            errors=errors,
            compared=compared,
            agreed=agreed,
            unlike=unlike,
            client_errors=client_errors,
            absent=absent,
        )


@dataclass(frozen=True)
class Evidence:
    """Counts of both sides since the base; `bounds` are those of the latencies, in milliseconds.

    `base` are the subtracted counters, for the next pass. `ended` means that the champion gets no more requests.
    """

    candidate: Counts
    champion: Counts
    bounds: tuple[float, ...]
    base: tuple[RolloutCounters, ...]
    ended: bool = False


def evidence_since(
    candidate: str, champions: Iterable[str], proxies: tuple[RouteState, ...], base: Iterable[RolloutCounters]
) -> Evidence | None:
    """Subtract `base` from the figures of the gateway pods; None if one of them has no figures.

    A gateway pod that is not in the base counts from now on, and so does one whose counters fell with a restart of
    Envoy. The evidence of a gateway pod goes with it. Requests that met no pod do not count.
    """
    if not proxies or any(proxy.figures is None or not proxy.pod for proxy in proxies):
        return None
    names = [candidate, *champions]
    reported = {
        (proxy.pod, name): proxy.figures[name]
        for proxy in proxies
        for name in names
        if proxy.figures and name in proxy.figures
    }
    if any(figures.client_errors is None for figures in reported.values()):  # from an older release of the gateway
        return None
    bounds = {tuple(bound for bound, _ in figures.latency) for figures in reported.values() if figures.latency}
    if len(bounds) > 1:  # two releases of the gateway during an upgrade
        return None
    former = {(counters.pod, counters.deployment): counters for counters in base}
    since = dict.fromkeys(names, Counts())
    subtracted: list[RolloutCounters] = []
    for (pod, name), figures in sorted(reported.items(), key=lambda item: item[0]):
        now, before = Counts.of(figures), former.get((pod, name))
        # A base without 4xx comes from an older release of the operator.
        grown = now.minus(Counts.read(before)) if before and before.client_errors is not None else None
        subtracted.append(before if before and grown else now.written(pod, name))
        since[name] = since[name].plus(grown.present if grown else Counts())
    champion = Counts()
    for name in names[1:]:
        champion = champion.plus(since[name])
    return Evidence(since[candidate], champion, next(iter(bounds), ()), tuple(subtracted))
