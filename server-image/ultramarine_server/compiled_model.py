"""A model that was compiled to ONNX: it is asked, and answers, as the native one does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ultramarine_server.errors import BadRequest, LoadError, unfit_values
from ultramarine_server.gaps import MISSING
from ultramarine_server.onnx_model import FEATURES, GAPS, SIGNATURE, OnnxModel
from ultramarine_server.signature import Signature, TensorSpec
from ultramarine_server.tensors import DTYPES, Array


class CompiledModel:
    """An ONNX session behind the signature of the native model."""

    steady = OnnxModel.steady

    def __init__(self, session: OnnxModel) -> None:
        try:
            self.signature = _signature(json.loads(session.metadata[SIGNATURE]))
            self._features = [str(name) for name in json.loads(session.metadata.get(FEATURES, "[]"))]
            gaps = json.loads(session.metadata.get(GAPS, "{}"))
            self._gaps = {str(kind): [int(each) for each in positions] for kind, positions in gaps.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LoadError(f"the metadata {SIGNATURE} of the model is unusable: {error!r}", "ModelCorrupt") from error
        self._session = session
        self._takes = {spec.name: spec for spec in session.signature.inputs}
        self._is_matrix = len(self._takes) == 1 and not set(self._takes) <= set(self._features)
        self._columns = tuple(TensorSpec(name, "", (-1,)) for name in self._features)
        self._by_column = len(self.signature.inputs) > 1

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Columns, if the request speaks of any; else the signature's inputs: as the native model does it."""
        shown = [spec.name for spec in self.signature.inputs]
        if not self._by_column and set(names) & set(self._features) and shown != list(names):
            return self._columns
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Bring the inputs into the session's form and run it for the named outputs only."""
        rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
        if len(rows) > 1:
            raise BadRequest(f"all inputs need the same number of rows; {sorted(rows)} came")
        if rows == {0}:
            raise BadRequest("the inputs have no rows")
        prepared = self._matrix(inputs) if self._is_matrix else self._each(inputs)
        arrays = list(prepared.values())
        if self._gaps and not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            self._refuse_gaps(arrays)
        try:
            return self._session.predict(prepared, outputs)
        except Exception as error:  # The shapes are right, so it is the values, such as an unknown category.
            raise unfit_values(error) from error

    def _refuse_gaps(self, arrays: Sequence[Array]) -> None:
        """Raise BadRequest for a value that the native model refuses in its column."""
        for kind, positions in self._gaps.items():
            test = np.isnan if kind == MISSING else np.isinf
            for position in positions:
                number, column = (0, position) if self._is_matrix else (position, 0)
                array = arrays[number]
                if array.dtype.kind == "f" and column < array.shape[1] and test(array[:, column]).any():
                    named = f"feature {self._features[position]!r}" if self._features else f"column {position}"
                    raise BadRequest(f"the model cannot take these values: {named} has {kind}")

    def _matrix(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        [(name, spec)] = self._takes.items()
        arrays = list(inputs.values())
        if len(arrays) > 1 or next(iter(inputs)) in self._features:
            order = self._features or [spec.name for spec in self.signature.inputs]
            arrays = [inputs[each].reshape(-1, 1) for each in order]
        whole = arrays[0] if len(arrays) == 1 else np.column_stack(arrays)
        if whole.ndim == 1:
            whole = whole.reshape(-1, 1)
        return {name: _typed(whole, spec, name)}

    def _each(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if len(inputs) == 1 and next(iter(inputs)) not in self._features:
            [matrix] = inputs.values()
            inputs = {name: matrix[:, index] for index, name in enumerate(self._features)}
        return {name: _typed(inputs[name].reshape(-1, 1), spec, name) for name, spec in self._takes.items()}


def _typed(array: Array, spec: TensorSpec, name: str) -> Array:
    try:
        typed = np.ascontiguousarray(array, dtype=DTYPES[spec.datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"input {name!r}: {spec.datatype} expected ({error})") from error
    if typed.dtype.kind in "iu" and not np.array_equal(typed, array):
        raise BadRequest(f"input {name!r}: {spec.datatype} expected, numbers with a fraction came")
    return typed


def _signature(document: Mapping[str, Any]) -> Signature:
    def specs(part: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(str(one["name"]), str(one["datatype"]), tuple(map(int, one["shape"])), one.get("parameters", {}))
            for one in document[part]
        )

    return Signature(specs("inputs"), specs("outputs"))
