"""Values of a parameter of a search: floats, integers, or a choice of a few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeGuard

Value = str | int | float | bool


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for a number; a boolean is not one."""
    return type(value) in (int, float)


def is_same(value: Value, other: Value) -> bool:
    """True if two values are the same in an API: true is not 1, and 1.0 is."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


@dataclass(frozen=True)
class Real:
    """Floats from `low` to `high`: all of them, or only multiples of `step` above `low`."""

    low: float
    high: float
    step: float = 0.0
    log: bool = False

    @cached_property
    def size(self) -> int | None:
        """Number of values; None if they are infinitely many."""
        if self.low == self.high:
            return 1
        return int((_exact(self.high) - _exact(self.low)) // _exact(self.step)) + 1 if self.step else None

    def value(self, index: int) -> float:
        """Return the value at a place from 0 on: 0.3, and not 0.30000000000000004."""
        return float(_exact(self.low) + index * _exact(self.step)) if index else self.low

    def index(self, value: Value) -> int | None:
        """Return the place of a value; None if it is not in the domain."""
        if self.size is None or not is_number(value):
            return None
        place = round((float(value) - self.low) / self.step) if self.step else 0
        close = 0 <= place < self.size and math.isclose(self.value(place), float(value), abs_tol=self.step * 1e-9)
        return place if close else None

    def has(self, value: Value) -> bool:
        """True if this is one of the values."""
        if self.size is not None:
            return self.index(value) is not None
        return is_number(value) and self.low <= float(value) <= self.high

    def as_own(self, value: Value) -> float:
        """Return a value of the domain as the domain writes it."""
        return float(value)


@dataclass(frozen=True)
class Whole:
    """Integers from `low` to `high`, every `step`th of them."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def value(self, index: int) -> int:
        """Return the value at a place from 0 on."""
        return self.low + index * self.step

    def index(self, value: Value) -> int | None:
        """Return the place of a value; None if it is not in the domain."""
        if not is_number(value) or (isinstance(value, float) and not value.is_integer()):
            return None
        place, rest = divmod(int(value) - self.low, self.step)
        return place if rest == 0 and 0 <= place < self.size else None

    def has(self, value: Value) -> bool:
        """True if this is one of the values."""
        return self.index(value) is not None

    def as_own(self, value: Value) -> int:
        """Return a value of the domain as the domain writes it."""
        return int(value)


@dataclass(frozen=True)
class Choice:
    """A few values of one type, in the order in which they were written; a constant is a choice of one."""

    values: tuple[Value, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    def value(self, index: int) -> Value:
        """Return the value at a place from 0 on."""
        return self.values[index]

    def index(self, value: Value) -> int | None:
        """Return the place of a value; None if it is not in the domain."""
        return next((place for place, own in enumerate(self.values) if is_same(own, value)), None)

    def has(self, value: Value) -> bool:
        """True if this is one of the values."""
        return self.index(value) is not None

    def as_own(self, value: Value) -> Value:
        """Return a value of the domain as the domain writes it."""
        return next(own for own in self.values if is_same(own, value))


Domain = Real | Whole | Choice


def _exact(number: float) -> Fraction:
    """Return the number as a reader sees it: 0.1 is one tenth."""
    return Fraction(repr(number))
