"""Pipeline and PipelineRun: steps that depend on each other, and one run of them; specs and statuses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from .base import (
    CANCELLED_ONCE,
    IMMUTABLE,
    DnsName,
    Extra,
    Failure,
    Resources,
    RunStatus,
    Schema,
    Status,
    rule,
    rules,
)
from .environment import EnvironmentReference
from .pipeline_repetition import MAX_ITEMS, OPEN, Expression, ForEach, While
from .pods import PodTemplate

MAX_STEPS = 1000
MAX_FINALLY = 20
MAX_STATES = 2000  # entries of status.steps
MAX_DATASETS = 500  # entries of status.datasets
MAX_STEP_NAME = 40

ParameterType = Literal["string", "integer", "number", "boolean", "list", "uri", "dataset", "model"]
StepState = Literal["Waiting", "Running", "Succeeded", "Failed", "Skipped"]

Json = Annotated[Any, WithJsonSchema({**OPEN, "maxLength": 65536, "maxItems": MAX_ITEMS, "maxProperties": 100})]
OpenSpec = Annotated[dict[str, Any], WithJsonSchema({"type": "object", **OPEN, "maxProperties": 100})]
StepName = Annotated[str, Field(min_length=1, max_length=MAX_STEP_NAME)]  # one that must exist

_IDENTIFIERS = rules(
    rule(
        "self.all(key, key.matches('^[A-Za-z_][A-Za-z0-9_-]*$') && size(key) <= 63)",
        "each key must be letters, digits, '_' and '-', at most 63 characters",
    )
)
_BY_NAME: Extra = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class PipelineParameter(Schema):
    """Typed parameter of a pipeline."""

    type: ParameterType = Field(
        description="Type of the value. uri: an s3:// URI. dataset: a dataset's name with @VERSION, @ALIAS or @latest. "
        "model: a model's name with @VERSION, @ALIAS or @latest."
    )
    default: Json = Field(default=None, description="Value of a run that sets none. Without it a run must set one.")
    minimum: float | None = Field(default=None, description="Minimum of a number or an integer.")
    maximum: float | None = Field(default=None, description="Maximum of a number or an integer.")
    values: list[Json] = Field(default=[], max_length=100, description="Permitted values. Default: any of the type.")
    description: str = Field(default="", max_length=1024, description="Meaning of the parameter.")


class PipelineDefaults(Schema):
    """Fields of each step's job or trials that do not set them."""

    image: str | None = Field(default=None, min_length=1, max_length=500, description="Container image.")
    environment: EnvironmentReference | None = Field(default=None, description="Python packages of the command.")
    resources: Resources | None = Field(default=None, description="Resources of each pod's container.")
    pod_template: PodTemplate | None = Field(default=None, description="Scheduling and identity of the pods.")


class PipelineCall(Schema):
    """Run of another Pipeline of the namespace."""

    name: DnsName = Field(description="Name of the Pipeline.")
    parameters: dict[str, Json] = Field(default={}, max_length=128, description="Values of its parameters.")


TargetName = Annotated[str, Field(min_length=1, max_length=253)]  # or a reference that becomes one


