"""Forecast of a run: steps that would run, steps whose results are reused, and the estimated time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ultramarine_contract.cache_lookup import CacheAnswer
from ultramarine_contract.cache_records import CacheRecord
from ultramarine_contract.meta import Manifest

from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.pipeline import PipelineSpec, Step
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_keys import Parts, identity_of, parts_of
from ultramarine.resources.pipeline_references import Reference, filled, references
from ultramarine.resources.pipeline_steps import Document, document_of, ordered, runnable_of

from .pipelines import steps_of
from .run import duration_of

LookUp = Callable[[str, Parts], CacheAnswer]


class _Open(Exception):
    """Value that only the run shows."""


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
    """Forecast of one run: parameters are given, and the cache is looked up."""

    def __init__(
        self,
        spec: PipelineSpec,
        params: Mapping[str, Any],
        look_up: LookUp,
        environment: Callable[[str], str],
        image: Callable[[str], str],
        history: Mapping[str, float],
    ) -> None:
        self._spec, self._params, self._look_up = spec, params, look_up
        self._environment, self._image, self._history = environment, image, history
        self._records: dict[str, CacheRecord] = {}
        self._skipped: set[str] = set()
        self._sweeps = {step.name for step in (*spec.steps, *spec.finally_) if step.sweep is not None}

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
        kind = runnable.made.kind if runnable.resource is not None else ""
        action: Literal["runs", "reused", "skipped"] = "runs"
        reason = self._decided(step)
        if used & self._skipped:
            action, reason = "skipped", f"step {min(used & self._skipped)} is skipped"
        elif reason == "":
            action, reason = "skipped", f"{step.when} is false"
        elif reason is None:
            reason = self._reuse(step, document, used)
            action = "reused" if step.name in self._records else "runs"
        if action == "skipped":
            self._skipped.add(step.name)
        document = filled(document, lambda reference: self._shown(reference), own)
        return StepForecast(step.name, action, reason, kind, document, needs, self._history.get(step.name))

    def _decided(self, step: Step) -> str | None:
        """Return a reason that needs no look-up: empty if the step is skipped; None if the cache decides."""
        if step.when is not None:
            names = conditions.names(step.when, "steps")
            if names - self._records.keys():
                return f"if {step.when}"
            try:
                if not conditions.holds(step.when, {"params": dict(self._params), "steps": self._documents(names)}):
                    return ""
            except ConditionError as error:
                return f"it fails: {error}"
        if step.publish is not None:
            return "it publishes a version"
        if step.for_each is not None:
            return "for each entry; the cache is asked for each"
        return "at least one round" if step.while_ is not None else None

    def _documents(self, names: Iterable[str]) -> dict[str, Any]:
        return {
            name: {
                "state": "Succeeded",
                "outputs": {output: stored.uri for output, stored in self._records[name].outputs.items()},
                "metrics": self._records[name].metrics,
            }
            for name in names
        }

    def _reuse(self, step: Step, document: Document, used: set[str]) -> str:
        """Look for a record of a step's work; return its run, or why there is none."""
        runnable = runnable_of(step)
        if not step.cache:
            return "cache is false"
        if unsure := sorted(used - self._records.keys()):
            return f"step {unsure[0]} runs; the cache is asked with its results"
        try:
            identity = filled(document, self._identity, runnable.own(document))
        except _Open as error:
            return str(error)
        if reads := [name for name, source in (identity.get("inputs") or {}).items() if "dataset" in source]:
            return f"inputs.{reads[0]} is a dataset; the cache is asked with the version that the run resolves"
        parts = parts_of(runnable, identity, step.cache_salt, self._image(step.name), self._environment)
        if parts.problem:
            return parts.problem
        answer = self._look_up(step.name, parts)
        if answer.record is None:
            return answer.miss
        self._records[step.name] = answer.record
        return f"the results are those of run {answer.record.run}"

    def _identity(self, reference: Reference) -> Any:
        """Return the value of a reference as it is in the cache key. Raises _Open."""
        if reference.root == "params":
            return self._params[reference.path[0]]
        record = self._records.get(reference.step)
        if record is not None and reference.path[1:] == ("state",):
            return "Succeeded"
        if record is not None and reference.is_output and reference.path[2] in record.outputs:
            output, is_sweep = record.outputs[reference.path[2]], reference.step in self._sweeps
            return identity_of(output.uri, "" if is_sweep else output.digest)  # as the run's status has it
        if record is not None and reference.is_metric and reference.path[2] in record.metrics:
            return record.metrics[reference.path[2]]
        raise _Open(f"{reference.text} is not known yet")

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
