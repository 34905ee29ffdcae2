"""Counts of one server process, and their exposition for Prometheus: families are made at a scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Histogram:
    """Distribution of a value; an observation is a search and two additions."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Iterable[str] = ()) -> None:
        """Add the distribution to a metric family."""
        names = [*(repr(bound) for bound in self.bounds), "+Inf"]
        family.add_metric(list(labels), list(zip(names, accumulate(self.counts), strict=True)), self.sum)


class Telemetry(Collector):
    """Counts of requests, written by the event loop's thread alone, and so without a lock."""

    def __init__(self) -> None:
        self.starting = self.draining = False
        self.in_flight = 0
        self.queue_length: Callable[[], int] = lambda: 0
        self.others: list[Callable[[], Iterable[Metric]]] = []  # metrics of other parts of the process
        self.answers: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Histogram] = {}
        self.queue_seconds, self.batch_rows = Histogram(_SECONDS), Histogram(_ROWS)
        self.rejected: dict[str, int] = {"queue": 0, "timeout": 0, "copy": 0}

    def count(self, route: str, code: int, seconds: float) -> None:
        """Count an answered request."""
        self.answers[route, code] = self.answers.get((route, code), 0) + 1
        if route not in self.seconds:
            self.seconds[route] = Histogram(_SECONDS)
        self.seconds[route].observe(seconds)

    def queued(self, seconds: float) -> None:
        """Count the time that a request waited for the model."""
        self.queue_seconds.observe(seconds)

    def batched(self, rows: int) -> None:
        """Count a batch, and its rows."""
        self.batch_rows.observe(rows)

    def reject(self, reason: str) -> None:
        """Count a rejected request: `queue` if no place was free in time, `timeout` if the model was too slow.

        `copy` is a copy of a request for which the server had no room; no client waits for its answer.
        """
        self.rejected[reason] += 1

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics at a scrape."""
        answers = CounterMetricFamily(
            "ultramarine_server_requests", "Answers, by route and code.", labels=["route", "code"]
        )
        for (route, code), number in self.answers.items():
            answers.add_metric([route, str(code)], number)
        help = "Time from the request's head to the answer's end."
        seconds = HistogramMetricFamily("ultramarine_server_request_seconds", help, labels=["route"])
        for route, histogram in self.seconds.items():
            histogram.add_to(seconds, [route])
        queue = HistogramMetricFamily("ultramarine_server_queue_seconds", "Time that requests waited for the model.")
        self.queue_seconds.add_to(queue)
        rows = HistogramMetricFamily("ultramarine_server_batch_rows", "Rows that were computed together.")
        self.batch_rows.add_to(rows)
        rejected = CounterMetricFamily("ultramarine_server_rejected", "Rejected requests.", labels=["reason"])
        for reason, number in self.rejected.items():
            rejected.add_metric([reason], number)
        yield from (answers, seconds, queue, rows, rejected)
        yield GaugeMetricFamily("ultramarine_server_in_flight", "Requests that are being answered.", self.in_flight)
        yield GaugeMetricFamily(
            "ultramarine_server_queue_length", "Requests that wait for the model.", self.queue_length()
        )
        for others in self.others:
            yield from others()


class PoolTelemetry:
    """Counts of a pool, written by the event loop's thread alone.

    `now` returns how many models are in memory, and for how many bytes they count.
    """

    def __init__(self) -> None:
        self.now: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.evictions = self.failures = self._loads = 0
        self._seconds = Histogram(_SECONDS)

    def loaded(self, seconds: float) -> None:
        """Count a loaded model, and the time to fetch and load it."""
        self._loads += 1
        self._seconds.observe(seconds)

    def metrics(self) -> Iterable[Metric]:
        """Yield the metrics, for `Telemetry.others`."""
        models, held = self.now()
        loads = CounterMetricFamily("ultramarine_server_model_loads", "Loads of models, by result.", labels=["result"])
        loads.add_metric(["ok"], self._loads)
        loads.add_metric(["failed"], self.failures)
        seconds = HistogramMetricFamily("ultramarine_server_model_load_seconds", "Time to fetch and load a model.")
        self._seconds.add_to(seconds)
        evictions = CounterMetricFamily("ultramarine_server_model_evictions", "Models that made room for others.")
        evictions.add_metric([], self.evictions)
        yield GaugeMetricFamily("ultramarine_server_loaded_models", "Models in memory.", models)
        yield GaugeMetricFamily("ultramarine_server_loaded_bytes", "Memory for which the loaded models count.", held)
        yield from (loads, seconds, evictions)
