"""Warm-up: the first request, which proves that the model answers, and measures its speed."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ultramarine_server.errors import LoadError, Problem, UnfitAnswer
from ultramarine_server.inference.service import check_inputs
from ultramarine_server.models.model import Model
from ultramarine_server.protocol import documents
from ultramarine_server.protocol.tensors import Array

_TRIES = 5
_GROWTH = 4
MAX_NUMBERS = 100_000  # numbers; the event loop's thread never answers larger requests
MAX_NUMBERS_IN_POOL = 10_000  # A larger trial with each of many models would take too much time and memory.


def warm_up(model: Model, request: str, quick_seconds: float, largest: int = MAX_NUMBERS) -> int:
    """Send the model `request`, or zeros; return how many numbers, up to `largest`, it answers in `quick_seconds`.

    Raises LoadError if the model fails for `request`. It may fail for zeros, which not every model accepts.
    """
    if request:
        try:
            inference, _ = documents.read("", "", request.encode())
            arrays = check_inputs(model, inference.inputs)
            model.predict(arrays, [spec.name for spec in model.signature.outputs])
        except Exception as error:
            reason = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            raise LoadError(f"the model does not answer the warm-up request: {reason}", "WarmupFailed") from error
    else:
        arrays = {spec.name: spec.one_row() for spec in model.signature.inputs}
    return _quick_size(model, arrays, quick_seconds, largest)


def _quick_size(model: Model, arrays: Mapping[str, Array], seconds: float, largest: int) -> int:
    size = sum(array.size for array in arrays.values())
    quick = 0
    if any(array.dtype == object for array in arrays.values()):
        seconds = 0.0  # The time for a text depends on its length.
    while 0 < size <= largest:
        if _best_seconds(model, arrays, seconds) > seconds:
            return quick
        quick = size
        if any(spec.shape[:1] != (-1,) for spec in model.signature.inputs):
            return quick
        arrays = {name: np.repeat(array, _GROWTH, axis=0) for name, array in arrays.items()}
        size *= _GROWTH
    return quick


def _best_seconds(model: Model, arrays: Mapping[str, Array], enough: float) -> float:
    names = [spec.name for spec in model.signature.outputs]
    best = float("inf")
    for _ in range(_TRIES):  # The first try also allocates; other processes may interrupt any.
        started = time.perf_counter()
        try:
            model.predict(arrays, names)
        except UnfitAnswer as error:
            raise LoadError(f"a first row of zeros or empty texts: {error}", "WarmupFailed") from error
        except Exception:  # A model may refuse zeros by any exception.
            return float("inf")
        best = min(best, time.perf_counter() - started)
        if best <= enough or best > 100 * enough:
            break
    return best
