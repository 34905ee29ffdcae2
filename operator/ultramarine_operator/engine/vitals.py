"""Health of one replica: the answers of its probes, and the metrics that are collected at a scrape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STUCK_SECONDS = 300.0  # wait of a due key, without the end of any pass, after which the workers hang
LEASE_SILENT_SECONDS = 120.0  # attempts come every few seconds, and a request takes at most 30 s
LISTING_SILENT_SECONDS = 1200.0  # a listing begins every ten minutes
LISTING_OLD_SECONDS = 900.0
WATCH_OLD_SECONDS = 420.0  # the API server ends a watch after 300 s; then it is opened again
WATCH_SILENT_SECONDS = 900.0  # a request for a watch ends after 330 s at most
MOST_STATES = 16  # of a kind on one page of metrics: a status can be written by others, too


@dataclass
class Watch:
    """One watch: times of its last request and opening on the clock of time.monotonic, and if it was refused."""

    kind: str
    tried: float
    opened: float | None = None
    refused: bool = False

    def ask(self) -> None:
        """Record a request for it, or for the listing that it starts from."""
        self.tried = time.monotonic()

    def answer(self, status: int, *, watching: bool) -> None:
        """Record the HTTP status by which the API server answers."""
        self.refused = status in (401, 403, 404)
        if watching and status < 400:
            self.opened = time.monotonic()


@dataclass(frozen=True)
class Vitals:
    """Facts of a replica about itself: durations in seconds, None before the first event."""

    leading: bool
    holder: str
    lease_trouble: str
    lease_idle: float  # since the last attempt at the Lease
    depth: int  # keys that are due
    oldest: float  # wait of the most overdue key
    passed: float  # since any pass ended, or this replica began to lead
    done: float | None  # since a pass succeeded
    tried: float  # since a listing last requested a type
    listed: float | None  # since a full listing arrived
    unlisted: str  # error of the last listing
    refused: frozenset[str]  # paths that may not be listed
    watches: Mapping[str, Watch]
    now: float  # on the clock of the watches
    lag: float  # by how much the event loop was late lately
    tasks: int  # of the event loop

    def fatal(self) -> list[str]:
        """Return the problems that only a restart cures; an absent API server or storage is not among them."""
        problems = []
        if self.leading and self.oldest > STUCK_SECONDS and self.passed > STUCK_SECONDS:
            problems.append(f"no pass has ended for {self.passed:.0f} s; a key has been due for {self.oldest:.0f} s")
        if self.lease_idle > LEASE_SILENT_SECONDS:
            problems.append(f"the Lease was last asked for {self.lease_idle:.0f} s ago")
        if self.tried > LISTING_SILENT_SECONDS:
            problems.append(f"the last listing was begun {self.tried:.0f} s ago")
        for path, watch in self.watches.items():
            if (silent := self.now - watch.tried) > WATCH_SILENT_SECONDS:
                problems.append(f"the watch of {path} was last asked for {silent:.0f} s ago")
        return problems

    def lacking(self) -> list[str]:
        """Return the problems that keep this replica from its work, or from taking it over."""
        problems = []
        if self.listed is None:
            problems.append(f"the first listing is not in{': ' if self.unlisted else ''}{self.unlisted}")
        elif self.listed > LISTING_OLD_SECONDS:
            problems.append(f"the last full listing came in {self.listed:.0f} s ago: {self.unlisted}")
        if self.lease_trouble and not self.leading:
            problems.append(f"the Lease cannot be taken: {self.lease_trouble}")
        for kind in sorted({watch.kind for watch in self.watches.values()}):
            problems += self._unseen(kind)
        return problems

    def _unseen(self, kind: str) -> Iterable[str]:
        """Return the problems of one kind's watches; one of several namespaces that is gone is left out."""
        paths = [path for path, watch in self.watches.items() if watch.kind == kind]
        unseen = [path for path in paths if self.age_of(path) > WATCH_OLD_SECONDS]
        lost = [path for path in unseen if path not in self.refused and not self.watches[path].refused]
        if unseen == paths and not lost:
            return [f"{kind} may not be listed or watched in any namespace; look at the Role and its binding"]
        return [f"the watch of {path} is not open" for path in lost]

    def age_of(self, path: str) -> float:
        """Return the seconds since that watch was last opened, normally at most 300; infinite before that."""
        opened = self.watches[path].opened
        return float("inf") if opened is None else self.now - opened

    def as_json(self) -> dict[str, Any]:
        """Return all of it for readers of a probe."""

        def rounded(seconds: float | None) -> float | None:
            return None if seconds is None or seconds == float("inf") else round(seconds, 1)

        return {
            "problems": [*self.fatal(), *self.lacking()],
            "lease": {
                "role": "leader" if self.leading else "standby",
                "holder": self.holder,
                "trouble": self.lease_trouble,
            },
            "queue": {"due": self.depth, "oldestSeconds": rounded(self.oldest)},
            "secondsSince": {
                "anyPass": rounded(self.passed),
                "successfulPass": rounded(self.done),
                "listing": rounded(self.listed),
                "oldestWatchOpened": rounded(max(map(self.age_of, self.watches), default=0.0)),
            },
            "refused": sorted(self.refused | {path for path, watch in self.watches.items() if watch.refused}),
            "eventLoopLagSeconds": round(self.lag, 3),
        }


