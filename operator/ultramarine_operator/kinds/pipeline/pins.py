"""Versions of datasets that a run reads: resolved once as it begins, and kept in its status. No I/O here.

A version that the run itself may make is not resolved: a step that comes after one that registers in a Dataset, or
publishes one, reads it as it is then.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ultramarine.resources.dataset import DATASET_REFERENCE, DatasetPin
from ultramarine.resources.dataset_versions import references_in, trial_spec
from ultramarine.resources.pipeline import MAX_DATASETS, RunDataset, Step
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_references import Reference, Resolve, entry, filled, whole
from ultramarine.resources.pipeline_values import Unresolved, items_of
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import PIPELINE, PIPELINE_RUN, SWEEP, TRAINING_JOB, Manifest

from ...shared.datasets import look_up
from ...shared.plan import Seen
from .graph import Graph, Node, graph_of
from .work import Run

MAX_WALKED = 5000  # steps of a pipeline and of those that it runs
MAX_DEPTH = 5  # of pipelines that run pipelines
_ANY = "*"  # Dataset whose name is not known before the step begins
_JOBS = (TRAINING_JOB, SWEEP)
Params = Mapping[str, Any]


def begun(run: Run, graph: Graph, params: Params, seen: Seen, reused: Collection[str]) -> list[RunDataset]:
    """Return the versions that the steps of a run will read; one that is not ready yet is empty.

    A run that a step of another run has made reads the versions of that run. `reused` are steps that do not run.
    """
    walk = _Walk(seen)
    walk.steps(graph, params, frozenset(), reused)
    references = [reference for reference, is_made in walk.references.items() if not is_made][:MAX_DATASETS]
    owner = _of_owner(run, seen)
    return [RunDataset(reference=text, version=owner.get(text) or _version(text, seen)) for text in references]


def completed(datasets: Iterable[RunDataset], seen: Seen) -> list[RunDataset]:
    """Return the versions of a run, with those that became ready since its begin.

    The version that a waiting job has found is the run's.
    """
    entries = []
    for dataset in datasets:
        if not dataset.version:
            jobs = [pins for child in seen.children if (pins := _pins_in(child, dataset.reference))]
            version = next(filter(None, (pin for pins in jobs for pin in pins)), "")
            version = version if jobs else _version(dataset.reference, seen)
            dataset = RunDataset(reference=dataset.reference, version=version)
        entries.append(dataset)
    return entries


def numbered(dataset: RunDataset) -> str:
    """Return the reference to the number of a version; the former one while there is no version."""
    name = dataset.reference.partition("@")[0]
    return f"{name}@{dataset.version.removeprefix(f'{name}-')}" if dataset.version else dataset.reference


def _version(reference: str, seen: Seen) -> str:
    pin = look_up(reference, seen)
    return pin.version if isinstance(pin, DatasetPin) else ""


def _of_owner(run: Run, seen: Seen) -> dict[str, str]:
    """Return the versions of the run whose step has made this one."""
    owners = run.manifest["metadata"].get("ownerReferences") or []
    name = next((owner["name"] for owner in owners if owner.get("kind") == PIPELINE_RUN.kind), "")
    owner = seen.look(PIPELINE_RUN.kind, name) if name else None
    datasets = ((owner or {}).get("status") or {}).get("datasets") or []
    return {str(dataset.get("reference")): str(dataset.get("version") or "") for dataset in datasets}


def _pins_in(child: Manifest, reference: str) -> list[str]:
    """Return the versions of a job's inputs with that reference, each empty while it waits for one."""
    names = [name for name, text in references_in(child.get("spec") or {}).items() if text == reference]
    pins = (child.get("status") or {}).get("datasets") or {}
    return [str((pins.get(name) or {}).get("version") or "") for name in names]


