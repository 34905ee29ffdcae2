"""Pipelines: the steps of a pipeline and of its pipeline components become the steps of one PipelineRun or Pipeline."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.components import component_of, joined
from ultramarine.azureml.compute import Compute, compute_of
from ultramarine.azureml.context import Asset, Context, Names, Refused, metadata_of
from ultramarine.azureml.data import ANY_FILE, LITERALS, Bound, Located
from ultramarine.azureml.environments import resolve
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.jobs import LOST as LOST_OF_JOBS
from ultramarine.azureml.jobs import Run, Training, command_spec, job_name
from ultramarine.azureml.recognition import refusal
from ultramarine.azureml.schedules import MAX_SCHEDULE, times_of
from ultramarine.azureml.sweeps import sweep_spec

_EXPRESSION = re.compile(r"\$\{\{\s*(?:parent\.)?(inputs|outputs|jobs)\.([^}\s]+?)\s*\}\}")
COMMANDS = frozenset({"", "command", "command_job", "component", "command_component"})
PIPELINES = frozenset({"pipeline", "pipeline_job", "pipeline_component"})
IGNORED = ("name", "version", "display_name", "description", "tags", "comment", "is_deterministic", "stage")
# Steps that start others, and what a step says itself here.
CONTROL = {
    "if_else": "`when` into the steps that it starts",
    "do_while": "`while` into the step that it repeats",
    "parallel_for": "`forEach` into the step that it repeats",
}
MAX_STEPS = 1000
LOST = {
    **LOST_OF_JOBS,
    "schedule": ("makes no Schedule here", "Write it into the file of the whole pipeline"),
}


@dataclass
class Steps:
    """Steps of one pipeline so far, of whatever depth, with its parameters."""

    context: Context
    compute: Compute
    environment: Manifest | None = None
    parameters: Manifest = field(default_factory=dict)
    steps: list[Manifest] = field(default_factory=list)
    read: set[str] = field(default_factory=set)  # inputs that steps refer to
    names: Names = field(default_factory=Names)


class Group:
    """Jobs of a pipeline or of a pipeline component: `inputs` are its own values, and `outputs` what its steps bind."""

    def __init__(self, steps: Steps, owner: Fields, inputs: dict[str, Bound], declared: Any, prefix: str = "") -> None:
        self._steps, self._prefix = steps, prefix
        self._jobs = owner.section("jobs")
        self._inputs, self._declared = inputs, declared if isinstance(declared, dict) else {}
        self._names = {f"inputs.{name}" for name in owner.section("inputs").keys}  # also those without a value
        self._done: dict[str, dict[str, Bound]] = {}
        self._begun: set[str] = set()
        self.outputs: dict[str, Bound] = {}
        self.names: dict[str, list[str]] = {}  # of the steps, by job
        if not self._jobs:
            raise Refused("has no jobs. Write its steps into jobs, or convert the file of its component")

    def convert(self) -> None:
        """Convert all jobs, each after those that it refers to."""
        for key in self._jobs.keys:
            self._job(key)

    def bound(self, fields: Fields, key: str, text: str) -> Bound | None:
        """Return the value of a text with expressions; None if they refer to nothing, which is a loss."""
        whole = _EXPRESSION.fullmatch(text.strip())
        if whole is not None:
            value = self._value(whole)
            if value is None and f"{whole[1]}.{whole[2]}" not in self._names:
                name = f"{whole[1]}.{whole[2]}"
                is_lost = whole[2].partition(".")[0] in self._jobs.keys  # an output that was left out
                fields.lose_expression(key, name, {*self._names, *([name] if is_lost else [])})
            return value
        literals = {match[0]: self._value(match) for match in _EXPRESSION.finditer(text)}
        if "${{" in _EXPRESSION.sub("", text) or any(value is None or value.located for value in literals.values()):
            fields.lose(key, f"{text[:60]} has an expression without a counterpart", "Write its value")
            return None
        filled, reference = text, text
        for expression, value in literals.items():
            assert value is not None
            filled = filled.replace(expression, str(value.literal))
            reference = reference.replace(expression, value.reference or str(value.literal))
        return Bound(literal=filled, reference=reference)

    def _value(self, expression: re.Match[str]) -> Bound | None:
        kind, name = expression[1], expression[2]
        if kind == "inputs":
            if not self._prefix:
                self._steps.read.add(name)
            return self._inputs.get(name)
        job, _, output = name.partition(".outputs.")
        if kind == "jobs" and job in self._jobs.keys:
            return self._job(job).get(output)
        return None

    def _job(self, key: str) -> dict[str, Bound]:
        """Convert a job once, and return its outputs. Raises Refused for a circle, or a type without a counterpart."""
        if key in self._done:
            return self._done[key]
        if key in self._begun:
            raise Refused(f"has a step {key} that depends on itself. Correct the references of its inputs")
        self._begun.add(key)
        job = self._jobs.section(key)
        type = job.text("type").lower()
        try:
            self._done[key] = self._converted(key, job, type)
        except Refused as error:
            if error.message.startswith("has a step "):
                raise
            raise Refused(f"has a step {key} that does not convert: it {error.message}") from error
        return self._done[key]

    def _converted(self, key: str, job: Fields, type: str) -> dict[str, Bound]:
        if type not in PIPELINES | COMMANDS | {"sweep"}:
            raise self._unsupported(type)
        component = component_of(self._steps.context, job, "trial" if type == "sweep" else "component")
        if component is not None and type in ("", "component"):
            type = component.text("type").lower()
        if type in PIPELINES:
            return self._nested(key, job, component)
        if type == "sweep" or type in COMMANDS:
            return self._step(key, job, component, type == "sweep")
        raise self._unsupported(type)

    def _unsupported(self, type: str) -> Refused:
        if type in CONTROL:
            return Refused(f"is {type}, a control of other steps. Write {CONTROL[type]} (docs/pipelines.md)")
        reason = refusal(type)
        return Refused(f"is {reason}" if reason else f"is of type {type[:40]}. Write it as a command")

    def _step(self, key: str, job: Fields, component: Fields | None, is_sweep: bool) -> dict[str, Bound]:
        """Add a step with a job or a sweep, and return its outputs."""
        steps = self._steps
        self._fill(job)
        exported = self._exported(job)
        step = joined(steps.context, job, component, self)
        is_cached = step.fields.take("is_deterministic") is not False
        has_place = "compute" in job or "compute" in step.fields
        for ignored in IGNORED:
            job.take(ignored)
        name = steps.names.free("step", f"{self._prefix}{key}")
        training = (sweep_spec if is_sweep else command_spec)(steps.context, step, name)
        spec = _completed(training, None if has_place else steps.compute, steps.environment)
        kind = "sweep" if is_sweep else "trainingJob"
        steps.steps.append({"name": name, kind: spec, **({} if is_cached else {"cache": False})})
        if len(steps.steps) > MAX_STEPS:
            raise Refused(f"has more than {MAX_STEPS} steps. Split it")
        self.names[key] = [name]
        outputs = {
            output: Bound(Located(f"$(steps.{name}.outputs.{own})", file))
            for output, (own, file) in training.outputs.items()
        }
        self.outputs |= {outer: outputs[output] for output, outer in exported.items() if output in outputs}
        return outputs

    def _fill(self, job: Fields) -> None:
        """Put the values of the pipeline's inputs into fields that name a compute target or an environment."""
        for key in ("compute", "environment"):
            value = job.take(key)
            if isinstance(value, str) and "${{" in value:
                bound = self.bound(job, key, value)
                job.put(key, None if bound is None else bound.literal)

    def _exported(self, job: Fields) -> dict[str, str]:
        """Return the outputs of a job that are outputs of the pipeline, and give them what the pipeline declares."""
        outputs = job.take("outputs")
        exported: dict[str, str] = {}
        if isinstance(outputs, dict):
            given: dict[str, Any] = {}
            for key, value in outputs.items():
                text = value.get("path") if isinstance(value, dict) else value
                match = _EXPRESSION.fullmatch(text.strip()) if isinstance(text, str) else None
                given[key] = {} if match or not isinstance(value, dict) else value
                if match and isinstance(value, dict) and "mode" in value:
                    job.section("outputs").section(key).note("mode")
                if match is not None and match[1] == "outputs":
                    exported[key] = match[2]
                    declared = self._declared.get(match[2])
                    given[key] = {**(declared if isinstance(declared, dict) else {})}
            job.put("outputs", given)
        return exported

    def _nested(self, key: str, job: Fields, component: Fields | None) -> dict[str, Bound]:
        """Add the steps of a pipeline component, and return its outputs."""
        exported = self._exported(job)
        step = joined(self._steps.context, job, component, self)
        owner = step.fields
        inner = Group(self._steps, owner, step.bounds, owner.take("outputs"), f"{self._prefix}{key}-")
        inner.convert()
        self.names[key] = [name for names in inner.names.values() for name in names]
        for fields in {id(place): place for place in (job, owner)}.values():
            fields.close(LOST, (*IGNORED, "settings", "compute", "inputs", "outputs"))
        self.outputs |= {outer: inner.outputs[output] for output, outer in exported.items() if output in inner.outputs}
        return inner.outputs


