"""What the gateway pods have counted of candidate and champions since a step of a rollout was confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ultramarine.resources.onlineendpoint_rollout import RolloutCounters
from ultramarine_contract.routes import DeploymentFigures, RouteState

LARGEST = 2**63  # more than any counter; the API takes more digits than a float has


@dataclass(frozen=True)
class Counts:
    """Requests, those that ended with 5xx or 4xx, and how many took no longer than each bound; may have fractions.

    Where nothing has a time yet, `latency` is empty. `compared` are copies of others' requests, `agreed` those of them
    that were answered alike, and `unlike` those of which nothing could be compared. `absent` are the errors that no pod
    has made, because there was none.
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
        """How many requests have a time."""
        return self.latency[-1] if self.latency else 0

    def within(self, bound: int) -> float:
        """How many took no longer than the bound with that index."""
        return self.latency[bound] if self.latency else 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        length = max(len(self.latency), len(other.latency))
        latency = tuple(self._at(index) + other._at(index) for index in range(length))
        sums = [one + more for one, more in zip(self._single, other._single, strict=True)]
        return Counts(sums[0], sums[1], latency, *sums[2:])

    def minus(self, other: Counts) -> Counts | None:
        """What came after `other`; None where counters have fallen."""
        length = max(len(self.latency), len(other.latency))
        latency = tuple(self._at(index) - other._at(index) for index in range(length))
        requests, errors, *copies = [one - less for one, less in zip(self._single, other._single, strict=True)]
        if min(requests, errors, *copies, *latency) < 0 or (self.latency and len(self.latency) != length):
            return None
        # An error may be counted as one a moment before its request is counted as done.
        return Counts(requests, min(errors, requests), latency, *copies)

    def times(self, factor: float) -> Counts:
        """What would be counted at the same rates after `factor` times as many requests."""
        requests, errors, *copies = [one * factor for one in self._single]
        return Counts(requests, errors, tuple(n * factor for n in self.latency), *copies)

    @property
    def present(self) -> Counts:
        """The same without the requests that met no pod: they say nothing of a model."""
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
        """The same, with what `other` has counted of copies."""
        return replace(self, compared=other.compared, agreed=other.agreed, unlike=other.unlike)

    @property
    def _single(self) -> tuple[float, ...]:
        copies = (self.compared, self.agreed, self.unlike)
        return (self.requests, self.errors, *copies, self.client_errors, self.absent)

    def _at(self, index: int) -> float:
        return self.latency[index] if index < len(self.latency) else 0

    @classmethod
    def of(cls, figures: DeploymentFigures) -> Counts:
        """What a gateway pod says."""
        copies = (figures.compared, figures.agreed, figures.unlike)
        rest = (*copies, figures.client_errors or 0, figures.absent)
        return cls(figures.requests, figures.errors, tuple(count for _, count in figures.latency), *rest)

    @classmethod
    def read(cls, counters: RolloutCounters) -> Counts:
        """What a status says; somebody may have written anything into it."""
        words = counters.latency.split()
        numbers = [min(int(word), LARGEST) for word in words if word.isascii() and word.isdigit()]
        copies = (counters.compared, counters.agreed, counters.unlike)
        rest = (*copies, counters.client_errors or 0, counters.absent)
        return cls(counters.requests, counters.errors, tuple(numbers), *rest)

    def written(self, pod: str = "", deployment: str = "") -> RolloutCounters:
        """As the status has them: whole numbers."""
        latency = " ".join(str(int(count)) for count in self.latency)
        requests, errors, compared, agreed, unlike, client_errors, absent = (int(count) for count in self._single)
        return RolloutCounters(
            pod=pod,
            deployment=deployment,
            requests=requests,
            errors=errors,
            latency=latency,
            compared=compared,
            agreed=agreed,
            unlike=unlike,
            client_errors=client_errors,
            absent=absent,
        )


@dataclass(frozen=True)
class Evidence:
    """What was counted of both since the base; `bounds` are those of the latencies, in milliseconds.

    `base` holds the counters that are subtracted, for the next look. `ended` says that the champion gets no more.
    """

    candidate: Counts
    champion: Counts
    bounds: tuple[float, ...]
    base: tuple[RolloutCounters, ...]
    ended: bool = False


def counted(
    candidate: str, champions: Iterable[str], proxies: tuple[RouteState, ...], base: Iterable[RolloutCounters]
) -> Evidence | None:
    """Subtract `base` from what the gateway pods say now; None where one of them tells no figures.

    What is not in the base counts from now on: a gateway pod that is new, or back after it was away, and one whose
    counters fell because its Envoy was restarted. A pod that went takes its evidence along. Requests that met no pod
    are no evidence.
    """
    if not proxies or any(proxy.figures is None or not proxy.pod for proxy in proxies):
        return None
    names = [candidate, *champions]
    told = {
        (proxy.pod, name): proxy.figures[name]
        for proxy in proxies
        for name in names
        if proxy.figures and name in proxy.figures
    }
    if any(figures.client_errors is None for figures in told.values()):  # an older release of the gateway
        return None
    bounds = {tuple(bound for bound, _ in figures.latency) for figures in told.values() if figures.latency}
    if len(bounds) > 1:  # two releases of the gateway at once, for a moment
        return None
    known = {(counters.pod, counters.deployment): counters for counters in base}
    since = dict.fromkeys(names, Counts())
    subtracted: list[RolloutCounters] = []
    for (pod, name), figures in sorted(told.items(), key=lambda item: item[0]):
        now, before = Counts.of(figures), known.get((pod, name))
        # A base without 4xx is of an older release of the operator.
        grown = now.minus(Counts.read(before)) if before and before.client_errors is not None else None
        subtracted.append(before if before and grown else now.written(pod, name))
        since[name] = since[name].plus(grown.present if grown else Counts())
    champion = Counts()
    for name in names[1:]:
        champion = champion.plus(since[name])
    return Evidence(since[candidate], champion, next(iter(bounds), ()), tuple(subtracted))
