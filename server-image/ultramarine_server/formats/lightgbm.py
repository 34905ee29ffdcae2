"""LightGBM's text format, as Booster.save_model writes it."""

from __future__ import annotations

import re
from pathlib import Path

import lightgbm
import numpy as np

from ultramarine_server.formats.loading import Options
from ultramarine_server.models.boosted import TreeModel
from ultramarine_server.models.categories import refuse_categories
from ultramarine_server.models.table import lightgbm_names
from ultramarine_server.protocol.tensors import Array

PLATFORM = "lightgbm_native"


def load(path: Path, options: Options) -> TreeModel:
    """Return the model in a file. It answers as Booster.predict does, since the text has no classes."""
    booster = lightgbm.Booster(model_str=complete_text(path.read_bytes()))
    refuse_categories(booster, path.name)
    names = booster.feature_name()
    features = [] if names == [f"Column_{index}" for index in range(len(names))] else names

    def run(table: Array) -> dict[str, Array]:
        return {"predict": np.asarray(booster.predict(table, num_threads=options.threads))}

    return TreeModel(
        booster, run, lightgbm_names(features, options.signature), booster.num_feature(), options.signature
    )


def complete_text(content: bytes) -> str:
    """Return the text if all of its trees are there: LightGBM ends the process over a shortened text."""
    text = content.decode()
    sizes = re.search(r"^tree_sizes=([\d ]*)$", text, re.MULTILINE)
    begin, end = content.find(b"\nTree="), content.find(b"\nend of trees")
    if not sizes or begin < 0 or end - begin != sum(map(int, sizes[1].split())):
        raise ValueError("trees are missing, or have another size than the file says")
    if b"\nend of parameters" not in content[end:]:
        raise ValueError("the end is missing")
    return text
