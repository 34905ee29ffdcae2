"""Quantities as Kubernetes writes them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS: dict[str, int | Decimal] = {
    "": 1,
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
QUANTITY = re.compile(r"([+-]?[0-9]+[.]?[0-9]*(?:[eE][+-]?[0-9]+)?)([KMGTPE]i|[mkMGTPE]?)")


def quantity(number: Decimal) -> str:
    """Return a number as a quantity: from 1Mi on in the largest binary unit that divides it, otherwise as it is."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if number >= 2**20 and number % _UNITS[unit] == 0:
            return f"{number / _UNITS[unit]:f}{unit}"
    return f"{number.normalize():f}"


def amount(quantity: str) -> Decimal:
    """Return the number of a quantity. Raises ValueError for any other text."""
    match = QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity")
    return Decimal(match[1]) * _UNITS[match[2]]
