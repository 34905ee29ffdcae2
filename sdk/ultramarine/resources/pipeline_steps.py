"""Steps as graph: what each runs, what it depends on, and the order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import PIPELINE_RUN, SWEEP, TRAINING_JOB, Resource

from . import pipeline_conditions as conditions
from .pipeline import PipelineDefaults, PipelineRunSpec, PipelineSpec, Publish, Step
from .pipeline_references import references
from .sweep import SweepSpec
from .trainingjob import TrainingJobSpec

Document = dict[str, Any]
Registered = tuple[str, Any]  # kind, and name; an empty name for none


@dataclass(frozen=True)
class Runnable:
    """Kind of object that does a step's work.

    `job` is the part of its spec that a pipeline's defaults complete. `own` are names that $(params.NAME) in its spec
    means, and `outputs` the names of its outputs; None if only its end shows them. `registered` is the Model or the
    Dataset of which an output becomes a version; None if only its end shows that. Without `resource` the step has no
    object of its own.
    """

    field: str
    resource: Resource | None
    spec: type[BaseModel]
    job: Callable[[Document], Document | None]
    own: Callable[[Document], Collection[str]]
    outputs: Callable[[Document], Collection[str] | None]
    registered: Callable[[Document, str], Registered | None]

    @property
    def made(self) -> Resource:
        """Return the kind of its object, which all have but those that publish."""
        assert self.resource is not None, f"{self.field} has no object"
        return self.resource


def _part(document: Document, *path: str) -> Document:
    """Return an object in a document; an empty one if it is absent or of another type."""
    for name in path:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document


def _of_job(document: Document, output: str) -> Registered:
    fields = _part(document, "outputs", output)
    return ("Dataset", fields["dataset"]) if "dataset" in fields else ("Model", fields.get("registerAs") or "")


_TRIAL = ("trialTemplate", "spec")
RUNNABLES = (
    Runnable(
        "training_job",
        TRAINING_JOB,
        TrainingJobSpec,
        job=lambda spec: spec,
        own=lambda spec: _part(spec, "parameters").keys(),
        outputs=lambda spec: _part(spec, "outputs").keys(),
        registered=_of_job,
    ),
    Runnable(
        "sweep",
        SWEEP,
        SweepSpec,
        job=lambda spec: _part(spec, *_TRIAL) if _part(spec, *_TRIAL) else None,
        own=lambda spec: {*_part(spec, "searchSpace"), *_part(spec, *_TRIAL, "parameters")},
        outputs=lambda spec: _part(spec, *_TRIAL, "outputs").keys(),
        registered=lambda spec, _: ("Model", spec.get("registerBest") or ""),
    ),
    Runnable(
        "pipeline",
        PIPELINE_RUN,
        PipelineRunSpec,
        job=lambda spec: None,
        own=lambda spec: (),
        outputs=lambda spec: None,
        registered=lambda spec, output: None,
    ),
    Runnable(
        "publish",
        None,
        Publish,
        job=lambda spec: None,
        own=lambda spec: (),
        outputs=lambda spec: (),
        registered=lambda spec, output: None,
    ),
)


def runnable_of(step: Step) -> Runnable:
    """Return the kind of object that does a step's work. Raises InvalidSpec if the step names none."""
    for runnable in RUNNABLES:
        if getattr(step, runnable.field) is not None:
            return runnable
    raise InvalidSpec(f"step {step.name}: give one of trainingJob, sweep, pipeline and publish")


def document_of(step: Step, defaults: PipelineDefaults) -> Document:
    """Return the spec of a step's object, completed by the pipeline's defaults, with references as they are."""
    runnable = runnable_of(step)
    if step.pipeline is not None:
        call = step.pipeline.model_dump(by_alias=True)
        return {"pipeline": call["name"], "parameters": call["parameters"]}
    if step.publish is not None:
        return step.publish.model_dump(by_alias=True, exclude_defaults=True)
    document: Document = copy.deepcopy(getattr(step, runnable.field))
    if (job := runnable.job(document)) is not None:
        for name, value in defaults.model_dump(by_alias=True, exclude_defaults=True).items():
            job.setdefault(name, value)
    return document


def dependencies(step: Step, defaults: PipelineDefaults) -> set[str]:
    """Return the steps that a step refers to or names in `after`. Raises ConditionError."""
    runnable, names = runnable_of(step), set(step.after)
    document = document_of(step, defaults)
    names |= {reference.step for _, reference in references(document, runnable.own(document)) if reference.step}
    if step.for_each is not None:
        names |= {reference.step for _, reference in references(step.for_each.items) if reference.step}
    if step.while_ is not None:
        names |= conditions.names(step.while_.condition, "steps") - {step.name}
    return names | decides_by(step)


def decides_by(step: Step) -> set[str]:
    """Return the steps that a step's `when` names."""
    return conditions.names(step.when, "steps") if step.when else set()


def ordered(spec: PipelineSpec) -> list[tuple[Step, set[str]]]:
    """Return the steps with their dependencies, each behind those that it depends on.

    Raises InvalidSpec for a cycle. Steps of finally are not among them.
    """
    steps = {step.name: step for step in spec.steps}
    needs = {name: dependencies(step, spec.defaults) & steps.keys() - {name} for name, step in steps.items()}
    order: list[tuple[Step, set[str]]] = []
    placed: set[str] = set()
    waiting = list(steps)
    while waiting:
        ready = [name for name in waiting if needs[name] <= placed]
        if not ready:
            raise InvalidSpec(
                f"steps depend on each other in a circle: {' -> '.join(_circle(waiting[0], needs, placed))}"
            )
        order += [(steps[name], needs[name]) for name in ready]
        placed.update(ready)
        waiting = [name for name in waiting if name not in placed]
    return order


def _circle(start: str, needs: dict[str, set[str]], placed: set[str]) -> Iterator[str]:
    """Yield the names along a circle, the first one again at its end."""
    path = [start]
    while True:
        following = min(needs[path[-1]] - placed)
        if following in path:
            yield from (*path[path.index(following) :], following)
            return
        path.append(following)
