"""Model and ModelVersion: what was trained, under a name, in immutable versions."""

from __future__ import annotations

from ultramarine.resources.model import ModelSpec, ModelStatus, ModelVersionSpec, ModelVersionStatus
from ultramarine_contract.meta import DATASET_VERSION, JOB, MODEL, MODEL_VERSION, ONLINE_ENDPOINT, POD

from ...runs.deleting import compiled_place, place_of, places_to_delete
from ...shared.kind import PLAIN_NAME, Column, Kind, PodGroup
from .plan import plan_model, plan_version, questions_version

# Jobs that compile a version, and Jobs that delete the files of one.
JOBS = PodGroup("compiling", kinds=(MODEL.kind, MODEL_VERSION.kind))

MODEL_KIND = Kind(
    short="mdl",
    description="Model is a name under which versions are kept, with aliases that say which of them is used for what.",
    spec=ModelSpec,
    status=ModelStatus,
    columns=(
        Column("Versions", ".status.versions", "integer"),
        Column("Latest", ".status.latestReadyVersion"),
        Column("Aliases", ".status.aliases"),
        Column("Owner", ".spec.card.owner"),
    ),
    plan=plan_model,
    children=(JOB, POD),
    related=(MODEL_VERSION, DATASET_VERSION, ONLINE_ENDPOINT),
    rung_by=(MODEL_VERSION, ONLINE_ENDPOINT),
    deletes=(MODEL_VERSION, JOB),
    confirms=(MODEL_VERSION,),
    topics=lambda model: frozenset((model["metadata"]["name"], *places_to_delete(model))),
    names=PLAIN_NAME,
    pods=(JOBS,),
)

VERSION_KIND = Kind(
    short="mv",
    description="ModelVersion is one immutable version of a Model: where its files are, and their digest.",
    spec=ModelVersionSpec,
    status=ModelVersionStatus,
    columns=(
        Column("Model", ".spec.model"),
        Column("Version", ".spec.version"),
        Column("Format", ".spec.format.name"),
        Column("State", ".status.state"),
        Column("Score", ".status.score"),
        Column("TrainingJob", ".spec.lineage.trainingJob"),
        Column("Compiled", '.status.conditions[?(@.type=="Compiled")].reason', priority=1),
        Column("Sweep", ".spec.lineage.sweep", priority=1),
        Column("Uri", ".spec.uri", priority=1),
    ),
    plan=plan_version,
    children=(JOB, POD),
    related=(MODEL, ONLINE_ENDPOINT),
    rung_by_edits=(MODEL, ONLINE_ENDPOINT),
    topics=lambda version: frozenset(
        (str(version["spec"].get("model", "")), place_of(version), compiled_place(version))
    ),
    questions=questions_version,
    names=(),
    rules=(
        (
            "self.metadata.name == self.spec.model + '-' + self.spec.version",
            "metadata.name must be MODEL-VERSION, from spec.model and spec.version",
        ),
    ),
    pods=(JOBS,),
)
