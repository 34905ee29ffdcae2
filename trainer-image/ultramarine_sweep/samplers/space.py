"""A search space as samplers want it: the unit cube, Optuna's distributions, and values again.

Two cubes are meant. `from_units` gives each parameter one number in [0, 1), equal shares for equal values: for what
draws. A `Cube` is for what measures distances: a choice of a few has an axis for each value, and numbers lie on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ultramarine_contract.searchdomains import Choice, Domain, Real, Value, Whole, is_number
from ultramarine_contract.searchspace import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Value]

# A choice of more has one axis, in the order in which it was written: a hundred axes for one parameter tell nothing.
AXES_OF_A_CHOICE = 6


def from_units(space: Space, draw: Callable[[], float]) -> Params:
    """The parameters of a trial, each from a number in [0, 1) that `draw` gives; also for one that does not exist.

    So each parameter has its own place in a sequence of numbers, whatever the others are.
    """
    params: Params = {}
    for parameter in space.parameters:
        unit = draw()
        if parameter.exists(params):
            params[parameter.name] = from_unit(parameter.domain, unit)
    return params


def from_unit(domain: Domain, unit: float) -> Value:
    """The value at a number in [0, 1], in equal shares; of a logarithm those of equal ratios."""
    if isinstance(domain, Real) and domain.size is None:
        low, high = _ends(domain)
        return min(max(_out(domain, low + unit * (high - low)), domain.low), domain.high)
    if isinstance(domain, Whole) and domain.log:
        low, high = _ends(domain)
        return min(max(round(_out(domain, low + unit * (high - low))), domain.low), domain.high)
    assert domain.size is not None
    return domain.value(min(int(unit * domain.size), domain.size - 1))


def to_unit(domain: Domain, value: Value) -> float:
    """Return the place of a value in [0, 1]: the middle of its share. `from_unit` is the inverse."""
    if is_number(value) and (
        (isinstance(domain, Real) and domain.size is None) or (isinstance(domain, Whole) and domain.log)
    ):
        low, high = _ends(domain)
        at = math.log(value) if domain.log else value
        return min(max((at - low) / (high - low), 0.0), 1.0)
    place = domain.index(value)
    assert place is not None, f"{value!r} is not a value of {domain}"
    assert domain.size is not None
    return (place + 0.5) / domain.size


def _ends(domain: Real | Whole) -> tuple[float, float]:
    """Return the ends of a range's axis; that of integers goes half a step further, for equal shares."""
    beyond = 0.5 if isinstance(domain, Whole) else 0.0
    low, high = domain.low - beyond, domain.high + beyond
    return (math.log(low), math.log(high)) if domain.log else (low, high)


def _out(domain: Real | Whole, at: float) -> float:
    return math.exp(at) if domain.log else at


@dataclass
class Cube:
    """The axes on which distances are measured: those of parameters that do not exist are in the middle."""

    space: Space
    _axes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._axes = [_axes(parameter.domain) for parameter in self.space.parameters]

    @property
    def size(self) -> int:
        """Number of axes; a parameter with one value has none."""
        return sum(self._axes)

    def by_parameter(self, axes: Sequence[float]) -> dict[str, float]:
        """A number of each axis as one of each parameter that has any: their sum."""
        shares: dict[str, float] = {}
        start = 0
        for name, many in zip(self.space.names, self._axes, strict=True):
            if many:
                shares[name] = sum(axes[start : start + many])
            start += many
        return shares

    def encode(self, params: Mapping[str, Value]) -> list[float]:
        """The point of a trial."""
        point: list[float] = []
        for parameter, axes in zip(self.space.parameters, self._axes, strict=True):
            if parameter.name not in params:
                point += [0.5] * axes
            elif axes == 1:
                point.append(to_unit(parameter.domain, params[parameter.name]))
            elif axes:
                place = parameter.domain.index(params[parameter.name])
                point += [float(axis == place) for axis in range(axes)]
        return point

    def decode(self, point: Sequence[float]) -> Params:
        """The trial that is nearest to a point."""
        params: Params = {}
        start = 0
        for parameter, axes in zip(self.space.parameters, self._axes, strict=True):
            at = point[start : start + axes]
            start += axes
            if not parameter.exists(params):
                continue
            if axes <= 1:
                params[parameter.name] = from_unit(parameter.domain, float(at[0]) if axes else 0.0)
            else:
                params[parameter.name] = parameter.domain.value(max(range(axes), key=at.__getitem__))
        return params


def _axes(domain: Domain) -> int:
    if domain.size == 1:
        return 0
    return domain.size if isinstance(domain, Choice) and 2 < domain.size <= AXES_OF_A_CHOICE else 1


def distribution(domain: Domain) -> BaseDistribution:
    """Return Optuna's distribution of these values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match domain:
        case Choice(values):
            return CategoricalDistribution(values)
        case Real(low, high, step, log):
            if step and domain.size is not None:
                return FloatDistribution(low, domain.value(domain.size - 1), step=step)
            return FloatDistribution(low, high, log=log)
        case Whole(low, _, step, log):
            return IntDistribution(low, domain.value(domain.size - 1), step=step, log=log)


def settle(domain: Domain, value: Value) -> Value:
    """The value that is meant by one of Optuna's: 0.3 by 0.30000000000000004, and nothing beyond the ends."""
    if isinstance(domain, Choice):
        place = domain.index(value)
        assert place is not None, f"{value!r} is none of {domain.values}"
        return domain.values[place]
    assert is_number(value)
    if domain.size is None:
        return min(max(float(value), domain.low), domain.high)
    if domain.size == 1:
        return domain.value(0)
    place = round((value - domain.low) / domain.step)
    return domain.value(min(max(place, 0), domain.size - 1))
