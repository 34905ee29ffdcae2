"""Sweeps for the tests: a whole one, those of the golden files, and what makes a drawn one valid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ultramarine.resources.sweep import MOST_HOURS, SweepSpec
from ultramarine_contract.meta import Manifest
from ultramarine_contract.parameters import MOST_PODS
from ultramarine_contract.sweep_records import SweepSummary, WantedTrial

from ....shared.plan import Obj, Plan, Platform
from ....shared.testing import NOW, Sample, applied, child, fit, seen, stored
from ...trainingjob.testing.samples import complete as complete_trial
from ..plan import plan

TRIAL: Manifest = {"command": ["python", "train.py", "--lr=$(params.lr)"]}


def searching(name: str, **spec: object) -> Manifest:
    """A Sweep as a user applies it: ten trials, two at a time, for the learning rate with the least loss."""
    whole = {
        "objective": {"metric": "loss"},
        "searchSpace": {"lr": {"logUniform": {"min": 1e-05, "max": 0.1}}},
        "limits": {"maxTrials": 10, "parallelTrials": 2},
        "trialTemplate": {"spec": {"source": {"inline": {"train.py": "print('loss=1')"}}, **TRIAL}},
        **spec,
    }
    return applied("Sweep", name, whole)


def sweep(status: Manifest | None = None, **spec: Any) -> Obj[SweepSpec]:
    """A Sweep called hpo."""
    manifest = stored("Sweep", "hpo", {**searching("hpo")["spec"], **spec}, status)
    return Obj(manifest, SweepSpec.model_validate(manifest["spec"]))


def sweep_job(owner: Obj[SweepSpec], role: str, condition: str = "", reason: str = "", **counts: Any) -> Manifest:
    """The Job of a Sweep's `coordinator` or `workers`, running, or ended by that condition."""
    (spec,) = (
        made["spec"]
        for made in plan(replace(owner, manifest={**owner.manifest, "status": {}}), seen(), NOW).apply
        if made["kind"] == "Job" and made["metadata"]["name"] == f"{owner.name}-{role}"
    )
    ended = {"type": condition, "status": "True", "reason": reason, "lastTransitionTime": "2030-01-01T11:59:00Z"}
    status = {**counts, **({"conditions": [ended]} if condition else {})}
    return child("Job", f"{owner.name}-{role}", owner, spec, status)


WHOLE: Manifest = {
    "metadata": {"name": "churn"},
    "spec": {
        "objective": {"metric": "loss", "goal": "minimize", "stopAt": 0.1},
        "algorithm": {
            "type": "random",
            "seed": 7,
            "warmStartFrom": ["older"],
            "initialTrials": [
                {"lr": 0.001, "momentum": 0.9, "depth": 4, "trees": 100, "booster": "gbtree", "task": "binary"}
            ],
        },
        "searchSpace": {
            "lr": {"logUniform": {"min": 1e-05, "max": 0.01}},
            "momentum": {"uniform": {"min": 0, "max": 1, "step": 0.1}},
            "depth": {"int": {"min": 2, "max": 12, "step": 2}},
            "trees": {"logInt": {"min": 10, "max": 1000}},
            "booster": {"choice": ["gbtree", "dart"]},
            "task": {"constant": "binary"},
            "drop": {"uniform": {"min": 0, "max": 0.5, "step": 0.25}, "when": {"booster": ["dart"]}},
        },
        "earlyTermination": {"type": "asha", "minSteps": 1, "maxSteps": 27, "reductionFactor": 3},
        "limits": {"maxTrials": 200, "parallelTrials": 8, "maxFailedTrials": 5, "trialTimeoutSeconds": 3600},
        "budget": {"seconds": 50, "cpuHours": 10, "gpuHours": 100},
        "canaryTrial": True,
        "execution": "Pool",
        "suspend": False,
        "cancel": False,
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 3600,
        "registerBest": "churn",
        "keepOutputs": 1,
        "trialTemplate": {
            "spec": {
                "command": ["python", "train.py", "--lr=$(params.lr)"],
                "parameters": {"rounds": "100"},
                "resources": {
                    "requests": {"cpu": 1},
                    "limits": {"nvidia.com/gpu": 1, "memory": "1Gi"},
                },
                "inputs": {"data": {"uri": "s3://lake/churn/"}},
                "outputs": {"model": {}, "report": {}},
            }
        },
    },
}


# ---- Golden files


def minimal_sweep(platform: Platform) -> Plan:
    """Ten trials, two at a time."""
    return plan(sweep(), seen(platform=platform), NOW)


def full_sweep(platform: Platform) -> Plan:
    """A grid with conditions and a budget, four trials at a time, whose best one is registered."""
    whole = sweep(
        objective={"metric": "accuracy", "goal": "maximize", "stopAt": 0.99},
        algorithm={"type": "grid", "seed": 7},
        searchSpace={
            "booster": {"choice": ["gbtree", "dart"]},
            "drop": {"uniform": {"min": 0, "max": 1, "step": 0.5}, "when": {"booster": ["dart"]}},
            "depth": {"int": {"min": 2, "max": 8, "step": 2}},
            "task": {"constant": "binary"},
        },
        earlyTermination={"type": "asha", "minSteps": 1, "maxSteps": 27},
        limits={"parallelTrials": 4, "maxFailedTrials": 5, "trialTimeoutSeconds": 600},
        budget={"cpuHours": 10, "gpuHours": 2.5},
        canaryTrial=True,
        activeDeadlineSeconds=3600,
        registerBest="churn",
        trialTemplate={
            "spec": {
                "image": "team-a/trainer:2",
                "source": {"git": {"url": "https://git.example.com/churn", "ref": "main"}},
                "command": ["python", "train.py", "--depth=$(params.depth)"],
                "args": ["--rounds=$(params.rounds)", "$(inputs.data)", "$(outputs.model)"],
                "parameters": {"rounds": "100"},
                "env": [{"name": "MODE", "value": "fast"}],
                "resources": {"requests": {"cpu": "500m"}, "limits": {"nvidia.com/gpu": 1}},
                "inputs": {"data": {"uri": "s3://lake/churn/"}},
                "outputs": {"model": {}, "report": {}},
                "podTemplate": {"nodeSelector": {"gpu": "a100"}, "priorityClassName": "low"},
                "checkpoint": {},
            }
        },
    )
    return plan(whole, seen(platform=replace(platform, progress_url="http://operator:8080")), NOW)


