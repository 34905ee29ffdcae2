"""Search space of a sweep: the parameters of spec.searchSpace, their values, and the conditions of each.

Each parameter is an object with one of uniform, logUniform, int, logInt, choice and constant, and perhaps `when`:

    lr:        {logUniform: {min: 1e-5, max: 1e-2}}
    momentum:  {uniform: {min: 0, max: 1, step: 0.1}}      # 0.0, 0.1, ... 1.0
    depth:     {int: {min: 2, max: 12, step: 2}}
    trees:     {logInt: {min: 10, max: 1000}}
    booster:   {choice: [gbtree, dart]}                    # texts, numbers or booleans
    rate_drop: {uniform: {min: 0, max: 0.5}, when: {booster: [dart]}}
    objective: {constant: binary}

`when` names other parameters with the values that they must have; if one of those does not exist, this parameter
does not either. uniform and logUniform give floats, int and logInt integers, and a choice its own values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from .common import LARGEST
from .errors import InvalidSpec
from .searchdomains import Choice, Domain, Real, Value, Whole, is_number, is_same

N = TypeVar("N", int, float)

PARAMETER_LIMIT = 64
CHOICE_LIMIT = 100
# Limits of a range of floats: samplers compute with its width and its middle, which must be floats too.
# The schema does not have them: the API server reads whole numbers as integers, and such limits do not fit into one.
LARGEST_REAL, LEAST_WIDTH = 1e300, 1e-300


@dataclass(frozen=True)
class Parameter:
    """One parameter: its possible values, and the values that others must have for it to exist."""

    name: str
    domain: Domain
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def exists(self, params: Mapping[str, Value]) -> bool:
        """True if a trial has it, given those parameters of the trial that come before it."""
        return all(
            other in params and any(is_same(params[other], value) for value in values) for other, values in self.when
        )


@dataclass(frozen=True)
class Space:
    """All parameters, each after those that its `when` names; the order depends on names alone."""

    parameters: tuple[Parameter, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def refusal(self, params: Mapping[str, Value]) -> str:
        """Return why a trial with these parameters is outside this space, or nothing."""
        for parameter in self.parameters:
            name = parameter.name
            if parameter.exists(params) != (name in params):
                return f"it has {name}, which does not exist there" if name in params else f"it has no {name}"
            if name in params and not parameter.domain.has(params[name]):
                return f"{name} cannot be {params[name]!r}"
        unknown = sorted(params.keys() - set(self.names))
        return f"it has {unknown[0]}, which is not a parameter" if unknown else ""


def read_points(space: Space, documents: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Value], ...]:
    """Read spec.algorithm.initialTrials, with numbers of the types of the space. Raises InvalidSpec."""
    points: list[dict[str, Value]] = []
    for place, document in enumerate(documents):
        field = f"spec.algorithm.initialTrials[{place}]"
        if why := space.refusal(document):
            raise InvalidSpec(f"{field} is outside spec.searchSpace: {why}; correct the trial or the space")
        points.append(
            {own.name: own.domain.as_own(document[own.name]) for own in space.parameters if own.name in document}
        )
        if points[-1] in points[:-1]:
            raise InvalidSpec(f"{field} is the same as initialTrials[{points.index(points[-1])}]; remove one of them")
    return tuple(points)


def read_space(document: Mapping[str, Any]) -> Space:
    """Read spec.searchSpace. Raises InvalidSpec, which names the field and the remedy."""
    if not 0 < len(document) <= PARAMETER_LIMIT:
        raise InvalidSpec(f"spec.searchSpace must have 1 to {PARAMETER_LIMIT} parameters, not {len(document)}")
    parameters = {}
    for name, entry in sorted(document.items()):
        if not isinstance(entry, Mapping):
            raise InvalidSpec(f"spec.searchSpace.{name} must be an object with one of {_one_of(_KINDS)}")
        kinds = [kind for kind in entry if kind != "when" and entry[kind] is not None]
        if len(kinds) != 1 or kinds[0] not in _KINDS:
            present = ", ".join(kinds) or "nothing"
            raise InvalidSpec(f"spec.searchSpace.{name} must have exactly one of {_one_of(_KINDS)}; it has {present}")
        domain = _KINDS[kinds[0]](f"spec.searchSpace.{name}.{kinds[0]}", entry[kinds[0]])
        parameters[name] = Parameter(name, domain)
    for name in parameters:
        if when := document[name].get("when"):
            parameters[name] = Parameter(name, parameters[name].domain, _read_when(name, when, parameters))
    return Space(_in_order(parameters))


def _read_when(name: str, when: Any, parameters: Mapping[str, Parameter]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if not isinstance(when, Mapping):
        raise InvalidSpec(f"spec.searchSpace.{name}.when must name parameters and lists of their values")
    conditions = []
    for other, values in sorted(when.items()):
        field = f"spec.searchSpace.{name}.when.{other}"
        if other not in parameters:
            raise InvalidSpec(f"{field}: there is no parameter {other}; add it to spec.searchSpace or correct the name")
        domain = parameters[other].domain
        if isinstance(domain, Real):
            raise InvalidSpec(f"{field}: {other} is neither a choice nor an integer; a condition needs one of those")
        if not isinstance(values, list | tuple) or not values:
            raise InvalidSpec(f"{field} must be a list of at least one value that {other} can have")
        for value in values:
            if not _is_value(value) or not domain.has(value):
                raise InvalidSpec(f"{field}: {other} can never be {value!r}; name values that it can have")
        conditions.append((other, tuple(values)))
    return tuple(conditions)


def _in_order(parameters: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
    """Put each parameter after those that it depends on, and as soon after them as possible."""
    ordered: dict[str, Parameter] = {}

    def put(name: str) -> None:
        if name not in ordered and all(other in ordered for other, _ in parameters[name].when):
            ordered[name] = parameters[name]
            for follower in parameters.values():
                if any(other == name for other, _ in follower.when):
                    put(follower.name)

    for name in parameters:
        put(name)
    if len(ordered) < len(parameters):
        name = next(name for name in parameters if name not in ordered)
        way: list[str] = []
        while name not in way:
            way.append(name)
            name = next(other for other, _ in parameters[name].when if other not in ordered)
        circle = " -> ".join([*way[way.index(name) :], name])
        raise InvalidSpec(f"spec.searchSpace.{name}.when: {circle} depend on each other; remove one condition")
    return tuple(ordered.values())


def _real(field: str, document: Any, *, log: bool) -> Real:
    low, high = _bounds(field, document, _finite, "a finite number")
    if max(-low, high) > LARGEST_REAL:
        end, number = ("max", high) if high > LARGEST_REAL else ("min", low)
        raise InvalidSpec(f"{field}.{end} is {number!r}, and beyond {LARGEST_REAL:g}; take a narrower range")
    if 0 < high - low < LEAST_WIDTH:
        raise InvalidSpec(f"{field} has a max - min below {LEAST_WIDTH:g}; take a wider range, or a constant")
    if log and low <= 0:
        raise InvalidSpec(f"{field}.min must be above 0: a logarithm is taken of it; use uniform for 0 and below")
    step = document.get("step")
    if step is None:
        return Real(low, high, log=log)
    if log:
        raise InvalidSpec(f"{field}.step cannot be: remove it, or list the values in a choice")
    width = _finite(step)
    real = Real(low, high, width if width and low < high else 0.0)
    if width is None or width <= 0 or (low < high and real.size == 1):
        raise InvalidSpec(f"{field}.step must be above 0 and at most max - min, not {step!r}")
    if (real.size or 0) > LARGEST:
        raise InvalidSpec(f"{field}.step is too small for so wide a range; remove it, or make it larger")
    return real


def _whole(field: str, document: Any, *, log: bool) -> Whole:
    low, high = _bounds(field, document, _integer, "an integer of at most 2**53")
    if log and low < 1:
        raise InvalidSpec(f"{field}.min must be at least 1: a logarithm is taken of it; use int for 0 and below")
    step = document.get("step")
    if step is None:
        return Whole(low, high, log=log)
    if log:
        raise InvalidSpec(f"{field}.step cannot be: remove it, or list the values in a choice")
    width = _integer(step)
    if width is None or width < 1 or (low < high and width > high - low):
        raise InvalidSpec(f"{field}.step must be an integer from 1 to max - min, not {step!r}")
    return Whole(low, high, width)


def _bounds(field: str, document: Any, read: Callable[[Any], N | None], what: str) -> tuple[N, N]:
    if not isinstance(document, Mapping):
        raise InvalidSpec(f"{field} must be an object with min and max")
    ends = []
    for end in ("min", "max"):
        number = read(document.get(end))
        if number is None:
            raise InvalidSpec(f"{field}.{end} must be {what}, not {document.get(end)!r}")
        ends.append(number)
    low, high = ends
    if low > high:
        raise InvalidSpec(f"{field}.min is {low!r}, above max, which is {high!r}; exchange them")
    return low, high


def _choice(field: str, document: Any) -> Choice:
    if not isinstance(document, list | tuple) or not 0 < len(document) <= CHOICE_LIMIT:
        raise InvalidSpec(f"{field} must be a list of 1 to {CHOICE_LIMIT} values")
    values = list(document)
    for value in values:
        if not _is_value(value):
            raise InvalidSpec(f"{field} has {value!r}; a value must be a text, a finite number or a boolean")
    types = sorted({_type(value) for value in values})
    if len(types) > 1:
        raise InvalidSpec(f"{field} has values of {len(types)} types ({', '.join(types)}); write all of them as one")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InvalidSpec(f"{field} has {value!r} twice; remove one of them")
    return Choice(tuple(values))


def _constant(field: str, value: Any) -> Choice:
    if not _is_value(value):
        raise InvalidSpec(f"{field} must be a text, a finite number or a boolean, not {value!r}")
    return Choice((value,))


_KINDS: dict[str, Callable[[str, Any], Domain]] = {
    "uniform": lambda field, document: _real(field, document, log=False),
    "logUniform": lambda field, document: _real(field, document, log=True),
    "int": lambda field, document: _whole(field, document, log=False),
    "logInt": lambda field, document: _whole(field, document, log=True),
    "choice": _choice,
    "constant": _constant,
}


def _one_of(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"


def _is_value(value: Any) -> bool:
    return isinstance(value, str | bool) or _finite(value) is not None


def _type(value: Value) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _finite(value: Any) -> float | None:
    try:
        return float(value) if is_number(value) and math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None


def _integer(value: Any) -> int | None:
    number = _finite(value)
    return int(number) if number is not None and number == math.floor(number) and abs(number) <= LARGEST else None
