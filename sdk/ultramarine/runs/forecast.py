"""Forecast of a run: steps that would run, steps whose results are reused, and the estimated time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ultramarine_contract.cache_lookup import CacheAnswer
from ultramarine_contract.errors import StorageError, counted
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest
from ultramarine_contract.partitions import Partition

from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady, pinned, references_in
from ultramarine.resources.pipeline import PipelineSpec, Step, StepStatus
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_keys import Parts, parts_of, reusable
from ultramarine.resources.pipeline_references import Reference, filled, references, whole
from ultramarine.resources.pipeline_repetition import ForEach
from ultramarine.resources.pipeline_steps import Document, document_of, ordered, runnable_of
from ultramarine.resources.pipeline_values import (
    Unresolved,
    Values,
    check_is_folder,
    items_of,
    named_by_digest,
    partition_entries,
    recorded_outputs,
)

from .pipelines import steps_of
from .run import duration_of

MAX_NAMED = 3  # entries that run, with their reasons


class Surroundings(Protocol):
    """State of the cluster and of the storage, as far as a forecast depends on it."""

    def look_up(self, step: str, parts: Parts) -> CacheAnswer:
        """Look for a record of a step's work."""

    def environment(self, name: str) -> str:
        """Return the digest of a named Environment; empty if it is not built."""

    def image(self, step: str) -> str:
        """Return the platform's image for a step."""

    def version(self, reference: str) -> DatasetPin | NotReady:
        """Return the version of a dataset that a reference leads to now."""

    def partitions(self, pin: DatasetPin) -> tuple[Partition, ...]:
        """Return the partitions of a version. Raises StorageError."""

    def find(self, kind: str, name: str) -> Manifest | None:
        """Return an object; None if it does not exist."""


@dataclass(frozen=True)
class StepForecast:
    """Expectation about one step, with its reason.

    `document` is the spec of its object, in which values that only the run shows are left as references. `seconds` is
    the time of the step in an earlier run; None if none is known.
    """

    name: str
    action: Literal["runs", "reused", "skipped"]
    reason: str
    kind: str
    document: Document
    needs: frozenset[str]
    seconds: float | None = None


