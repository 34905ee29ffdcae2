"""Steps of a pipeline with their order, worked out once for all passes over runs of it."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from ultramarine.resources.pipeline import PipelineSpec, Step
from ultramarine.resources.pipeline_steps import Runnable, decides_by, document_of, ordered, runnable_of
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest


@dataclass(frozen=True)
class Node:
    """Step with the spec of its object, whose references are not filled in.

    `needs` are the steps that it depends on, and `decisive` those that its condition names.
    """

    step: Step
    needs: frozenset[str]
    decisive: frozenset[str]
    runnable: Runnable
    document: Manifest
    is_final: bool


@dataclass(frozen=True)
class Graph:
    """Pipeline with its steps in an order in which each follows those that it depends on, those of finally last."""

    spec: PipelineSpec
    nodes: tuple[Node, ...]


def graph_of(spec: Any) -> Graph:
    """Return the graph of a pipeline's spec as it is in the API. Raises InvalidSpec or ConditionError."""
    return _graph(json.dumps(spec, sort_keys=True))


@functools.lru_cache(maxsize=32)
def _graph(text: str) -> Graph:
    try:
        spec = PipelineSpec.model_validate(json.loads(text))
    except ValidationError as error:
        raise InvalidSpec(f"the pipeline cannot be read: {error.errors()[0]['msg']}") from None
    steps = [(step, frozenset(needs), False) for step, needs in ordered(spec)]
    steps += [(step, frozenset(), True) for step in spec.finally_]
    nodes = (
        Node(step, needs, frozenset(decides_by(step)), runnable_of(step), document_of(step, spec.defaults), is_final)
        for step, needs, is_final in steps
    )
    return Graph(spec, tuple(nodes))
