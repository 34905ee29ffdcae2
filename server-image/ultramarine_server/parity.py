"""How far two models' answers to the same rows lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ultramarine_server.tensors import Array

LARGEST_ERROR = 1e9  # also what stands for a value that is no number in one of the two alone


@dataclass(frozen=True)
class Parity:
    """The largest error of any value, and the share of rows whose labels are the same.

    An error is relative to the native value or, where that is larger, to the mean size of the values of its output:
    for a probability of 1e-12 nobody cares for the third digit.
    """

    worst_relative_error: float
    label_agreement: float

    def holds(self, rtol: float, agreement: float) -> bool:
        """Whether it is good enough."""
        return self.worst_relative_error <= rtol and self.label_agreement >= agreement


def compare(native: Mapping[str, Array], compiled: Mapping[str, Array], labels: Sequence[str]) -> Parity:
    """Compare the outputs one by one; those named in `labels` are labels, the others values."""
    worst, agreement = 0.0, 1.0
    for name, wanted in native.items():
        got = compiled[name]
        if got.shape != wanted.shape:
            return Parity(LARGEST_ERROR, 0.0)
        if name in labels or wanted.dtype.kind not in "fiu":
            agreement = min(agreement, _agreement(wanted, got))
        else:
            worst = max(worst, _error(wanted.astype(np.float64), got.astype(np.float64)))
    return Parity(worst, agreement)


def _agreement(wanted: Array, got: Array) -> float:
    numbers = wanted.dtype.kind in "biuf" and got.dtype.kind in "biuf"
    same = wanted == got if numbers else wanted.astype(str) == got.astype(str)
    return float(np.mean(same.reshape(len(wanted), -1).all(axis=1)))


def _error(wanted: Array, got: Array) -> float:
    both = np.isfinite(wanted) & np.isfinite(got)
    same = both | (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    if not same.all():
        return LARGEST_ERROR
    if not both.any():
        return 0.0
    wanted, got = wanted[both], got[both]
    scale = np.maximum(np.abs(wanted), np.abs(wanted).mean())
    error = np.abs(got - wanted) / np.where(scale > 0, scale, 1.0)
    return min(float(error.max()), LARGEST_ERROR)
