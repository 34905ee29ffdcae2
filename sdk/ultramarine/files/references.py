"""Checks of parameters and of references in commands, as the chart's admission policy and the operator make them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ultramarine_contract.errors import listed
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest

from .checking import Fault
from .schemas import Keys

REFERENCE = re.compile(r"\$\((params|inputs|outputs)\.([^)]*)\)")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_BRACKETED = re.compile(r"[$]+[({]+ *[A-Za-z0-9_.-]+ *[)}]+")
_SLIP = re.compile(r"[$][({]+ *(input|output|param(?=eter|s?[.]))(?:eter)?s?[.]([A-Za-z0-9_.-]*)")
_PROGRAMS = ("date", "hostname", "nproc", "pwd")  # $(date) is the shell's
_SINGULAR = {"inputs": "input", "outputs": "output", "params": "parameter"}
Names = dict[str, list[str]]


def reference_faults(kind: str, spec: Manifest) -> Iterator[Fault]:
    """Yield faults of parameters, search space and references of the command.

    What has another form than the schema's is left out: it has a fault of its own, and others stand beside it.
    """
    if kind == TRAINING_JOB.kind:
        yield from _command_faults(spec, ("spec",), {}, "spec.parameters")
    elif kind == SWEEP.kind:
        space, trial = _group(spec.get("searchSpace")), _group(_group(spec.get("trialTemplate")).get("spec"))
        where = "spec.trialTemplate.spec"
        yield from _space_faults(space)
        for name in _group(trial.get("parameters")):
            if name in space:
                message = "a parameter is in searchSpace or in trialTemplate.spec.parameters, not in both"
                yield Fault(("spec", "searchSpace", name), message, of_name=True)
        keys = ("spec", "trialTemplate", "spec")
        yield from _command_faults(trial, keys, space, f"spec.searchSpace or {where}.parameters")


def _space_faults(space: Manifest) -> Iterator[Fault]:
    for name, parameter in space.items():
        at, parameter = ("spec", "searchSpace", name), _group(parameter)
        choices = _items(parameter.get("choice"))
        if len({_sort(value) for value in choices}) > 1:
            message = "has values of several types; write all of them as texts in quotes, as numbers or as booleans"
            yield Fault((*at, "choice"), message)
        for other in _group(parameter.get("when")):
            if other not in space:
                message = f"there is no parameter {other}; add it to spec.searchSpace or correct the name"
                yield Fault((*at, "when", other), message, of_name=True)


def _sort(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def _command_faults(spec: Manifest, at: Keys, searched: Manifest, params_field: str) -> Iterator[Fault]:
    words = "must be a text, a number or a boolean; write anything else as a text in quotes"
    for name, value in _group(spec.get("parameters")).items():
        if not _IDENTIFIER.fullmatch(name):
            yield Fault((*at, "parameters", name), "the name must be a plain identifier", of_name=True)
        if not isinstance(value, (str, int, float)):
            yield Fault((*at, "parameters", name), words)
    for place, variable in enumerate(_items(spec.get("env"))):
        value = _group(variable).get("value", "")
        if not isinstance(value, (str, int, float)):
            yield Fault((*at, "env", place, "value"), words)
        elif isinstance(value, str) and re.search(rf"(^|[^$]){_SLIP.pattern}", value):
            message = "has a reference, which is filled in only in command and args; pass it there"
            yield Fault((*at, "env", place, "value"), message)
    groups = {"inputs": spec.get("inputs"), "outputs": spec.get("outputs"), "params": spec.get("parameters")}
    names: Names = {kind: list(group or {}) for kind, group in groups.items() if isinstance(group or {}, dict)}
    if "params" in names:
        names["params"] += searched
    where = ".".join(map(str, at))
    fields = {"inputs": f"{where}.inputs", "outputs": f"{where}.outputs", "params": params_field}
    bare = _bare(spec, names)
    for field in ("command", "args"):
        for place, text in enumerate(_items(spec.get(field))):
            if isinstance(text, str):
                for message in (*_lost(text, names, fields), *_slips(text, bare)):
                    yield Fault((*at, field, place), message)


def _group(value: Any) -> Manifest:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _lost(text: str, names: Names, fields: dict[str, str]) -> Iterator[str]:
    """Yield references to names that do not exist."""
    for match in REFERENCE.finditer(text):
        kind, name = match[1], match[2]
        if name not in names.get(kind, [name]):
            word = _SINGULAR[kind]
            existing = f"{word}s are: {listed(names[kind])}" if names[kind] else "there are none"
            yield f"{match[0]} names no {word}; {existing}; correct the name, or add it to {fields[kind]}"


def _bare(spec: Manifest, names: Names) -> dict[str, str]:
    """Return what $(NAME) is meant to be, for each name that no environment variable and no program has."""
    if spec.get("envFrom"):
        return {}
    taken = {*_PROGRAMS, *(str(_group(variable).get("name")) for variable in _items(spec.get("env")))}
    kinds = ("params", "outputs", "inputs")
    return {f"$({name})": f"$({kind}.{name})" for kind in kinds for name in names.get(kind, []) if name not in taken}


def _slips(text: str, bare: dict[str, str]) -> Iterator[str]:
    """Yield references in a wrong spelling, which nothing would fill in."""
    for spelling in _BRACKETED.findall(text):
        slip = _SLIP.match(spelling)
        right = bare.get(spelling) or (f"$({slip[1]}s.{slip[2]})" if slip and not REFERENCE.match(spelling) else "")
        if right:
            yield f"{spelling} would reach the command as it is; write {right}"
