"""Parity: the difference between two models' answers to the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ultramarine_server.protocol.tensors import Array

MAX_ERROR = 1e9  # also the error of a value that only one of the two models has


@dataclass(frozen=True)
class Parity:
    """Largest error of a value, and share of rows with equal labels.

    An error is relative to the native value or, if that is larger, to the mean size of its output's values: the third
    digit of a probability of 1e-12 does not matter.
    """

    worst_relative_error: float
    label_agreement: float

    def holds(self, rtol: float, agreement: float) -> bool:
        """True if both limits are met."""
        return self.worst_relative_error <= rtol and self.label_agreement >= agreement


def compare(native: Mapping[str, Array], compiled: Mapping[str, Array], labels: Sequence[str]) -> Parity:
    """Compare the outputs one by one; those named in `labels` are labels, the others values."""
    worst, agreement = 0.0, 1.0
    for name, expected in native.items():
        actual = compiled[name]
        if actual.shape != expected.shape:
            return Parity(MAX_ERROR, 0.0)
        if name in labels or expected.dtype.kind not in "fiu":
            agreement = min(agreement, _agreement(expected, actual))
        else:
            worst = max(worst, _error(expected.astype(np.float64), actual.astype(np.float64)))
    return Parity(worst, agreement)


def _agreement(expected: Array, actual: Array) -> float:
    numbers = expected.dtype.kind in "biuf" and actual.dtype.kind in "biuf"
    same = expected == actual if numbers else expected.astype(str) == actual.astype(str)
    return float(np.mean(same.reshape(len(expected), -1).all(axis=1)))


def _error(expected: Array, actual: Array) -> float:
    both = np.isfinite(expected) & np.isfinite(actual)
    same = both | (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    if not same.all():
        return MAX_ERROR
    if not both.any():
        return 0.0
    expected, actual = expected[both], actual[both]
    scale = np.maximum(np.abs(expected), np.abs(expected).mean())
    error = np.abs(actual - expected) / np.where(scale > 0, scale, 1.0)
    return min(float(error.max()), MAX_ERROR)
