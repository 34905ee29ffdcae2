"""Registration of a job's outputs as ModelVersions and DatasetVersions."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, Manifest
from ultramarine_contract.training_records import TerminationRecord

from ...runs import dataset_registration, registration
from ...runs.dataset_registration import Data
from ...runs.registration import Candidate, Maker
from ...shared.plan import Seen
from ...training import pods as training
from ...training.datasets import pins_of
from .manifests import Job

LABEL_JOB_UID = f"{GROUP}/training-job-uid"


def registered(job: Job, seen: Seen) -> dict[str, str]:
    """Return the outputs that have a ModelVersion, with its name."""
    return registration.registered(_maker(job, seen), seen)


def to_register(job: Job, record: TerminationRecord, seen: Seen) -> tuple[Manifest, ...]:
    """Return the Models, Datasets and versions of this job's outputs that do not exist yet."""
    maker = _maker(job, seen)
    models = registration.to_register(maker, _candidates(job, record, seen), seen)
    return (*models, *dataset_registration.to_register(maker, _data(job, record), seen))


def stored_data(job: Job, record: TerminationRecord, seen: Seen) -> dict[str, str]:
    """Return the outputs that are versions of datasets, with the name of the version that has their content."""
    return dataset_registration.registered(_maker(job, seen), _data(job, record), seen)


def _data(job: Job, record: TerminationRecord) -> list[Data]:
    """Return the outputs that are to become versions of datasets."""
    lineage: Manifest = {"trainingJob": job.name}
    if read := sorted({pin.version for pin in pins_of(job).values()}):
        lineage["inputs"] = read
    if record.source.commit:
        lineage["gitCommit"] = record.source.commit
    return [
        Data(name, output.dataset, record.outputs[name], {**lineage, "output": name})
        for name, output in sorted(job.spec.outputs.items())
        if output.dataset is not None and name in record.outputs
    ]


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
