"""Plans of a Pipeline, which is only checked, and of a PipelineRun, which makes other objects of the platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources.base import Failure
from ultramarine.resources.pipeline import (
    PipelinePin,
    PipelineRunStatus,
    PipelineSpec,
    PipelineStatus,
    RunDataset,
    StepCounts,
    StepOutput,
    StepStatus,
)
from ultramarine.resources.pipeline_checks import check, check_rerun, parameter_values
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_references import whole
from ultramarine_contract.errors import InvalidSpec, counted
from ultramarine_contract.meta import CONTROLLER_REVISION, PIPELINE_RUN, Manifest, child_metadata

from ... import runs
from ...shared import states, statuses
from ...shared.conditions import LONG_AGO, Condition, health, merge, timestamp
from ...shared.plan import Obj, Plan, Seen
from ...shared.questions import Question
from . import pins
from .board import Board
from .edits import edited
from .graph import Graph, graph_of
from .publishing import publish
from .repetitions import repeat
from .results import ENDED
from .work import Run, digest_of, revision_name

Pipeline = Obj[PipelineSpec]
_KEEPING = states.pending("Beginning", "the spec of the Pipeline is being kept")
_KEEPING_DATA = states.pending("Beginning", "the versions of the datasets are being kept")


def plan_pipeline(pipeline: Pipeline, seen: Seen, now: datetime) -> Plan:
    """Check a pipeline; it makes nothing."""
    check(pipeline.spec)
    count = len(pipeline.spec.steps) + len(pipeline.spec.finally_)
    status = PipelineStatus(
        observed_generation=pipeline.generation,
        steps=count,
        digest=digest_of(pipeline.manifest["spec"]),
    )
    news = (
        Condition("Accepted", True, "Valid"),
        Condition("Ready", True, "Checked", f"{counted(count, 'step')}; a PipelineRun runs them"),
        *health(done=True),
    )
    conditions = merge(pipeline.status.get("conditions") or [], news, pipeline.generation, now)
    return Plan({**statuses.dumped(status), "conditions": conditions})


def plan_run(run: Run, seen: Seen, now: datetime) -> Plan:
    """Return the objects that the steps of a run need now, and the states of the steps."""
    if states.is_over(run.status):
        return runs.after_end(run, PIPELINE_RUN, now)
    status = runs.former(run, PipelineRunStatus, without={"counts", "progress", "outputs"})
    board = _board(run, seen, now, status)
    if isinstance(board, Waits):
        if board.pin is not None:
            status.pipeline = board.pin
        if board.datasets:
            status.datasets = board.datasets
        return runs.planned(run, board.state, status, now, apply=board.apply, after=board.after)
    status.start_time = status.start_time or timestamp(now)
    board.advance()
    apply = (*_kept_revision(run, seen), *board.apply)
    status.steps = list(board.states.values())
    status.counts = _counts(status.steps)
    ended = sum(state.state in ENDED for state in status.steps if state.items is None)
    status.progress = f"{ended}/{sum(state.items is None for state in status.steps)}"
    status.outputs = _outputs(board)
    if board.is_over:
        return replace(_ended(run, board, status, now), delete=tuple(board.delete), edits=tuple(board.edits))
    planned = runs.planned(run, _state(run, board), status, now, apply=apply, after=board.after)
    return replace(planned, delete=tuple(board.delete), edits=tuple(board.edits))


def questions_run(run: Run, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for what a step that may begin needs: its place in the cache, and the entries of its list."""
    if states.is_over(run.status):
        return ()
    try:
        board = _board(run, seen, LONG_AGO, runs.former(run, PipelineRunStatus))
    except InvalidSpec:
        return ()  # the plan says so
    if isinstance(board, Waits):
        return ()
    board.advance()
    return tuple(dict.fromkeys(board.asked))


class Waits:
    """A run that cannot begin yet, with its state."""

    def __init__(
        self,
        state: states.State,
        apply: tuple[Manifest, ...] = (),
        pin: PipelinePin | None = None,
        after: timedelta | None = None,
        datasets: list[RunDataset] | None = None,
    ) -> None:
        self.state, self.apply, self.pin, self.after, self.datasets = state, apply, pin, after, datasets


