"""Converted Azure ML files before a real API server: every manifest is admitted."""

from __future__ import annotations

from pathlib import Path

from ultramarine.azureml import convert, inlined

FILES = Path(__file__).parents[1] / "unit" / "azureml"


def test_converted_files_are_admitted(api):
    """The server admits each object that the unit tests' files become, with code inline and without."""
    conversion = convert([FILES])

    api.apply(*conversion.manifests, dry=True)
    api.apply(*inlined(conversion).manifests, dry=True)
