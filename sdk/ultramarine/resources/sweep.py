"""Sweep: a search for the best parameters of a training; spec and status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST, METRIC_NAME_LIMIT
from ultramarine_contract.parameters import MOST_PODS

from .base import IMMUTABLE, Cancel, DnsName, Schema, rule, rules, says
from .sweep_space import Anything, Parameter
from .sweep_stopping import EarlyTermination
from .trainingjob import TrainingJobSpec, TrialOutput

MAX_TRIALS = 10_000
MAX_PARAMETERS = 64
MAX_KEPT = 100  # trials whose outputs stay
MOST_HOURS = 100_000
YEAR = 31536000


class Objective(Schema):
    """Objective: a metric that the command prints as name=value, and the direction to optimize."""

    metric: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$",
        max_length=METRIC_NAME_LIMIT,
        description="Name of the metric; the last value that a trial prints counts.",
        json_schema_extra=says("must be a metric's name: a letter or '_', then letters, digits, '_', '.', '/' and '-'"),
    )
    goal: Literal["minimize", "maximize"] = Field(default="minimize", description="Direction: minimize or maximize.")
    stop_at: float | None = Field(
        default=None, description="Value at which the sweep succeeds; the remaining trials are ended."
    )


class Algorithm(Schema):
    """Algorithm that suggests the parameters of the next trial."""

    type: Literal["random", "grid", "sobol", "tpe", "gp", "cmaes", "nsga2"] = Field(
        default="tpe",
        description="Sampler. random: uniform. grid: each combination once. sobol: evenly spread points. tpe: a "
        "tree-structured Parzen estimator. gp: a Gaussian process, for few expensive trials. cmaes: an "
        "evolution strategy, for numbers that depend on each other. nsga2: a genetic algorithm, for "
        "several objectives.",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST, description="Random seed. The same seed and history give the same suggestion."
    )
    warm_start_from: list[DnsName] = Field(
        default=[],
        max_length=10,
        description="Other Sweeps of the namespace with the same objectives. Their finished trials count as history.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    initial_trials: list[Annotated[dict[str, Anything], Field(max_length=MAX_PARAMETERS)]] = Field(
        default=[],
        max_length=100,
        description="Parameters of the first trials, such as settings that are known to be good. Each has a value for "
        "all parameters of searchSpace that exist with its values.",
    )


class Limits(Schema):
    """Limits on the number of trials, in total, in parallel and failed, and on their duration."""

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
        description="Maximum number of trials. A grid ends after its last point, and needs this limit if it has more"
        f" than {MAX_TRIALS} points.",
        json_schema_extra=IMMUTABLE,
    )
    parallel_trials: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of trials that run in parallel, one per pod. It can be changed at any time.",
    )
    max_failed_trials: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRIALS,
        description="Number of failed trials at which the sweep fails. Default: no limit.",
        json_schema_extra=IMMUTABLE,
    )
    trial_timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="Maximum duration of a trial in seconds; then the trial fails.",
        json_schema_extra=IMMUTABLE,
    )


def _some_hours(name: str) -> dict[str, str]:
    return rule(
        f"!has(self.{name}) || self.{name} >= 0.001",
        f"{name} must be at least 0.001, which is 3.6 s; leave it out for no limit",
    )


class Budget(Schema):
    """Budget of all trials together. When it is spent, the sweep ends with the best trial so far."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.cpuHours) || has(self.gpuHours) || has(self.seconds)",
                "give at least one of cpuHours, gpuHours and seconds",
            ),
            *(_some_hours(name) for name in ("cpuHours", "gpuHours")),
        )
    )

    seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="Time in seconds since the start of the coordinator, counted as for activeDeadlineSeconds.",
    )
    cpu_hours: float | None = Field(
        default=None, le=MOST_HOURS, description="CPU hours, by the CPUs that trials reserve; at least 0.001."
    )
    gpu_hours: float | None = Field(
        default=None, le=MOST_HOURS, description="GPU hours, by the GPUs that trials reserve; at least 0.001."
    )


def _asks_for_cpu(part: str) -> str:
    where = f"self.trialTemplate.spec.resources.{part}"
    return f"(has({where}) && 'cpu' in {where})"


def _in_a_pool(holds: str, message: str) -> dict[str, str]:
    """Return a rule on the trials' spec that holds if pods run one trial after another."""
    return rule(f"self.execution != 'Pool' || {holds.replace('SPEC', 'self.trialTemplate.spec')}", message)


