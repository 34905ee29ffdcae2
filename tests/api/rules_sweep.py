"""The rules of a Sweep, like those of rules.py; those of the trials' own spec are a TrainingJob's, and tested "
"there."""

from __future__ import annotations

from typing import Any

from bare import merged
from rules import NAME, SWEEP, Rule, called, of_spec
from ultramarine_contract.meta import Manifest

SPACE, STOP, TRIAL = "spec.searchSpace", "spec.earlyTermination", "spec.trialTemplate.spec"
METRIC = "must be a metric's name: a letter or '_', then letters, digits, '_', '.', '/' and '-'"
YEAR = 31536000
SEVERAL: Manifest = {  # several objectives, without what is for one
    "objective": None,
    "objectives": [{"metric": "loss"}, {"metric": "size"}],
    "earlyTermination": None,
    "registerBest": None,
}


def wanted(reason: str, accepted: Manifest, refused: Manifest, *words: str) -> Rule:
    """A rule about the spec of a Sweep."""
    return of_spec(SWEEP, reason, accepted, refused, *words)


def searched(how: Manifest | None, **more: Any) -> Manifest:
    """The spec with one parameter more, x."""
    return merged({"searchSpace": {"x": how}}, more)


def way(kind: str, **fields: Any) -> Manifest:
    """The spec with a parameter x of that kind, in which None takes a field away."""
    return searched({kind: merged({"min": 1, "max": 9}, fields)})


def stopped(type: str | None, **fields: Any) -> Manifest:
    """The spec with another way of early termination."""
    gone = {"minSteps": None, "maxSteps": None, "reductionFactor": None}
    return {"earlyTermination": gone | {"type": type} | fields}


def trial(**fields: Any) -> Manifest:
    """The spec with other fields of the trials' spec."""
    return {"trialTemplate": {"spec": fields}}


ENDS: dict[str, tuple[str, Manifest]] = {  # fields of early termination: for which types, and a type with it
    "minSteps": ("asha and hyperband", {"type": "hyperband", "maxSteps": 9}),
    "maxSteps": ("asha and hyperband", {"type": "asha"}),
    "reductionFactor": ("asha and hyperband", {"type": "asha"}),
    "slackFactor": ("bandit", {"type": "bandit"}),
    "slackAmount": ("bandit", {"type": "bandit"}),
    "truncationPercentage": ("truncation", {"type": "truncation"}),
    "evaluationInterval": ("median, bandit and truncation", {"type": "median"}),
    "delayEvaluation": ("median, bandit and truncation", {"type": "median"}),
}
OF_THE_BEST = (
    "format, compile and allowCodeExecution apply to the output of registerBest; set registerBest, or leave them out"
)

