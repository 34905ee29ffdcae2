"""What a pool counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from ultramarine_server.exposition import show
from ultramarine_server.telemetry import PREFIX, SECONDS, Histogram


class PoolTelemetry:
    """Counted on the event loop's thread; `now` says how many models are in memory, and the bytes that count."""

    def __init__(self) -> None:
        self.now: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.evictions = self.failures = self._loads = 0
        self._seconds = Histogram(SECONDS)

    def loaded(self, seconds: float) -> None:
        """A model was loaded; from the request for it to its first answer took so long."""
        self._loads += 1
        self._seconds.observe(seconds)

    def metrics(self) -> Iterable[Metric]:
        """All of it, for `Telemetry.others`."""
        models, held = self.now()
        loads = CounterMetricFamily(f"{PREFIX}_model_loads", "Models that were loaded, or not.", labels=["result"])
        loads.add_metric(["ok"], self._loads)
        loads.add_metric(["failed"], self.failures)
        seconds = HistogramMetricFamily(f"{PREFIX}_model_load_seconds", "Time to fetch and load a model.")
        show(self._seconds, seconds)
        evictions = CounterMetricFamily(f"{PREFIX}_model_evictions", "Models that made room for others.")
        evictions.add_metric([], self.evictions)
        return [
            GaugeMetricFamily(f"{PREFIX}_loaded_models", "Models in memory.", models),
            GaugeMetricFamily(f"{PREFIX}_loaded_bytes", "Memory that they count for.", held),
            loads,
            seconds,
            evictions,
        ]
