"""Checks of a pipeline before anything runs: names, references, types and conditions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import PIPELINE_RUN, Manifest

from . import pipeline_conditions as conditions
from .pipeline import PipelineParameter, PipelineSpec, Publish, Step
from .pipeline_conditions import ConditionError
from .pipeline_references import Place, Reference, filled, references, whole
from .pipeline_repetition import ForEach
from .pipeline_steps import document_of, ordered, runnable_of
from .schedule import RunTemplate

SAMPLE_URI = "s3://bucket/sample/"
_SAMPLES: dict[str, Any] = {
    "string": "a",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "list": ["a"],
    "uri": SAMPLE_URI,
    "dataset": "a@1",
    "model": "a@1",
    "folder": SAMPLE_URI,
    "item": "1",
}
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list": list,
}
_URIS = ("uri", "folder", "item", "string", "list")  # what an input's uri may refer to; a list becomes several inputs
_EXPECTED = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "string": "string",
    "list": "list",
    "dict": "object",
    "model": "object",
}


def check(spec: PipelineSpec) -> None:
    """Raise InvalidSpec with the first faults of a pipeline."""
    _refuse(dict.fromkeys(pipeline_faults(spec)))


def parameter_values(spec: PipelineSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each parameter of a run. Raises InvalidSpec for a missing, unknown or unsuitable value."""
    _refuse(parameter_faults(spec, given))
    return {name: _as_stored(given.get(name, parameter.default)) for name, parameter in spec.parameters.items()}


