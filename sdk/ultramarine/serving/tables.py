"""Rows, columns, data frames and arrays as the tensors of a signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ultramarine_contract.common import UNNAMED_INPUT
from ultramarine_contract.errors import counted

from .signature import DataInvalid, Input, Signature, check_columns

# Types of numpy by the names of the protocol; little-endian, as binary tensors are.
TYPES = {
    "BOOL": "|b1",
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
_NAMES = {code[1:]: name for name, code in TYPES.items()}


class Tensor(NamedTuple):
    """Input of a request; `values` is an array of numbers, or a list with an entry for each row."""

    name: str
    datatype: str
    values: Any
    column: bool = False  # single values where the model takes a matrix of one column

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values)

    def part(self, start: int, stop: int) -> Tensor:
        """Return the tensor of some rows."""
        return self._replace(values=self.values[start:stop])

    @property
    def shape(self) -> list[int]:
        """Shape of the values."""
        shape = [int(size) for size in self.values.shape] if is_array(self.values) else _shape(self.values)
        return [*shape, 1] if self.column else shape


def is_array(values: Any) -> bool:
    """True for an array of numpy, and for what looks like it."""
    return hasattr(values, "dtype") and hasattr(values, "tobytes")


def is_frame(data: Any) -> bool:
    """True for a data frame of pandas."""
    return hasattr(data, "columns") and hasattr(data, "iloc")


def tensors(signature: Signature, data: Any) -> list[Tensor]:
    """Return a model's inputs. Raises DataInvalid for rows that do not fit.

    `data` is a data frame, an array, a list of rows (lists or objects), one row as an object, or columns by name.
    """
    first, *others = signature.inputs
    columns = _columns(data)
    if columns is None and not others:
        made = [_tensor(first, _batch(first, data))]
    else:
        if columns is None:
            columns = _split(signature, data)
        if not others and list(columns) != [first.name]:
            made = [_tensor(first, _matrix(signature, columns))]
        else:
            check_columns(columns, [spec.name for spec in signature.inputs], signature.model)
            made = [_tensor(spec, columns[spec.name]) for spec in signature.inputs]
    if not made[0].rows:
        raise DataInvalid("there are no rows. Give at least one.")
    return made


def _columns(data: Any) -> dict[str, Any] | None:
    """Return columns by name; None for rows and arrays without names."""
    if is_frame(data):
        return {str(name): _series(data[name]) for name in data.columns}
    if isinstance(data, Mapping):
        whole = [isinstance(values, list | tuple) or is_array(values) for values in data.values()]
        if not any(whole):
            return {str(name): [value] for name, value in data.items()}
        lengths = {len(values) for values, is_column in zip(data.values(), whole, strict=True) if is_column}
        if not all(whole) or len(lengths) > 1:
            raise DataInvalid("columns by name must be lists of one length: a value for each row.")
        return {str(name): values for name, values in data.items()}
    if isinstance(data, list | tuple) and data and isinstance(data[0], Mapping):
        names = list(data[0])
        for index, row in enumerate(data):
            if not isinstance(row, Mapping) or set(row) != set(names):
                raise DataInvalid(f"row {index} does not have the same names as row 0: {', '.join(map(str, names))}.")
        return {str(name): [row[name] for row in data] for name in names}
    return None


def _series(series: Any) -> Any:
    """Return a column of a data frame: numbers as an array, others as a list with None for missing values."""
    if series.dtype.kind in "biuf" and not hasattr(series.dtype, "na_value"):  # a dtype of numpy, not of pandas
        return series.to_numpy()
    return series.astype(object).where(series.notna(), None).tolist()


def _batch(spec: Input, data: Any) -> Any:
    """Return rows; a single row, without a list around it, becomes a list of one."""
    if not is_array(data) and not isinstance(data, list | tuple):
        raise DataInvalid(f"rows must be a list, an object, an array or a data frame; {type(data).__name__} came.")
    depth = data.ndim if is_array(data) else len(_shape(data))
    if depth and depth == len(spec.shape) - 1 and spec.shape[1] != 1:
        return data[None] if is_array(data) else [data]
    return data


def _split(signature: Signature, data: Any) -> dict[str, Any]:
    """Return rows without names as columns, in the order of the model's inputs."""
    names = [spec.name for spec in signature.inputs]
    if is_array(data):
        if data.ndim != 2 or data.shape[1] != len(names):
            raise DataInvalid(
                f"model {signature.model} takes {counted(len(names), 'column')}; shape {list(data.shape)} came."
            )
        return {name: data[:, index] for index, name in enumerate(names)}
    if not isinstance(data, list | tuple):
        raise DataInvalid(f"rows must be a list, an object, an array or a data frame; {type(data).__name__} came.")
    rows = [data] if data and not isinstance(data[0], list | tuple) else data
    for index, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) != len(names):
            raise DataInvalid(f"row {index} must be a list of {counted(len(names), 'value')}: {', '.join(names)}.")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _matrix(signature: Signature, columns: Mapping[str, Any]) -> Any:
    """Return columns as the rows of a model's only input, in the order of its features if they have names."""
    [spec] = signature.inputs
    order = list(columns)
    names = signature.columns
    if names == (UNNAMED_INPUT,) and len(order) == 1 and not spec.features:
        pass  # the only column of a model that was fitted without names
    elif names:
        check_columns(columns, names, signature.model)
        order = list(names)
    elif len(spec.shape) != 2 or spec.shape[1] not in (-1, len(order)):
        width = spec.shape[1] if len(spec.shape) == 2 else f"the shape {list(spec.shape)}"
        there = counted(len(order), "column")
        raise DataInvalid(f"model {signature.model} takes {width} values in a row; {there} came.")
    values = [columns[name] for name in order]
    if all(is_array(column) for column in values):
        import numpy as np

        return np.column_stack(values)
    texts = [name for name in order if any(isinstance(value, str) for value in columns[name])]
    if texts and spec.datatype != "BYTES":
        raise DataInvalid(f"column {texts[0]!r} holds text, and model {signature.model} takes numbers. Convert it.")
    lists = [column.tolist() if is_array(column) else column for column in values]
    return [list(row) for row in zip(*lists, strict=True)]


