"""Status of a TrainingJob: attempts, progress, outputs and provenance."""

from __future__ import annotations

from pydantic import Field
from ultramarine_contract.common import MAX_UNTRUSTED_TEXT
from ultramarine_contract.score import MAX_SCORE

from .base import (
    Digest,
    Failure,
    MlflowStatus,
    RunStatus,
    Schema,
)
from .dataset import DatasetPin
from .environment import EnvironmentPin


class OutputStatus(Schema):
    """Uploaded output."""

    uri: str = Field(max_length=2048, description="Folder in the object storage.")
    digest: Digest = Field(description="SHA-256 over the list of files, which identifies the whole content.")
    bytes: int = Field(ge=0, description="Total size of the files in bytes.")
    format: str = Field(
        default="", max_length=63, description="Format of the model; empty if the output is not a model."
    )
    untrusted: str = Field(
        default="",
        max_length=MAX_UNTRUSTED_TEXT,
        description="Types in a .skops file that a server builds only if the version may run code.",
    )
    model_version: str | None = Field(default=None, max_length=253, description="ModelVersion created from the output.")
    dataset_version: str | None = Field(
        default=None, max_length=253, description="DatasetVersion with the content of the output."
    )


class Metrics(Schema):
    """Metrics that the command printed as name=value."""

    latest: dict[str, float] = Field(default={}, max_length=20, description="Last value of each metric.")
    uri: str = Field(
        default="", max_length=2048, description="Folder in the object storage with all values: POD.parquet."
    )


class InputStatus(Schema):
    """Input as it was fetched."""

    digest: str = Field(
        default="",
        max_length=100,
        description="SHA-256 over the list of files and their digests, if the input was downloaded.",
    )
    bytes: int = Field(ge=0, description="Total size of the files in bytes.")
    files: int = Field(default=0, ge=0, description="Number of files.")


class Attempt(Schema):
    """Run of one pod."""

    pod: str = Field(max_length=253, description="Name of the pod.")
    node: int = Field(default=0, ge=0, description="Number of the pod's node within the job.")
    start_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Start of the pod."
    )
    end_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, description="End of the pod.")
    reason: str = Field(default="", max_length=256, description="Succeeded, or the cause of the end, in CamelCase.")
    exit_code: int | None = Field(default=None, description="Exit code of the command.")
    message: str = Field(default="", max_length=512, description="Explanation: what happened.")


class ProgressStatus(Schema):
    """Progress of the command, as it printed it (step=, total_steps=) or reported it."""

    step: int | None = Field(default=None, ge=0, description="Current step.")
    total_steps: int | None = Field(default=None, ge=0, description="Total number of steps.")
    percent: int | None = Field(default=None, ge=0, le=100, description="Progress in percent.")
    eta_seconds: int | None = Field(default=None, ge=0, description="Estimated remaining time in seconds.")


class CheckpointStatus(Schema):
    """Complete checkpoint."""

    uri: str = Field(max_length=2048, description="Folder in the object storage, usable as checkpoint.resumeFrom.")
    time: str = Field(default="", max_length=64, description="Time at which the checkpoint was complete.")
    step: int | None = Field(default=None, ge=0, description="Last step that the command had reported by then.")
    bytes: int = Field(default=0, ge=0, description="Total size of the files in bytes.")


class Logs(Schema):
    """Output of the pods."""

    uri: str = Field(max_length=2048, description="Folder in the object storage: POD/00001.log and so on.")


class Goodput(Schema):
    """Goodput: productive and lost time."""

    productive_seconds: int = Field(
        default=0, ge=0, description="Time in seconds of work that is kept: up to a checkpoint, or to the end."
    )
    lost_seconds: int = Field(
        default=0, ge=0, description="Rest of the active time in seconds: waiting, starting, and repeated work."
    )


class Provenance(EnvironmentPin):
    """Provenance: the exact image, environment, source and requester."""

    image_digest: str = Field(default="", max_length=500, description="Digest of the image, as the node resolved it.")
    source_digest: str = Field(
        default="", max_length=100, description="SHA-256 of the source: of the archive, or over its files."
    )
    git_commit: str = Field(default="", max_length=64, description="Commit of the source's repository.")
    requested_by: str = Field(
        default="", max_length=500, description="User who created the object; needs Kubernetes 1.36 or newer."
    )


class TrainingJobStatus(RunStatus):
    """Progress and results of the job."""

    attempts: int = Field(
        default=0,
        ge=0,
        description="Number of started pods; of a job with several nodes, number of starts of the whole job.",
    )
    attempt_history: list[Attempt] = Field(
        default=[], max_length=20, description="Latest pods: all of node 0, and failed ones of other nodes."
    )
    active_since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time at which the job last became active."
    )
    active_seconds: int = Field(
        default=0,
        ge=0,
        description="Active time in seconds before activeSince, or until the end; suspension does not count.",
    )
    image_error_since: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time since which an image cannot be pulled.",
    )
    memory: str = Field(default="", max_length=20, description="Memory limit, if onOutOfMemory has raised it.")
    progress: ProgressStatus | None = Field(default=None, description="Progress of the command.")
    percent: str = Field(default="", max_length=16, description="Progress in percent, for display.")
    last_checkpoint: CheckpointStatus | None = Field(default=None, description="Newest complete checkpoint.")
    logs: Logs | None = Field(default=None, description="Output of the pods, readable after they are gone.")
    goodput: Goodput | None = Field(default=None, description="Productive and lost time, computed at the end.")
    pod: str = Field(
        default="",
        max_length=253,
        description="Newest pod; of a failed job, the pod that caused the failure.",
    )
    inputs: dict[str, InputStatus] = Field(default={}, max_length=32, description="Inputs as they were fetched.")
    datasets: dict[str, DatasetPin] = Field(
        default={}, max_length=32, description="Versions of Datasets that the job reads, by the name of the input."
    )
    outputs: dict[str, OutputStatus] = Field(default={}, max_length=16, description="Uploaded outputs.")
    model_version: str = Field(
        default="", max_length=1000, description="ModelVersions created by the job, for display."
    )
    metrics: Metrics | None = Field(default=None, description="Metrics that the command printed.")
    score: str = Field(default="", max_length=MAX_SCORE, description="Latest metrics, as many as fit into a column.")
    failure: Failure | None = Field(
        default=None, description="Cause of the failure; during retries, of the last attempt's failure."
    )
    provenance: Provenance | None = Field(default=None, description="Provenance of the job.")
    mlflow: MlflowStatus | None = Field(default=None, description="MLflow run of the job, if the platform has MLflow.")
