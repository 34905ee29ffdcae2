"""The init container: bring the artifact from the object storage to the folder that the server reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from ultramarine_contract.common import ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.storage import Storage


def fetch(task: ServingTask, environment: Mapping[str, str], folder: Path) -> None:
    """Fetch and check the task's artifact. Raises StorageError with what to check."""
    started = time.monotonic()
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    manifest = storage.fetch_artifact(task.uri, task.digest, folder)
    seconds = time.monotonic() - started
    print(f"fetched {len(manifest.files)} files, {manifest.bytes} bytes from {task.uri} in {seconds:.1f} s", flush=True)