def _tensor(spec: Input, values: Any) -> Tensor:
    if is_array(values):
        datatype, values = _numbers(spec, values)
    else:
        values = list(values)
        datatype = _datatype(values) if spec.any_number or not spec.datatype else spec.datatype
    tensor = Tensor(spec.name, datatype, values)
    return tensor._replace(column=len(spec.shape) == 2 and len(tensor.shape) == 1)


def _numbers(spec: Input, array: Any) -> tuple[str, Any]:
    """Return datatype and values of an array: in the model's type, or a list if the values are not numbers."""
    kind = array.dtype.kind
    if kind in "OUST":
        values = [_plain(value) for value in array.tolist()]
        return spec.datatype or _datatype(values), values
    if kind not in "biuf":
        raise DataInvalid(f"column {spec.name!r} has the type {array.dtype}. Convert it to numbers or text.")
    datatype = spec.datatype
    if not datatype or spec.any_number:
        datatype = _NAMES.get(array.dtype.str[1:], "FP64")
    if datatype == "BYTES":
        raise DataInvalid(f"column {spec.name!r} is text in the model, and numbers came. Convert it by .astype(str).")
    import numpy as np

    with np.errstate(invalid="ignore"):  # NaN as a whole number
        converted = array.astype(TYPES[datatype])
    if not datatype.startswith("FP") and not (converted == array).all():
        raise DataInvalid(f"column {spec.name!r} has missing values or fractions; the model takes {datatype}.")
    return datatype, converted


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _datatype(values: Sequence[Any]) -> str:
    """Return the datatype of plain values, as the server's own /score chooses it."""
    kinds = {type(value) for value in _leaves(values) if value is not None} or {float}
    if kinds <= {str}:
        return "BYTES"
    if kinds <= {bool}:
        return "BOOL"
    return "INT64" if kinds <= {int} and None not in values else "FP64"


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]


def _shape(values: Any) -> list[int]:
    shape = []
    while isinstance(values, list | tuple):
        shape.append(len(values))
        values = values[0] if values else None
    return shape
