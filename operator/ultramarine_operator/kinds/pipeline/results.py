"""Results of a step: those of its object, and those that other steps see."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ultramarine.resources.pipeline import StepOutput, StepStatus
from ultramarine.resources.pipeline_keys import identity_of
from ultramarine.resources.pipeline_references import Reference, entry
from ultramarine_contract.common import METRIC_LIMIT, OutputRecord
from ultramarine_contract.errors import StorageError, UltramarineError, listed
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest

from ...shared.conditions import find

MAX_OUTPUTS, MAX_URI, MAX_MESSAGE = 16, 2048, 500
MAX_PART_MESSAGE = 200  # characters of a repetition's message, and of its reason to run
ENDED = ("Succeeded", "Failed", "Skipped")


class Unresolved(Exception):
    """A reference without a value, with the reason."""


def outputs_of(child: Manifest) -> dict[str, StepOutput]:
    """Return the outputs of an object that has succeeded."""
    status = child.get("status") or {}
    if child["kind"] == TRAINING_JOB.kind:
        places = {name: (out.get("uri"), out.get("digest", "")) for name, out in (status.get("outputs") or {}).items()}
    elif child["kind"] == SWEEP.kind:
        best = (status.get("best") or [{}])[0]
        places = {name: (uri, "") for name, uri in (best.get("outputs") or {}).items()}
    else:
        places = {name: (out.get("uri"), out.get("digest", "")) for name, out in (status.get("outputs") or {}).items()}
    return _outputs((name, str(uri), str(digest)) for name, (uri, digest) in places.items())


def recorded_outputs(kind: str, outputs: Mapping[str, OutputRecord]) -> dict[str, StepOutput]:
    """Return the outputs of a cache record as those of an object of the kind, so that later steps have the same key."""
    has_digest = kind != SWEEP.kind
    return _outputs((name, output.uri, output.digest if has_digest else "") for name, output in outputs.items())


def _outputs(outputs: Iterable[tuple[str, str, str]]) -> dict[str, StepOutput]:
    fitting = [(name, uri, digest[:71]) for name, uri, digest in outputs if len(uri) <= MAX_URI]
    return {
        name: StepOutput(uri=uri, **({"digest": digest} if digest else {}))
        for name, uri, digest in fitting[:MAX_OUTPUTS]
    }


def shortened(message: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return message and fields of a repetition that has ended, without what its object or its URIs say too.

    The key stays with the object. The folder of an output has the first digits of the digest in its name.
    """
    kept = {name: value for name, value in fields.items() if name != "key" or not fields.get("child")}
    kept["outputs"] = {name: _named_by_digest(output) for name, output in (fields.get("outputs") or {}).items()}
    kept["miss_reason"] = (fields.get("miss_reason") or "")[:MAX_PART_MESSAGE]
    return message[:MAX_PART_MESSAGE], kept


def _named_by_digest(output: StepOutput) -> StepOutput:
    digits = identity_of(output.uri).removeprefix("digest:")
    return StepOutput(uri=output.uri) if output.digest.startswith(f"sha256:{digits}") else output


def metrics_of(child: Manifest) -> dict[str, float]:
    """Return the metrics of an object that has succeeded: of a job the last values, of a sweep those of the best."""
    status = child.get("status") or {}
    if child["kind"] == SWEEP.kind:
        values = (status.get("best") or [{}])[0].get("values") or {}
    else:
        values = (status.get("metrics") or {}).get("latest") or {}
    return dict(list(values.items())[:METRIC_LIMIT])


def failure_of(child: Manifest) -> str:
    """Return why an object has failed."""
    status = child.get("status") or {}
    failure = (status.get("failure") or {}).get("message")
    condition = find(status, "Failed") or find(status, "Accepted") or {}
    return f"{child['kind']} {child['metadata']['name']}: {failure or condition.get('message') or 'it failed'}"


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
        existing = listed(sorted(part.metrics)) or "none"
        raise Unresolved(f"step {part.name} has printed no metric {name!r} (it has: {existing})")
    return part.metrics[name]


def items_of(text: str) -> list[Any]:
    """Return the list in a JSON text. Raises Unresolved for anything else."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unresolved(f"forEach.items is not JSON: {error}") from None
    if not isinstance(items, list):
        raise Unresolved("forEach.items must be a JSON list")
    return items


def may_pass(error: UltramarineError) -> bool:
    """True if another attempt may succeed."""
    return not isinstance(error, StorageError) or error.transient
