"""Estimators from files of joblib. Loading one runs the code that its author put into it."""

from __future__ import annotations

from pathlib import Path

import joblib

from ultramarine_server.formats.loading import Options
from ultramarine_server.models.estimator import SklearnModel

PLATFORM = "sklearn_joblib"


def load(path: Path, options: Options) -> SklearnModel:
    """Return the estimator in a file."""
    return SklearnModel(joblib.load(path), options.signature)
