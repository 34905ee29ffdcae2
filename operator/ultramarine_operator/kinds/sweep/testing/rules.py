"""Rules of a Sweep's API, with examples; those of its trials' spec are a TrainingJob's."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ....shared.testing import NAME_OF_40, Rule, clash, merged, named, rule

# Several objectives, without the fields that need one.
SEVERAL: Manifest = {
    "objective": None,
    "objectives": [{"metric": "loss"}, {"metric": "size"}],
    "earlyTermination": None,
    "registerBest": None,
}
TRIAL = "spec.trialTemplate.spec"


def searched(how: Manifest) -> Manifest:
    """The spec with one parameter more, x."""
    return {"searchSpace": {"x": how}}


def values(kind: str, **fields: Any) -> Manifest:
    """The spec with a parameter x of that kind."""
    return searched({kind: merged({"min": 1, "max": 9}, fields)})


def stopped(type: str, **fields: Any) -> Manifest:
    """The spec with another early termination."""
    return {"earlyTermination": {"minSteps": None, "maxSteps": None, "reductionFactor": None, "type": type, **fields}}


def trial(**fields: Any) -> Manifest:
    """The spec with other fields of the trials' spec."""
    return {"trialTemplate": {"spec": fields}}


def in_pods(**fields: Any) -> Manifest:
    """The spec with other fields of the trials' spec, whose trials have a pod each."""
    return {"execution": "PodPerTrial", **trial(**fields)}


