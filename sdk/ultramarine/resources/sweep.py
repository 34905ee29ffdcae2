"""Sweep: what its author writes and what the operator answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST, METRIC_NAME_LIMIT
from ultramarine_contract.sweep_records import MOST_PODS

from .base import IMMUTABLE, DnsName, MlflowStatus, RunStatus, Schema, rule, rules, says
from .sweep_space import Parameter
from .sweep_stopping import EarlyTermination
from .trainingjob import Failure, TrainingJobSpec, TrialOutput

MAX_BEST = 10
MAX_URI = 2048
MAX_TRIALS = 10_000
MAX_PARAMETERS = 64
MOST_HOURS = 100_000
YEAR = 31536000


class Objective(Schema):
    """A metric that the command prints as name=value, and which way is better."""

    metric: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$",
        max_length=METRIC_NAME_LIMIT,
        description="The metric's name; what counts is the last value that a trial prints.",
        json_schema_extra=says("must be a metric's name: a letter or '_', then letters, digits, '_', '.', '/' and '-'"),
    )
    goal: Literal["minimize", "maximize"] = Field(default="minimize", description="Whether less or more is better.")
    stop_at: float | None = Field(
        default=None, description="The sweep has succeeded when a trial has reached this; the others are ended then."
    )


class Algorithm(Schema):
    """Who suggests the parameters of the next trial."""

    type: Literal["random", "grid", "sobol", "tpe", "gp", "cmaes", "nsga2"] = Field(
        default="tpe",
        description="random: any. grid: each combination once. sobol: spread evenly. tpe: where good trials are denser "
        "than bad ones. gp: where a Gaussian process expects most, for few and dear trials. cmaes: evolution, for "
        "numbers that act together. nsga2: evolution, for several objectives.",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST, description="The same seed and the same history give the same suggestion."
    )
    warm_start_from: list[DnsName] = Field(
        default=[],
        max_length=10,
        description="Other Sweeps of the namespace, with the same objectives, whose finished trials count as known.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class Limits(Schema):
    """How many trials there are, at once and in all, and when it is not worth going on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.maxTrials) || self.parallelTrials <= self.maxTrials",
                "parallelTrials must not be above maxTrials",
            )
        )
    )

    max_trials: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRIALS,
        description="So many trials in all; a grid has no more than its points, and needs this if they are more than "
        f"{MAX_TRIALS}.",
        json_schema_extra=IMMUTABLE,
    )
    parallel_trials: int = Field(
        default=1, ge=1, le=1000, description="So many pods run one trial each at a time; it can be changed any time."
    )
    max_failed_trials: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRIALS,
        description="The sweep has failed when so many trials have; without it, failed trials are only counted.",
        json_schema_extra=IMMUTABLE,
    )
    trial_timeout_seconds: int | None = Field(
        default=None, ge=1, le=YEAR, description="A trial fails when it runs for longer.", json_schema_extra=IMMUTABLE
    )


def _some_hours(name: str) -> dict[str, str]:
    return rule(
        f"!has(self.{name}) || self.{name} >= 0.001",
        f"{name} must be 0.001 at least, which is 3.6 s; leave it out where there is no bound",
    )


class Budget(Schema):
    """What all trials together may use; the sweep then ends with the best that it has."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.cpuHours) || has(self.gpuHours)", "give cpuHours, gpuHours or both"),
            *(_some_hours(name) for name in ("cpuHours", "gpuHours")),
        )
    )

    cpu_hours: float | None = Field(
        default=None, le=MOST_HOURS, description="Hours of CPU, by what the trials reserve; 0.001 at least."
    )
    gpu_hours: float | None = Field(
        default=None, le=MOST_HOURS, description="Hours of GPU, by what the trials reserve; 0.001 at least."
    )


def _asks_for_cpu(part: str) -> str:
    where = f"self.trialTemplate.spec.resources.{part}"
    return f"(has({where}) && 'cpu' in {where})"


def _in_a_pool(holds: str, message: str) -> dict[str, str]:
    """A rule for the trials' spec where pods run one trial after another."""
    return rule(f"self.execution != 'Pool' || {holds.replace('SPEC', 'self.trialTemplate.spec')}", message)


POD_PER_TRIAL = "or set execution: PodPerTrial"
_POOL = (
    _in_a_pool(
        "SPEC.nodes == 1",
        f"a trial runs in one pod; leave nodes out, and let the command use what its pod has, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.framework)",
        f"a trial has no ranks; leave framework out, and call torchrun and the like in command, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.checkpoint) || (has(self.earlyTermination) && self.earlyTermination.type in ['asha', 'hyperband'])",
        "a pool keeps checkpoints for earlyTermination of type asha or hyperband, whose trials go on from them; leave "
        f"checkpoint out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.checkpoint) || (SPEC.checkpoint.resume == 'Auto' && !has(SPEC.checkpoint.resumeFrom) && "
        "SPEC.checkpoint.gracePeriodSeconds == 120)",
        f"a trial in a pool goes on from its own checkpoint only; write checkpoint: {{}}, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.podFailurePolicy)",
        f"a failed trial is a result, and not tried again; leave podFailurePolicy out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "SPEC.backoffLimit == 3",
        f"a failed trial is a result, and not tried again; leave backoffLimit out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.onOutOfMemory)",
        f"a trial has the memory of its worker; raise resources.limits.memory, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.activeDeadlineSeconds)",
        "leave activeDeadlineSeconds out here; limits.trialTimeoutSeconds is for a trial, and activeDeadlineSeconds of "
        "spec for the sweep",
    ),
)