RULES = [
    Rule(SWEEP, "a spec is there", {}, {"spec": None}, ("spec: Required value",)),
    called(SWEEP, "a name has room for endings", "a" * 40, "a" * 41, "metadata.name must have at most 40 characters"),
    called(
        SWEEP,
        "a name is a Service's",
        "hpo-1",
        "1-hpo",
        "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
    ),
    # Objectives
    wanted("an objective is there", {}, {"objective": None}, "spec: ", "give one of objective and objectives"),
    wanted(
        "there is one objective, or a list",
        SEVERAL,
        {**SEVERAL, "objective": {"metric": "loss"}},
        "give one of objective and objectives",
    ),
    wanted("a metric has a name", {"objective": {"metric": "val/loss"}}, {"objective": {"metric": "1st"}}, METRIC),
    wanted(
        "several objectives have no end",
        SEVERAL,
        {**SEVERAL, "objectives": [{"metric": "loss", "stopAt": 1}, {"metric": "size"}]},
        "spec.objectives: ",
        "stopAt supports one objective; leave it out",
    ),
    # The algorithm
    wanted(
        "another sweep has a name",
        {"algorithm": {"warmStartFrom": ["hpo-1"]}},
        {"algorithm": {"warmStartFrom": ["HPO"]}},
        "spec.algorithm.warmStartFrom[0]: ",
        NAME,
    ),
    wanted(
        "some algorithms have one objective",
        {**SEVERAL, "algorithm": {"type": "nsga2"}},
        {**SEVERAL, "algorithm": {"type": "gp"}},
        "gp and cmaes support one objective; use tpe or nsga2 for several",
    ),
    wanted(
        "a grid needs a finite search space",
        {"algorithm": {"type": "grid"}, "searchSpace": {"lr": {"logUniform": {"min": 1, "max": 1}}}},
        {"algorithm": {"type": "grid"}},
        "a grid needs a finite search space; give uniform a step, use choice instead of logUniform, or choose "
        "another algorithm",
    ),
    wanted(
        "only a grid has no end of its own",
        {
            "algorithm": {"type": "grid"},
            "limits": {"maxTrials": None},
            "searchSpace": {"lr": {"logUniform": None, "choice": [0.1, 1]}},
        },
        {"limits": {"maxTrials": None}},
        "limits.maxTrials is required, except for a grid, which ends by itself",
    ),
    # The search space
    wanted(
        "a parameter has an identifier",
        {"searchSpace": {"a_1.b-c": {"constant": 1}}},
        {"searchSpace": {"1": {"constant": 1}}},
        f"{SPACE}: ",
        "each key must be an identifier of at most 63 characters",
    ),
    wanted(
        "a parameter has one kind of values, and perhaps a condition",
        searched({"constant": True, "when": {"booster": ["dart"]}}),
        searched({"constant": True, "choice": [1], "when": {"booster": ["dart"]}}),
        f"{SPACE}.x: Too many",
    ),
    wanted(
        "a parameter has one range",
        searched({"int": {"min": 1, "max": 2}}),
        searched({"int": {"min": 1, "max": 2}, "logInt": {"min": 1, "max": 2}}),
        f"{SPACE}[x]: ",
        "give one of uniform, logUniform, int, logInt, choice and constant",
    ),
    *(
        wanted(
            f"{kind} begins before its end",
            way(kind, min=9),
            way(kind, min=10),
            f"{SPACE}[x].{kind}: ",
            "min must not be above max; exchange them",
        )
        for kind in ("uniform", "logUniform", "int", "logInt")
    ),
    wanted(
        "a step goes on",
        way("uniform", step=0.5),
        way("uniform", step=0),
        "step must be above 0; leave it out to allow any number",
    ),
    *(
        wanted(
            f"{kind} has room for a step",
            way(kind, step=8),
            way(kind, step=9),
            f"{SPACE}[x].{kind}: ",
            "step must not be larger than max - min",
        )
        for kind in ("uniform", "int")
    ),
    wanted(
        "a logarithm is there",
        way("logUniform", min=1e-12),
        way("logUniform", min=0),
        "min must be above 0 on a logarithmic scale; raise it, or use uniform",
    ),
    wanted(
        "a value is no object",
        searched({"choice": [True, False]}),
        searched({"choice": [{"a": 1}]}),
        f"{SPACE}.x.choice[0]: Too many",
    ),
    wanted(
        "a constant is no list",
        searched({"constant": 1.5}),
        searched({"constant": [1]}),
        f"{SPACE}.x.constant: Too many",
    ),
    # Early termination
    *(
        wanted(
            f"{name} is of some types",
            stopped(**with_it, **{name: 9}),
            stopped("median" if name in ("minSteps", "maxSteps", "reductionFactor") else "asha", **{name: 1})
            if not name.startswith(("slack", "trunc"))
            else stopped("median", **{name: 1}),
            f"{STOP}: ",
            f"{name} is for type {types}; leave it out",
        )
        for name, (types, with_it) in ENDS.items()
    ),
    wanted(
        "hyperband has an end",
        stopped("hyperband", maxSteps=9),
        stopped("hyperband"),
        "hyperband needs maxSteps, at which its brackets end; set it",
    ),
    wanted(
        "it begins before its end",
        stopped("asha", minSteps=9, maxSteps=9),
        stopped("asha", minSteps=9, maxSteps=8),
        "maxSteps must not be below minSteps",
    ),
    wanted(
        "a bandit has one slack",
        stopped("bandit", slackFactor=0.1),
        stopped("bandit", slackFactor=0.1, slackAmount=1),
        "bandit needs one of slackFactor and slackAmount",
    ),
    wanted(
        "a share is above 0",
        stopped("bandit", slackFactor=0.01),
        stopped("bandit", slackFactor=0),
        "slackFactor must be above 0",
    ),
    wanted(
        "an amount is above 0",
        stopped("bandit", slackAmount=0.01),
        stopped("bandit", slackAmount=0),
        "slackAmount must be above 0",
    ),
    wanted(
        "truncation has a percentage",
        stopped("truncation", truncationPercentage=20),
        stopped("truncation"),
        "truncation needs truncationPercentage, the percentage of trials to end; set it",
    ),
    wanted(
        "early termination has one objective",
        SEVERAL,
        {**SEVERAL, "earlyTermination": {"type": "asha"}},
        "earlyTermination supports one objective; leave it out",
    ),
    # Limits
    wanted(
        "no more at a time than in all",
        {"limits": {"maxTrials": 4, "parallelTrials": 4}},
        {"limits": {"maxTrials": 4, "parallelTrials": 5}},
        "spec.limits: ",
        "parallelTrials must not be above maxTrials",
    ),
    *(
        wanted(
            f"a budget of {hours} is one, and 0 is not",
            {"budget": {hours: 0.001}},
            {"budget": {hours: 0}},
            "spec.budget: ",
            f"{hours} must be at least 0.001, which is 3.6 s; leave it out for no limit",
        )
        for hours in ("cpuHours", "gpuHours")
    ),
    wanted(
        "a budget is of something",
        {"budget": {"cpuHours": None}},
        {"budget": {"cpuHours": None, "gpuHours": None}},
        "spec.budget: ",
        "give cpuHours, gpuHours or both",
    ),
    wanted(
        "hours of CPU are those that are reserved",
        trial(resources={"requests": None, "limits": {"cpu": 1}}),
        trial(resources={"requests": None}),
        "budget.cpuHours counts reserved CPUs; set cpu in trialTemplate.spec.resources",
    ),
    wanted(
        "hours of GPU are those that are reserved",
        trial(resources={"limits": {"nvidia.com/gpu": None, "amd.com/gpu": 1}}),
        trial(resources={"limits": {"nvidia.com/gpu": None}}),
        "budget.gpuHours counts reserved GPUs; set one in trialTemplate.spec.resources.limits, such as nvidia.com/gpu",
    ),
    # Registering
    wanted("a Model has a name", {"registerBest": "a-1"}, {"registerBest": "A"}, "spec.registerBest: ", NAME),
    wanted(
        "several objectives have no best",
        SEVERAL,
        {**SEVERAL, "registerBest": "churn"},
        "several objectives have no single best trial; leave registerBest out",
    ),
    wanted(
        "one output is the model",
        trial(outputs={"model": None}),
        trial(outputs={"model": None, "more": {}}),
        "registerBest needs one output in trialTemplate.spec.outputs, or one named model",
    ),
    *(
        wanted(f"{name} is of a model, {whose}", trial(outputs=model), refused, OF_THE_BEST)
        for name, said in (
            ("format", {"format": "python"}),
            ("compile", {"compile": {"to": "onnx"}}),
            ("allowCodeExecution", {"allowCodeExecution": True}),
        )
        for model in ({"model": said},)
        for whose, refused in (
            ("and no trial's without registerBest", {"registerBest": None, **trial(outputs=model)}),
            ("and not of another output", trial(outputs={"model": {}, "report": said})),
        )
    ),
    wanted(
        "one output is the model, whatever its name",
        trial(outputs={"model": None, "report": {"format": "onnx"}}),
        {"registerBest": None, **trial(outputs={"model": None, "report": {"format": "onnx"}})},
        OF_THE_BEST,
    ),
    # Trials
    wanted(
        "a parameter has one origin",
        trial(parameters={"rounds": "7"}),
        trial(parameters={"lr": "7"}),
        "spec: a parameter is in searchSpace or in trialTemplate.spec.parameters, not in both",
    ),
    wanted(
        "a trial's parameters are plain values",
        trial(parameters={"rounds": 1e-5}),
        trial(parameters={"rounds": [7]}),
        f"{TRIAL}.parameters.rounds must be a text, a number or a boolean; write anything else as a text in quotes",
    ),
    wanted(
        "a trial's command refers to what there is",
        trial(args=["$(params.drop)", "$(params.rounds)", "$(inputs.data)"]),
        trial(args=["$(inputs.dta)"]),
        f"$(inputs.dta) names no input; inputs are: data; correct the name, or add it to {TRIAL}.inputs",
    ),
    wanted(
        "a trial has references in our spelling",
        trial(args=["$(params.drop)"]),
        trial(args=["${trial.x} $(param.drop)"]),
        "$(param.drop) would reach the command as it is; write $(params.drop)",
    ),
    wanted(
        "a trial's parameter is searched or given",
        trial(args=["$(params.lr)"]),
        trial(args=["$(params.learning_rate)"]),
        "$(params.learning_rate) names no parameter; parameters are: ",
        f"correct the name, or add it to {TRIAL}.parameters",
    ),
    *(
        wanted(f"trials have no {next(iter(refused))}", {}, trial(**refused), f"{TRIAL}: ", words)
        for refused, words in (
            ({"suspend": True}, "suspend is not for a trial; set spec.suspend of the sweep"),
            (
                {"ttlSecondsAfterFinished": 60},
                "ttlSecondsAfterFinished is not for a trial; set it in the spec of the sweep",
            ),
            (
                {"outputs": {"model": {"registerAs": "churn"}}},
                "only the best trial's output is registered; leave registerAs out, and set spec.registerBest",
            ),
        )
    ),
    *(
        wanted(
            f"trials in a pool have no {next(iter(refused))}",
            {"execution": "PodPerTrial", **trial(**refused)},
            trial(**refused),
            words,
        )
        for refused, words in (
            (
                {"nodes": 2, "framework": "none"},
                "a trial runs in one pod; leave nodes out and let the command use all of its pod, or set "
                "execution: PodPerTrial",
            ),
            (
                {"framework": "torch"},
                "a trial has no ranks; leave framework out and call torchrun or the like in command, or set "
                "execution: PodPerTrial",
            ),
            (
                {
                    "podFailurePolicy": {
                        "rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}}]
                    }
                },
                "a failed trial is a result and is not retried; leave podFailurePolicy out, or set execution: "
                "PodPerTrial",
            ),
            (
                {"backoffLimit": 4},
                "a failed trial is a result and is not retried; leave backoffLimit out, or set execution: PodPerTrial",
            ),
            (
                {"onOutOfMemory": {"maxMemory": "4Gi"}},
                "a trial has the memory of its worker; leave onOutOfMemory out and raise "
                "resources.limits.memory, or set execution: PodPerTrial",
            ),
            (
                {"activeDeadlineSeconds": 60},
                "activeDeadlineSeconds is not for a trial; set limits.trialTimeoutSeconds for a trial, or "
                "spec.activeDeadlineSeconds for the sweep",
            ),
        )
    ),
    *(
        wanted(
            f"trials that {type} pauses have checkpoints",
            {"earlyTermination": {"type": type, "maxSteps": 27}, **trial(checkpoint={})},
            {"earlyTermination": {"type": "median"}, **trial(checkpoint={})},
            "a pool keeps checkpoints only for earlyTermination of type asha or hyperband; leave checkpoint "
            "out, or set execution: PodPerTrial",
        )
        for type in ("asha", "hyperband")
    ),
    *(
        wanted(
            f"checkpoints in a pool have no {next(iter(refused))}",
            {"execution": "PodPerTrial", **trial(checkpoint=refused)},
            {"earlyTermination": {"type": "asha"}, **trial(checkpoint=refused)},
            "a trial in a pool resumes only from its own checkpoint; write checkpoint: {}, or set execution: "
            "PodPerTrial",
        )
        for refused in ({"resume": "Never"}, {"resumeFrom": "s3://lake/other/"}, {"gracePeriodSeconds": 60})
    ),
    wanted(
        "not too many trials have pods",
        {"execution": "PodPerTrial", "limits": {"maxTrials": 1000}},
        {"execution": "PodPerTrial", "limits": {"maxTrials": 1001}},
        "execution: PodPerTrial supports at most 1000 trials; lower limits.maxTrials, or set execution: Pool",
    ),
    Rule(
        SWEEP,
        "a name has room for trials' numbers",
        {"metadata": {"name": "a" * 30}, "spec": {"execution": "PodPerTrial"}},
        {"metadata": {"name": "a" * 31}, "spec": {"execution": "PodPerTrial"}},
        (
            "with execution: PodPerTrial metadata.name must have at most 30 characters: each trial's TrainingJob has "
            "it in its name",
        ),
    ),
]
