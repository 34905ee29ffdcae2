"""Estimators from files of pickle. Loading one runs the code that its author put into it.

joblib reads plain pickles too, and its own files often have the suffix .pkl.
"""

from __future__ import annotations

from ultramarine_server.formats.joblib import load as load

PLATFORM = "sklearn_pickle"
