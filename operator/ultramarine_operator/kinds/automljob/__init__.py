"""AutoMLJob: the best model of a table, by a job that prepares it, a Sweep, and a job that finishes."""

from __future__ import annotations

from ultramarine.resources.automl import AutoMLJobSpec, AutoMLJobStatus
from ultramarine_contract.meta import AUTOML_JOB, SWEEP, TRAINING_JOB

from ...shared.kind import LETTER_FIRST, Column, Kind
from .plan import plan, questions

MAX_AUTOML_NAME = 32  # characters; those of children add eight

KIND = Kind(
    short="aml",
    description="AutoMLJob searches for the best model of a table within a time limit.",
    spec=AutoMLJobSpec,
    status=AutoMLJobStatus,
    columns=(
        Column("Phase", ".status.phase"),
        Column("Best", ".status.bestScore"),
        Column("Trials", ".status.progress"),
        Column("ModelVersion", ".status.modelVersion"),
        Column("Deadline", ".status.deadline", priority=1),
    ),
    plan=plan,
    questions=questions,
    children=(TRAINING_JOB, SWEEP),
    names=(
        (
            f"size(self.metadata.name) <= {MAX_AUTOML_NAME}",
            f"metadata.name must have at most {MAX_AUTOML_NAME} characters: the names of its jobs begin with it",
        ),
        LETTER_FIRST,
    ),
    deletes=(AUTOML_JOB, TRAINING_JOB),
)