POD_PER_TRIAL = "or set execution: PodPerTrial"
_POOL = (
    _in_a_pool(
        "SPEC.nodes == 1",
        f"a trial runs in one pod; leave nodes out and let the command use all of its pod, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.framework)",
        f"a trial has no ranks; leave framework out and call torchrun or the like in command, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.checkpoint) || (has(self.earlyTermination) && self.earlyTermination.type in ['asha', 'hyperband'])",
        "a pool keeps checkpoints only for earlyTermination of type asha or hyperband; leave checkpoint "
        f"out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.checkpoint) || (SPEC.checkpoint.resume == 'Auto' && !has(SPEC.checkpoint.resumeFrom) && "
        "SPEC.checkpoint.gracePeriodSeconds == 120)",
        f"a trial in a pool resumes only from its own checkpoint; write checkpoint: {{}}, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.podFailurePolicy)",
        f"a failed trial is a result and is not retried; leave podFailurePolicy out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "SPEC.backoffLimit == 3",
        f"a failed trial is a result and is not retried; leave backoffLimit out, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.onOutOfMemory)",
        "a trial has the memory of its worker; leave onOutOfMemory out and raise "
        f"resources.limits.memory, {POD_PER_TRIAL}",
    ),
    _in_a_pool(
        "!has(SPEC.activeDeadlineSeconds)",
        "activeDeadlineSeconds is not for a trial; set limits.trialTimeoutSeconds for a trial, or "
        "spec.activeDeadlineSeconds for the sweep",
    ),
)

_OF_TRIALS = rules(
    rule("!self.suspend", "suspend is not for a trial; set spec.suspend of the sweep"),
    rule("!self.cancel", "cancel is not for a trial; set spec.cancel of the sweep"),
    rule(
        "!has(self.ttlSecondsAfterFinished)",
        "ttlSecondsAfterFinished is not for a trial; set it in the spec of the sweep",
    ),
    rule(
        "!has(self.outputs) || self.outputs.all(name, !has(self.outputs[name].registerAs))",
        "only the best trial's output is registered; leave registerAs out, and set spec.registerBest",
    ),
)


class TrialSpec(TrainingJobSpec):
    """Spec of a trial: that of a TrainingJob, except that registerBest of the sweep replaces registerAs."""

    outputs: dict[str, TrialOutput] = TrainingJobSpec.model_fields["outputs"]  # type: ignore[assignment]


class TrialTemplate(Schema):
    """Template of each trial."""

    spec: TrialSpec = Field(
        description="Spec of a TrainingJob, in which $(params.NAME) also stands for a parameter of searchSpace.",
        json_schema_extra=_OF_TRIALS,
    )


