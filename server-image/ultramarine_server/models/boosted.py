"""Boosted trees of XGBoost and LightGBM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ultramarine_contract.errors import counted

from ultramarine_server.errors import BadRequest
from ultramarine_server.models.model import Signature, TensorSpec, mismatch
from ultramarine_server.models.table import checked_inputs, checked_outputs, columns_or_inputs, matrix_input, stacked
from ultramarine_server.protocol.tensors import Array, datatype_of

Run = Callable[[Array], dict[str, Array]]


class TreeModel:
    """Trees that take a matrix `input` or, if they have names of features, a tensor for each; NaN is missing.

    `run` returns all outputs for a matrix of `count` columns, and is thread-safe; `estimator` is the fitted object.
    """

    steady = True  # It computes without Python's lock, and equal sizes take about equal times.

    def __init__(self, estimator: Any, run: Run, features: Sequence[str], count: int, given: Signature | None) -> None:
        self.estimator, self.features = estimator, tuple(features)
        self._run, self._count = run, count
        self._columns = tuple(TensorSpec(name, "FP64", (-1,)) for name in features)
        inputs: tuple[TensorSpec, ...] = (matrix_input(features, count),)
        if given and given.inputs:
            inputs = checked_inputs(given.inputs, features, count)
        for spec in inputs:
            if spec.datatype == "BYTES":
                raise mismatch("input", spec, "takes numbers")
        self._order = tuple(features) or tuple(spec.name for spec in inputs)
        results = run(np.zeros((1, count)))
        outputs = [TensorSpec(name, datatype_of(array), (-1, *array.shape[1:])) for name, array in results.items()]
        self.signature = Signature(inputs, checked_outputs(given.outputs if given else (), outputs))

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Columns, if the request names a column; otherwise the signature's inputs."""
        return columns_or_inputs(self.signature.inputs, self._columns, names)

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the trees once for all outputs."""
        table = stacked(inputs, self._order)
        if table.shape[1] != self._count:
            raise BadRequest(f"the model has {counted(self._count, 'feature')}; rows of {table.shape[1]} came")
        results = self._run(table if table.dtype in (np.float32, np.float64) else table.astype(np.float64))
        return {name: results[name] for name in outputs}