def _completed(training: Training, compute: Compute | None, environment: Manifest | None) -> Manifest:
    """Return the spec of a step with the pipeline's compute target and environment, where it has none."""
    spec = training.spec
    job = spec["trialTemplate"]["spec"] if "trialTemplate" in spec else spec
    if compute is not None:
        if pod_template := {**compute.pod_template, **job.get("podTemplate", {})}:
            job["podTemplate"] = pod_template
        if compute.resources:
            job.setdefault("resources", dict(compute.resources))
    if environment is not None:
        job.setdefault("environment", environment)
    return spec


def pipeline_spec(context: Context, fields: Fields) -> tuple[Manifest, Manifest]:
    """Return the spec of a pipeline, and fields of its run. Raises Refused for a step without a counterpart."""
    settings = fields.section("settings")
    place = settings if "default_compute" in settings else fields
    key = "default_compute" if place is settings else "compute"
    compute = compute_of(place, context.computes_of(place), fields.section("resources"), key)
    steps = Steps(context, compute, resolve(context, settings).reference)
    component = component_of(context, fields, "component")
    owner = component or fields
    inputs = _parameters(steps, joined(context, fields, component).bounds, owner)
    group = Group(steps, owner, inputs, fields.take("outputs") or owner.take("outputs"))
    group.convert()
    spec: Manifest = {}
    if description := fields.text("description"):
        spec["description"] = description[:4096]
    for key in inputs.keys() - steps.read:
        fields.lose("inputs", f"no step reads {key}, so it was left out", "Remove it, or refer to it by parent.inputs")
    text = json.dumps(steps.steps)
    if parameters := {name: entry for name, entry in steps.parameters.items() if f"$(params.{name})" in text}:
        spec["parameters"] = parameters
    _outputs(fields, owner, group, spec)
    last = group.names.get(settings.text("on_finalize"), [])
    first = [step for step in steps.steps if step["name"] not in last]
    results = json.dumps([first, spec.get("outputs", {})])
    if last and (not first or any(f"$(steps.{name}." in results for name in last)):
        settings.lose("on_finalize", "others depend on its results, so it is a step as they are", "Remove it")
        first, last = steps.steps, []
    spec["steps"] = first
    if last:
        spec["finally"] = [step for step in steps.steps if step["name"] in last]
    if settings.truth("continue_on_step_failure"):
        spec["continueOnStepFailure"] = True
    run: Manifest = {"forceRerun": True} if settings.truth("force_rerun") else {}
    settings.close(
        {"on_init": ("has no counterpart", "Let the other steps name it in after")}, ("default_datastore", "datastore")
    )
    if component is not None:
        component.close(LOST, (*IGNORED, "inputs", "outputs", "settings", "compute"))
    return spec, run