class SweepSpec(Schema):
    """Search space, objectives, algorithm and limits. Mutable: suspend, cancel, limits.parallelTrials, TTL."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.objective) != has(self.objectives)", "give one of objective and objectives"),
            rule(
                "!has(self.objectives) || !(self.algorithm.type in ['gp', 'cmaes'])",
                "gp and cmaes support one objective; use tpe or nsga2 for several",
            ),
            rule(
                "!has(self.objectives) || !has(self.earlyTermination)",
                "earlyTermination supports one objective; leave it out",
            ),
            rule(
                "!has(self.objectives) || !has(self.registerBest)",
                "several objectives have no single best trial; leave registerBest out",
            ),
            rule(
                "has(self.limits.maxTrials) || self.algorithm.type == 'grid'",
                "limits.maxTrials is required, except for a grid, which ends by itself",
            ),
            rule(
                "self.algorithm.type != 'grid' || self.searchSpace.all(name, "
                "(!has(self.searchSpace[name].logUniform) || "
                "self.searchSpace[name].logUniform.min == self.searchSpace[name].logUniform.max) && "
                "(!has(self.searchSpace[name].uniform) || has(self.searchSpace[name].uniform.step) || "
                "self.searchSpace[name].uniform.min == self.searchSpace[name].uniform.max))",
                "a grid needs a finite search space; give uniform a step, use choice instead of logUniform, or "
                "choose another algorithm",
            ),
            rule(
                "!has(self.registerBest) || (has(self.trialTemplate.spec.outputs) && "
                "(size(self.trialTemplate.spec.outputs) == 1 || 'model' in self.trialTemplate.spec.outputs))",
                "registerBest needs one output in trialTemplate.spec.outputs, or one named model",
            ),
            rule(
                "!has(self.trialTemplate.spec.outputs) || self.trialTemplate.spec.outputs.all(name, "
                "(has(self.registerBest) && (size(self.trialTemplate.spec.outputs) == 1 || name == 'model')) || "
                "(!has(self.trialTemplate.spec.outputs[name].format) && "
                "!has(self.trialTemplate.spec.outputs[name].compile) && "
                "!self.trialTemplate.spec.outputs[name].allowCodeExecution))",
                "format, compile and allowCodeExecution apply to the output of registerBest; set registerBest, "
                "or leave them out",
            ),
            rule(
                "!has(self.budget) || !has(self.budget.cpuHours) || (has(self.trialTemplate.spec.resources) && "
                f"({_asks_for_cpu('requests')} || {_asks_for_cpu('limits')}))",
                "budget.cpuHours counts reserved CPUs; set cpu in trialTemplate.spec.resources",
            ),
            rule(
                "!has(self.budget) || !has(self.budget.gpuHours) || (has(self.trialTemplate.spec.resources) && "
                "has(self.trialTemplate.spec.resources.limits) && "
                "self.trialTemplate.spec.resources.limits.exists(name, name.endsWith('/gpu')))",
                "budget.gpuHours counts reserved GPUs; set one in trialTemplate.spec.resources.limits, such as "
                "nvidia.com/gpu",
            ),
            rule(
                "self.keepOutputs == 1 || (!has(self.objectives) && self.execution == 'Pool')",
                "keepOutputs supports one objective and execution: Pool; leave it out",
            ),
            rule(
                f"self.execution == 'Pool' || !has(self.limits.maxTrials) || self.limits.maxTrials <= {MOST_PODS}",
                f"execution: PodPerTrial supports at most {MOST_PODS} trials; lower limits.maxTrials, or set "
                "execution: Pool",
            ),
            *_POOL,
        )
    )

    objective: Objective | None = Field(default=None, description="Metric to optimize.", json_schema_extra=IMMUTABLE)
    objectives: list[Objective] | None = Field(
        default=None,
        min_length=2,
        max_length=8,
        description="Multiple metrics to optimize; the best trials form the Pareto front.",
        json_schema_extra=IMMUTABLE
        | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]}
        | rules(rule("self.all(each, !has(each.stopAt))", "stopAt supports one objective; leave it out")),
    )
    algorithm: Algorithm = Field(
        default=Algorithm(),
        description="Algorithm that suggests the parameters of the next trial.",
        json_schema_extra=IMMUTABLE,
    )
    search_space: dict[str, Parameter] = Field(
        min_length=1,
        max_length=MAX_PARAMETERS,
        description="Parameters and their possible values.",
        json_schema_extra=IMMUTABLE
        | rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z_][A-Za-z0-9_.-]*$') && size(key) <= 63)",
                "each key must be an identifier of at most 63 characters",
            )
        ),
    )
    early_termination: EarlyTermination | None = Field(
        default=None, description="Early termination of unpromising trials.", json_schema_extra=IMMUTABLE
    )
    limits: Limits = Field(default=Limits(), description="Limits on the number and duration of trials.")
    budget: Budget | None = Field(
        default=None, description="Budget of all trials together.", json_schema_extra=IMMUTABLE
    )
    canary_trial: bool = Field(
        default=False,
        description="True to run the first trial alone; if its command fails, the sweep fails and runs no further "
        "trials.",
        json_schema_extra=IMMUTABLE,
    )
    execution: Literal["Pool", "PodPerTrial"] = Field(
        default="Pool",
        description="Way to run trials. Pool: limits.parallelTrials pods fetch code and inputs once, and run one "
        "trial after another. PodPerTrial: each trial is a TrainingJob, with all of its features, such "
        "as several nodes, checkpoints and retries.",
        json_schema_extra=IMMUTABLE,
    )
    suspend: bool = Field(
        default=False,
        description="True to end the running pods and hold the sweep until it is false again. Interrupted trials run"
        " again.",
    )
    cancel: Cancel = False
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=YEAR,
        description="Maximum time in seconds that the sweep is active; then it fails. Time counts from the start of "
        "its coordinator; it does not count during suspension or without a coordinator.",
        json_schema_extra=IMMUTABLE,
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Time in seconds after which the finished Sweep is deleted; its results stay.",
    )
    register_best: DnsName | None = Field(
        default=None,
        description="Model that gets the best trial's output as its next version; the Model is created if necessary."
        " The output is the only one, or the one named model.",
        json_schema_extra=IMMUTABLE,
    )
    keep_outputs: int = Field(
        default=1,
        ge=1,
        le=MAX_KEPT,
        description="Number of best trials whose outputs stay in the object storage; those of others in status.best "
        "may stay too. With execution: PodPerTrial the outputs of every trial stay.",
        json_schema_extra=IMMUTABLE,
    )
    trial_template: TrialTemplate = Field(description="Template of each trial.")
