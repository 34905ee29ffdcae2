"""Folders of MLflow's log_model and save_model, read without MLflow.

A further flavor is a line in `_FILE_KEYS`, if the flavor's file is of a format that the server has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec.structs import replace

from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import Options, load_file
from ultramarine_server.models.model import Model, Signature, TensorSpec
from ultramarine_server.models.table import INPUT
from ultramarine_server.protocol.tensors import datatype_of

PLATFORM = "mlflow_folder"
# Key of the file in MLmodel, by flavor; the file is in the library's own format.
_FILE_KEYS = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "sklearn": "pickled_model"}
_COLUMN_TYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


def load(path: Path, options: Options) -> Model:
    """Return the model that MLmodel names. Raises LoadError for a flavor that only MLflow itself could load."""
    file, signature = _logged(path)
    return load_file(file, replace(options, signature=options.signature or signature))


def _logged(folder: Path) -> tuple[ModelFile, Signature | None]:
    """Return the model's file, with its inputs if MLmodel has them."""
    document = yaml.safe_load((folder / "MLmodel").read_bytes())
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise ValueError("MLmodel has no flavors")
    flavor = next((name for name in _FILE_KEYS if isinstance(flavors.get(name), dict)), None)
    if flavor is None:
        message = f"{folder.name}/MLmodel has no flavor but {', '.join(map(str, flavors))}"
        remedy = f"log the model with one of {', '.join(_FILE_KEYS)}, or store it in a folder of format python"
        raise LoadError(f"{message}; {remedy}", "ModelUnsupported")
    # An ONNX file has its inputs; MLflow's names of them are those of a data frame.
    signature = None if flavor == "onnx" else _signature(document.get("signature"))
    return _file(folder, flavor, flavors[flavor]), signature


def _file(folder: Path, flavor: str, entry: Mapping[str, Any]) -> ModelFile:
    given = entry.get(_FILE_KEYS[flavor])
    name = given if isinstance(given, str) else ""  # YAML aliases may expand to a text of any length.
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"MLmodel names {name!r} as the model, which is not a file of the folder")
    if path.suffix == ".skops":
        return ModelFile(path, "sklearn")
    return ModelFile(path, "pickle" if flavor == "sklearn" or path.suffix == ".pkl" else flavor)


def _signature(given: object) -> Signature | None:
    """Return the inputs; None if MLmodel has none, or if the protocol lacks the datatype of one of them.

    The outputs are the model's, because MLflow describes a single method and does not name it.
    """
    try:
        inputs = json.loads(given["inputs"])  # type: ignore[index]
        return Signature(tuple(_input(entry) for entry in inputs), ())
    except (KeyError, TypeError, ValueError):
        return None


def _input(entry: Mapping[str, Any]) -> TensorSpec:
    if entry["type"] != "tensor":
        return TensorSpec(str(entry["name"]), _COLUMN_TYPES[entry["type"]], (-1,))
    tensor = entry["tensor-spec"]
    values = np.zeros(0, dtype=np.dtype(tensor["dtype"]))
    if values.dtype.kind not in "biufOSU":
        raise ValueError(tensor["dtype"])
    return TensorSpec(
        str(entry.get("name") or INPUT), datatype_of(values), tuple(int(size) for size in tensor["shape"])
    )
