"""Estimators from files of pickle. Loading one runs the code that its author put into it."""

from __future__ import annotations

import pickle
from pathlib import Path

from ultramarine_server.formats.loading import Options
from ultramarine_server.models.estimator import SklearnModel

PLATFORM = "sklearn_pickle"


def load(path: Path, options: Options) -> SklearnModel:
    """Return the estimator in a file."""
    with path.open("rb") as stream:
        return SklearnModel(pickle.load(stream), options.signature)
