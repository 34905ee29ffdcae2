"""Values that the steps of a run give to other steps: parameters, outputs, metrics and entries."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ultramarine_contract.common import OutputRecord
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import SWEEP
from ultramarine_contract.partitions import Partition

from .base import URI_PATTERN
from .dataset import DATASET_REFERENCE, DatasetPin
from .pipeline import StepOutput, StepStatus
from .pipeline_conditions import no_metric
from .pipeline_keys import identity_of
from .pipeline_references import Reference, entry, whole
from .pipeline_steps import Document

MAX_OUTPUTS, MAX_URI = 16, 2048
MAX_INPUTS = 32  # of a TrainingJob


class Unresolved(Exception):
    """A reference without a value, with the reason."""


class Values:
    """Values of references and of conditions: parameters, results of steps, and the entry of a repetition.

    `lists` are steps with forEach, whose outputs and metrics are lists.
    """

    def __init__(self, params: Mapping[str, Any], states: Mapping[str, StepStatus], lists: Collection[str]) -> None:
        self._params, self._states, self._lists = params, states, lists

    def resolve(self, reference: Reference, item: Any, *, digests: bool = False) -> Any:
        """Return the value of a reference, of an output its URI or its digest. Raises Unresolved if there is none."""
        match reference.root, reference.path:
            case "params", (name,):
                return self._params[name]
            case "item", path:
                try:
                    return entry(item, path)
                except KeyError as error:
                    raise Unresolved(f"{reference.text}: the entry has no {error}") from None
            case "steps", (step, "state"):
                return self._state(step).state
            case "steps", (step, "outputs" | "metrics" as field, name):
                read = _metric if field == "metrics" else _identity if digests else _uri
                if step in self._lists:
                    return [read(part, name) for part in self.repetitions(step)]
                return read(self._state(step), name)
        raise Unresolved(f"{reference.text} is not a reference")

    def dataset_in(self, partitions: str) -> str:
        """Return the version's reference in forEach.partitions. Raises Unresolved for anything else."""
        reference = whole(partitions)
        dataset = str(self.resolve(reference, None)) if reference is not None else partitions
        if not re.match(DATASET_REFERENCE, dataset):
            raise Unresolved(f"forEach.partitions: expected DATASET@VERSION, got {dataset!r:.80}")
        return dataset

    def fanned_in(self, document: Document) -> Document:
        """Return the spec with an input for each repetition in place of one that is all of them."""
        inputs: Document = {}
        for name, source in (document.get("inputs") or {}).items():
            reference = whole(source.get("uri")) if isinstance(source, dict) else None
            value = self.resolve(reference, None) if reference is not None and reference.is_output else None
            if reference is None or not isinstance(value, list):
                inputs[name] = source
                continue
            for number, part in enumerate(self.repetitions(reference.step)):
                text = reference.text.replace(f".{reference.step}.", f".{part.name}.")
                inputs[f"{name}-{number}"] = {**source, "uri": text}
        if len(inputs) > MAX_INPUTS:
            raise Unresolved(f"inputs: {len(inputs)} inputs; pass the URIs as a parameter above {MAX_INPUTS}")
        return {**document, "inputs": inputs} if inputs else document

    def names(self, steps: Iterable[str], item: Any) -> dict[str, Any]:
        """Return the names of a condition that refers to these steps."""
        return {"params": dict(self._params), "item": item, "steps": {name: self._document(name) for name in steps}}

    def repetitions(self, step: str) -> list[StepStatus]:
        """Return the repetitions of a step that have succeeded."""
        count = self._state(step).items or 0
        parts = (self._states.get(f"{step}-{number}") for number in range(count))
        return [part for part in parts if part is not None and part.state == "Succeeded"]

    def _document(self, step: str) -> dict[str, Any]:
        """Return a step as conditions see it."""
        state = self._state(step)
        parts = self.repetitions(step) if step in self._lists else [state]
        outputs: dict[str, list[Any]] = {}
        metrics: dict[str, list[Any]] = {}
        for part in parts:
            for name, output in part.outputs.items():
                outputs.setdefault(name, []).append(output.uri)
            for name, value in part.metrics.items():
                metrics.setdefault(name, []).append(value)
        if step in self._lists:
            return {"state": state.state, "outputs": outputs, "metrics": metrics}
        only = {"outputs": {n: v[0] for n, v in outputs.items()}, "metrics": {n: v[0] for n, v in metrics.items()}}
        return {"state": state.state, **only}

    def _state(self, step: str) -> StepStatus:
        return self._states.get(step) or StepStatus(name=step, state="Waiting")


