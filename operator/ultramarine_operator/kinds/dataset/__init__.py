"""Dataset and DatasetVersion: data under a name, in immutable versions with a profile."""

from __future__ import annotations

from ultramarine.resources.dataset import DatasetSpec, DatasetStatus, DatasetVersionSpec, DatasetVersionStatus
from ultramarine_contract.meta import (
    DATASET,
    DATASET_VERSION,
    JOB,
    MODEL_VERSION,
    PIPELINE_RUN,
    POD,
    SWEEP,
    TRAINING_JOB,
)

from ...runs.deleting import place_of, places_to_delete
from ...shared.datasets import topic_of
from ...shared.kind import PLAIN_NAME, READY, Column, Kind
from . import refreshing
from .plan import plan_dataset
from .version import plan_version, questions_version

READERS = (TRAINING_JOB, SWEEP)

DATASET_KIND = Kind(
    short="dset",  # kubectl's ds are DaemonSets
    description="Dataset is a name under which versions of data are kept, with the requirements that they meet.",
    spec=DatasetSpec,
    status=DatasetStatus,
    columns=(
        Column("Versions", ".status.versions", "integer"),
        Column("Latest", ".status.latestReadyVersion"),
        Column("Aliases", ".status.aliases"),
        Column("Refreshed", ".status.refresh.outcome"),
        Column("Owner", ".spec.card.owner", priority=1),
        Column("Next", ".status.nextRefreshTime", priority=1),
    ),
    plan=plan_dataset,
    questions=refreshing.questions,
    children=(TRAINING_JOB, JOB, POD),
    related=(DATASET_VERSION, MODEL_VERSION, *READERS, PIPELINE_RUN),
    rung_by=(DATASET_VERSION, PIPELINE_RUN),  # whose status has the pins
    rung_by_edits=READERS,
    creates=(DATASET_VERSION,),
    deletes=(DATASET_VERSION, JOB),
    confirms=(DATASET_VERSION,),
    topics=lambda dataset: frozenset((topic_of(dataset["metadata"]["name"]), *places_to_delete(dataset))),
    names=PLAIN_NAME,
)

VERSION_KIND = Kind(
    short="dsv",
    description="DatasetVersion is one immutable version of a Dataset: where its files are, and their digest.",
    spec=DatasetVersionSpec,
    status=DatasetVersionStatus,
    columns=(
        READY,
        Column("State", ".status.state"),
        Column("Type", ".status.type"),
        Column("Rows", ".status.rows", "integer"),
        Column("Columns", ".status.columnCount", "integer"),
        Column("Bytes", ".status.bytes", "integer"),
        Column("TrainingJob", ".spec.lineage.trainingJob"),
        Column("Format", ".status.format", priority=1),
        Column("Profile", ".status.profile.uri", priority=1),
        Column("Uri", ".spec.uri", priority=1),
    ),
    plan=plan_version,
    questions=questions_version,
    children=(TRAINING_JOB,),
    related=(DATASET,),
    rung_by_edits=(DATASET,),
    topics=lambda version: frozenset((topic_of(str(version["spec"].get("dataset", ""))), place_of(version))),
    names=(),
    rules=(
        (
            "self.metadata.name == self.spec.dataset + '-' + self.spec.version",
            "metadata.name must be DATASET-VERSION, from spec.dataset and spec.version",
        ),
    ),
)
