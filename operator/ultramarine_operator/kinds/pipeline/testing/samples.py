"""Pipelines and runs for the tests: whole ones, those of the golden files, and what makes a drawn one valid."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.pipeline import PipelineRunSpec, PipelineSpec
from ultramarine_contract.cache_records import key_of
from ultramarine_contract.meta import Manifest

from ....shared.plan import Obj, Plan, Platform, Seen
from ....shared.questions import CacheAnswer, LookUpStep
from ....shared.testing import NOW, Sample, applied, child, fit, seen, stored
from ...trainingjob.testing.samples import WHOLE as WHOLE_JOB
from ...trainingjob.testing.samples import complete_pods
from ..plan import plan_run, questions_run

NAME = "nightly"
JOB: Manifest = WHOLE_JOB["spec"]
CLEAN: Manifest = {"command": ["clean", "--rate=$(params.rate)"], "outputs": {"table": {}}}
TRAIN: Manifest = {
    "command": ["train", "$(inputs.table)"],
    "inputs": {"table": {"uri": "$(steps.clean.outputs.table)"}},
    "outputs": {"model": {}},
}
STEPS: list[Manifest] = [{"name": "clean", "trainingJob": CLEAN}, {"name": "train", "trainingJob": TRAIN}]
RATE: Manifest = {"rate": {"type": "number", "default": 0.1, "minimum": 0, "maximum": 1}}

OF_PIPELINE = ("continueOnStepFailure", "defaults", "finally", "outputs")


def pipeline(steps: list[Manifest] | None = None, **spec: Any) -> Manifest:
    """The spec of a pipeline: clean, then train, unless there are other steps."""
    return {"parameters": RATE, "steps": steps or STEPS, **spec}


def run_of(steps: list[Manifest] | None = None, status: Manifest | None = None, **spec: Any) -> Obj[PipelineRunSpec]:
    """A PipelineRun called nightly with a pipeline of its own; keys of PipelineSpec in `spec` go there."""
    own = {name: spec.pop(name) for name in list(spec) if name in OF_PIPELINE}
    whole = {"pipelineSpec": pipeline(steps, **own), **spec}
    manifest = stored("PipelineRun", NAME, whole, status)
    return Obj(manifest, PipelineRunSpec.model_validate(manifest["spec"]))


def read_pipeline(spec: Manifest, status: Manifest | None = None) -> Obj[PipelineSpec]:
    """A Pipeline called churn."""
    manifest = stored("Pipeline", "churn", spec, status)
    return Obj(manifest, PipelineSpec.model_validate(manifest["spec"]))


def answer(question: LookUpStep, **more: Any) -> CacheAnswer:
    """Answer of an empty cache, unless it has a record."""
    parts = dict(question.parts) | {name: f"digest of {uri}" for name, uri in question.contents}
    return CacheAnswer(key_of(parts), tuple(parts.items()), **{"miss": "no earlier run did this work", **more})


def planned(run: Obj[PipelineRunSpec], *children: Manifest, answers: Any = None, **more: Any) -> Plan:
    """Plan of a run before a cache that is empty, unless `answers` has other answers by step.

    A run with datasets has kept their versions in the pass before.
    """
    view: Seen = seen(*children, **more)
    given = answers or {}
    replies = {
        question: given.get(question.step) or answer(question)
        for question in questions_run(run, view)
        if isinstance(question, LookUpStep)
    }
    plan = plan_run(run, seen(*children, **{**more, "answers": replies}), NOW)
    has_pinned = "datasets" in plan.status and "datasets" not in run.status
    return planned(after(run, plan), *children, answers=answers, **more) if has_pinned else plan


def after(run: Obj[PipelineRunSpec], plan: Plan) -> Obj[PipelineRunSpec]:
    """The run with the status that a plan has written."""
    return Obj({**run.manifest, "status": plan.status}, run.spec)


def done(run: Obj[Any], made: Manifest, state: str = "Succeeded", **status: Any) -> Manifest:
    """An object of a step, as it has ended."""
    name = made["metadata"]["name"]
    outputs = {
        output: {
            "uri": f"s3://lake/team-a/trainingjobs/{name}/uid/{output}/{'a' * 16}/",
            "digest": f"sha256:{'a' * 64}",
        }
        for output in made["spec"].get("outputs") or {}
    }
    ended = {"state": state, "outputs": outputs, "metrics": {"latest": {"auc": 0.9}}, **status}
    manifest = child(made["kind"], name, run, made["spec"], ended)
    manifest["metadata"]["annotations"] = made["metadata"].get("annotations", {})
    return manifest


def pipeline_run(platform: Platform) -> Plan:
    """A run that begins its first step."""
    steps = [{"name": "clean", "trainingJob": {"command": ["clean", "--rate=$(params.rate)"]}}]
    return planned(run_of(steps, parameters={"rate": 0.2}), platform=platform)


WHOLE_STEP: Manifest = {
    "name": "clean",
    "after": ["fetch"],
    "when": "params.rate > 0.0",
    "forEach": {"items": ["a", "b"], "parallel": 2},
    "retries": 1,
    "timeoutSeconds": 600,
    "cache": True,
    "cacheSalt": "1",
    "trainingJob": {"command": ["true"]},
}
WHOLE_PIPELINE: Manifest = {
    "description": "Cleans and trains.",
    "parameters": {
        "rate": {
            "type": "number",
            "default": 0.1,
            "minimum": 0,
            "maximum": 1,
            "values": [0.1, 0.2],
            "description": "Share of rows.",
        }
    },
    "defaults": {
        "image": "ultramarine/trainer:1",
        "environment": {"requirements": ["lightgbm==4.6.0"]},
        "resources": JOB["resources"],
        "podTemplate": JOB["podTemplate"],
    },
    "steps": [
        {"name": "fetch", "trainingJob": {"command": ["true"], "outputs": {"raw": {}}}},
        WHOLE_STEP,
        {
            "name": "more",
            "while": {"condition": "steps.more.metrics.loss > 0.1", "maxIterations": 3},
            "trainingJob": {"command": ["true"]},
        },
        {
            "name": "months",
            "forEach": {"partitions": "orders@latest", "parallel": 4},
            "trainingJob": {
                "command": ["true", "$(item.values.month)"],
                "inputs": {"orders": {"uri": "$(item.uri)", "digest": "$(item.digest)"}},
            },
        },
        {
            "name": "publish",
            "publish": {"model": "churn", "version": "1", "endpoint": "churn", "deployment": "green", "wait": True},
        },
        {"name": "golden", "publish": {"dataset": "clean", "version": "1", "alias": "golden"}},
        {"name": "nested", "pipeline": {"name": "other", "parameters": {"rate": "$(params.rate)"}}},
    ],
    "finally": [
        {"name": "mail", "trainingJob": {"command": ["true"]}},
        {
            "name": "last",
            "publish": {"model": "churn", "version": "1", "alias": "newest", "endpoint": "churn", "wait": True},
        },
    ],
    "outputs": {"raw": "$(steps.fetch.outputs.raw)"},
    "continueOnStepFailure": True,
}
WHOLE_RUN: Manifest = {
    "pipelineSpec": WHOLE_PIPELINE,
    "parameters": {"rate": 0.2},
    "rerun": {"of": "earlier", "from": ["clean"]},
    "forceRerun": False,
    "suspend": False,
    "cancel": False,
    "ttlSecondsAfterFinished": 3600,
}
SAMPLES: tuple[Sample, ...] = (pipeline_run,)
_WORK = ("trainingJob", "sweep", "pipeline", "publish")


def complete(_: Manifest, spec: Manifest) -> None:
    """Make a drawn pipeline agree with itself."""
    for step in (*spec.get("steps", []), *spec.get("finally", [])):
        kept = next((name for name in _WORK if name in step), None)
        if kept is None:
            step["trainingJob"] = {}
        for name in _WORK:
            if name in step and name != (kept or "trainingJob"):
                del step[name]
        if "forEach" in step:
            step.pop("while", None)
            entries = step["forEach"]
            if ("items" in entries) == ("partitions" in entries):
                entries.pop("partitions", None)
                entries["items"] = ["a"]
        if "publish" in step:
            step["publish"] = {"model": "churn", "version": "1", "alias": "champion"}
    if defaults := spec.get("defaults"):
        if resources := defaults.get("resources"):
            fit(resources)
        complete_pods(defaults)


def complete_run(manifest: Manifest, spec: Manifest) -> None:
    """Make a drawn run agree with itself."""
    if "pipelineSpec" in spec:
        spec.pop("pipeline", None)
        complete(manifest, spec["pipelineSpec"])
    else:
        spec.setdefault("pipeline", "a")
    if spec.get("forceRerun"):
        spec.pop("rerun", None)


def applied_run(name: str, steps: list[Manifest], **spec: Any) -> Manifest:
    """A PipelineRun as a user applies it."""
    own = {key: spec.pop(key) for key in list(spec) if key in OF_PIPELINE}
    return applied("PipelineRun", name, {"pipelineSpec": pipeline(steps, **own), **spec})