def _uri(part: StepStatus, name: str) -> str:
    if name not in part.outputs:
        why = "was skipped" if part.state == "Skipped" else f"has no output {name!r}"
        raise Unresolved(f"step {part.name} {why} (it has: {listed(sorted(part.outputs)) or 'none'})")
    return part.outputs[name].uri


def _identity(part: StepStatus, name: str) -> str:
    """Return what identifies the content of an output."""
    return identity_of(_uri(part, name), part.outputs[name].digest)


def _metric(part: StepStatus, name: str) -> float:
    if name not in part.metrics:
        raise Unresolved(no_metric(part.name, part.state, name, part.metrics))
    return part.metrics[name]


def recorded_outputs(kind: str, outputs: Mapping[str, OutputRecord]) -> dict[str, StepOutput]:
    """Return the outputs of a cache record as those of an object of the kind, so that later steps have the same key."""
    has_digest = kind != SWEEP.kind
    return fitting_outputs((name, output.uri, output.digest if has_digest else "") for name, output in outputs.items())


def fitting_outputs(outputs: Iterable[tuple[str, str, str]]) -> dict[str, StepOutput]:
    """Return outputs as a step's state has them, by name, URI and digest: those that fit into it."""
    fitting = [(name, uri, digest[:71]) for name, uri, digest in outputs if len(uri) <= MAX_URI]
    return {
        name: StepOutput(uri=uri, **({"digest": digest} if digest else {}))
        for name, uri, digest in fitting[:MAX_OUTPUTS]
    }


def named_by_digest(output: StepOutput) -> StepOutput:
    """Return the output of a repetition without a digest that the name of its folder begins with."""
    digits = identity_of(output.uri).removeprefix("digest:")
    return StepOutput(uri=output.uri) if output.digest.startswith(f"sha256:{digits}") else output


def items_of(text: str) -> list[Any]:
    """Return the list in a JSON text. Raises Unresolved for anything else."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unresolved(f"forEach.items is not JSON: {error}") from None
    if not isinstance(items, list):
        raise Unresolved("forEach.items must be a JSON list")
    return items


def check_is_folder(pin: DatasetPin) -> None:
    """Raise Unresolved for a version without partitions, since it is one file."""
    if not pin.uri.endswith("/"):
        raise Unresolved(f"forEach.partitions: DatasetVersion {pin.version} is one file; use forEach.items")


def partition_entries(version: str, folder: str, partitions: Iterable[Partition]) -> list[dict[str, Any]]:
    """Return key, values, URI and digest of each partition of a version. Raises Unresolved if it has none."""
    entries = [_partition_entry(version, folder, partition) for partition in partitions]
    if not entries:
        message = f"DatasetVersion {version} has no folders such as month=2026-01; set partitionBy of its source"
        raise Unresolved(f"forEach.partitions: {message}, or use forEach.items")
    return entries


def _partition_entry(version: str, folder: str, partition: Partition) -> dict[str, Any]:
    uri = f"{folder}{partition.key}/"
    if not re.match(URI_PATTERN, uri):
        message = f"partition {partition.key!r:.200} of {version} has a space, a backslash or a percent sign"
        raise Unresolved(f"forEach.partitions: {message}; partition by a column of other values")
    return {"key": partition.key, "values": dict(partition.values), "uri": uri, "digest": partition.digest}