def _outputs(fields: Fields, owner: Fields, group: Group, spec: Manifest) -> None:
    """Set the outputs of a pipeline to those of its steps."""
    outputs = {_identifier(key): bound.located.uri for key, bound in group.outputs.items() if bound.located}
    if outputs:
        spec["outputs"] = outputs
    for place in (fields, owner):
        section = place.section("outputs")
        for key in section.keys:
            if key not in group.outputs:
                section.lose(key, "no step writes to it", f"Bind an output of a step to ${{{{parent.outputs.{key}}}}}")


def _identifier(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:60]
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"


def _parameters(steps: Steps, bounds: dict[str, Bound], owner: Fields) -> dict[str, Bound]:
    """Make a parameter of each literal, and of each input without a value; content is the same in all runs."""
    inputs: dict[str, Bound] = {}
    declared = owner.section("inputs")
    for key in dict.fromkeys((*bounds, *declared.keys)):
        entry = declared.take(key)
        type = str(entry.get("type") or "").lower() if isinstance(entry, dict) else ""
        bound = bounds.get(key, Bound())
        name = _identifier(key)
        if bound.located is not None:
            inputs[key] = bound
            continue
        if key not in bounds and isinstance(entry, dict) and str(entry.get("optional")).lower() == "true":
            continue
        if type and type not in LITERALS:
            steps.parameters[name] = {"type": "uri"}
            file = ANY_FILE if type == "uri_file" else ""
            inputs[key] = Bound(Located(f"$(params.{name})", file))
            continue
        steps.parameters[name] = _parameter(type, bound.literal)
        inputs[key] = Bound(literal=steps.parameters[name].get("default"), reference=f"$(params.{name})")
    return inputs