_OF_TRIALS = rules(
    rule("!self.suspend", "suspend is the sweep's to say; set spec.suspend"),
    rule("!has(self.ttlSecondsAfterFinished)", "ttlSecondsAfterFinished is the sweep's to say; set it in spec"),
    rule(
        "!has(self.outputs) || self.outputs.all(name, !has(self.outputs[name].registerAs))",
        "only the best trial's output is registered; leave registerAs out, and set spec.registerBest",
    ),
)


class TrialSpec(TrainingJobSpec):
    """What a trial runs: as a TrainingJob, but registerBest, and not registerAs, makes a model of an output."""

    outputs: dict[str, TrialOutput] = TrainingJobSpec.model_fields["outputs"]  # type: ignore[assignment]


class TrialTemplate(Schema):
    """What each trial runs."""

    spec: TrialSpec = Field(
        description="The spec of a TrainingJob, in which $(params.NAME) stands for a parameter of searchSpace too.",
        json_schema_extra=_OF_TRIALS,
    )


class SweepSpec(Schema):
    """What to search, for what, with how much. Only suspend, limits.parallelTrials and the TTL can be changed later."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.objective) != has(self.objectives)", "give one of objective and objectives"),
            rule(
                "!has(self.objectives) || !(self.algorithm.type in ['gp', 'cmaes'])",
                "gp and cmaes are for one objective; use tpe or nsga2 for several",
            ),
            rule(
                "!has(self.objectives) || !has(self.earlyTermination)",
                "earlyTermination is for one objective; leave it out",
            ),
            rule(
                "!has(self.objectives) || !has(self.registerBest)",
                "of several objectives no trial is the best; leave registerBest out",
            ),
            rule(
                "has(self.limits.maxTrials) || self.algorithm.type == 'grid'",
                "limits.maxTrials is needed; only a grid ends by itself",
            ),
            rule(
                "self.algorithm.type != 'grid' || self.searchSpace.all(name, "
                "(!has(self.searchSpace[name].logUniform) || "
                "self.searchSpace[name].logUniform.min == self.searchSpace[name].logUniform.max) && "
                "(!has(self.searchSpace[name].uniform) || has(self.searchSpace[name].uniform.step) || "
                "self.searchSpace[name].uniform.min == self.searchSpace[name].uniform.max))",
                "a grid has points: give uniform a step and choice instead of logUniform, or take another algorithm",
            ),
            rule(
                "!has(self.registerBest) || (has(self.trialTemplate.spec.outputs) && "
                "(size(self.trialTemplate.spec.outputs) == 1 || 'model' in self.trialTemplate.spec.outputs))",
                "registerBest needs one output in trialTemplate.spec.outputs, or one called model",
            ),
            rule(
                "!has(self.trialTemplate.spec.outputs) || self.trialTemplate.spec.outputs.all(name, "
                "(has(self.registerBest) && (size(self.trialTemplate.spec.outputs) == 1 || name == 'model')) || "
                "(!has(self.trialTemplate.spec.outputs[name].format) && "
                "!has(self.trialTemplate.spec.outputs[name].compile) && "
                "!self.trialTemplate.spec.outputs[name].allowCodeExecution))",
                "format, compile and allowCodeExecution are about the output that registerBest takes; set "
                "registerBest, or leave them out",
            ),
            rule(
                "!has(self.budget) || !has(self.budget.cpuHours) || (has(self.trialTemplate.spec.resources) && "
                f"({_asks_for_cpu('requests')} || {_asks_for_cpu('limits')}))",
                "budget.cpuHours needs cpu in trialTemplate.spec.resources: what a trial uses is what it reserves",
            ),
            rule(
                "!has(self.budget) || !has(self.budget.gpuHours) || (has(self.trialTemplate.spec.resources) && "
                "has(self.trialTemplate.spec.resources.limits) && "
                "self.trialTemplate.spec.resources.limits.exists(name, name.endsWith('/gpu')))",
                "budget.gpuHours needs a GPU in trialTemplate.spec.resources.limits, such as nvidia.com/gpu",
            ),
            rule(
                f"self.execution == 'Pool' || !has(self.limits.maxTrials) || self.limits.maxTrials <= {MOST_PODS}",
                f"with execution: PodPerTrial there are {MOST_PODS} trials at most; lower limits.maxTrials, or let a "
                "Pool run them",
            ),
            *_POOL,
        )
    )

    objective: Objective | None = Field(
        default=None, description="What to make small or large.", json_schema_extra=IMMUTABLE
    )
    objectives: list[Objective] | None = Field(
        default=None,
        min_length=2,
        max_length=8,
        description="Several: the best trials are those than which no other is better in everything.",
        json_schema_extra=IMMUTABLE
        | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]}
        | rules(rule("self.all(each, !has(each.stopAt))", "stopAt is for one objective; leave it out")),
    )
    algorithm: Algorithm = Field(
        default=Algorithm(), description="Who suggests parameters.", json_schema_extra=IMMUTABLE
    )
    search_space: dict[str, Parameter] = Field(
        min_length=1,
        max_length=MAX_PARAMETERS,
        description="The parameters, and the values that they can have.",
        json_schema_extra=IMMUTABLE
        | rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z_][A-Za-z0-9_.-]*$') && size(key) <= 63)",
                "each key must be a plain identifier, at most 63 characters",
            )
        ),
    )
    early_termination: EarlyTermination | None = Field(
        default=None, description="End trials that promise little.", json_schema_extra=IMMUTABLE
    )
    limits: Limits = Field(default=Limits(), description="How many trials, and how long.")
    budget: Budget | None = Field(
        default=None, description="What all trials together may use.", json_schema_extra=IMMUTABLE
    )
    canary_trial: bool = Field(
        default=False,
        description="Run the first trial alone; if its command fails, so does the sweep, and not all of its trials.",
        json_schema_extra=IMMUTABLE,
    )
    execution: Literal["Pool", "PodPerTrial"] = Field(
        default="Pool",
        description="Pool: limits.parallelTrials pods fetch code and inputs once, and take one trial after another. "
        "PodPerTrial: each trial is a TrainingJob of its own, with all that one can have: several nodes, checkpoints, "
        "retries.",
        json_schema_extra=IMMUTABLE,
    )
    suspend: bool = Field(
        default=False,
        description="True ends the running pods and holds the sweep until it is false again; trials that run are lost, "
        "and run again.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="Fail the sweep when it has been active for this long, counted from the start of its coordinator; "
        "suspension does not count, nor does the time in which it has no coordinator.",
        json_schema_extra=IMMUTABLE,
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=315360000, description="Delete the finished Sweep after this time; its results stay."
    )
    register_best: DnsName | None = Field(
        default=None,
        description="Register the best trial's output as the next version of this Model, which is made if there is "
        "none: the one called model, or the only one.",
        json_schema_extra=IMMUTABLE,
    )
    trial_template: TrialTemplate = Field(description="What each trial runs.")


class Trials(Schema):
    """How many trials there are."""

    running: int = Field(default=0, ge=0, description="That run.")
    succeeded: int = Field(default=0, ge=0, description="That ran to their end.")
    stopped: int = Field(default=0, ge=0, description="That earlyTermination has ended, or paused.")
    failed: int = Field(default=0, ge=0, description="That failed.")


class Best(Schema):
    """One of the best trials."""

    trial: int = Field(ge=0, description="Its number.")
    values: dict[str, float] = Field(default={}, max_length=8, description="Its values of the objectives.")
    params: dict[str, Any] = Field(
        default={},
        max_length=MAX_PARAMETERS,
        description="Its parameters.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    outputs: dict[str, Annotated[str, Field(max_length=MAX_URI)]] = Field(
        default={},
        max_length=16,
        description="Where its outputs are, by name: the folders in the object storage. With Pool a trial stores them "
        "if it is the best so far when it ends.",
    )
    model_version: str | None = Field(default=None, max_length=253, description="The ModelVersion made of its output.")


class Journal(Schema):
    """All that the sweep knows of its trials."""

    uri: str = Field(max_length=2048, description="The folder in the object storage.")


class Report(Schema):
    """What people look at."""

    uri: str = Field(max_length=2048, description="The HTML file in the object storage, with all pictures inside.")


class BudgetUsed(Schema):
    """What all trials together have used, by what they reserve."""

    cpu_hours: float | None = Field(default=None, ge=0, description="Hours of CPU.")
    gpu_hours: float | None = Field(default=None, ge=0, description="Hours of GPU.")


class SweepStatus(RunStatus):
    """What is known of the sweep."""

    trials: Trials | None = Field(default=None, description="How many trials there are.")
    progress: str = Field(default="", max_length=32, description="How many are over, of how many, for people.")
    best: list[Best] = Field(
        default=[],
        max_length=MAX_BEST,
        description="The best trials, the best first; with several objectives, trials than which none is better in "
        "everything.",
    )
    best_value: str = Field(default="", max_length=64, description="The best trial's value, for people.")
    model_version: str = Field(default="", max_length=253, description="The ModelVersion that registerBest made.")
    journal: Journal | None = Field(default=None, description="All that is known of the trials.")
    report: Report | None = Field(
        default=None,
        description="Its report for people, once it has ended: pictures, the best trials, why others failed.",
    )
    budget_used: BudgetUsed | None = Field(default=None, description="What the trials have used.")
    warm_start: list[Annotated[str, Field(max_length=2048)]] = Field(
        default=[], max_length=10, description="Where the journals of warmStartFrom are."
    )
    mlflow: MlflowStatus | None = Field(
        default=None, description="The run that records the sweep, where the platform has MLflow."
    )
    image_error_since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Since when a pod has no image."
    )
    failure: Failure | None = Field(default=None, description="Why it failed.")
