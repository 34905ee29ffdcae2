"""Steps of a resumed run whose work differs from that of the earlier run. No I/O here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.pipeline_checks import parameter_values
from ultramarine.resources.pipeline_keys import Parts, parts_of
from ultramarine.resources.pipeline_references import Reference, filled
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import CONTROLLER_REVISION, PIPELINE, PIPELINE_RUN, Manifest

from ...shared.plan import Seen
from .graph import Graph, Node, graph_of
from .pins import MAX_DEPTH
from .work import digest_of, revision_name

Params = Mapping[str, Any]


def edited(steps: Collection[str], graph: Graph, params: Params, earlier: Manifest, seen: Seen) -> dict[str, str]:
    """Return those of the steps whose work is not that of the earlier run, with the reason."""
    name = earlier["metadata"]["name"]
    spec = _pipeline_of(earlier, seen)
    if spec is None:
        return dict.fromkeys(steps, f"the pipeline of run {name} is not kept any more")
    try:
        former_graph = graph_of(spec)
        former_params = parameter_values(former_graph.spec, earlier["spec"].get("parameters") or {})
    except UltramarineError:
        return dict.fromkeys(steps, f"the pipeline of run {name} cannot be read any more")
    former = {node.step.name: node for node in former_graph.nodes}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        step, before = node.step.name, former.get(node.step.name)
        if step not in steps or before is None:
            continue
        if _work(node, params) == _work(before, former_params):
            if node.runnable.resource == PIPELINE_RUN and (reason := _edited_below(earlier, seen, step)):
                reasons[step] = reason
            continue
        is_same = (node.step, node.document) == (before.step, before.document)
        reasons[step] = f"{'a parameter of it' if is_same else 'its spec'} was edited since run {name}"
    return reasons


def _edited_below(run: Manifest, seen: Seen, only: str = "", depth: int = 1) -> str:
    """Return which Pipeline of the runs that a run's steps have made was edited since, or is not known any more.

    `only` is the step that is looked at, with its repetitions. The result is empty if there was no edit.
    """
    for state in (run.get("status") or {}).get("steps") or []:
        name = str(state.get("name"))
        if state.get("kind") != PIPELINE_RUN.kind or (only and only not in (name, name.rpartition("-")[0])):
            continue
        made = str((state.get("cached") or {}).get("job") or state.get("child") or "")
        if made and (reason := _edited_since(made, seen, depth)):
            return reason
    return ""


def _edited_since(name: str, seen: Seen, depth: int) -> str:
    """Return which Pipeline was edited since a run of it, or of one that it has run; empty if none was."""
    run = seen.look(PIPELINE_RUN.kind, name)
    if run is None:
        return f"its PipelineRun {name} is not kept any more"
    pipeline = seen.look(PIPELINE.kind, str(run["spec"].get("pipeline") or ""))
    digest = ((run.get("status") or {}).get("pipeline") or {}).get("digest")
    if pipeline is not None and digest_of(pipeline["spec"]) != digest:
        return f"Pipeline {pipeline['metadata']['name']} was edited since run {name}"
    return _edited_below(run, seen, depth=depth + 1) if depth < MAX_DEPTH else ""


def _pipeline_of(run: Manifest, seen: Seen) -> Manifest | None:
    """Return the spec that a run began with; None if it is gone."""
    spec: Manifest | None = run["spec"].get("pipelineSpec")
    if spec is not None:
        return spec
    revision = seen.look(CONTROLLER_REVISION.kind, revision_name(run["metadata"]["name"]))
    if revision is not None:
        return (revision.get("data") or {}).get("spec")
    pipeline = seen.look(PIPELINE.kind, run["spec"].get("pipeline") or "")
    digest = ((run.get("status") or {}).get("pipeline") or {}).get("digest")
    return pipeline["spec"] if pipeline is not None and digest_of(pipeline["spec"]) == digest else None


def _work(node: Node, params: Params) -> tuple[Any, ...]:
    """Return all that decides about a step's result, except the results of other steps.

    The parts of the cache key stand for the spec of a step that has a key.
    """
    step = node.step

    def value(reference: Reference) -> Any:
        return params[reference.path[0]] if reference.root == "params" else reference.text

    document: Manifest = filled(node.document, value, node.runnable.own(node.document))
    parts = Parts(problem="cache is false")
    if step.cache and node.runnable.resource is not None:
        try:
            parts = parts_of(node.runnable, document, step.cache_salt, "", lambda name: "")
        except ValidationError:  # a field that has its form only with the results of other steps
            parts = Parts(problem="the key is not known yet")
    repetition = None
    if step.for_each is not None:
        repetition = filled(step.for_each.model_dump(by_alias=True, exclude={"parallel"}), value)
    elif step.while_ is not None:
        repetition = step.while_.model_dump(by_alias=True)
    expressions = [step.when, step.while_.condition if step.while_ is not None else None]
    used = {name: params[name] for text in expressions if text for name in conditions.names(text, "params")}
    content = (document, step.cache_salt) if parts.problem else (parts.values, parts.contents)
    return node.runnable.field, content, repetition, step.when, used