class Publish(Schema):
    """Version that an alias of a Model or a Dataset, or a deployment of an OnlineEndpoint, moves to."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.model) != has(self.dataset)", "give one of model and dataset"),
            rule("has(self.alias) != has(self.deployment)", "give one of alias and deployment"),
            rule("!has(self.dataset) || has(self.alias)", "a dataset has aliases alone; give alias"),
            rule("!has(self.deployment) || has(self.endpoint)", "give endpoint, which has the deployment"),
            rule("!self.wait || has(self.endpoint)", "give endpoint, whose rollout is awaited"),
        )
    )

    model: TargetName | None = Field(default=None, description="Name of the Model.")
    dataset: TargetName | None = Field(default=None, description="Name of the Dataset.")
    version: Annotated[str, Field(min_length=1, max_length=2048)] = Field(
        description="Version: $(steps.STEP.outputs.NAME), an output that is registered as a version, or a number in "
        "quotes. A version older than the present one is never published."
    )
    alias: TargetName | None = Field(default=None, description="Alias that moves to the version.")
    endpoint: TargetName | None = Field(
        default=None, description="OnlineEndpoint with the deployment, or whose rollout is awaited."
    )
    deployment: TargetName | None = Field(
        default=None, description="Deployment whose model becomes MODEL@VERSION. A candidate's rollout starts again."
    )
    wait: bool = Field(
        default=False,
        description="True to end the step when the endpoint serves the version: when its rollout is promoted, or its "
        "deployment is ready. The step fails if the rollout is rolled back.",
    )


class Step(Schema):
    """Step of a pipeline: one of trainingJob, sweep, pipeline and publish."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.trainingJob), has(self.sweep), has(self.pipeline), has(self.publish)]"
                ".filter(it, it).size() == 1",
                "give one of trainingJob, sweep, pipeline and publish",
            ),
            rule("!has(self.forEach) || !has(self.__while__)", "give at most one of forEach and while"),
        )
    )

    name: DnsName = Field(description="Name of the step.")
    after: list[StepName] = Field(
        default=[],
        max_length=100,
        description="Steps that end before this one begins, beside those that it refers to.",
    )
    when: Expression | None = Field(
        default=None,
        description="CEL expression over params, and over state, outputs and metrics of steps, such as "
        "steps.check.metrics.auc > 0.9. The step is skipped if it is false.",
    )
    for_each: ForEach | None = Field(default=None, description="Repetition for each entry of a list.")
    while_: While | None = Field(default=None, alias="while", description="Repetition while a condition holds.")
    retries: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Maximum number of further objects after one that failed. backoffLimit of a job retries pods.",
    )
    timeout_seconds: int | None = Field(
        default=None, ge=1, le=31536000, description="Maximum time in seconds from the start of the step to its end."
    )
    cache: bool = Field(
        default=True,
        description="True to reuse the outputs and metrics of an earlier success with equal code, command, inputs, "
        "parameters and image.",
    )
    cache_salt: str = Field(
        default="", max_length=253, description="Text in the cache key; a new one makes the step run again."
    )
    training_job: OpenSpec | None = Field(
        default=None,
        description="Spec of a TrainingJob, in which $(params.X), $(steps.S.outputs.O), $(steps.S.metrics.M) and "
        "$(item) stand for values.",
    )
    sweep: OpenSpec | None = Field(default=None, description="Spec of a Sweep, with the same references.")
    pipeline: PipelineCall | None = Field(default=None, description="Run of another Pipeline.")
    publish: Publish | None = Field(
        default=None, description="Version that an alias or a deployment moves to, which starts a rollout."
    )


class PipelineSpec(Schema):
    """Parameters, steps and outputs of a pipeline."""

    description: str = Field(default="", max_length=4096, description="Purpose of the pipeline.")
    parameters: dict[str, PipelineParameter] = Field(
        default={}, max_length=128, description="Parameters by name.", json_schema_extra=_IDENTIFIERS
    )
    defaults: PipelineDefaults = Field(
        default=PipelineDefaults(), description="Fields of each step's job or trials that do not set them."
    )
    steps: list[Step] = Field(
        min_length=1,
        max_length=MAX_STEPS,
        description="Steps. A step begins when those that it refers to, and those in after, have ended.",
        json_schema_extra=_BY_NAME,
    )
    finally_: list[Step] = Field(
        default=[],
        alias="finally",
        max_length=MAX_FINALLY,
        description="Steps that run after all others have ended, also if some of them failed.",
        json_schema_extra=_BY_NAME,
    )
    outputs: dict[str, Annotated[str, Field(max_length=253)]] = Field(
        default={},
        max_length=64,
        description="Outputs of the pipeline by name, each $(steps.STEP.outputs.NAME).",
        json_schema_extra=_IDENTIFIERS,
    )
    continue_on_step_failure: bool = Field(
        default=False,
        description="True to begin steps that do not depend on a failed one. By default no step begins after a failure;"
        " those that run end by themselves.",
    )