def _board(run: Run, seen: Seen, now: datetime, status: PipelineRunStatus) -> Board | Waits:
    """Return the states of a run's steps as an earlier pass left them. Raises InvalidSpec before the run begins."""
    pinned = _pinned(run, seen)
    if isinstance(pinned, Waits):
        return pinned
    graph, spec = pinned, pinned.spec
    if not run.status.get("startTime"):
        _check_depth(run, seen)
    params = parameter_values(spec, run.spec.parameters)
    earlier = _earlier(run, graph, seen)
    if isinstance(earlier, Waits):
        return earlier
    reused, reasons = _reused(run, graph, params, earlier, seen) if earlier is not None else ({}, {})
    if not run.status.get("startTime") and not status.datasets:
        if datasets := pins.begun(run, graph, params, seen, reused):
            return Waits(_KEEPING_DATA, after=timedelta(), datasets=datasets)
    elif status.datasets:
        status.datasets = pins.completed(status.datasets, seen)
    steps = {state.name: state for state in status.steps}
    return Board(run, graph, params, seen, now, steps, repeat, publish, reused, status.datasets, reasons)


def _pinned(run: Run, seen: Seen) -> Graph | Waits:
    """Return the spec that a run began with; a Pipeline's is kept in a ControllerRevision, which cannot be changed."""
    if run.spec.pipeline_spec is not None:
        return _graph(run.manifest["spec"]["pipelineSpec"], run)
    name = revision_name(run.name)
    if (revision := seen.child(CONTROLLER_REVISION.kind, name)) is not None:
        return _graph((revision.get("data") or {}).get("spec"), run)
    pipeline = seen.look("Pipeline", run.spec.pipeline or "")
    if run.status.get("startTime"):
        digest = (run.status.get("pipeline") or {}).get("digest")
        if pipeline is not None and digest == digest_of(pipeline["spec"]):
            return Waits(_KEEPING, (_revision(run, name, pipeline["spec"]),), after=timedelta())
        message = f"ControllerRevision {name} was deleted, and Pipeline {run.spec.pipeline} has another spec by now"
        raise InvalidSpec(f"{message}; start a new run")
    if pipeline is None:
        message = f"Pipeline {run.spec.pipeline} does not exist yet; apply it, or correct spec.pipeline"
        return Waits(states.pending("PipelineMissing", message))
    try:
        check(PipelineSpec.model_validate(pipeline["spec"]))
    except InvalidSpec as error:
        remedy = "correct the Pipeline, and the run begins without another command, or delete the run"
        raise InvalidSpec(f"Pipeline {run.spec.pipeline}: {error.message}; {remedy}") from None
    digest = digest_of(pipeline["spec"])
    generation = int(pipeline["metadata"].get("generation", 0))
    pin = PipelinePin(name=str(run.spec.pipeline), generation=generation, digest=digest, revision=name)
    return Waits(_KEEPING, (_revision(run, name, pipeline["spec"]),), pin, timedelta())


def _graph(spec: Any, run: Run) -> Graph:
    """Return the graph of a pipeline, which is checked before a run begins. Raises InvalidSpec."""
    try:
        graph = graph_of(spec)
    except ConditionError as error:
        check(PipelineSpec.model_validate(spec))  # which names the step
        raise InvalidSpec(str(error)) from None
    if not run.status.get("startTime"):
        check(graph.spec)
    return graph


def _revision(run: Run, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": child_metadata(run.manifest, name),
        "revision": 1,
        "data": {"spec": spec},
    }


def _kept_revision(run: Run, seen: Seen) -> Iterator[Manifest]:
    """Yield the ControllerRevision as it was made: a user may have changed its labels."""
    name = revision_name(run.name)
    if run.spec.pipeline and (revision := seen.child(CONTROLLER_REVISION.kind, name)) is not None:
        yield _revision(run, name, (revision.get("data") or {}).get("spec") or {})


def _check_depth(run: Run, seen: Seen) -> None:
    """Raise InvalidSpec if pipelines run each other without an end."""
    manifest: Manifest | None = run.manifest
    for _ in range(pins.MAX_DEPTH):
        owners = (manifest or {}).get("metadata", {}).get("ownerReferences") or []
        name = next((owner["name"] for owner in owners if owner.get("kind") == PIPELINE_RUN.kind), None)
        if name is None:
            return
        manifest = seen.look(PIPELINE_RUN.kind, name)
    raise InvalidSpec(f"pipelines run each other more than {pins.MAX_DEPTH} deep; remove the circle")