def sweep_with_pods(platform: Platform) -> Plan:
    """A Sweep each of whose trials is a TrainingJob of two nodes; its coordinator wants the first one."""
    template = {
        "source": {"inline": {"train.py": "print('loss=1')"}},
        "command": ["python", "train.py", "--lr=$(params.lr)"],
        "nodes": 2,
        "framework": "torch",
    }
    summary = SweepSummary(wanted=(WantedTrial(0, {"lr": 0.001}),))
    here = seen(platform=replace(platform, progress_url="http://operator:8080"), report=summary)
    return plan(sweep(execution="PodPerTrial", trialTemplate={"spec": template}), here, NOW)


SAMPLES: tuple[Sample, ...] = (minimal_sweep, full_sweep, sweep_with_pods)


# ---- Drawn manifests

NOT_OF_TRIALS = ("suspend", "cancel", "ttlSecondsAfterFinished")
NOT_OF_A_POOL = (
    *("nodes", "framework", "processesPerNode", "elastic", "checkpoint", "podFailurePolicy", "backoffLimit"),
    *("onOutOfMemory", "activeDeadlineSeconds"),
)


def complete(manifest: Manifest, spec: Manifest) -> None:
    """Make the fields of a drawn spec agree with each other."""
    trial = spec["trialTemplate"]["spec"]
    complete_trial(manifest, trial, spec["searchSpace"])
    alone = spec.get("execution") == "PodPerTrial"
    for name in NOT_OF_TRIALS if alone else (*NOT_OF_TRIALS, *NOT_OF_A_POOL):
        trial.pop(name, None)
    for output in trial.get("outputs", {}).values():
        output.clear()
    algorithm = spec.setdefault("algorithm", {})
    algorithm.pop("initialTrials", None)  # drawn ones are outside the space
    if "objectives" in spec:
        for name in ("objective", "earlyTermination", "registerBest"):
            spec.pop(name, None)
        for objective in spec["objectives"]:
            objective.pop("stopAt", None)
        if algorithm.get("type") in ("gp", "cmaes"):
            algorithm["type"] = "random"
    else:
        spec.setdefault("objective", {"metric": "loss"})
    space = {name: _parameter(parameter) for name, parameter in spec["searchSpace"].items()}
    if algorithm.get("type") == "grid":
        endless = {"uniform", "logUniform"}
        space = {name: {"constant": 1} if endless & set(values) else values for name, values in space.items()}
    spec["searchSpace"] = space
    trial["parameters"] = {name: value for name, value in trial.get("parameters", {}).items() if name not in space}
    limits = spec.setdefault("limits", {})
    if algorithm.get("type") != "grid":
        limits.setdefault("maxTrials", 10)
    if alone or "objectives" in spec:
        spec.pop("keepOutputs", None)
    if alone:
        manifest["metadata"]["name"] = manifest["metadata"]["name"][:30].rstrip("-")
        limits |= {"maxTrials": min(limits["maxTrials"], MOST_PODS)} if "maxTrials" in limits else {}
    limits["parallelTrials"] = min(limits.get("parallelTrials", 1), limits.get("maxTrials", 1000))
    if "registerBest" in spec:
        trial["outputs"] = {"model": {}}
    resources = trial.setdefault("resources", {})
    if "budget" in spec:
        drawn = spec["budget"] or {"cpuHours": 1}
        least = {"seconds": 1}
        budget = spec["budget"] = {
            name: min(max(abs(amount), least.get(name, 0.001)), MOST_HOURS) for name, amount in drawn.items()
        }
        if "cpuHours" in budget:
            resources["requests"] = {**resources.get("requests", {}), "cpu": "1"}
        if "gpuHours" in budget:
            resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": 1}
    fit(resources)
    if "earlyTermination" in spec:
        spec["earlyTermination"] = _early_termination(spec["earlyTermination"])


def _parameter(parameter: Manifest) -> Manifest:
    kind = next((name for name in parameter if name != "when"), "constant")
    values = parameter.get(kind, 1)
    if kind == "choice":
        return {kind: list({str(value): value for value in values if type(value) is type(values[0])}.values())}
    if kind == "constant":
        return {kind: values}
    low, high = sorted((values["min"], values["max"]))
    if kind == "logUniform":
        low, high = sorted((abs(low) or 1, abs(high) or 1))
    return {kind: {"min": low, "max": high}}


def _early_termination(drawn: Manifest) -> Manifest:
    fields = {
        "asha": ("minSteps", "reductionFactor"),
        "hyperband": ("minSteps", "reductionFactor"),
        "median": ("evaluationInterval", "delayEvaluation"),
        "bandit": ("evaluationInterval", "delayEvaluation"),
        "truncation": ("evaluationInterval", "delayEvaluation"),
    }
    needed = {"hyperband": {"maxSteps": 2**53}, "bandit": {"slackAmount": 1}, "truncation": {"truncationPercentage": 9}}
    type = drawn["type"]
    kept = {name: drawn[name] for name in fields[type] if name in drawn}
    return {"type": type, **kept, **needed.get(type, {})}
