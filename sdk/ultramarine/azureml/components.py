"""Components: a file may hold the command of a job, a trial or a step, and declare inputs and outputs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Protocol

from ultramarine.azureml.context import Context, Refused
from ultramarine.azureml.data import Bound, Inputs, as_inputs, reference, value_of
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Unreadable
from ultramarine.azureml.report import registry_command, shown

LOST = {"additional_includes": ("are not copied", "Copy these files into the folder of code")}
IGNORED = ("name", "version", "inputs", "outputs", "is_deterministic")
DESCRIBED = ("display_name", "description", "tags")


class Scope(Protocol):
    """Inputs and steps that the expressions of a step refer to."""

    def bound(self, fields: Fields, key: str, text: str) -> Bound | None:
        """Return the value of a text with expressions; None if they refer to nothing, which is a loss."""


@dataclass(frozen=True)
class Joined:
    """Job or step with its component. `fields` has the command; without a component it is `outer`."""

    outer: Fields
    fields: Fields
    bounds: dict[str, Bound]

    def inputs(self, except_for: Container[str] = ()) -> Inputs:
        """Return the inputs, except for those that a sweep searches. A missing one is a loss."""
        declared = self.fields.section("inputs") if self.fields is not self.outer else None
        for key in declared.keys if declared is not None else ():
            entry = declared.take(key) if declared is not None else None
            is_optional = isinstance(entry, dict) and str(entry.get("optional")).lower() == "true"
            if key not in self.bounds and key not in except_for and not is_optional:
                self.outer.lose("inputs", f"{key} of the component has no value", f"Add {key} to the inputs")
        return as_inputs({key: bound for key, bound in self.bounds.items() if key not in except_for})

    def close(self) -> None:
        """Record what was not read of the component."""
        if self.fields is not self.outer:
            if not self.fields.path and self.fields.document.file == self.outer.document.file:
                for key in DESCRIBED:  # annotations of the Pipeline that a component alone becomes
                    self.fields.take(key)
            self.fields.close(LOST, (*IGNORED, *DESCRIBED))


def component_of(context: Context, fields: Fields, key: str) -> Fields | None:
    """Return the component that a field holds or names; None without one. Raises Refused if its file is missing."""
    value = fields.take(key)
    if isinstance(value, dict):
        return fields.section(key)
    text = fields.text(key).strip()
    if not text:
        return None
    named = reference(text)
    if named is not None:
        asset = context.asset("components", *named, fields, key)
        if asset is None:
            raise Refused(_missing(text, named[0]))
        context.parts.setdefault(asset.document.file.resolve(), set()).add(fields.document.file.resolve())
        return context.fields(asset.document)
    path = context.local(fields, text)
    try:
        return context.fields(context.part(fields, path))
    except Unreadable as error:
        raise Refused(f"names component {shown(path)}, which {error.message}") from error


def _missing(text: str, name: str) -> str:
    if command := registry_command(text):
        return (
            f"names component {name} of a registry, whose file is not here. Write the output of `{command}` into"
            f" {name}.yml beside this file, and its code beside it"
        )
    return f"names component {name}, which no file defines. Convert its file too, or write its command"


def joined(context: Context, outer: Fields, component: Fields | None, scope: Scope | None = None) -> Joined:
    """Return a job or step with its component, if it has one, and the values of the inputs."""
    given = outer.section("inputs")
    if component is None:
        return Joined(outer, outer, _bounds(context, given, None, scope))
    if scope is not None or "outputs" in component:
        outer.put("outputs", _outputs(component, outer))
    return Joined(outer, component, _bounds(context, given, component.section("inputs"), scope))


def _bounds(context: Context, given: Fields, declared: Fields | None, scope: Scope | None) -> dict[str, Bound]:
    bounds: dict[str, Bound] = {}
    for key in dict.fromkeys((*(declared.keys if declared else ()), *given.keys)):
        entry = declared.take(key) if declared else None
        type = str(entry.get("type") or "").lower() if isinstance(entry, dict) else ""
        value = given.take(key)
        text = value.get("path") if isinstance(value, dict) else value
        if scope is not None and isinstance(text, str) and "${{" in text:
            if isinstance(value, dict) and "mode" in value:
                given.section(key).note("mode")
            bound = scope.bound(given, key, text)
        elif value is None and isinstance(entry, dict) and declared is not None:
            bound = value_of(context, declared, key, type) if entry.get("default") is not None else None
        else:
            bound = value_of(context, given, key, type)
        if bound is not None:
            bounds[key] = bound
    return bounds


def _outputs(component: Fields, outer: Fields) -> dict[str, Any]:
    """Return the outputs that a component declares, with what the step adds to them."""
    sources = [value for value in (component.take("outputs"), outer.take("outputs")) if isinstance(value, dict)]
    merged: dict[str, dict[str, Any]] = {key: {} for source in sources for key in source}
    for source in sources:
        for key, entry in source.items():
            merged[key] |= entry if isinstance(entry, dict) else {}
    return merged
