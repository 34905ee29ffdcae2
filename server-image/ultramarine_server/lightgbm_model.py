"""LightGBM's own text, as Booster.save_model writes it."""

from __future__ import annotations

import re
from pathlib import Path

import lightgbm
import numpy as np

from ultramarine_server.frame_categories import refuse_categories
from ultramarine_server.signature import Signature
from ultramarine_server.table import lightgbm_names
from ultramarine_server.tensors import Array
from ultramarine_server.tree_model import TreeModel


def lightgbm_model(path: Path, threads: int, given: Signature | None) -> TreeModel:
    """Return the model in a file. The text knows nothing of classes: what it answers is what Booster.predict does."""
    booster = lightgbm.Booster(model_str=whole(path.read_bytes()))
    refuse_categories(booster, path.name)
    names = booster.feature_name()
    features = [] if names == [f"Column_{index}" for index in range(len(names))] else names

    def run(table: Array) -> dict[str, Array]:
        return {"predict": np.asarray(booster.predict(table, num_threads=threads))}

    return TreeModel(booster, run, lightgbm_names(features, given), booster.num_feature(), given)


def whole(content: bytes) -> str:
    """Return the text if its trees are all there: LightGBM ends the process over a shortened one."""
    text = content.decode()
    sizes = re.search(r"^tree_sizes=([\d ]*)$", text, re.MULTILINE)
    begin, end = content.find(b"\nTree="), content.find(b"\nend of trees")
    if not sizes or begin < 0 or end - begin != sum(map(int, sizes[1].split())):
        raise ValueError("trees are missing, or have another size than the file says")
    if b"\nend of parameters" not in content[end:]:
        raise ValueError("the end is missing")
    return text
