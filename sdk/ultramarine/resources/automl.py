"""AutoMLJob: a search for the best model of a table; spec and status."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.automl import MAX_LEADERBOARD

from .base import (
    IMMUTABLE,
    Cancel,
    Digest,
    DnsName,
    Failure,
    Resources,
    RunStatus,
    Schema,
    Uri,
    rule,
    rules,
    says,
)
from .dataset import ONE_SOURCE, DatasetPin, DatasetReference
from .environment import EnvironmentReference
from .pods import PodTemplate

MAX_COLUMN = 128  # characters of a column's name
MAX_COLUMNS = 100  # columns that features name
MAX_GUARDRAILS = 20
MAX_TIMEOUT = 604800
Column = Annotated[str, Field(min_length=1, max_length=MAX_COLUMN)]


class TableData(Schema):
    """Table, and the columns with a part of their own."""

    model_config = ConfigDict(json_schema_extra=rules(*ONE_SOURCE))

    dataset: DatasetReference | None = Field(
        default=None,
        description="Version of a Dataset: DATASET@VERSION, DATASET@ALIAS, or DATASET@latest for the newest ready one. "
        "It is resolved once, and status.dataset names it.",
    )
    uri: Uri | None = Field(
        default=None, description="CSV, Parquet or JSON lines file (s3://BUCKET/KEY), or a folder of such files."
    )
    digest: Digest | None = Field(default=None, description="SHA-256 of the content at uri.")
    target: Column = Field(description="Column that the model predicts.")
    weight: Column | None = Field(default=None, description="Column with the weight of each row.")
    group: Column | None = Field(
        default=None, description="Column whose equal values stay in one fold, such as a customer."
    )


class Validation(Schema):
    """Comparison of candidates by cross-validation."""

    folds: int = Field(
        default=5, ge=2, le=20, description="Number of folds. Each fold that a candidate has passed is a step."
    )


class SearchLimits(Schema):
    """Limits on time, trials and pods."""

    timeout_seconds: int = Field(
        default=3600,
        ge=30,
        le=MAX_TIMEOUT,
        description="Time in seconds from the first pod to the registered model. Suspension does not count.",
    )
    max_trials: int = Field(default=200, ge=1, le=10_000, description="Maximum number of candidates.")
    parallel_trials: int = Field(default=1, ge=1, le=1000, description="Number of pods that evaluate candidates.")


class Algorithms(Schema):
    """Algorithms that are tried."""

    block: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[],
        max_length=32,
        description="Algorithms that are not tried, such as svm.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class Ensemble(Schema):
    """Combination of the best candidates."""

    enabled: bool = Field(default=True, description="False to choose a single candidate.")


class Features(Schema):
    """Treatment of columns, where the program would decide otherwise."""

    drop: list[Column] = Field(
        default=[],
        max_length=MAX_COLUMNS,
        description="Columns that the model does not get.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    types: dict[str, Literal["numeric", "categorical", "text", "date", "id"]] = Field(
        default={},
        max_length=MAX_COLUMNS,
        description="Types of columns, by name. Default: detected from the values.",
        json_schema_extra=rules(
            rule(f"self.all(key, size(key) <= {MAX_COLUMN})", f"a column's name has at most {MAX_COLUMN} characters")
        ),
    )


class ModelOutput(Schema):
    """Model that the job makes."""

    register_as: DnsName | None = Field(
        default=None,
        description="Model that gets the result as its next version; the Model is created if necessary.",
    )


class AutoMLOutputs(Schema):
    """Outputs of the job."""

    model: ModelOutput = Field(default=ModelOutput(), description="Model.")


class AutoMLJobSpec(Schema):
    """Table, target, limits and pods of the search. Mutable: suspend, cancel, TTL."""

    task: Literal["classification", "regression"] = Field(
        description="Kind of prediction: classification (a class) or regression (a number).",
        json_schema_extra=IMMUTABLE,
    )
    data: TableData = Field(description="Table, and its columns.", json_schema_extra=IMMUTABLE)
    metric: str = Field(
        default="auto",
        pattern="^[a-z][a-z0-9_]*$",
        max_length=63,
        description="Metric by which candidates are compared: log_loss, accuracy, balanced_accuracy, f1_macro or "
        "roc_auc for classification; rmse, mae or r2 for regression. auto: the first of these.",
        json_schema_extra=IMMUTABLE | says("must be the name of a metric, such as log_loss"),
    )
    validation: Validation = Field(
        default=Validation(), description="Comparison of candidates by cross-validation.", json_schema_extra=IMMUTABLE
    )
    limits: SearchLimits = Field(
        default=SearchLimits(), description="Limits on time, trials and pods.", json_schema_extra=IMMUTABLE
    )
    algorithms: Algorithms = Field(
        default=Algorithms(), description="Algorithms that are tried.", json_schema_extra=IMMUTABLE
    )
    ensemble: Ensemble = Field(
        default=Ensemble(), description="Combination of the best candidates.", json_schema_extra=IMMUTABLE
    )
    features: Features = Field(
        default=Features(),
        description="Treatment of columns, where the program would decide otherwise.",
        json_schema_extra=IMMUTABLE,
    )
    resources: Resources = Field(
        default=Resources(), description="Resources of each pod's container.", json_schema_extra=IMMUTABLE
    )
    environment: EnvironmentReference | None = Field(
        default=None, description="Python packages of the pods, beside those of the image.", json_schema_extra=IMMUTABLE
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="Scheduling and identity of the pods.", json_schema_extra=IMMUTABLE
    )
    outputs: AutoMLOutputs = Field(
        default=AutoMLOutputs(), description="Outputs of the job.", json_schema_extra=IMMUTABLE
    )
    suspend: bool = Field(
        default=False, description="True to end the running pods and hold the job until it is false again."
    )
    cancel: Cancel = False
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Time in seconds after which the finished AutoMLJob is deleted; its results stay.",
    )


class Candidate(Schema):
    """Candidate for the model."""

    algorithm: str = Field(max_length=63, description="Algorithm, or ensemble.")
    score: float = Field(description="Cross-validated value of the metric.")
    std: float | None = Field(default=None, description="Standard deviation of the score between folds.")
    fit_seconds: float | None = Field(default=None, description="Duration of the training in seconds.")
    p95_milliseconds: float | None = Field(
        default=None, description="95th percentile of the time for the prediction of one row, in milliseconds."
    )
    mebibytes: float | None = Field(default=None, description="Size of the model in MiB.")
    params: dict[str, Any] = Field(
        default={},
        max_length=64,
        description="Hyperparameters.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Guardrail(Schema):
    """Weakness of the data."""

    name: str = Field(max_length=63, description="Name, such as leakage.")
    severity: str = Field(max_length=32, description="info, warning or error.")
    column: str = Field(default="", max_length=MAX_COLUMN, description="Column, if it is about one.")
    message: str = Field(max_length=500, description="Explanation.")


class TestScore(Schema):
    """Score of the model on rows that no candidate has seen."""

    __test__ = False  # not a test of pytest

    score: float = Field(description="Value of the metric.")
    low: float = Field(description="Lower bound with 95 % confidence.")
    high: float = Field(description="Upper bound with 95 % confidence.")
    baseline: float = Field(description="Value for a model without features.")
    rows: int = Field(ge=0, description="Number of rows.")


class StoredFolder(Schema):
    """Folder in the object storage."""

    uri: str = Field(max_length=2048, description="Folder in the object storage.")
    digest: Digest | None = Field(default=None, description="SHA-256 over the list of files.")


class StoredFile(Schema):
    """File in the object storage."""

    uri: str = Field(max_length=2048, description="File in the object storage.")


class AutoMLJobStatus(RunStatus):
    """Progress and results of the job."""

    phase: str = Field(default="", max_length=32, description="Phase: Preparing, Searching or Finishing.")
    metric: str = Field(default="", max_length=63, description="Metric by which candidates are compared.")
    progress: str = Field(
        default="", max_length=32, description="Number of evaluated candidates of the maximum, for display."
    )
    best_score: str = Field(default="", max_length=100, description="Metric and value of the best, for display.")
    best: Candidate | None = Field(
        default=None,
        description="Best candidate so far; at the end the model that was chosen.",
        json_schema_extra={"x-kubernetes-map-type": "atomic"},
    )
    leaderboard: list[Candidate] = Field(
        default=[], max_length=MAX_LEADERBOARD, description="Best candidates, the best first."
    )
    test: TestScore | None = Field(default=None, description="Score of the model on rows that no candidate has seen.")
    guardrails: list[Guardrail] = Field(
        default=[], max_length=MAX_GUARDRAILS, description="Weaknesses of the data, the gravest first."
    )
    model_version: str = Field(default="", max_length=253, description="ModelVersion of the model.")
    model: StoredFolder | None = Field(default=None, description="Model in the object storage.")
    report: StoredFile | None = Field(default=None, description="Report as one HTML file.")
    code: StoredFile | None = Field(default=None, description="Training script that reproduces the model.")
    jobs: list[Annotated[str, Field(max_length=253)]] = Field(
        default=[],
        max_length=3,
        description="Objects that do the work, as KIND/NAME.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    deadline: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time by which the model is to be registered. Absent before the first pod and during suspension.",
    )
    seconds_left: int | None = Field(
        default=None, ge=0, description="Rest of limits.timeoutSeconds during suspension, in seconds."
    )
    dataset: DatasetPin | None = Field(default=None, description="Version of the Dataset that the job reads.")
    prepared: StoredFolder | None = Field(default=None, description="Encoded data.")
    candidates: StoredFolder | None = Field(default=None, description="Predictions of the best candidates.")
    failure: Failure | None = Field(default=None, description="Cause of the failure.")
