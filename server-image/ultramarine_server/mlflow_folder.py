"""Folders that MLflow's log_model and save_model write: which file the model is, and what it takes, without MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ultramarine_server.artifact import ModelFile
from ultramarine_server.errors import LoadError
from ultramarine_server.signature import Signature, TensorSpec
from ultramarine_server.table import INPUT
from ultramarine_server.tensors import datatype_of

# The flavors that are served, with the key that names the file; each is what its library itself has written.
_FILE_KEYS = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "sklearn": "pickled_model"}
_COLUMN_TYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


@dataclass(frozen=True)
class Logged:
    """The file of a logged model, whether it is to be loaded as a pickle, and its inputs where MLmodel tells them."""

    file: ModelFile
    signature: Signature | None


def logged(folder: Path) -> Logged:
    """Read MLmodel. Raises LoadError for flavors that only MLflow itself could load, ValueError for a damaged file."""
    document = yaml.safe_load((folder / "MLmodel").read_bytes())
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise ValueError("MLmodel has no flavors")
    flavor = next((name for name in _FILE_KEYS if isinstance(flavors.get(name), dict)), None)
    if flavor is None:
        message = f"{folder.name}/MLmodel has no flavor but {', '.join(map(str, flavors))}"
        remedy = f"log the model with one of {', '.join(_FILE_KEYS)}, or store it in a folder of format python"
        raise LoadError(f"{message}; {remedy}", "ModelUnsupported")
    # ONNX tells its inputs itself, and MLflow's names for them are of data frames.
    signature = None if flavor == "onnx" else _signature(document.get("signature"))
    return Logged(_file(folder, flavor, flavors[flavor]), signature)


def _file(folder: Path, flavor: str, facts: Mapping[str, Any]) -> ModelFile:
    given = facts.get(_FILE_KEYS[flavor])
    name = given if isinstance(given, str) else ""  # Aliases in YAML may lead to a text of any length.
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"MLmodel names {name!r} as the model, which is no file of the folder")
    if path.suffix == ".skops":
        return ModelFile(path, "sklearn")
    return ModelFile(path, "pickle" if flavor == "sklearn" or path.suffix == ".pkl" else flavor)


def _signature(given: object) -> Signature | None:
    """Return the inputs; nothing if there are none, or some that the protocol has no datatype for.

    What comes out is not taken: MLflow tells of one method without a name, and the model has all.
    """
    try:
        inputs = json.loads(given["inputs"])  # type: ignore[index]
        return Signature(tuple(_input(entry) for entry in inputs), ())
    except (KeyError, TypeError, ValueError):
        return None


def _input(entry: Mapping[str, Any]) -> TensorSpec:
    if entry["type"] != "tensor":
        return TensorSpec(str(entry["name"]), _COLUMN_TYPES[entry["type"]], (-1,))
    about = entry["tensor-spec"]
    values = np.zeros(0, dtype=np.dtype(about["dtype"]))
    if values.dtype.kind not in "biufOSU":
        raise ValueError(about["dtype"])
    return TensorSpec(str(entry.get("name") or INPUT), datatype_of(values), tuple(int(size) for size in about["shape"]))
