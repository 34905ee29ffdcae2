"""What the pod of a deleting Job does."""

from __future__ import annotations

from collections.abc import Mapping

from ultramarine_contract.common import ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION
from ultramarine_contract.storage import Storage
from ultramarine_contract.version_records import DeleteTask


def delete(task: DeleteTask, environment: Mapping[str, str]) -> None:
    """Delete the task's artifact, manifest first; one that is gone already is no error. Raises StorageError."""
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    storage.delete_artifact(task.uri)
    print(f"deleted {task.uri}", flush=True)
