"""Missing values, and infinity: what the native model refuses, a compiled one has to refuse too.

ONNX computes on with a missing value that scikit-learn refuses, and answers with a label that means nothing.
Columns are known by their position among the features, whether they come as one matrix or one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ultramarine_server.model import Model
from ultramarine_server.tensors import Array

MISSING, INFINITY, UNKNOWN = "a missing value", "infinity", "an unknown text"
_NUMBERS = {MISSING: np.nan, INFINITY: np.inf}
_TEXTS = {MISSING: None, UNKNOWN: "\ufffd unknown"}
MOST = 256  # columns that are tried one by one; later ones are like the last of these
ROWS = 8  # that are compared for each column that may have a missing value
Gaps = dict[str, list[int]]  # by kind of value: the columns that refuse it


def refused(model: Model, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Gaps:
    """Try each kind of value in each column of the first row, and return where the model does not take it.

    Infinity is for numbers alone, and an unknown text for texts.
    """
    found: Gaps = {}
    for kind in (MISSING, INFINITY, UNKNOWN):
        takes = True
        columns = [place for place in _columns(inputs) if kind in _values(inputs[place[1]])]
        for number, (position, name, column) in enumerate(columns):
            if number < MOST:
                takes = _takes(model, _spoilt(inputs, name, column, kind, 1), outputs)
            if not takes:
                found.setdefault(kind, []).append(position)
    return found


def rows_with_gaps(inputs: Mapping[str, Array], gaps: Gaps) -> dict[str, Array]:
    """Return some of the rows, with a missing value in each column that takes one; nothing if no column does."""
    refusing = gaps.get(MISSING, [])
    places = [place for place in list(_columns(inputs))[:MOST] if place[0] not in refusing]
    parts = [_spoilt(inputs, name, column, MISSING, ROWS) for _, name, column in places]
    return {name: np.concatenate([part[name] for part in parts]) for name in inputs} if parts else {}


def _columns(inputs: Mapping[str, Array]) -> Iterator[tuple[int, str, int]]:
    """Yield the columns of floating numbers and of texts: position among all columns, input, and column of that."""
    position = 0
    for name, array in inputs.items():
        for column in range(array.shape[1] if array.ndim > 1 else 1):
            if array.dtype.kind in "fO":
                yield position, name, column
            position += 1


def _values(array: Array) -> Mapping[str, Any]:
    return _TEXTS if array.dtype == object else _NUMBERS


def _spoilt(inputs: Mapping[str, Array], name: str, column: int, kind: str, rows: int) -> dict[str, Array]:
    some = {each: array[:rows].copy() for each, array in inputs.items()}
    some[name].reshape(len(some[name]), -1)[:, column] = _values(some[name])[kind]
    return some


def _takes(model: Model, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    try:
        model.predict(inputs, outputs)
    except Exception:  # Estimators refuse values by any exception.
        return False
    return True
