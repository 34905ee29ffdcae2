"""The first request, made before anybody else's: it shows whether the model answers, and how quickly."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ultramarine_server import protocol
from ultramarine_server.errors import LoadError, Problem, UnfitAnswer
from ultramarine_server.model import Model
from ultramarine_server.service import check_inputs
from ultramarine_server.tensors import Array

_TRIES = 5
_GROWTH = 4
LARGEST = 100_000  # numbers; more are never answered on the event loop's thread, and are not tried
LARGEST_IN_POOL = (
    10_000  # So many are not worth the time and memory that it takes to try more with each of many models.
)


def warm_up(model: Model, request: str, quick_seconds: float, largest: int = LARGEST) -> int:
    """Ask the model once, with `request` if there is one; return how many numbers it answers within `quick_seconds`.

    More than `largest` are not tried. Raises LoadError when the given request is not answered; one that was made from
    the signature may fail, since no value may be right for the model that is all zeros.
    """
    if request:
        try:
            inference, _ = protocol.read("", "", request.encode())
            arrays = check_inputs(model, inference.inputs)
            model.predict(arrays, [spec.name for spec in model.signature.outputs])
        except Exception as error:
            reason = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            raise LoadError(f"the warm-up request is not answered: {reason}", "WarmupFailed") from error
    else:
        arrays = {spec.name: spec.one_row() for spec in model.signature.inputs}
    return _quick_size(model, arrays, quick_seconds, largest)


def _quick_size(model: Model, arrays: Mapping[str, Array], seconds: float, largest: int) -> int:
    size = sum(array.size for array in arrays.values())
    quick = 0
    if any(array.dtype == object for array in arrays.values()):
        seconds = 0.0  # A text takes as long as it is long.
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
    for _ in range(_TRIES):  # The first one also allocates; others may be interrupted by other processes.
        started = time.perf_counter()
        try:
            model.predict(arrays, names)
        except UnfitAnswer as error:
            raise LoadError(f"a first row of zeros or empty texts: {error}", "WarmupFailed") from error
        except Exception:  # Any model may refuse zeros, by any exception.
            return float("inf")
        best = min(best, time.perf_counter() - started)
        if best <= enough or best > 100 * enough:
            break
    return best