def parameter_faults(spec: PipelineSpec, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of a run's parameters: unknown, missing and unsuitable ones."""
    for name in sorted(given.keys() - spec.parameters.keys()):
        existing = listed(sorted(spec.parameters)) or "none"
        yield f"parameters.{name}: the pipeline has no such parameter (it has: {existing})"
    for name, parameter in spec.parameters.items():
        value = _as_stored(given.get(name, parameter.default))
        if value is None:
            yield f"parameters.{name}: expected {parameter.type}, got nothing; give it a value"
        elif fault := _value_fault(parameter, value):
            yield f"parameters.{name}: {fault}"


def check_rerun(spec: PipelineSpec, names: Iterable[str]) -> None:
    """Raise InvalidSpec if steps to run again do not exist."""
    steps = {step.name for step in spec.steps}
    if unknown := sorted(set(names) - steps):
        raise InvalidSpec(f"spec.rerun.from: no step is named {unknown[0]!r} (steps: {listed(sorted(steps))})")


def template_faults(template: RunTemplate, pipeline_of: Callable[[str], Manifest | None]) -> Iterator[str]:
    """Yield the faults of the parameters that a Schedule gives to a Pipeline; `pipeline_of` returns one by name."""
    name = template.spec.get("pipeline") if template.kind == PIPELINE_RUN.kind else None
    pipeline = pipeline_of(str(name)) if name else None
    if pipeline is None:
        return
    try:
        spec = PipelineSpec.model_validate(pipeline["spec"])
    except ValidationError:
        return  # a fault of the Pipeline
    for fault in parameter_faults(spec, template.spec.get("parameters") or {}):
        yield f"spec.template.spec.{fault}"


def _refuse(faults: Iterable[str]) -> None:
    """Raise InvalidSpec with the first of the faults, if there are any."""
    if faults := list(faults):
        raise InvalidSpec("; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else ""))


def _as_stored(value: Any) -> Any:
    """Return a value as the API server stores it: a number without a fraction is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def pipeline_faults(spec: PipelineSpec) -> Iterator[str]:
    """Yield the faults of a pipeline, each with step and field."""
    for name, parameter in spec.parameters.items():
        if parameter.default is not None and (fault := _value_fault(parameter, parameter.default)):
            yield f"parameters.{name}.default: {fault}"
    names = [step.name for step in (*spec.steps, *spec.finally_)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"step {name}: two steps have this name; rename one of them"
    repeated = [step.name for step in (*spec.steps, *spec.finally_) if step.for_each or step.while_]
    for name in names:
        stem, _, number = name.rpartition("-")
        if number.isdecimal() and stem in repeated:
            yield f"step {name}: a repetition of step {stem} has this name; rename the step"
    steps = {step.name: step for step in spec.steps}
    for step in (*spec.steps, *spec.finally_):
        scope = _Scope(spec, steps if step.name in steps else {**steps, step.name: step}, step)
        yield from scope.faults()
    for name, text in spec.outputs.items():
        reference = whole(text)
        if reference is None or not reference.is_output:
            yield f"outputs.{name}: expected $(steps.STEP.outputs.NAME), got {text!r:.80}"
        elif fault := _output_fault(reference, steps, spec):
            yield f"outputs.{name}: {fault}"
    try:
        ordered(spec)
    except ConditionError:
        return  # its step has it
    except InvalidSpec as error:
        yield error.message


class _Scope:
    """Names that one step may refer to."""

    def __init__(self, spec: PipelineSpec, steps: Mapping[str, Step], step: Step) -> None:
        self._spec, self._steps, self._step = spec, steps, step
        self._runnable = runnable_of(step)

    def faults(self) -> Iterator[str]:
        """Yield the faults of the step."""
        for fault in self._plain_faults():
            yield f"step {self._step.name}: {fault}"

    def _plain_faults(self) -> Iterator[str]:
        step = self._step
        for name in step.after:
            if name not in self._steps or name == step.name:
                yield f"after: {self._no_step(name)}"
        for field, expression in (("when", step.when), ("while.condition", step.while_ and step.while_.condition)):
            if expression:
                yield from (f"{field}: {fault}" for fault in self._condition_faults(expression, field))
        if step.for_each is not None:
            yield from self._entry_faults(step.for_each)
        document = document_of(step, self._spec.defaults)
        places: dict[Place, Reference] = {}
        sound = True
        for place, reference in references(document, self._runnable.own(document)):
            places[place] = reference
            fault = self._reference_fault(reference)
            if not fault and place[-1:] in (("uri",), ("dataset",)) and "inputs" in place[:-1]:
                fault = self._port_fault(place, reference)
            if not fault and step.publish is not None:
                fault = self._publish_fault(step.publish, place, reference)
            if fault:
                sound = False
                yield f"{_field(place)}: {fault}"
        if sound:
            yield from self._document_faults(document, places)

    def _no_step(self, name: str) -> str:
        if name == self._step.name:
            return "the step refers to itself; remove the reference"
        return f"no step is named {name!r} (steps: {listed(sorted(self._steps)) or 'none'})"

    def _condition_faults(self, expression: str, field: str) -> Iterator[str]:
        try:
            conditions.compiled(expression)
        except ConditionError as error:
            yield str(error)
            return
        for name in sorted(conditions.names(expression, "params") - self._spec.parameters.keys()):
            yield self._no_parameter(name)
        for name in sorted(conditions.names(expression, "steps")):
            if name not in self._steps or (name == self._step.name and field == "when"):
                yield self._no_step(name)

    def _no_parameter(self, name: str) -> str:
        return f"the pipeline has no parameter {name!r} (it has: {listed(sorted(self._spec.parameters)) or 'none'})"

    def _entry_faults(self, for_each: ForEach) -> Iterator[str]:
        if (for_each.items is None) == (for_each.partitions is None):
            yield "forEach: give one of items and partitions"
        elif for_each.partitions is None:
            yield from self._list_faults(for_each.items)
        elif (reference := whole(for_each.partitions)) is not None:
            fault = self._reference_fault(reference)
            if not fault and self._type_of(reference) not in ("dataset", "string"):
                fault = f"expected dataset, got {self._type_of(reference)}"
            if fault:
                yield f"forEach.partitions: {fault}"

    def _list_faults(self, items: Any) -> Iterator[str]:
        if isinstance(items, list):
            return
        if (reference := whole(items)) is not None:
            fault = self._reference_fault(reference)
            kind = self._type_of(reference)
            if not fault and kind not in ("list", "folder"):
                fault = f"expected list, got {kind}"
            if fault:
                yield f"forEach.items: {fault}"
        elif not isinstance(items, str):
            yield f"forEach.items: expected list, got {_name(items)}"

    def _reference_fault(self, reference: Reference) -> str:
        """Return why a reference has no target; empty if it has one."""
        match reference.root, reference.path:
            case "params", (name,):
                return "" if name in self._spec.parameters else self._no_parameter(name)
            case "item", path:
                repeats = self._step.for_each or self._step.while_
                if self._step.for_each is not None and self._step.for_each.partitions and not _is_of_partition(path):
                    has = "$(item.uri), $(item.digest), $(item.key) and $(item.values.COLUMN)"
                    return f"{reference.text} is not a field of a partition, which has {has}"
                return "" if repeats else "$(item) needs forEach or while; add one of them"
            case "steps", (name, "outputs" | "metrics", _) | (name, "state"):
                if name not in self._steps or name == self._step.name:
                    return self._no_step(name)
                return _output_fault(reference, self._steps, self._spec) if reference.is_output else ""
        return f"{reference.text} is not a reference; write $(params.X), $(steps.S.outputs.O) or $(steps.S.metrics.M)"

    def _port_fault(self, place: Place, reference: Reference) -> str:
        kind = self._type_of(reference)
        expected = ("dataset", "item", "string") if place[-1] == "dataset" else _URIS
        return "" if kind in expected else f"expected {place[-1]}, got {kind}"

    def _publish_fault(self, publish: Publish, place: Place, reference: Reference) -> str:
        """Return why a reference cannot be a version or a name; empty if it can."""
        kind = self._type_of(reference)
        expected = ("folder", "string", "item") if place == ("version",) else ("string", "item")
        if kind not in expected:
            return f"expected {' or '.join(expected[:2])}, got {kind}"
        if not reference.is_output:
            return ""
        step = self._steps[reference.step]
        output, target = reference.path[2], ("Model", publish.model) if publish.model else ("Dataset", publish.dataset)
        registered = runnable_of(step).registered(document_of(step, self._spec.defaults), output)
        if registered is None or registered == target or "$(" in f"{registered[1]}{target[1]}":
            return ""
        is_of = (
            f"registers it as a version of {registered[0]} {registered[1]}" if registered[1] else "does not register it"
        )
        return f"expected a version of {target[0]} {target[1]}; step {step.name} {is_of}"

    def _type_of(self, reference: Reference) -> str:
        if reference.root == "params":
            return str(self._spec.parameters[reference.path[0]].type)
        if reference.root == "item":
            return "item"
        repeats = self._steps[reference.step].for_each is not None
        if repeats and (reference.is_output or reference.is_metric):
            return "list"
        return "folder" if reference.is_output else "number" if reference.is_metric else "string"

    def _sample(self, reference: Reference) -> Any:
        """Return a value as the reference will have."""
        if reference.root == "params":
            parameter = self._spec.parameters[reference.path[0]]
            if parameter.type == "number":
                return _SAMPLES["number"]  # a default may be whole
            if parameter.default is not None:
                return parameter.default
            if parameter.values:
                return parameter.values[0]
        if self._type_of(reference) == "list" and reference.root == "steps":
            return SAMPLE_URI
        return _SAMPLES[self._type_of(reference)]

    def _document_faults(self, document: dict[str, Any], places: Mapping[Place, Reference]) -> Iterator[str]:
        """Yield the faults of the object's spec by its schema, with sample values in place of references."""
        sample = filled(document, self._sample, self._runnable.own(document))
        try:
            # Strict, since the API server makes no number of a text.
            self._runnable.spec.model_validate_json(json.dumps(sample, default=str), strict=True, extra="forbid")
        except ValidationError as error:
            faulty: set[Place] = set()
            for detail in error.errors(include_url=False):
                place = _place(detail["loc"], sample)
                if place in faulty:  # a union has a fault for each of its members
                    continue
                faulty.add(place)
                reference = places.get(place)
                expected = _EXPECTED.get(str(detail["type"]).partition("_")[0])
                is_type = str(detail["type"]).endswith(("_type", "_parsing", "_from_float"))
                if reference is not None and not (is_type and expected) and detail["type"] != "extra_forbidden":
                    continue  # the sample is at fault
                if detail["type"] == "extra_forbidden":
                    yield f"{_field(place)}: unknown field; remove it, or correct its name"
                elif detail["type"] == "missing":
                    yield f"{_field(place)}: required; add it"
                elif is_type and expected:
                    got = self._type_of(reference) if reference else _name(detail["input"])
                    yield f"{_field(place)}: expected {expected}, got {got}"
                else:
                    yield f"{_field(place)}: {detail['msg']}"


def _is_of_partition(path: tuple[str, ...]) -> bool:
    """True for the path of a text in the entry of a partition."""
    return path in (("uri",), ("digest",), ("key",)) or (len(path) == 2 and path[0] == "values")


def _output_fault(reference: Reference, steps: Mapping[str, Step], spec: PipelineSpec) -> str:
    """Return why a step has no such output; empty if it has one, or if only its end shows its outputs."""
    step = steps.get(reference.step)
    if step is None:
        return f"no step is named {reference.step!r} (steps: {listed(sorted(steps)) or 'none'})"
    outputs = runnable_of(step).outputs(document_of(step, spec.defaults))
    name = reference.path[2]
    if outputs is None or name in outputs:
        return ""
    return f"step {step.name} has no output {name!r} (it has: {listed(sorted(outputs)) or 'none'})"


def _value_fault(parameter: PipelineParameter, value: Any) -> str:
    """Return why a value does not suit a parameter; empty if it does."""
    expected = _PYTHON.get(parameter.type, str)
    is_boolean = isinstance(value, bool)
    if not isinstance(value, expected) or is_boolean != (parameter.type == "boolean"):
        return f"expected {parameter.type}, got {_name(value)}"
    if parameter.type == "uri" and not str(value).startswith("s3://"):
        return f"expected uri, got {value!r:.80}; write s3://BUCKET/KEY"
    if isinstance(value, (int, float)) and not is_boolean:
        if parameter.minimum is not None and value < parameter.minimum:
            return f"expected at least {parameter.minimum:g}, got {value}"
        if parameter.maximum is not None and value > parameter.maximum:
            return f"expected at most {parameter.maximum:g}, got {value}"
    if parameter.values and value not in parameter.values:
        return f"expected one of {listed(parameter.values)}, got {value!r:.80}"
    return ""


def _name(value: Any) -> str:
    """Return the name of a JSON value's type."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "list", dict: "object"}
    return names.get(type(value), "nothing")


def _field(place: Place) -> str:
    """Return a place as a field; an input is named without its own field."""
    if place[-1:] in (("uri",), ("dataset",)) and "inputs" in place:
        place = place[:-1]
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _place(loc: tuple[int | str, ...], document: Any) -> Place:
    """Return the place of a fault, without the names of a union's members that pydantic adds."""
    place: list[int | str] = []
    for part in loc:
        inside = document[part] if isinstance(document, dict) and part in document else None
        if isinstance(document, list) and isinstance(part, int) and part < len(document):
            inside = document[part]
        if inside is None and (isinstance(document, (str, int, float)) or document is None):
            break
        place.append(part)
        document = inside
    return tuple(place)