class _Walk:
    """Search for the references to datasets in the steps of a pipeline and of those that it runs.

    `references` says of each whether the run may make its version.
    """

    def __init__(self, seen: Seen) -> None:
        self.references: dict[str, bool] = {}
        self._seen, self._left = seen, MAX_WALKED

    def steps(
        self, graph: Graph, params: Params, written: frozenset[str], reused: Collection[str] = (), depth: int = 1
    ) -> frozenset[str]:
        """Look at the steps of a pipeline; return the Datasets in which it registers, with those before it."""
        after: dict[str, frozenset[str]] = {}  # Datasets that steps and those before them register in
        for node in graph.nodes:
            before = written.union(*(after[name] for name in (after if node.is_final else node.needs)))
            self._left -= 1
            after[node.step.name] = before if node.step.name in reused else self._step(node, params, before, depth)
        return written.union(*after.values())

    def _step(self, node: Node, params: Params, before: frozenset[str], depth: int) -> frozenset[str]:
        """Note the references of a step; return the Datasets that it and those before it register in."""
        step, texts = node.step, list[str]()
        if step.for_each is not None and step.for_each.partitions is not None:
            texts.append(step.for_each.partitions)
        if node.runnable.resource == PIPELINE_RUN:
            self._note(_texts(node, texts, params), before)
            return self._called(node, params, before, depth)
        outputs: list[str] = []
        if node.runnable.resource in _JOBS:
            texts += references_in(node.document).values()
            fields = (trial_spec(node.document).get("outputs") or {}).values()
            outputs = [str(output["dataset"]) for output in fields if output.get("dataset")]
        elif step.publish is not None and step.publish.dataset is not None:
            outputs = [step.publish.dataset]
        after = before | {_ANY if "$(" in name else name for name in _texts(node, outputs, params)}
        repeats = step.for_each is not None or step.while_ is not None
        self._note(_texts(node, texts, params), after if repeats else before)
        return after

    def _called(self, node: Node, params: Params, before: frozenset[str], depth: int) -> frozenset[str]:
        """Look at the pipeline that a step runs; one that cannot be read yet may register in any Dataset."""
        pipeline = self._seen.look(PIPELINE.kind, str(node.document["pipeline"]))
        if pipeline is None or depth >= MAX_DEPTH or self._left <= 0:
            return before | {_ANY}
        try:
            graph = graph_of(pipeline["spec"])
        except (InvalidSpec, ConditionError):
            return before | {_ANY}
        given = filled(node.document["parameters"], _values(params))
        values = {name: given.get(name, parameter.default) for name, parameter in graph.spec.parameters.items()}
        after = self.steps(graph, values, before, (), depth + 1)
        repeats = node.step.for_each is not None or node.step.while_ is not None
        return self.steps(graph, values, after, (), depth + 1) if repeats else after

    def _note(self, texts: Iterable[str], before: frozenset[str]) -> None:
        for text in texts:
            dataset, _, selected = text.partition("@")
            if re.match(DATASET_REFERENCE, text):
                is_made = not selected.isdecimal() and bool(before & {dataset, _ANY})
                self.references[text] = is_made or self.references.get(text, False)


def _texts(node: Node, texts: Iterable[str], params: Params) -> Iterator[str]:
    """Yield texts of a step for each of its entries, with the values that are known before the step begins."""
    own = node.runnable.own(node.document)
    entries: list[Any] | None = None
    for text in texts:
        if "$(item" not in text:
            yield str(filled(text, _values(params), own))
            continue
        entries = _entries(node.step, params) if entries is None else entries
        yield from (str(filled(text, _values(params, item), own)) for item in entries)


def _entries(step: Step, params: Params) -> list[Any]:
    """Return the entries of a list that is known; otherwise an unknown one."""
    items: Any = step.for_each.items if step.for_each is not None else None
    if (reference := whole(items)) is not None:
        items = _values(params)(reference)
    try:
        items = items_of(items) if isinstance(items, str) else items
    except Unresolved:
        items = None
    return items if isinstance(items, list) else [None]


def _values(params: Params, item: Any = None) -> Resolve:
    """Return a function from a reference to its value, or to its text if only the run shows the value."""

    def value(reference: Reference) -> Any:
        if reference.root == "params" and len(reference.path) == 1:
            return params.get(reference.path[0], reference.text)
        if reference.root == "item" and item is not None:
            try:
                return entry(item, reference.path)
            except KeyError:
                return reference.text
        return reference.text

    return value