def _earlier(run: Run, graph: Graph, seen: Seen) -> Manifest | Waits | None:
    """Return the run whose results this one takes over as it begins; None if it takes over none."""
    rerun = run.spec.rerun
    if rerun is None or run.status.get("startTime"):
        return None
    earlier = seen.look(PIPELINE_RUN.kind, rerun.of)
    if earlier is None:
        message = f"PipelineRun {rerun.of} does not exist; correct spec.rerun.of"
        return Waits(states.pending("RerunMissing", message), after=timedelta(seconds=30))
    if not states.is_over(earlier.get("status") or {}):
        message = f"PipelineRun {rerun.of} has not ended yet"
        return Waits(states.pending("RerunUnfinished", message), after=timedelta(seconds=5))
    check_rerun(graph.spec, rerun.from_)
    return earlier


def _reused(
    run: Run, graph: Graph, params: Mapping[str, Any], earlier: Manifest, seen: Seen
) -> tuple[dict[str, StepStatus], dict[str, str]]:
    """Return the results that a run takes over, and why edited steps and those that they feed run again."""
    assert run.spec.rerun is not None
    names = {step.name for step in graph.spec.steps}
    status = statuses.former(Obj(earlier, run.spec), PipelineRunStatus)
    succeeded = {state.name: state for state in status.steps if state.state == "Succeeded"}
    reasons = edited(names & succeeded.keys() - set(run.spec.rerun.from_), graph, params, earlier, seen)
    again = {*run.spec.rerun.from_, *reasons}
    for node in graph.nodes:
        if fed_by := sorted(node.needs & again):
            again.add(node.step.name)
            if node.step.name in succeeded:
                reasons.setdefault(node.step.name, f"step {fed_by[0]} runs again")
    return {name: state for name, state in succeeded.items() if _stem(name, names) in names - again}, reasons


def _stem(name: str, names: set[str]) -> str:
    """Return the step of a repetition; the name itself for a step."""
    stem = name.rpartition("-")[0]
    return stem if name not in names and stem in names else name


def _state(run: Run, board: Board) -> states.State:
    """Return the state of a run that goes on."""
    if run.spec.suspend and not run.spec.cancel:
        return states.suspended()
    names = [state.name for state in board.states.values() if state.state == "Running" and state.items is None]
    message = f"running: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else "steps are being begun"
    condition = Condition("Running", True, "StepsRunning", message)
    return "Running", (condition, *health(done=False, progress=message))


def _ended(run: Run, board: Board, status: PipelineRunStatus, now: datetime) -> Plan:
    """Return the end of a run: it has failed if a step has."""
    failed = [state for state in board.states.values() if state.state == "Failed"]
    if run.spec.cancel:
        return runs.finish(run, states.cancelled(), status, now)
    if failed:
        message = f"step {failed[0].name} failed: {failed[0].message}"
        status.failure = Failure(reason="StepFailed", message=message, hint="see the step's object, and resume the run")
        return runs.finish(run, states.failed("StepFailed", message), status, now)
    counts = status.counts or StepCounts()
    message = f"{counted(counts.succeeded, 'step')} succeeded, {counts.cached} of them from the cache"
    return runs.finish(run, states.succeeded(message), status, now)


def _counts(steps: list[StepStatus]) -> StepCounts:
    parts = [state for state in steps if state.items is None]
    word = [state.state for state in parts]
    return StepCounts(
        waiting=word.count("Waiting"),
        running=word.count("Running"),
        succeeded=word.count("Succeeded"),
        cached=sum(state.cached is not None for state in parts),
        failed=word.count("Failed"),
        skipped=word.count("Skipped"),
    )


def _outputs(board: Board) -> dict[str, StepOutput]:
    """Return the outputs of the pipeline that exist already."""
    outputs: dict[str, StepOutput] = {}
    for name, text in board.spec.outputs.items():
        reference = whole(text)
        state = board.states.get(reference.step) if reference is not None else None
        if reference is not None and state is not None and reference.path[2] in state.outputs:
            outputs[name] = state.outputs[reference.path[2]]
    return outputs
