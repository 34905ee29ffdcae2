"""Sweep: try a command with many parameters, and keep the best."""

from __future__ import annotations

from ultramarine.resources.sweep import SweepSpec
from ultramarine.resources.sweep_status import SweepStatus
from ultramarine_contract.common import SWEEP_PORT
from ultramarine_contract.meta import (
    CONFIG_MAP,
    DATASET,
    DATASET_VERSION,
    ENVIRONMENT,
    GROUP,
    JOB,
    MAX_NAME,
    MODEL,
    MODEL_VERSION,
    POD,
    SECRET,
    SERVICE,
    SWEEP,
    TRAINING_JOB,
    Manifest,
)
from ultramarine_contract.parameters import MOST_PODS

from ...shared import datasets
from ...shared.environments import topics_of
from ...shared.kind import MLFLOW, OPERATOR, SERVICE_NAME, Column, Kind, Peer, PodGroup
from ...training.steps import cache_task_of, topic_of_key
from ...training.trials import trial_name
from .plan import plan, questions
from .report import REPORTING

ROOM_FOR_TRIAL = len(trial_name("", MOST_PODS - 1))


def _topics(sweep: Manifest) -> frozenset[str]:
    """Return its Model, itself, the sweeps that it learns from, its Environment, its Datasets and its cache key."""
    spec = sweep["spec"]
    others = (spec.get("algorithm") or {}).get("warmStartFrom") or []
    model = {str(spec["registerBest"])} if spec.get("registerBest") else set()
    task = cache_task_of(sweep)
    own = {*model, *topics_of(sweep), *datasets.topics_of(sweep), *({topic_of_key(task.key)} if task else ())}
    return frozenset({*own, *(f"sweep {name}" for name in (sweep["metadata"]["name"], *others))})


KIND = Kind(
    short="sw",
    description="Sweep runs a command with one set of parameters after another, in search of the best.",
    spec=SweepSpec,
    status=SweepStatus,
    columns=(
        Column("Best", ".status.bestValue"),
        Column("Trials", ".status.progress"),
        Column("Stopped", ".status.trials.stopped", "integer"),
        Column("Failed", ".status.trials.failed", "integer"),
        Column("ModelVersion", ".status.modelVersion", priority=1),
    ),
    plan=plan,
    questions=questions,
    report=REPORTING,
    children=(JOB, POD, CONFIG_MAP, SERVICE, TRAINING_JOB),
    related=(MODEL, MODEL_VERSION, SWEEP, ENVIRONMENT, DATASET, DATASET_VERSION),
    rung_by=(ENVIRONMENT, DATASET, DATASET_VERSION),
    topics=_topics,
    names=SERVICE_NAME,
    rules=(
        (
            f"self.spec.execution == 'Pool' || size(self.metadata.name) <= {MAX_NAME - ROOM_FOR_TRIAL}",
            f"with execution: PodPerTrial metadata.name must have at most {MAX_NAME - ROOM_FOR_TRIAL} characters: each "
            "trial's TrainingJob has it in its name",
        ),
    ),
    creates=(SECRET, MODEL, MODEL_VERSION, ENVIRONMENT),
    deletes=(SWEEP, JOB, TRAINING_JOB),
    pods=(
        PodGroup("sweeps", talks_to=(Peer(SWEEP.kind, (SWEEP_PORT,)), Peer(OPERATOR))),
        # Workers run the user's command, and do not talk to MLflow.
        PodGroup("coordinators", talks_to=(Peer(MLFLOW),), labels={f"{GROUP}/role": "coordinator"}, adds=True),
    ),
)
