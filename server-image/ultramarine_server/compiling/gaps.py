"""Gaps: missing values, infinity and unknown texts, which a compiled model must refuse if the native model does.

ONNX accepts a missing value that scikit-learn refuses, and answers with a meaningless label. A column is named by its
position among the features, in a matrix or in single inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ultramarine_server.models.compiled import INFINITY, MISSING, UNKNOWN
from ultramarine_server.models.model import Model
from ultramarine_server.protocol.tensors import Array

_NUMBERS = {MISSING: np.nan, INFINITY: np.inf}
_TEXTS = {MISSING: None, UNKNOWN: "\ufffd unknown"}
MAX_TRIED = 256  # columns that are tried; the result of the last applies to further columns.
COMPARED_ROWS = 8  # compared rows for each column that takes a missing value
Gaps = dict[str, list[int]]  # by kind of value: the columns that refuse it


def refused(model: Model, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Gaps:
    """Try each kind of value in each column of the first row, and return the columns that refuse it.

    Infinity is tried in numbers alone, and an unknown text in texts.
    """
    gaps: Gaps = {}
    for kind in (MISSING, INFINITY, UNKNOWN):
        takes = True
        columns = [place for place in _columns(inputs) if kind in _values(inputs[place[1]])]
        for number, (position, name, column) in enumerate(columns):
            if number < MAX_TRIED:
                takes = _takes(model, _with_gap(inputs, name, column, kind, 1), outputs)
            if not takes:
                gaps.setdefault(kind, []).append(position)
    return gaps


def rows_with_gaps(inputs: Mapping[str, Array], gaps: Gaps) -> dict[str, Array]:
    """Return some rows with a missing value in each column that accepts it; empty if no column does."""
    refusing = gaps.get(MISSING, [])
    places = [place for place in list(_columns(inputs))[:MAX_TRIED] if place[0] not in refusing]
    parts = [_with_gap(inputs, name, column, MISSING, COMPARED_ROWS) for _, name, column in places]
    return {name: np.concatenate([part[name] for part in parts]) for name in inputs} if parts else {}


def _columns(inputs: Mapping[str, Array]) -> Iterator[tuple[int, str, int]]:
    """Yield the columns of floats and texts: position among all columns, input, and column in the input."""
    position = 0
    for name, array in inputs.items():
        for column in range(array.shape[1] if array.ndim > 1 else 1):
            if array.dtype.kind in "fO":
                yield position, name, column
            position += 1


def _values(array: Array) -> Mapping[str, Any]:
    return _TEXTS if array.dtype == object else _NUMBERS


def _with_gap(inputs: Mapping[str, Array], name: str, column: int, kind: str, rows: int) -> dict[str, Array]:
    some = {key: array[:rows].copy() for key, array in inputs.items()}
    some[name].reshape(len(some[name]), -1)[:, column] = _values(some[name])[kind]
    return some


def _takes(model: Model, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    try:
        model.predict(inputs, outputs)
    except Exception:  # An estimator may refuse values by any exception.
        return False
    return True
