"""Runs of pipelines: their steps as lines, the reason of each step's state, and the difference of two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import API_VERSION, PIPELINE, PIPELINE_RUN, Manifest

from .run import duration_of

Status = Mapping[str, Any]


@dataclass(frozen=True)
class StepLine:
    """Step of a run as a user sees it."""

    name: str
    state: str
    seconds: str
    child: str
    note: str

    @property
    def cells(self) -> list[str]:
        """Return the cells of a table."""
        return [self.name, self.state, self.seconds, self.child, self.note]


HEADING = ["STEP", "STATE", "TIME", "OBJECT", "NOTE"]


def run_manifest(pipeline: str, name: str, parameters: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a run of a Pipeline; without a name the server completes one."""
    meta = {"name": name} if name else {"generateName": f"{pipeline[:34]}-"}
    spec = {"pipeline": pipeline, **({"parameters": dict(parameters)} if parameters else {})}
    return {"apiVersion": API_VERSION, "kind": PIPELINE_RUN.kind, "metadata": meta, "spec": spec}


def check_run(run: Manifest, pipeline: Manifest | None) -> None:
    """Raise InvalidSpec for a run that the operator would refuse; `pipeline` is the spec of its Pipeline, if known."""
    from pydantic import ValidationError

    from ultramarine.resources.pipeline import PipelineSpec
    from ultramarine.resources.pipeline_checks import check, check_rerun, parameter_values

    spec = run.get("spec") or {}
    try:
        read = PipelineSpec.model_validate(spec.get("pipelineSpec") or pipeline)
    except ValidationError:
        return  # the API server names its fault, or the Pipeline does not exist yet
    check(read)
    parameter_values(read, spec.get("parameters") or {})
    check_rerun(read, (spec.get("rerun") or {}).get("from") or ())


def pipeline_in(manifests: list[Manifest]) -> Manifest:
    """Return the one Pipeline among manifests. Raises InvalidSpec."""
    pipelines = [manifest for manifest in manifests if manifest.get("kind") == PIPELINE.kind]
    if len(pipelines) != 1:
        raise InvalidSpec(f"expected one Pipeline, not {len(pipelines)}. Name a file with one, or a Pipeline's name.")
    return pipelines[0]


def steps_of(run: Manifest) -> list[Status]:
    """Return the states of a run's steps."""
    steps: list[Status] = (run.get("status") or {}).get("steps") or []
    return steps


def lines_of(run: Manifest) -> Iterator[StepLine]:
    """Yield the steps of a run in their order."""
    for step in steps_of(run):
        state = "Reused" if step.get("cached") else str(step["state"])
        seconds = duration_of(step)
        count = f"{step['items']} repetitions" if step.get("items") else ""
        note = step.get("message") or _reuse(step) or count
        time = f"{seconds.total_seconds():.0f}s" if seconds is not None else ""
        yield StepLine(str(step["name"]), state, time, str(step.get("child", "")), str(note))


def _reuse(step: Status) -> str:
    cached = step.get("cached")
    if cached:
        return f"from run {cached.get('run')}"
    return f"not reused: {reason}" if (reason := step.get("missReason")) else ""


def layers_of(run: Manifest, pipeline: Manifest | None) -> list[list[str]]:
    """Return the names of the steps by layers: a step is one layer below the last that it depends on.

    `pipeline` is the spec of the run's Pipeline. Steps of finally are the last layer.
    """
    from pydantic import ValidationError

    from ultramarine.resources.pipeline import PipelineSpec
    from ultramarine.resources.pipeline_conditions import ConditionError
    from ultramarine.resources.pipeline_steps import ordered

    try:
        spec = PipelineSpec.model_validate(run["spec"].get("pipelineSpec") or pipeline)
        order = ordered(spec)
    except (ValidationError, InvalidSpec, ConditionError):
        return [[str(step["name"]) for step in steps_of(run)]]
    depths: dict[str, int] = {}
    for step, needs in order:
        depths[step.name] = 1 + max((depths[name] for name in needs), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depths.values()))]
    for step in spec.steps:
        layers[depths[step.name] - 1].append(step.name)
    return [*layers, [step.name for step in spec.finally_]] if spec.finally_ else layers


def reason_of(run: Manifest, name: str) -> Iterator[str]:
    """Yield sentences on the state of one step. Raises InvalidSpec for a step that the run does not have."""
    step = next((step for step in steps_of(run) if step["name"] == name), None)
    if step is None:
        names = listed(str(step["name"]) for step in steps_of(run)) or "none yet"
        raise InvalidSpec(f"run {run['metadata']['name']} has no step {name}. Its steps: {names}.")
    yield f"{name} is {step['state']}."
    if cached := step.get("cached"):
        yield f"Its results are those of {cached.get('job') or 'a job'} in run {cached.get('run')}: equal work."
    if reason := step.get("missReason"):
        yield f"It was not reused: {reason}."
    if message := step.get("message"):
        yield f"{message}."
    if version := (step.get("partitions") or {}).get("version"):
        yield f"It runs for each partition of DatasetVersion {version}."
    if step.get("child"):
        yield f"Its object is {step['child']}."
    if step.get("attempt"):
        yield f"{step['attempt']} objects failed before."
    if metrics := step.get("metrics"):
        yield "Metrics: " + ", ".join(f"{metric}={value:g}" for metric, value in metrics.items())
    for output, stored in (step.get("outputs") or {}).items():
        yield f"Output {output}: {stored['uri']}"


def differences(before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield the differences of two runs: pipeline, parameters, and what each step did."""
    specs = before["spec"], after["spec"]
    pins = [((run.get("status") or {}).get("pipeline") or {}).get("digest") for run in (before, after)]
    if pins[0] != pins[1] or specs[0].get("pipelineSpec") != specs[1].get("pipelineSpec"):
        yield "pipeline: the specs differ"
    parameters = specs[0].get("parameters") or {}, specs[1].get("parameters") or {}
    for name in sorted({*parameters[0], *parameters[1]}):
        values = [values.get(name, "the default") for values in parameters]
        if values[0] != values[1]:
            yield f"parameters.{name}: {values[0]} -> {values[1]}"
    steps = [{step["name"]: step for step in steps_of(run)} for run in (before, after)]
    for name in dict.fromkeys([*steps[0], *steps[1]]):
        former, step = steps[0].get(name), steps[1].get(name)
        if former is None or step is None:
            yield f"step {name}: only in {'the second' if former is None else 'the first'} run"
            continue
        if former["state"] != step["state"]:
            yield f"step {name}: {former['state']} -> {step['state']}"
        if former.get("key") and step.get("key") and former["key"] != step["key"]:
            why = step.get("missReason") or former.get("missReason") or "the keys differ"
            yield f"step {name}: other work ({why})"
        for metric in sorted({*(former.get("metrics") or {}), *(step.get("metrics") or {})}):
            numbers = [entry.get("metrics", {}).get(metric) for entry in (former, step)]
            if numbers[0] != numbers[1]:
                yield f"step {name}: {metric} {_number(numbers[0])} -> {_number(numbers[1])}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
