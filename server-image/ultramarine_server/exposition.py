"""What a server process has counted, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ultramarine_server.telemetry import PREFIX, Histogram, Telemetry


def exposition(telemetry: Telemetry) -> bytes:
    """Return all metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Counted(telemetry))
    return generate_latest(registry)


def show(histogram: Histogram, family: HistogramMetricFamily, labels: Iterable[str] = ()) -> None:
    """Add a histogram to its family."""
    names = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    family.add_metric(list(labels), list(zip(names, accumulate(histogram.counts), strict=True)), histogram.sum)


class _Counted(Collector):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[Metric]:
        """What prometheus_client asks of a collector."""
        counted = self._telemetry
        answers = CounterMetricFamily(f"{PREFIX}_requests", "Answers, by route and code.", labels=["route", "code"])
        for (route, code), number in counted.answers.items():
            answers.add_metric([route, str(code)], number)
        seconds = HistogramMetricFamily(
            f"{PREFIX}_request_seconds", "Time from the request's head to the answer's end.", labels=["route"]
        )
        for route, histogram in counted.seconds.items():
            show(histogram, seconds, [route])
        queue = HistogramMetricFamily(f"{PREFIX}_queue_seconds", "Time that requests waited for the model.")
        show(counted.queue_seconds, queue)
        rows = HistogramMetricFamily(f"{PREFIX}_batch_rows", "Rows that were computed together.")
        show(counted.batch_rows, rows)
        rejected = CounterMetricFamily(f"{PREFIX}_rejected", "Requests that were sent away.", labels=["reason"])
        for reason, number in counted.rejected.items():
            rejected.add_metric([reason], number)
        return [
            answers,
            seconds,
            queue,
            rows,
            rejected,
            GaugeMetricFamily(f"{PREFIX}_in_flight", "Requests that are being answered.", counted.in_flight),
            GaugeMetricFamily(f"{PREFIX}_queue_length", "Requests that wait for the model.", counted.queue_length()),
            *(metric for others in counted.others for metric in others()),
        ]
