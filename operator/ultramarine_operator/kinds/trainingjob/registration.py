"""Registration of a job's outputs as ModelVersions."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, Manifest
from ultramarine_contract.training_records import TerminationRecord

from ...runs import registration
from ...runs.registration import Candidate, Maker
from ...shared.plan import Seen
from ...training import pods as training
from .manifests import Job

LABEL_JOB_UID = f"{GROUP}/training-job-uid"


def registered(job: Job, seen: Seen) -> dict[str, str]:
    """Return the outputs that have a ModelVersion, with its name."""
    return registration.registered(_maker(job, seen), seen)


def to_register(job: Job, record: TerminationRecord, seen: Seen) -> tuple[Manifest, ...]:
    """Return the Models and ModelVersions of this job's outputs that do not exist yet."""
    return registration.to_register(_maker(job, seen), _candidates(job, record, seen), seen)


def _maker(job: Job, seen: Seen) -> Maker:
    return Maker(job.namespace, LABEL_JOB_UID, job.uid, seen.platform.requester(job.manifest))


def _candidates(job: Job, record: TerminationRecord, seen: Seen) -> Iterator[Candidate]:
    lineage: Manifest = {"trainingJob": job.name}
    if record.source.commit:
        lineage["gitCommit"] = record.source.commit
    if record.metrics:
        lineage["metrics"] = dict(list(record.metrics.items())[: contract.METRIC_LIMIT])
    if run := training.mlflow(None, seen.platform, [record.mlflow_run]):
        lineage["mlflow"] = run.model_dump(by_alias=True)
    for name, output in sorted(job.spec.outputs.items()):
        if output.register_as is not None and name in record.outputs:
            stored, code = record.outputs[name], output.allow_code_execution
            yield Candidate(name, output.register_as, stored, lineage, output.compile, code)
