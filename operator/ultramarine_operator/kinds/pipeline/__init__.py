"""Pipeline and PipelineRun: steps that depend on each other, each of which is another object of the platform."""

from __future__ import annotations

from ultramarine.resources.pipeline import PipelineRunSpec, PipelineRunStatus, PipelineSpec, PipelineStatus
from ultramarine_contract.meta import (
    CONTROLLER_REVISION,
    DATASET,
    DATASET_VERSION,
    MODEL,
    MODEL_VERSION,
    ONLINE_ENDPOINT,
    PIPELINE,
    PIPELINE_RUN,
    SWEEP,
    TRAINING_JOB,
    Manifest,
)

from ...shared import datasets
from ...shared.kind import PLAIN_NAME, READY, SERVICE_NAME, Column, Kind
from ...training.steps import topic_of_key
from .plan import plan_pipeline, plan_run, questions_run


def _topics(run: Manifest) -> frozenset[str]:
    """Return the topics of a run: its Pipeline, cache keys of work that others may do, what it reads and publishes."""
    steps = (run.get("status") or {}).get("steps") or []
    keys = {
        topic_of_key(step["key"]) for step in steps if step.get("key") and step.get("state") in ("Waiting", "Running")
    }
    read = {datasets.topic_of(pin.dataset) for pin in datasets.pins_of(run)}
    publishing = [step["published"] for step in steps if step.get("published") and step.get("state") == "Running"]
    names = {p["name"] if p["kind"] == MODEL.kind else datasets.topic_of(p["name"]) for p in publishing}
    return frozenset({f"pipeline {run['spec'].get('pipeline') or ''}", *keys, *names, *read})


PIPELINE_KIND = Kind(
    short="pl",
    description="Pipeline is a list of steps that depend on each other; a PipelineRun runs them.",
    spec=PipelineSpec,
    status=PipelineStatus,
    columns=(READY, Column("Steps", ".status.steps", "integer")),
    plan=plan_pipeline,
    topics=lambda pipeline: frozenset({f"pipeline {pipeline['metadata']['name']}"}),
    names=PLAIN_NAME,
)

RUN_KIND = Kind(
    short="plr",
    description="PipelineRun runs the steps of a pipeline, and reuses results of equal work.",
    spec=PipelineRunSpec,
    status=PipelineRunStatus,
    columns=(
        Column("Progress", ".status.progress"),
        Column("Cached", ".status.counts.cached", "integer"),
        Column("Failed", ".status.counts.failed", "integer"),
        Column("Pipeline", ".status.pipeline.name", priority=1),
    ),
    plan=plan_run,
    questions=questions_run,
    children=(CONTROLLER_REVISION, TRAINING_JOB, SWEEP, PIPELINE_RUN),
    related=(PIPELINE, TRAINING_JOB, SWEEP),
    rung_by=(TRAINING_JOB, SWEEP, MODEL, MODEL_VERSION, DATASET, DATASET_VERSION, ONLINE_ENDPOINT),
    rung_by_edits=(PIPELINE,),
    topics=_topics,
    names=SERVICE_NAME,
    # Not in the spec, whose default is an empty one.
    rules=(("has(self.spec.pipeline) != has(self.spec.pipelineSpec)", "give one of pipeline and pipelineSpec"),),
    deletes=(PIPELINE_RUN, TRAINING_JOB, SWEEP),
    edits=(MODEL, DATASET, ONLINE_ENDPOINT),
)
