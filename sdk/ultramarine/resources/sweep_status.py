"""Status of a Sweep: trials, the best of them, and what the sweep has stored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .base import Failure, MlflowStatus, RunStatus, Schema
from .dataset import DatasetPin
from .sweep import MAX_PARAMETERS
from .trainingjob_status import InputStatus, Provenance

MAX_BEST = 10
MAX_URI = 2048


class Trials(Schema):
    """Number of trials by state."""

    running: int = Field(default=0, ge=0, description="Number of running trials.")
    succeeded: int = Field(default=0, ge=0, description="Number of trials that ran to their end.")
    stopped: int = Field(default=0, ge=0, description="Number of trials that earlyTermination ended or paused.")
    failed: int = Field(default=0, ge=0, description="Number of failed trials.")


class Best(Schema):
    """One of the best trials."""

    trial: int = Field(ge=0, description="Number of the trial.")
    values: dict[str, float] = Field(default={}, max_length=8, description="Values of the objectives.")
    params: dict[str, Any] = Field(
        default={},
        max_length=MAX_PARAMETERS,
        description="Parameters of the trial.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    outputs: dict[str, Annotated[str, Field(max_length=MAX_URI)]] = Field(
        default={},
        max_length=16,
        description="Folders of the outputs in the object storage, by name. With execution: Pool a trial stores its "
        "outputs if it is the best so far, or one of the best keepOutputs, when it ends.",
    )
    model_version: str | None = Field(default=None, max_length=253, description="ModelVersion created from the output.")


class Journal(Schema):
    """Journal of all trials."""

    uri: str = Field(max_length=2048, description="Folder of the journal in the object storage.")


class Report(Schema):
    """Report of a finished sweep."""

    uri: str = Field(max_length=2048, description="HTML file in the object storage, with all figures embedded.")


class BudgetUsed(Schema):
    """Budget used by all trials together, by what they reserve."""

    cpu_hours: float | None = Field(default=None, ge=0, description="CPU hours.")
    gpu_hours: float | None = Field(default=None, ge=0, description="GPU hours.")


class SweepStatus(RunStatus):
    """Progress and results of the sweep."""

    trials: Trials | None = Field(default=None, description="Number of trials by state.")
    progress: str = Field(default="", max_length=32, description="Number of finished trials of the total, for display.")
    best: list[Best] = Field(
        default=[],
        max_length=MAX_BEST,
        description="Best trials, the best first; with several objectives, trials of the Pareto front.",
    )
    best_value: str = Field(default="", max_length=64, description="Value of the best trial, for display.")
    model_version: str = Field(default="", max_length=253, description="ModelVersion that registerBest created.")
    journal: Journal | None = Field(default=None, description="Journal of all trials.")
    report: Report | None = Field(
        default=None,
        description="Report with figures, the best trials, and the causes of failures; written when the sweep ends.",
    )
    budget_used: BudgetUsed | None = Field(default=None, description="Budget used so far.")
    warm_start: list[Annotated[str, Field(max_length=2048)]] = Field(
        default=[], max_length=10, description="Journals of the Sweeps in warmStartFrom."
    )
    provenance: Provenance | None = Field(
        default=None, description="Provenance: the environment and image of the trials, and the best trial's source."
    )
    inputs: dict[str, InputStatus] = Field(
        default={}, max_length=32, description="Inputs as they were fetched for the best trial, if it stored outputs."
    )
    datasets: dict[str, DatasetPin] = Field(
        default={}, max_length=32, description="Versions of Datasets that the trials read, by the name of the input."
    )
    mlflow: MlflowStatus | None = Field(
        default=None, description="MLflow run of the sweep, if the platform has MLflow."
    )
    image_error_since: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time since which an image cannot be pulled.",
    )
    failure: Failure | None = Field(default=None, description="Cause of the failure.")
