"""Records of a step's outcome in the cache of its namespace, by which later runs of pipelines reuse it."""

from __future__ import annotations

from ultramarine_contract.cache_records import record_uris
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord, TrainingContext


def store_records(storage: Storage, prefix: str, context: TrainingContext, record: TerminationRecord) -> None:
    """Store the outcome of a step under its key, and as the latest of the step."""
    cache = context.cache
    if cache is None:
        return
    outcome = cache.outcome(record.outputs, record.metrics, context.job.rpartition("/")[2])
    for uri in record_uris(prefix, cache):
        storage.write(uri, outcome.to_json())
