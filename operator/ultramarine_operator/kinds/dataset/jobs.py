"""TrainingJobs of a Dataset and of its versions, which run the program ultramarine-data."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.base import Resources
from ultramarine_contract.dataset_records import TASK_NAME
from ultramarine_contract.meta import (
    API_VERSION,
    MAX_NAME,
    TRAINING_JOB,
    Manifest,
    asked_by,
    child_metadata,
    content_hash,
    controller_uid,
)

from ...shared.plan import Obj, Platform, Seen

RESOURCES: Manifest = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
KEPT_SECONDS = 24 * 3600  # for its log
DEADLINE_SECONDS = 7 * 24 * 3600
RETRIES = 2


def job_name(owner: str, work: str) -> str:
    """Return the name of the TrainingJob that does some work for a Dataset or a version; long names are cut."""
    name = f"{owner}-{work}"
    return name if len(name) <= MAX_NAME else f"{owner[: MAX_NAME - len(work) - 10]}-{content_hash(owner)[:8]}-{work}"


def own_job(owner: Obj[Any], work: str, seen: Seen) -> Manifest | None:
    """Return the TrainingJob of that work, if it exists."""
    name = job_name(owner.name, work)
    job = seen.child(TRAINING_JOB.kind, name)
    if job is not None and "spec" not in job:  # of an object that has ended the mirror gives an outline
        job = seen.look(TRAINING_JOB.kind, name) or job
    return job if job is not None and controller_uid(job) == owner.uid else None


def data_job(
    owner: Obj[Any],
    work: str,
    task: str,
    platform: Platform,
    *,
    inputs: Manifest | None,
    outputs: Manifest,
    resources: Resources | None = None,
    requested_by: str = "",
    env: tuple[Manifest, ...] = (),
) -> Manifest:
    """Return the TrainingJob that runs ultramarine-data with a task."""
    given = resources.model_dump(by_alias=True, exclude_defaults=True) if resources else {}
    metadata = child_metadata(owner.manifest, job_name(owner.name, work))
    if annotations := asked_by(requested_by or platform.requester(owner.manifest)):
        metadata["annotations"] = annotations
    return {
        "apiVersion": API_VERSION,
        "kind": TRAINING_JOB.kind,
        "metadata": metadata,
        "spec": {
            "command": ["ultramarine-data", work.partition("-")[0]],
            "source": {"inline": {TASK_NAME: task}},
            **({"inputs": inputs} if inputs else {}),
            "outputs": outputs,
            "resources": given or RESOURCES,
            **({"env": list(env)} if env else {}),
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
        },
    }
