"""What one server process counts, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
PREFIX = "ultramarine_server"


class Histogram:
    """A distribution; counting one value is a search and two additions."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Telemetry:
    """Counted on the event loop's thread, where nothing has to be locked."""

    def __init__(self) -> None:
        self.starting = self.draining = False
        self.in_flight = 0
        self.queue_length: Callable[[], int] = lambda: 0
        self.others: list[Callable[[], Iterable[Metric]]] = []  # what other parts count
        self.answers: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Histogram] = {}
        self.queue_seconds, self.batch_rows = Histogram(SECONDS), Histogram(_ROWS)
        self.rejected: dict[str, int] = {"queue": 0, "timeout": 0, "copy": 0}

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        # A server's start does not wait for prometheus_client, which takes 18 ms to import.
        from ultramarine_server.exposition import exposition

        return exposition(self)

    def count(self, route: str, code: int, seconds: float) -> None:
        """Take one answered request into account."""
        self.answers[route, code] = self.answers.get((route, code), 0) + 1
        if route not in self.seconds:
            self.seconds[route] = Histogram(SECONDS)
        self.seconds[route].observe(seconds)

    def queued(self, seconds: float) -> None:
        """A request has waited so long before the model took it."""
        self.queue_seconds.observe(seconds)

    def batched(self, rows: int) -> None:
        """So many rows were computed together."""
        self.batch_rows.observe(rows)

    def reject(self, reason: str) -> None:
        """A request was sent away: `queue` if there was no place, `timeout` if there was no answer in time.

        `copy` is no request that anybody misses: there was no room for what can be spared.
        """
        self.rejected[reason] += 1
