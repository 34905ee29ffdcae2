"""How one replica is doing: what its probes answer, and the metrics that are read off it when somebody asks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STUCK_SECONDS = 300.0  # a key that is due and waits this long, with no pass ended, means that the workers hang
LEASE_SILENT_SECONDS = 120.0  # the Lease is asked for every few seconds, and a request takes 30 s at most
LISTING_SILENT_SECONDS = 1200.0  # a listing begins every ten minutes
LISTING_OLD_SECONDS = 900.0
WATCH_OLD_SECONDS = 420.0  # the API server ends a watch after 300 s, and it is opened anew
WATCH_SILENT_SECONDS = 900.0  # a request for a watch ends after 330 s at most
MOST_STATES = 16  # of a kind on one page of metrics: a status can be written by others, too


@dataclass
class Watch:
    """One watch: when it was last asked for and last opened, on the clock of time.monotonic, and if it was refused."""

    kind: str
    tried: float
    opened: float | None = None
    refused: bool = False

    def ask(self) -> None:
        """A request for it, or for the listing that it starts from, goes out."""
        self.tried = time.monotonic()

    def answer(self, status: int, *, watching: bool) -> None:
        """The API server answered the request with this HTTP status."""
        self.refused = status in (401, 403, 404)
        if watching and status < 400:
            self.opened = time.monotonic()


@dataclass(frozen=True)
class Vitals:
    """What a replica knows of itself; durations in seconds, None for what has not been yet."""

    leading: bool
    holder: str
    lease_trouble: str
    lease_idle: float  # since the Lease was last asked for or renewed
    depth: int  # keys that are due
    oldest: float  # how long the most overdue one has been waiting
    passed: float  # since a pass ended, well or not, or this replica began to lead
    done: float | None  # since a pass ended well
    tried: float  # since a listing last asked for a type
    listed: float | None  # since a full listing came in
    unlisted: str  # why the last listing did not
    refused: frozenset[str]  # paths that may not be listed
    watches: Mapping[str, Watch]
    now: float  # on the clock of the watches
    lag: float  # by how much the event loop was late lately
    tasks: int  # of the event loop

    def fatal(self) -> list[str]:
        """What only a restart can cure. An API server or a storage that is away is no such thing."""
        found = []
        if self.leading and self.oldest > STUCK_SECONDS and self.passed > STUCK_SECONDS:
            found.append(f"no pass has ended for {self.passed:.0f} s, and a key has been due for {self.oldest:.0f} s")
        if self.lease_idle > LEASE_SILENT_SECONDS:
            found.append(f"the Lease was last asked for {self.lease_idle:.0f} s ago")
        if self.tried > LISTING_SILENT_SECONDS:
            found.append(f"the last listing was begun {self.tried:.0f} s ago")
        for path, watch in self.watches.items():
            if (silent := self.now - watch.tried) > WATCH_SILENT_SECONDS:
                found.append(f"the watch of {path} was last asked for {silent:.0f} s ago")
        return found

    def lacking(self) -> list[str]:
        """What keeps this replica from its work, or from being ready to take it over; a standby lacks nothing."""
        found = []
        if self.listed is None:
            found.append(f"the first listing is not in{': ' if self.unlisted else ''}{self.unlisted}")
        elif self.listed > LISTING_OLD_SECONDS:
            found.append(f"the last full listing came in {self.listed:.0f} s ago: {self.unlisted}")
        if self.lease_trouble and not self.leading:
            found.append(f"the Lease cannot be taken: {self.lease_trouble}")
        for kind in sorted({watch.kind for watch in self.watches.values()}):
            found += self._unseen(kind)
        return found

    def _unseen(self, kind: str) -> Iterable[str]:
        """What is wrong with the sight of one kind; a namespace that is gone, of several, is left out."""
        paths = [path for path, watch in self.watches.items() if watch.kind == kind]
        unseen = [path for path in paths if self.age_of(path) > WATCH_OLD_SECONDS]
        lost = [path for path in unseen if path not in self.refused and not self.watches[path].refused]
        if unseen == paths and not lost:
            return [f"{kind} may not be listed or watched in any namespace; look at the Role and its binding"]
        return [f"the watch of {path} is not open" for path in lost]

    def age_of(self, path: str) -> float:
        """Seconds since that watch was last opened, at least once in 300 s while all is well; infinite before that."""
        opened = self.watches[path].opened
        return float("inf") if opened is None else self.now - opened

    def as_json(self) -> dict[str, Any]:
        """All of it in words that a person can read."""

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
    """The metrics that are no counters: taken from the engine at the moment of the scrape."""

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
        """Give every gauge."""
        now = self._vitals()
        plain = {
            "leader": ("1 in the replica that may write.", float(now.leading)),
            "ready": ("1 where /readyz says so.", float(not now.lacking())),
            "queue_depth": ("Keys that are due now.", float(now.depth)),
            "queue_age_seconds": ("How long the most overdue key has been waiting.", now.oldest),
            "listings_refused": ("Types that may not be listed, each namespace counted.", float(len(now.refused))),
            "asyncio_tasks": ("Tasks of the event loop; flat while the number of objects is.", float(now.tasks)),
            "event_loop_lag_seconds": ("By how much the event loop was late lately.", now.lag),
        }
        if now.listed is not None:
            plain["listing_age_seconds"] = ("Seconds since the last full listing.", now.listed)
        if self._expires is not None:
            with suppress(OSError):
                plain["certificate_expiration_timestamp_seconds"] = (
                    "When the operator's certificate ends, in seconds since 1970.",
                    self._expires(),
                )
        for name, (text, value) in plain.items():
            yield GaugeMetricFamily(f"ultramarine_{name}", text, value=value)
        opened = GaugeMetricFamily(
            "ultramarine_watch_age_seconds", "Seconds since a kind's watch was opened, at most 300.", labels=["kind"]
        )
        ages: dict[str, float] = {}
        for path, watch in now.watches.items():
            if watch.opened is not None and not watch.refused:  # what may not be seen is told by listings_refused
                ages[watch.kind] = max(ages.get(watch.kind, 0.0), now.age_of(path))
        for kind, age in ages.items():
            opened.add_metric([kind], age)
        yield opened
        states = GaugeMetricFamily("ultramarine_objects", "Objects by kind and state.", labels=["kind", "state"])
        for kind, found in self._states().items():
            counted = Counter(found).most_common()
            rest = sum(number for _, number in counted[MOST_STATES:])
            for state, number in counted[:MOST_STATES] + ([("Other", rest)] if rest else []):
                states.add_metric([kind, state], number)
        yield states