class Forecaster:
    """Forecast of one run: parameters are given, datasets are resolved as now, and the cache is looked up."""

    def __init__(
        self, spec: PipelineSpec, params: Mapping[str, Any], surroundings: Surroundings, history: Mapping[str, float]
    ) -> None:
        self._spec, self._params, self._surroundings, self._history = spec, params, surroundings, history
        self._states: dict[str, StepStatus] = {}  # of steps whose results are reused, as the run would have them
        self._skipped: set[str] = set()
        steps = (*spec.steps, *spec.finally_)
        self._values = Values(params, self._states, {step.name for step in steps if step.for_each is not None})

    def steps(self) -> Iterator[StepForecast]:
        """Yield the forecast of each step, in an order in which each follows those that it depends on."""
        order = [(step, frozenset(needs)) for step, needs in ordered(self._spec)]
        final = [(step, frozenset(step.name for step in self._spec.steps)) for step in self._spec.finally_]
        for step, needs in order + final:
            yield self._forecast(step, needs)

    def _forecast(self, step: Step, needs: frozenset[str]) -> StepForecast:
        runnable, document = runnable_of(step), document_of(step, self._spec.defaults)
        own = runnable.own(document)
        used = {reference.step for _, reference in references(document, own) if reference.step}
        if step.for_each is not None:
            used |= {reference.step for _, reference in references(step.for_each.items) if reference.step}
        kind = runnable.made.kind if runnable.resource is not None else ""
        action: Literal["runs", "reused", "skipped"] = "runs"
        reason = self._decided(step)
        if used & self._skipped:
            action, reason = "skipped", f"step {min(used & self._skipped)} is skipped"
        elif reason == "":
            action, reason = "skipped", f"{step.when} is false"
        elif reason is None:
            reason = self._reuse(step, document, used)
            action = "reused" if step.name in self._states else "runs"
        if action == "skipped":
            self._skipped.add(step.name)
        document = filled(document, lambda reference: self._shown(reference), own)
        return StepForecast(step.name, action, reason, kind, document, needs, self._history.get(step.name))

    def _decided(self, step: Step) -> str | None:
        """Return a reason that needs no look-up: empty if the step is skipped; None if the cache decides."""
        if step.when is not None:
            names = conditions.names(step.when, "steps")
            if names - self._states.keys():
                return f"if {step.when}"
            try:
                if not conditions.holds(step.when, self._values.names(names, None)):
                    return ""
            except ConditionError as error:
                return f"it fails: {error}"
        if step.publish is not None:
            return "it publishes a version"
        return "at least one round" if step.while_ is not None else None

    def _reuse(self, step: Step, document: Document, used: set[str]) -> str:
        """Look for records of a step's work; return the run that made them, or why the step runs."""
        if not step.cache:
            return "cache is false"
        if step in self._spec.finally_:
            return "steps of finally always run"
        if unsure := sorted(used - self._states.keys()):
            return f"step {unsure[0]} runs; the cache is asked with its results"
        if step.for_each is None:
            return self._looked_up(step, step.name, document, None)
        try:
            entries = self._entries(step.for_each)
        except (Unresolved, StorageError) as error:
            return str(error)
        if entries is None:
            return "for each entry of a list that the run reads; the cache is asked for each"
        names = [f"{step.name}-{number}" for number in range(len(entries))]
        reasons = {
            name: self._looked_up(step, name, document, entry) for name, entry in zip(names, entries, strict=True)
        }
        running = {name: reason for name, reason in reasons.items() if name not in self._states}
        if not running:
            self._states[step.name] = StepStatus(name=step.name, state="Succeeded", items=len(entries))
            return f"the results of {counted(len(entries), 'repetition')} are those of earlier runs"
        shown = [f"{name}: {reason}" for name, reason in running.items()][:MAX_NAMED]
        more = [f"and {len(running) - MAX_NAMED} more"] if len(running) > MAX_NAMED else []
        return f"{len(running)} of {counted(len(entries), 'repetition')}; {'; '.join(shown + more)}"

    def _entries(self, for_each: ForEach) -> list[Any] | None:
        """Return the entries of a step; None if only the run reads them. Raises Unresolved and StorageError."""
        if for_each.partitions is not None:
            pin = self._surroundings.version(self._values.dataset_in(for_each.partitions))
            if isinstance(pin, NotReady):
                raise Unresolved(f"forEach.partitions: {pin.message}")
            check_is_folder(pin)
            return partition_entries(pin.version, pin.uri, self._surroundings.partitions(pin))
        items = for_each.items
        if (reference := whole(items)) is not None:
            if reference.is_output and not isinstance(self._values.resolve(reference, None), list):
                return None
            items = self._values.resolve(reference, None)
        return items_of(items) if isinstance(items, str) else list(items)

    def _looked_up(self, step: Step, name: str, document: Document, item: Any) -> str:
        """Look for a record of one object's work; return its run, or why there is none."""
        runnable = runnable_of(step)
        own = runnable.own(document)
        try:
            document = self._values.fanned_in(document)
            identity = filled(document, lambda reference: self._values.resolve(reference, item, digests=True), own)
        except Unresolved as error:
            return str(error)
        if runnable.resource in (TRAINING_JOB, SWEEP):
            for input_name, reference in references_in(identity).items():
                if isinstance(version := self._surroundings.version(reference), NotReady):
                    return f"inputs.{input_name}: {version.message}"
            _, identity = pinned(identity, identity, self._surroundings.version)
        image = self._surroundings.image(name)
        parts = parts_of(runnable, identity, step.cache_salt, image, self._surroundings.environment)
        if parts.problem:
            return parts.problem
        answer = reusable(self._surroundings.look_up(name, parts), runnable, identity, self._surroundings.find)
        if (record := answer.record) is None:
            return answer.miss
        outputs = recorded_outputs(runnable.made.kind, record.outputs)
        if name != step.name:
            outputs = {output: named_by_digest(stored) for output, stored in outputs.items()}
        self._states[name] = StepStatus(name=name, state="Succeeded", outputs=outputs, metrics=record.metrics)
        return f"the results are those of run {record.run}"

    def _shown(self, reference: Reference) -> Any:
        return self._params[reference.path[0]] if reference.root == "params" else reference.text


def seconds_of(runs: Iterable[Manifest]) -> dict[str, float]:
    """Return the time of each step in the latest run in which it ran; `runs` are the newest first."""
    seconds: dict[str, float] = {}
    for run in runs:
        for step in steps_of(run):
            duration = duration_of(step)
            if step.get("state") == "Succeeded" and not step.get("cached") and duration is not None:
                seconds.setdefault(str(step["name"]), duration.total_seconds())
    return seconds


def estimate(steps: Iterable[StepForecast]) -> tuple[float, list[str]]:
    """Return the seconds of the longest way through the steps that run, and the steps whose time is unknown."""
    ends: dict[str, float] = {}
    unknown: list[str] = []
    for step in steps:
        runs = step.action == "runs"
        if runs and step.seconds is None:
            unknown.append(step.name)
        start = max((ends[name] for name in step.needs), default=0.0)
        ends[step.name] = start + (step.seconds or 0.0 if runs else 0.0)
    return max(ends.values(), default=0.0), unknown
