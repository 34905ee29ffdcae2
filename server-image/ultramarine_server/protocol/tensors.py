"""Tensors of the Open Inference Protocol, questions about them, and values from JSON to numpy and back."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ultramarine_server.errors import BadRequest

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
BODY_LIMIT = 64 * 1024 * 1024  # bytes of a body, compressed and inflated
_NULL: Any = None
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

# A cast to infinity is refused by a check. np.errstate would cost a microsecond for each request.
warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning, re.escape(__name__))

# Accepted kinds of JSON values in numpy, by the kind of the datatype. A float takes integers, but no booleans.
_TAKEN_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
_KIND_NAMES = {"b": "booleans", "i": "integers", "u": "integers", "f": "numbers with a fraction", "U": "strings"}


# Values of each request are structs; a dataclass takes three times as long to create.


class Tensor(msgspec.Struct, eq=False):
    """Named array with its datatype, a key of DTYPES; BYTES are objects, str or bytes."""

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


class Inference(msgspec.Struct, eq=False):
    """Question to a model; an empty `version` means the served version, empty `outputs` all outputs."""

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)


Outputs = tuple[Tensor, ...]


def datatype_of(array: Array) -> str:
    """Return the protocol's name for the type of `array`; BYTES unless it holds numbers."""
    return _DATATYPES.get(array.dtype.newbyteorder("="), "BYTES")


def keeps_values(datatype: str, target: str) -> bool:
    """True if `target` has every value of `datatype`: FP64 has those of FP32, but not the reverse."""
    return "BYTES" not in (datatype, target) and bool(np.can_cast(DTYPES[datatype], DTYPES[target], "safe"))


def nulls(texts: Array) -> Array:
    """Return which values are None, the null of texts."""
    missing: Array = np.equal(texts, _NULL)
    return missing


def array_of(datatype: str, data: list[Any], names: Sequence[str] = ()) -> Array:
    """Return an array of JSON values as they are nested. Raises BadRequest for values that `datatype` cannot hold.

    The error names the column of a matrix, by one of `names` or by its number from 0.
    """
    try:
        return _array_of(datatype, data)
    except BadRequest:
        for at, values in enumerate(_columns(data)):
            try:
                _array_of(datatype, values)
            except BadRequest as error:
                raise BadRequest(f"column {repr(names[at]) if at < len(names) else at}: {error}") from error
        raise


def _columns(data: list[Any]) -> Iterator[list[Any]]:
    """Yield the columns of a matrix of lists; none if `data` is not one."""
    if data and all(isinstance(row, list) and len(row) == len(data[0]) for row in data):
        yield from map(list, zip(*data, strict=True))


def _array_of(datatype: str, data: list[Any]) -> Array:
    return _strings(data) if datatype == "BYTES" else _numbers(datatype, DTYPES[datatype], data)


def decode(datatype: str, shape: list[int], data: list[Any]) -> Array:
    """Return an array of JSON values, flat or nested. Raises BadRequest for values that `datatype` cannot hold."""
    try:
        array = array_of(datatype, data)
    except BadRequest:
        if len(shape) == 2 and len(data) == math.prod(shape) > 0 and not isinstance(data[0], list):
            array_of(datatype, [data[at : at + shape[1]] for at in range(0, len(data), shape[1])])
        raise
    if array.ndim == 1 and array.size == math.prod(shape):
        return array.reshape(shape)
    if array.shape == tuple(shape):
        return array
    if array.ndim == 1:
        raise BadRequest(f"shape {shape} wants {math.prod(shape)} values in data, {array.size} came")
    raise BadRequest(f"data is nested as {list(array.shape)}, shape says {shape}")


def encode(array: Array, datatype: str) -> Any:
    """Return the flat data of `array` in `datatype`, ready for orjson (which writes NaN as null)."""
    if datatype == "BYTES":
        return [_text(value) for value in array.ravel()]
    return np.ascontiguousarray(array, DTYPES[datatype]).ravel()


def text_bytes(value: Any) -> bytes:
    """Return an element of BYTES as bytes. Binary data and gRPC have no null, so a missing text is empty."""
    return value if isinstance(value, bytes) else (_text(value) or "").encode()


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):  # a missing text
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _strings(data: list[Any]) -> Array:
    array = np.array(data, dtype=object)
    values = array.reshape(-1)
    for index, value in enumerate(values):
        if isinstance(value, float) and math.isnan(value):  # MLflow's missing text
            values[index] = None
        elif value is not None and not isinstance(value, str):
            raise BadRequest(f"data must be strings for BYTES, or null for a missing one; {_shown(value)} came")
    return array


def _numbers(datatype: str, dtype: np.dtype[Any], data: list[Any]) -> Array:
    try:
        array = np.array(data)
    except (ValueError, OverflowError) as error:
        raise BadRequest("data is nested unevenly; every row needs the same number of values") from error
    if not array.size:
        return array.astype(dtype)
    if dtype.kind in "iu" and array.dtype.kind in "fO":
        # numpy turns a mixture of small and very large integers into floats; objects stay exact.
        exact = np.array(data, dtype=object)
        if all(type(value) is int for value in exact.ravel()):
            return _within(datatype, dtype, exact)
    if dtype.kind == "f" and array.dtype.kind == "O":
        array = _with_missing(array)
    if array.dtype.kind not in _TAKEN_KINDS[dtype.kind]:
        actual = _KIND_NAMES.get(array.dtype.kind) or _strange(array, null=dtype.kind == "f")
        raise BadRequest(f"data must hold {datatype} values; {actual} came")
    if dtype.kind == "f":
        return array.astype(dtype, copy=False) if dtype.itemsize == 8 else _narrowed(datatype, dtype, array)
    return _within(datatype, dtype, array) if dtype.kind in "iu" else array.astype(dtype)


def _narrowed(datatype: str, dtype: np.dtype[Any], array: Array) -> Array:
    """Cast numbers, which are finite doubles or null in JSON, to a smaller float."""
    cast = array.astype(dtype)
    # The sum of squares takes half the time, and is finite only if all numbers are. Large numbers, and NaN for null,
    # need the second check.
    if not math.isfinite(np.vdot(cast, cast)) and np.isinf(cast).any():
        raise BadRequest(f"data holds a number that is too large for {datatype}")
    return cast


def _within(datatype: str, dtype: np.dtype[Any], integers: Array) -> Array:
    limits = np.iinfo(dtype)
    if int(integers.min()) < limits.min or int(integers.max()) > limits.max:
        raise BadRequest(f"data holds a number outside of {datatype}, which is {limits.min} to {limits.max}")
    return integers.astype(dtype)


def _with_missing(array: Array) -> Array:
    """Return floats with NaN for null, if the other values are numbers."""
    values = array.ravel()
    if not all(
        value is None or type(value) is float or (type(value) is int and abs(value) < 2**64) for value in values
    ):
        return array
    return array.astype(np.float64)


def _strange(array: Array, *, null: bool) -> str:
    """Return the first value that is not a number of 64 bits, or null unless `null` is accepted."""
    values = array.ravel()
    for index, value in enumerate(values):
        if value is None and not null:
            return f"null at index {index} (which is NaN, and for FP16, FP32 and FP64 alone)"
        if value is not None and (not isinstance(value, int | float) or abs(value) >= 2**64):
            return _shown(value)
    return _shown(values[0])


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