class Gauges(Collector):
    """Gauges, taken from the engine at the moment of the scrape."""

    def __init__(
        self,
        vitals: Callable[[], Vitals],
        states: Callable[[], Mapping[str, Iterable[str]]],
        expires: Callable[[], float] | None = None,
    ) -> None:
        self._vitals = vitals
        self._states = states
        self._expires = expires

    def collect(self) -> Iterable[Metric]:
        """Yield every gauge."""
        now = self._vitals()
        yield GaugeMetricFamily("ultramarine_leader", "1 in the replica that may write.", now.leading)
        yield GaugeMetricFamily("ultramarine_ready", "1 if /readyz succeeds.", not now.lacking())
        yield GaugeMetricFamily("ultramarine_queue_depth", "Keys that are due; 0 in a standby.", now.depth)
        yield GaugeMetricFamily("ultramarine_queue_age_seconds", "Waiting time of the most overdue key.", now.oldest)
        yield GaugeMetricFamily(
            "ultramarine_listings_refused", "Types that may not be listed, per namespace.", len(now.refused)
        )
        yield GaugeMetricFamily("ultramarine_asyncio_tasks", "Tasks of the event loop.", now.tasks)
        yield GaugeMetricFamily("ultramarine_event_loop_lag_seconds", "Recent delay of a one-second sleep.", now.lag)
        if now.listed is not None:
            yield GaugeMetricFamily("ultramarine_listing_age_seconds", "Time since the last full listing.", now.listed)
        if self._expires is not None:
            with suppress(OSError):
                yield GaugeMetricFamily(
                    "ultramarine_certificate_expiration_timestamp_seconds",
                    "End of the operator's certificate, in seconds since 1970.",
                    self._expires(),
                )
        opened = GaugeMetricFamily(
            "ultramarine_watch_age_seconds", "Age of the oldest watch of a kind; normally at most 300.", labels=["kind"]
        )
        ages: dict[str, float] = {}
        for path, watch in now.watches.items():
            if watch.opened is not None and not watch.refused:  # listings_refused counts the refused ones
                ages[watch.kind] = max(ages.get(watch.kind, 0.0), now.age_of(path))
        for kind, age in ages.items():
            opened.add_metric([kind], age)
        yield opened
        states = GaugeMetricFamily("ultramarine_objects", "Objects by kind and state.", labels=["kind", "state"])
        for kind, of_kind in self._states().items():
            counted = Counter(of_kind).most_common()
            rest = sum(number for _, number in counted[MOST_STATES:])
            for state, number in counted[:MOST_STATES] + ([("Other", rest)] if rest else []):
                states.add_metric([kind, state], number)
        yield states
