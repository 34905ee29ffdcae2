"""TrainingJob: run a command to its end, and keep what it made."""

from __future__ import annotations

from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine.resources.trainingjob_status import TrainingJobStatus
from ultramarine_contract.common import SWEEP_PORT
from ultramarine_contract.meta import (
    CONFIG_MAP,
    DATASET,
    DATASET_VERSION,
    ENVIRONMENT,
    JOB,
    MODEL,
    MODEL_VERSION,
    POD,
    SERVICE,
    SWEEP,
    TRAINING_JOB,
    Manifest,
)

from ...shared import datasets
from ...shared.environments import topics_of
from ...shared.kind import MLFLOW, OPERATOR, Column, Kind, Peer, PodGroup
from ...training.steps import cache_task_of, topic_of_key
from .plan import plan, questions
from .report import REPORTING


def _topics(job: Manifest) -> frozenset[str]:
    """Return the Models that its outputs are registered as, its Environment, its Datasets, and its cache key."""
    outputs = (job["spec"].get("outputs") or {}).values()
    models = frozenset(output["registerAs"] for output in outputs if output.get("registerAs"))
    task = cache_task_of(job)
    own = models | topics_of(job) | datasets.topics_of(job)
    return own | ({topic_of_key(task.key)} if task else frozenset())


KIND = Kind(
    short="tj",
    description="TrainingJob runs a command to its end in pods, with inputs from and outputs to the object storage.",
    spec=TrainingJobSpec,
    status=TrainingJobStatus,
    columns=(
        Column("Progress", ".status.percent"),
        Column("Score", ".status.score"),
        Column("ModelVersion", ".status.modelVersion"),
        Column("Attempts", ".status.attempts", "integer"),
        Column("Pod", ".status.pod", priority=1),
    ),
    plan=plan,
    questions=questions,
    report=REPORTING,
    children=(JOB, POD, CONFIG_MAP, SERVICE),
    related=(MODEL, MODEL_VERSION, ENVIRONMENT, DATASET, DATASET_VERSION),
    rung_by=(ENVIRONMENT, DATASET, DATASET_VERSION),
    topics=_topics,
    creates=(MODEL, MODEL_VERSION, ENVIRONMENT, DATASET, DATASET_VERSION),
    deletes=(TRAINING_JOB, JOB),
    pods=(
        PodGroup(
            "training",
            talks_to=(
                Peer(TRAINING_JOB.kind),  # at any port: each framework chooses its own
                Peer(SWEEP.kind, (SWEEP_PORT,)),  # the coordinator of a trial
                Peer(OPERATOR),
                Peer(MLFLOW),
            ),
        ),
    ),
)