_NAMES = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must start with a letter", "hpo-1", "1-hpo"),
    Rule(
        "with execution: PodPerTrial metadata.name must have at most 30",
        {"metadata": {"name": "a" * 30}, "spec": {"execution": "PodPerTrial"}},
        ({"metadata": {"name": "a" * 31}, "spec": {"execution": "PodPerTrial"}},),
    ),
)
_OBJECTIVES = (
    rule("give one of objective and objectives", SEVERAL, {"objective": None}),
    clash("give one of objective and objectives", SEVERAL, {**SEVERAL, "objective": {"metric": "loss"}}),
    clash(
        "stopAt supports one objective",
        SEVERAL,
        {**SEVERAL, "objectives": [{"metric": "loss", "stopAt": 1}, {"metric": "size"}]},
    ),
    rule(
        "gp and cmaes support one objective",
        {**SEVERAL, "algorithm": {"type": "nsga2"}},
        {**SEVERAL, "algorithm": {"type": "gp"}},
    ),
    clash("earlyTermination supports one objective", SEVERAL, {**SEVERAL, "earlyTermination": {"type": "asha"}}),
    clash(
        "keepOutputs supports one objective and execution: Pool",
        {**SEVERAL, "keepOutputs": 1},
        {**SEVERAL, "keepOutputs": 2},
    ),
    rule("several objectives have no single best", SEVERAL, {**SEVERAL, "registerBest": "churn"}),
)
_SPACE = (
    rule(
        "a grid needs a finite",
        {"algorithm": {"type": "grid"}, "searchSpace": {"lr": {"logUniform": {"min": 1, "max": 1}}}},
        {"algorithm": {"type": "grid"}},
    ),
    clash(
        "a grid needs a finite",
        {},
        {"algorithm": {"type": "grid"}, "searchSpace": {"a": {"uniform": {"min": 0, "max": 1, "step": None}}}},
    ),
    rule(
        "limits.maxTrials is required",
        {
            "algorithm": {"type": "grid"},
            "limits": {"maxTrials": None},
            "searchSpace": {"lr": {"logUniform": None, "choice": [0.1, 1]}},
        },
        {"limits": {"maxTrials": None}},
    ),
    rule(
        "spec.searchSpace.x: Too many",
        searched({"constant": True, "when": {"booster": ["dart"]}}),
        searched({"constant": True, "choice": [1], "when": {"booster": ["dart"]}}),
    ),
    clash(
        "give one of uniform, logUniform",
        searched({"int": {"min": 1, "max": 2}}),
        searched({"int": {"min": 1, "max": 2}, "logInt": {"min": 1, "max": 2}}),
    ),
    *(
        clash("min must not be above max", values(kind, min=9), values(kind, min=10))
        for kind in ("uniform", "logUniform", "int", "logInt")
    ),
    rule("step must be above 0", values("uniform", step=0.5), values("uniform", step=0)),
    *(
        rule("step must not be larger than max - min", values(kind, step=8), values(kind, step=9))
        for kind in ("uniform", "int")
    ),
    rule("min must be above 0 on", values("logUniform", min=1e-12), values("logUniform", min=0)),
    rule(
        "spec.searchSpace.x.choice[0]: Too many", searched({"choice": [True, False]}), searched({"choice": [{"a": 1}]})
    ),
    rule("spec.searchSpace.x.constant: Too many", searched({"constant": 1.5}), searched({"constant": [1]})),
)
_ADMITTED = (
    *(
        rule("spec.searchSpace.x.choice has values of several types", searched({"choice": same}), searched(mixed))
        for same, mixed in (
            ([1, 2.5], {"choice": [1, "2"]}),
            (["1", "2"], {"choice": ["1", True]}),
            ([True, False], {"choice": [0, False]}),
        )
    ),
    rule(
        "spec.searchSpace.x.when.model: there is no parameter model; add it to spec.searchSpace",
        searched({"constant": 1, "when": {"task": ["binary"]}}),
        searched({"constant": 1, "when": {"task": ["binary"], "model": ["tree"]}}),
    ),
)
_STOPPING = (
    *(
        clash(f"{name} is for type", {"earlyTermination": None}, stopped("median", **{name: 9}))
        for name in ("minSteps", "maxSteps", "reductionFactor", "slackFactor", "slackAmount", "truncationPercentage")
    ),
    *(
        clash(f"{name} is for type", stopped("median", **{name: 9}), stopped("asha", **{name: 1}))
        for name in ("evaluationInterval", "delayEvaluation")
    ),
    rule("hyperband needs maxSteps", stopped("hyperband", maxSteps=9), stopped("hyperband")),
    rule(
        "maxSteps must not be below minSteps",
        stopped("asha", minSteps=9, maxSteps=9),
        stopped("asha", minSteps=9, maxSteps=8),
    ),
    rule(
        "bandit needs one of",
        stopped("bandit", slackFactor=0.1),
        stopped("bandit"),
        stopped("bandit", slackFactor=0.1, slackAmount=1),
    ),
    *(
        rule(f"{name} must be above 0", stopped("bandit", **{name: 0.01}), stopped("bandit", **{name: 0}))
        for name in ("slackFactor", "slackAmount")
    ),
    rule(
        "truncation needs truncationPercentage", stopped("truncation", truncationPercentage=20), stopped("truncation")
    ),
)
_LIMITS = (
    clash(
        "parallelTrials must not be above maxTrials",
        {"limits": {"maxTrials": 4, "parallelTrials": 4}},
        {"limits": {"maxTrials": 4, "parallelTrials": 5}},
    ),
    *(
        rule(f"{hours} must be at least 0.001", {"budget": {hours: 0.001}}, {"budget": {hours: 0}})
        for hours in ("cpuHours", "gpuHours")
    ),
    rule(
        "give at least one of cpuHours",
        {"budget": {"cpuHours": None, "gpuHours": None, "seconds": 9}},
        {"budget": {"cpuHours": None, "gpuHours": None, "seconds": None}},
    ),
    rule(
        "budget.cpuHours counts",
        trial(resources={"requests": None, "limits": {"cpu": 1}}),
        trial(resources={"requests": None}),
    ),
    rule(
        "budget.gpuHours counts",
        trial(resources={"limits": {"nvidia.com/gpu": None, "amd.com/gpu": 1}}),
        trial(resources={"limits": {"nvidia.com/gpu": None}}),
    ),
    rule(
        "execution: PodPerTrial supports at most 1000",
        {"execution": "PodPerTrial", "limits": {"maxTrials": 1000}},
        {"execution": "PodPerTrial", "limits": {"maxTrials": 1001}},
    ),
)
_REGISTERING = (
    rule(
        "registerBest needs one output",
        trial(outputs={"model": None}),
        trial(outputs={"model": None, "more": {}}),
    ),
    *(
        rule(
            "apply to the output of registerBest",
            trial(outputs={"model": field}),
            {"registerBest": None, **trial(outputs={"model": field})},
            trial(outputs={"model": {}, "report": field}),
        )
        for field in ({"format": "python"}, {"compile": {"to": "onnx"}}, {"allowCodeExecution": True})
    ),
    rule(
        "apply to the output of registerBest",
        trial(outputs={"model": None, "report": {"format": "onnx"}}),
        {"registerBest": None, **trial(outputs={"model": None, "report": {"format": "onnx"}})},
    ),
)
_TRIALS = (
    rule("a parameter is in searchSpace or", trial(parameters={"rounds": "7"}), trial(parameters={"lr": "7"})),
    rule(
        f"{TRIAL}.parameters.rounds must be a text, a number or a boolean; write anything else as a text in quotes",
        trial(parameters={"rounds": 1e-5}),
        trial(parameters={"rounds": [7]}),
    ),
    rule(
        f"$(inputs.dta) names no input; inputs are: data; correct the name, or add it to {TRIAL}.inputs",
        trial(args=["$(params.drop)", "$(params.rounds)", "$(inputs.data)"]),
        trial(args=["$(inputs.dta)"]),
    ),
    rule(
        "$(param.drop) would reach the command as it is; write $(params.drop)",
        trial(args=["$(params.drop)"]),
        trial(args=["${trial.x} $(param.drop)"]),
    ),
    rule(
        f"correct the name, or add it to spec.searchSpace or {TRIAL}.parameters",
        trial(args=["$(params.lr)"]),
        trial(args=["$(params.learning_rate)"]),
    ),
    rule("suspend is not for a trial", {}, trial(suspend=True)),
    rule("cancel is not for a trial", {}, trial(cancel=True)),
    rule("ttlSecondsAfterFinished is not for a trial", {}, trial(ttlSecondsAfterFinished=60)),
    clash("only the best trial's output is registered", {}, trial(outputs={"model": {"registerAs": "churn"}})),
    clash(
        "a trial runs in one pod",
        in_pods(nodes=2, framework="none"),
        {"execution": "Pool", **trial(nodes=2, framework="none")},
    ),
    *(
        rule(words, in_pods(**fields), trial(**fields))
        for words, fields in (
            ("a trial has no ranks", {"framework": "torch"}),
            (
                "leave podFailurePolicy out",
                {
                    "podFailurePolicy": {
                        "rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}}]
                    }
                },
            ),
            ("leave backoffLimit out", {"backoffLimit": 4}),
            ("a trial has the memory of its worker", {"onOutOfMemory": {"maxMemory": "4Gi"}}),
            ("activeDeadlineSeconds is not for a trial", {"activeDeadlineSeconds": 60}),
        )
    ),
    *(
        clash(
            "a pool keeps checkpoints only for",
            {"earlyTermination": {"type": type, "maxSteps": 27}, **trial(checkpoint={})},
            {"execution": "Pool", **stopped("median"), **trial(checkpoint={})},
        )
        for type in ("asha", "hyperband")
    ),
    *(
        rule(
            "a trial in a pool resumes only from its own checkpoint",
            in_pods(checkpoint=fields),
            {"earlyTermination": {"type": "asha"}, **trial(checkpoint=fields)},
        )
        for fields in ({"resume": "Never"}, {"resumeFrom": "s3://lake/other/"}, {"gracePeriodSeconds": 60})
    ),
)
RULES: tuple[Rule, ...] = (
    *_NAMES,
    *_OBJECTIVES,
    *_SPACE,
    *_ADMITTED,
    *_STOPPING,
    *_LIMITS,
    *_REGISTERING,
    *_TRIALS,
)
