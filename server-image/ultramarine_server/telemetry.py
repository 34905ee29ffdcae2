"""What one server process counts, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
PREFIX = "ultramarine_server"


class Histogram:
    """A distribution; counting one value is a search and two additions."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def show(self, family: HistogramMetricFamily, labels: Iterable[str] = ()) -> None:
        names = [*(repr(bound) for bound in self._bounds), "+Inf"]
        family.add_metric(list(labels), list(zip(names, accumulate(self._counts), strict=True)), self._sum)


class Telemetry(Collector):
    """Counted on the event loop's thread, where nothing has to be locked."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        self.queue_length: Callable[[], int] = lambda: 0
        self.of_captures: Callable[[], Iterable[Metric]] = tuple
        self._answers: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._queue_seconds, self._batch_rows = Histogram(SECONDS), Histogram(_ROWS)
        self._rejected: dict[str, int] = {"queue": 0, "timeout": 0, "copy": 0}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def include(self, collector: Collector) -> None:
        """Show what another one counts, too."""
        self._registry.register(collector)

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def count(self, route: str, code: int, seconds: float) -> None:
        """Take one answered request into account."""
        self._answers[route, code] = self._answers.get((route, code), 0) + 1
        if route not in self._seconds:
            self._seconds[route] = Histogram(SECONDS)
        self._seconds[route].observe(seconds)

    def queued(self, seconds: float) -> None:
        """A request has waited so long before the model took it."""
        self._queue_seconds.observe(seconds)

    def batched(self, rows: int) -> None:
        """So many rows were computed together."""
        self._batch_rows.observe(rows)

    def rejected(self, reason: str) -> None:
        """A request was sent away: `queue` if there was no place, `timeout` if there was no answer in time.

        `copy` is no request that anybody misses: there was no room for what can be spared.
        """
        self._rejected[reason] += 1

    def collect(self) -> Iterable[Metric]:
        """What prometheus_client asks of a collector."""
        answers = CounterMetricFamily(f"{PREFIX}_requests", "Answers, by route and code.", labels=["route", "code"])
        for (route, code), number in self._answers.items():
            answers.add_metric([route, str(code)], number)
        seconds = HistogramMetricFamily(
            f"{PREFIX}_request_seconds", "Time from the request's head to the answer's end.", labels=["route"]
        )
        for route, histogram in self._seconds.items():
            histogram.show(seconds, [route])
        queue = HistogramMetricFamily(f"{PREFIX}_queue_seconds", "Time that requests waited for the model.")
        self._queue_seconds.show(queue)
        rows = HistogramMetricFamily(f"{PREFIX}_batch_rows", "Rows that were computed together.")
        self._batch_rows.show(rows)
        rejected = CounterMetricFamily(f"{PREFIX}_rejected", "Requests that were sent away.", labels=["reason"])
        for reason, number in self._rejected.items():
            rejected.add_metric([reason], number)
        return [
            answers,
            seconds,
            queue,
            rows,
            rejected,
            GaugeMetricFamily(f"{PREFIX}_in_flight", "Requests that are being answered.", self.in_flight),
            GaugeMetricFamily(f"{PREFIX}_queue_length", "Requests that wait for the model.", self.queue_length()),
            *self.of_captures(),
        ]