class PipelineStatus(Status):
    """Result of checking the pipeline."""

    steps: int = Field(default=0, ge=0, description="Number of steps.")
    digest: str = Field(default="", max_length=71, description="SHA-256 of the spec.")


class Rerun(Schema):
    """Earlier run whose results are taken over by steps with the same work, whatever the cache says."""

    of: DnsName = Field(description="Name of the earlier PipelineRun, which has ended.")
    from_: list[StepName] = Field(
        default=[],
        alias="from",
        max_length=MAX_STEPS,
        description="Steps to run again, with all that depend on them, beside those that have not succeeded and those "
        "that were edited.",
    )


class PipelineRunSpec(Schema):
    """Pipeline and parameters of a run. Mutable: suspend, cancel, TTL."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!has(self.rerun) || !self.forceRerun", "give at most one of rerun and forceRerun"),
        )
    )

    pipeline: DnsName | None = Field(
        default=None,
        description="Name of the Pipeline. The run keeps the spec that it begins with.",
        json_schema_extra=IMMUTABLE,
    )
    pipeline_spec: PipelineSpec | None = Field(
        default=None, description="Spec of a pipeline for this run alone.", json_schema_extra=IMMUTABLE
    )
    parameters: dict[str, Json] = Field(
        default={},
        max_length=128,
        description="Values of the pipeline's parameters.",
        json_schema_extra=IMMUTABLE,
    )
    rerun: Rerun | None = Field(
        default=None, description="Earlier run whose results are taken over.", json_schema_extra=IMMUTABLE
    )
    force_rerun: bool = Field(
        default=False,
        description="True to run all steps, whatever the cache has; their results fill it.",
        json_schema_extra=IMMUTABLE,
    )
    suspend: bool = Field(
        default=False, description="True to hold running steps and to begin none until it is false again."
    )
    cancel: bool = Field(
        default=False,
        description="True to end the run: running steps are deleted, steps of finally run, and the run's state "
        "becomes Cancelled. It cannot be undone.",
        json_schema_extra=CANCELLED_ONCE,
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Time in seconds after which the finished run is deleted with its jobs; their results stay.",
    )


class StepOutput(Schema):
    """Output of a step."""

    uri: str = Field(max_length=2048, description="Folder in the object storage.")
    digest: str = Field(default="", max_length=71, description="SHA-256 over the list of files.")


class CachedFrom(Schema):
    """Origin of reused results."""

    run: str = Field(default="", max_length=253, description="PipelineRun that made them.")
    job: str = Field(default="", max_length=253, description="TrainingJob or Sweep that made them.")


class Published(Schema):
    """Version that a step has published, or is about to publish."""

    kind: str = Field(max_length=63, description="Model or Dataset.")
    name: str = Field(max_length=253, description="Name of the Model or the Dataset.")
    version: str = Field(max_length=9, description="Number of the version.")
    former: str = Field(default="", max_length=9, description="Number of the version before; empty without one.")
    alias: str = Field(default="", max_length=253, description="Alias that moves.")
    endpoint: str = Field(default="", max_length=253, description="OnlineEndpoint.")
    deployment: str = Field(default="", max_length=253, description="Deployment whose model is set.")


class PartitionsPin(Schema):
    """Version of a Dataset whose partitions a step runs for, resolved once."""

    dataset: str = Field(max_length=81, description="Reference to the version, as the step has it.")
    version: str = Field(default="", max_length=253, description="DatasetVersion; empty while none is ready.")
    uri: str = Field(default="", max_length=1024, description="Folder of the version.")
    digest: str = Field(default="", max_length=71, description="SHA-256 over the list of its files.")


class StepStatus(Schema):
    """State of a step, or of one of its repetitions."""

    model_config = ConfigDict(frozen=False)

    name: str = Field(max_length=63, description="Name of the step; of a repetition with its number: STEP-NUMBER.")
    state: StepState = Field(description="Waiting, Running, Succeeded, Failed or Skipped.")
    child: str = Field(default="", max_length=63, description="Name of the object that does the step's work.")
    kind: str = Field(
        default="", max_length=63, description="Kind of that object, or of the one whose results were reused."
    )
    attempt: int = Field(default=0, ge=0, description="Number of failed objects before this one.")
    start_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time at which the step began."
    )
    completion_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time at which the step ended."
    )
    key: str = Field(
        default="",
        max_length=64,
        description="Cache key: SHA-256 of all that decides about the result; not of a repetition that has ended.",
    )
    cached: CachedFrom | None = Field(default=None, description="Origin of the results, if they were reused.")
    miss_reason: str = Field(
        default="",
        max_length=500,
        description="Part of the cache key that differs from the latest record, or why a resumed run does not "
        "take over the results.",
    )
    message: str = Field(default="", max_length=500, description="Explanation, with the remedy of a failure.")
    outputs: dict[str, StepOutput] = Field(default={}, max_length=16, description="Outputs by name.")
    metrics: dict[str, float] = Field(default={}, max_length=20, description="Last value of each metric.")
    items: int | None = Field(default=None, ge=0, description="Number of repetitions of forEach or while.")
    published: Published | None = Field(default=None, description="Version that the step has published.")
    partitions: PartitionsPin | None = Field(
        default=None, description="Version of the Dataset in forEach.partitions, as it was resolved."
    )


class PipelinePin(Schema):
    """Pipeline of a run, as it was when the run began."""

    name: str = Field(default="", max_length=253, description="Name of the Pipeline.")
    generation: int = Field(default=0, ge=0, description="Generation of the Pipeline.")
    digest: str = Field(default="", max_length=71, description="SHA-256 of the spec.")
    revision: str = Field(default="", max_length=253, description="ControllerRevision that keeps the spec.")


class RunDataset(Schema):
    """Reference to a Dataset in the steps of a run, and the version that they read."""

    reference: str = Field(max_length=81, description="Reference, such as orders@latest.")
    version: str = Field(default="", max_length=253, description="DatasetVersion; empty while none is ready.")


class StepCounts(Schema):
    """Number of steps by state; repetitions count, and not their step."""

    waiting: int = Field(default=0, ge=0, description="Number of steps that have not begun.")
    running: int = Field(default=0, ge=0, description="Number of running steps.")
    succeeded: int = Field(default=0, ge=0, description="Number of steps that ended with success, reused ones too.")
    cached: int = Field(default=0, ge=0, description="Number of steps whose results were reused.")
    failed: int = Field(default=0, ge=0, description="Number of failed steps.")
    skipped: int = Field(default=0, ge=0, description="Number of skipped steps.")


class PipelineRunStatus(RunStatus):
    """Progress and results of the run."""

    pipeline: PipelinePin | None = Field(default=None, description="Pipeline as it was when the run began.")
    datasets: list[RunDataset] = Field(
        default=[],
        max_length=MAX_DATASETS,
        description="Versions of Datasets that the steps read, resolved once as the run begins. They cannot be deleted "
        "before its end. A version that the run itself may make is not among them.",
    )
    steps: list[StepStatus] = Field(
        default=[],
        max_length=MAX_STATES,
        # Atomic, or metadata.managedFields would name each field of each entry.
        description="States of the steps, in the order of the pipeline.",
    )
    counts: StepCounts | None = Field(default=None, description="Number of steps by state.")
    progress: str = Field(default="", max_length=32, description="Number of ended steps of the total, for display.")
    outputs: dict[str, StepOutput] = Field(default={}, max_length=64, description="Outputs of the pipeline by name.")
    failure: Failure | None = Field(default=None, description="Cause of the failure.")
