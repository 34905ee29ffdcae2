"""Which outputs of a job become ModelVersions."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, Manifest
from ultramarine_contract.training_records import TerminationRecord

from ...runs import registration
from ...runs.registration import Candidate, Maker
from ...shared.plan import Seen
from .. import training
from .manifests import Job

LABEL_JOB_UID = f"{GROUP}/training-job-uid"


def registered(job: Job, seen: Seen) -> dict[str, str]:
    """Output name to the name of the ModelVersion that was made of it."""
    return registration.registered(_maker(job, seen), seen)


def to_register(job: Job, record: TerminationRecord, seen: Seen) -> tuple[Manifest, ...]:
    """The Models and ModelVersions that are still to be made of this job's outputs."""
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
        lineage["mlflow"] = run
    for name, output in sorted(job.spec.outputs.items()):
        if output.register_as is not None and name in record.outputs:
            made, wanted = record.outputs[name], output.compile
            yield Candidate(name, output.register_as, made, lineage, wanted, output.allow_code_execution)
