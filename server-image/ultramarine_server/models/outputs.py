"""Outputs of a user's code in the datatypes of the signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ultramarine_contract.errors import listed

from ultramarine_server.errors import UnfitAnswer
from ultramarine_server.models.model import TensorSpec
from ultramarine_server.protocol.tensors import DTYPES, Array


def fit_output(spec: TensorSpec, given: Any, function: str) -> Array:
    """Return an output of a `function` in its datatype. Raises UnfitAnswer for a value that the protocol lacks."""
    try:
        array = np.asarray(given)
        if given is None or array.dtype.kind == "c":
            raise TypeError("it has no such values")
        return array if spec.datatype == "BYTES" else _kept(array, DTYPES[spec.datatype])
    except Exception as error:  # An object of the model's code may raise any exception when it becomes an array.
        message = f"{function} returned {described(given)} as {spec.name}, which cannot be sent as {spec.datatype}"
        remedy = f"return a numpy array, or lists that are evenly nested, of values that {spec.datatype} can hold"
        raise UnfitAnswer(f"{message} ({error}); {remedy}") from error


def _kept(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array as `dtype`. Raises ValueError if that changes a value by more than rounding a float."""
    if not array.size or np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype, copy=False)
    if dtype.kind == "b" and array.dtype.kind not in "iuf":
        raise ValueError("its dtype is neither bool nor a number")
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    changed = cast != array if dtype.kind in "biu" else np.isinf(cast) & np.isfinite(array.astype(np.float64))
    if np.any(changed):
        first = np.flatnonzero(changed)[0]
        raise ValueError(f"{array.flat[first]} would become {cast.flat[first]}")
    return cast


def described(value: Any) -> str:
    """Return the type of a value, for a message."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"an ndarray of {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {kind} of {listed(value) or 'nothing'}"
    if isinstance(value, list | tuple) and value:
        return f"a {kind} of {type(value[0]).__name__}"
    return "None" if value is None else f"a {kind}"
