"""Sweep: try a command with many parameters, and keep the best."""

from __future__ import annotations

from ultramarine.resources.sweep import SweepSpec, SweepStatus
from ultramarine_contract.meta import (
    CONFIG_MAP,
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
from ultramarine_contract.sweep_records import MOST_PODS

from ...shared.plan import Column, Kind
from ..trials import trial_name
from .plan import plan, questions
from .podpertrial import answer

ROOM_FOR_TRIAL = len(trial_name("", MOST_PODS - 1))


def _topics(sweep: Manifest) -> frozenset[str]:
    """The Model that its best trial goes to, and itself and the sweeps that it learns from."""
    spec = sweep["spec"]
    others = (spec.get("algorithm") or {}).get("warmStartFrom") or []
    model = {str(spec["registerBest"])} if spec.get("registerBest") else set()
    return frozenset({*model, *(f"sweep {name}" for name in (sweep["metadata"]["name"], *others))})


KIND = Kind(
    resource=SWEEP,
    short="sw",
    description="Sweep runs a command with one set of parameters after another, in search of the best.",
    spec=SweepSpec,
    status=SweepStatus,
    columns=(
        Column("State", ".status.state"),
        Column("Best", ".status.bestValue"),
        Column("Trials", ".status.progress"),
        Column("Stopped", ".status.trials.stopped", "integer"),
        Column("Failed", ".status.trials.failed", "integer"),
        Column("Duration", ".status.duration"),
        Column("Age", ".metadata.creationTimestamp", "date"),
        Column("ModelVersion", ".status.modelVersion", priority=1),
        Column("Message", '.status.conditions[?(@.type=="Running")].message', priority=1),
        Column("Failure", '.status.conditions[?(@.type=="Stalled")].message', priority=1),
    ),
    plan=plan,
    questions=questions,
    answer=answer,
    children=(JOB, POD, CONFIG_MAP, SERVICE, TRAINING_JOB),
    related=(MODEL, MODEL_VERSION, SWEEP),
    topics=_topics,
    rules=(
        (f"size(self.metadata.name) <= {MAX_NAME}", f"metadata.name must have at most {MAX_NAME} characters"),
        (
            "!self.metadata.name.contains('.') && self.metadata.name.matches('^[a-z]')",
            "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
        ),
        (
            f"self.spec.execution == 'Pool' || size(self.metadata.name) <= {MAX_NAME - ROOM_FOR_TRIAL}",
            f"with execution: PodPerTrial metadata.name must have at most {MAX_NAME - ROOM_FOR_TRIAL} characters: each "
            "trial's TrainingJob has it in its name",
        ),
    ),
    creates=(SECRET, MODEL, MODEL_VERSION),
    deletes=(SWEEP, JOB, TRAINING_JOB),
)
