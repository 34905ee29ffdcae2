"""Record of a sweep's best trial in the cache of its namespace, by which later runs of pipelines reuse it."""

from __future__ import annotations

from ultramarine_contract.cache_records import record_uris
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepSummary, SweepTask

from ultramarine_sweep.state.trial import SUCCEEDED


def store_records(storage: Storage, task: SweepTask, summary: SweepSummary) -> None:
    """Store outputs and objectives of the best trial under the key of a step; nothing if the sweep has failed."""
    if task.cache is None or summary.outcome != SUCCEEDED or not summary.best:
        return
    best = summary.best[0]
    metrics = {str(objective["metric"]): value for objective, value in zip(task.objectives, best.values, strict=True)}
    outcome = task.cache.outcome(best.outputs, metrics, task.sweep.rpartition("/")[2])
    for uri in record_uris(task.prefix, task.cache):
        storage.write(uri, outcome.to_json())
