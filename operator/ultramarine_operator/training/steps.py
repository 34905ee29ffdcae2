"""Cache task of a TrainingJob or a Sweep that does the work of a pipeline's step."""

from __future__ import annotations

from ultramarine_contract.cache_records import ANNOTATION_CACHE, CacheTask
from ultramarine_contract.meta import Manifest


def cache_task_of(job: Manifest) -> CacheTask | None:
    """Return the key and the step under which a TrainingJob or a Sweep records its outcome; None without any.

    Any author may write the annotation: its names become paths below the namespace's own prefix alone.
    """
    annotations = job["metadata"].get("annotations") or {}
    try:
        task = CacheTask.from_json(str(annotations.get(ANNOTATION_CACHE)))
    except ValueError:
        return None
    return task if task.is_safe else None


def topic_of_key(key: str) -> str:
    """Return the topic of all objects that do the work with a cache key, or wait for it."""
    return f"key {key}"
