"""TrainingJob: run a command to its end, and keep what it made."""

from __future__ import annotations

from ultramarine.resources.trainingjob import TrainingJobSpec, TrainingJobStatus
from ultramarine_contract.meta import (
    CONFIG_MAP,
    JOB,
    MAX_NAME,
    MODEL,
    MODEL_VERSION,
    POD,
    SERVICE,
    TRAINING_JOB,
    Manifest,
)

from ...shared.plan import Column, Kind
from .plan import plan, questions


def _models(job: Manifest) -> frozenset[str]:
    """The Models that its outputs go to."""
    outputs = (job["spec"].get("outputs") or {}).values()
    return frozenset(output["registerAs"] for output in outputs if output.get("registerAs"))


KIND = Kind(
    resource=TRAINING_JOB,
    short="tj",
    description="TrainingJob runs a command to its end in pods, with inputs from and outputs to the object storage.",
    spec=TrainingJobSpec,
    status=TrainingJobStatus,
    columns=(
        Column("State", ".status.state"),
        Column("Progress", ".status.percent"),
        Column("Score", ".status.score"),
        Column("ModelVersion", ".status.modelVersion"),
        Column("Attempts", ".status.attempts", "integer"),
        Column("Duration", ".status.duration"),
        Column("Age", ".metadata.creationTimestamp", "date"),
        Column("Pod", ".status.pod", priority=1),
        Column("Message", '.status.conditions[?(@.type=="Running")].message', priority=1),
        Column("Failure", '.status.conditions[?(@.type=="Stalled")].message', priority=1),
    ),
    plan=plan,
    children=(JOB, POD, CONFIG_MAP, SERVICE),
    related=(MODEL, MODEL_VERSION),
    topics=_models,
    questions=questions,
    rules=(
        (f"size(self.metadata.name) <= {MAX_NAME}", f"metadata.name must have at most {MAX_NAME} characters"),
        ("!self.metadata.name.contains('.')", "metadata.name must not contain a dot: it becomes a host name"),
    ),
    creates=(MODEL, MODEL_VERSION),
    deletes=(TRAINING_JOB, JOB),
)
