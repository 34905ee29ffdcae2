"""Tables of features: a matrix, or a tensor for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ultramarine_contract.common import UNNAMED_INPUT
from ultramarine_contract.errors import counted, listed

from ultramarine_server.errors import BadRequest
from ultramarine_server.models.model import Signature, TensorSpec, mismatch
from ultramarine_server.protocol.tensors import Array, keeps_values

INPUT = UNNAMED_INPUT


def matrix_input(features: Sequence[str], count: int) -> TensorSpec:
    """Return the input of a model of `count` features; -1 if the model does not tell their number."""
    return TensorSpec(INPUT, "FP64", (-1, count), {"feature_names": ", ".join(features)} if features else {})


def lightgbm_names(features: Sequence[str], given: Signature | None) -> list[str]:
    """Return features by their names in the signature: LightGBM replaces spaces in names by underscores."""
    meant = {spec.name.replace(" ", "_"): spec.name for spec in given.inputs} if given else {}
    return [meant.get(name, name) for name in features]


def checked_inputs(given: tuple[TensorSpec, ...], features: Sequence[str], count: int) -> tuple[TensorSpec, ...]:
    """Return the registered inputs if the model can take them. Raises LoadError SignatureMismatch."""
    if len(given) == 1 and given[0].name not in features:
        if len(given[0].shape) == 2 and count >= 0 and given[0].shape[1] not in (-1, count):
            raise mismatch("input", given[0], f"has {counted(count, 'feature')}")
        return given
    for spec in given:
        if features and spec.name not in features:
            raise mismatch("input", spec, f"knows only {listed(features)}")
    if count >= 0 and len(given) != count:
        raise mismatch("input", given[-1], f"has {counted(count, 'feature')}, not {len(given)}")
    return given


def checked_outputs(given: tuple[TensorSpec, ...], actual: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the registered outputs, or the model's outputs. Raises LoadError SignatureMismatch."""
    by_name = {spec.name: spec for spec in actual}
    for spec in given:
        if spec.name not in by_name:
            raise mismatch("output", spec, f"gives {', '.join(by_name)}")
        if len(by_name[spec.name].shape) != len(spec.shape):
            raise mismatch("output", spec, f"gives shape {list(by_name[spec.name].shape)}")
        gives = by_name[spec.name].datatype
        if spec.datatype not in (gives, "BYTES") and not keeps_values(gives, spec.datatype):
            raise mismatch("output", spec, f"gives {gives}, which does not fit into it")
    return given or tuple(actual)


def columns_or_inputs(
    inputs: tuple[TensorSpec, ...], columns: tuple[TensorSpec, ...], names: Sequence[str]
) -> tuple[TensorSpec, ...]:
    """Return the expected inputs of a request with inputs of these names: all columns, if it names a column."""
    if len(inputs) == 1 and [inputs[0].name] != list(names) and {spec.name for spec in columns} & set(names):
        return columns
    return inputs


def check_rows(inputs: Mapping[str, Array]) -> None:
    """Raise BadRequest unless all inputs have the same number of rows, and at least one row."""
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(rows) > 1:
        raise BadRequest(f"all inputs need the same number of rows; {sorted(rows)} came")
    if rows == {0}:
        raise BadRequest("the inputs have no rows")


def stacked(inputs: Mapping[str, Array], order: Sequence[str]) -> Array:
    """Return the inputs as a matrix of numbers; `order` is that of the columns."""
    check_rows(inputs)
    if len(inputs) == 1:
        [table] = inputs.values()
        return table if table.ndim == 2 else table.reshape(table.shape[0], -1)
    return np.column_stack([inputs[name] for name in order])