def _parameter(type: str, value: Any) -> Manifest:
    """Return a parameter; booleans are texts, since Azure writes them as Python does."""
    if value is None:
        return {"type": type if type in ("integer", "number") else "string"}
    if isinstance(value, int):
        return {"type": "number" if type == "number" else "integer", "default": value}
    return {"type": "number" if isinstance(value, float) else "string", "default": value}


def convert_pipeline(context: Context, fields: Fields) -> None:
    """Make a PipelineRun of a pipeline job, a Schedule if it has one, or a Pipeline if a parameter has no value."""
    times = _schedule(fields.section("schedule"))
    name = job_name(context, fields, "PipelineRun")
    metadata = metadata_of(fields)
    run = pipeline_run(context, fields, name)
    if times and run.kind == "PipelineRun":
        name = context.names.free("Schedule", name, MAX_SCHEDULE)
        spec = {**times, "template": {"kind": run.kind, "spec": run.spec}}
        context.add(fields.document, "Schedule", name, spec, metadata)
        return
    if times:
        fields.lose("schedule", "makes no Schedule of a pipeline whose inputs have no values", "Give them values")
    context.add(fields.document, *run, metadata)


def _schedule(section: Fields) -> Manifest:
    """Return the times of a pipeline's own schedule, as early releases wrote it; empty without one."""
    if not section:
        return {}
    is_disabled = section.text("status").lower() == "disabled"
    times = {**times_of(section), **({"suspend": True} if is_disabled else {})}
    section.close()
    return times


def pipeline_run(context: Context, fields: Fields, name: str) -> Run:
    """Return the PipelineRun of a pipeline job, or a Pipeline if a parameter has no value."""
    spec, run = pipeline_spec(context, fields)
    fields.close(LOST, IGNORED)
    missing = [key for key, parameter in spec.get("parameters", {}).items() if "default" not in parameter]
    if not missing:
        return Run("PipelineRun", name, {"pipelineSpec": spec, **run})
    fields.lose("inputs", f"{missing[0]} has no value, so a Pipeline is made and no run", "Run it with this parameter")
    return Run("Pipeline", context.names.free("Pipeline", name), spec)


def convert_component(context: Context, asset: Asset) -> None:
    """Make a Pipeline of a component that no other file names; a command is its only step."""
    fields = own = context.fields(asset.document)
    metadata = metadata_of(own)
    if "jobs" not in fields:
        step = {
            "component": f"./{asset.document.file.name}",
            "inputs": {key: f"${{{{parent.inputs.{key}}}}}" for key in own.section("inputs").keys},
            "outputs": {key: f"${{{{parent.outputs.{key}}}}}" for key in own.section("outputs").keys},
        }
        value = {key: own.take(key) for key in ("inputs", "outputs", "description") if key in own}
        key = asset.document.file.stem if asset.document.file.stem != "component" else asset.name
        fields = Fields(asset.document, context.losses, (), {**value, "jobs": {key: step}})
    spec, _ = pipeline_spec(context, fields)
    name = context.names.free("Pipeline", asset.name)
    fields.close(LOST, IGNORED)
    context.add(asset.document, "Pipeline", name, spec, metadata)
