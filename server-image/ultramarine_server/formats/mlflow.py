"""Folders of MLflow's log_model and save_model, read without MLflow if their flavor's file is of a served format.

A further flavor is a line in `FILE_KEYS`, if the flavor's file is of a format that the server has. A worker process
loads all other flavors by mlflow.pyfunc.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec.structs import replace
from ultramarine_contract.mlflow_folders import FILE_KEYS

from ultramarine_server.errors import LoadError, unfit_values
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import Options, load_file
from ultramarine_server.models.model import Model, Signature, TensorSpec
from ultramarine_server.models.outputs import fit_output
from ultramarine_server.models.table import INPUT
from ultramarine_server.protocol.tensors import Array, datatype_of

PLATFORM = "mlflow_folder"
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
    document = yaml.safe_load((path / "MLmodel").read_bytes())
    if options.isolated and _flavor(document) is None:
        return _PyfuncModel(path, options.signature, document)
    file, signature = _logged(path, document, options)
    return load_file(file, replace(options, signature=options.signature or signature))


class _PyfuncModel:
    """Model of any flavor, loaded by mlflow.pyfunc."""

    def __init__(self, folder: Path, given: Signature | None, document: Mapping[str, Any]) -> None:
        import mlflow.pyfunc

        self._by_column = _is_table(document)
        self.signature = given or _both(document)
        if not self.signature.inputs or not self.signature.outputs:
            message = f"{folder.name}/MLmodel has no signature whose columns and tensors the protocol can carry"
            remedy = "log the model with a signature, or set spec.signature of the ModelVersion with inputs and outputs"
            raise LoadError(f"{message}; {remedy}", "SignatureInvalid")
        self._model: Any = mlflow.pyfunc.load_model(str(folder))

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Inputs of the signature, whatever the request has."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call the model with a data frame, an array, or arrays by name, as its signature says."""
        try:
            results = self._model.predict(self._question(inputs))
        except Exception as error:
            if isinstance(error, ValueError) or getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
                raise unfit_values(error) from error
            raise
        specs = {spec.name: spec for spec in self.signature.outputs}
        return {name: fit_output(specs[name], _part(results, specs[name]), "predict") for name in outputs}

    def _question(self, inputs: Mapping[str, Array]) -> Any:
        if self._by_column:
            import pandas as pd

            return pd.DataFrame({spec.name: inputs[spec.name] for spec in self.signature.inputs})
        return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))


def _part(results: Any, spec: TensorSpec) -> Any:
    """Return the output of a name, or all results if they have no such name."""
    if (isinstance(results, Mapping) or hasattr(results, "columns")) and spec.name in results:
        return results[spec.name]
    if hasattr(results, "columns") and len(results.columns) == 1 and len(spec.shape) == 1:
        return results.iloc[:, 0]
    return results


def _both(document: Mapping[str, Any]) -> Signature:
    """Return inputs and outputs of MLmodel; without parts that the protocol cannot carry."""
    inputs, given = _signature(document.get("signature")), document.get("signature")
    outputs = _signature({"inputs": given.get("outputs")} if isinstance(given, dict) else None, "output")
    return Signature(inputs.inputs if inputs else (), outputs.inputs if outputs else ())


def _is_table(document: Mapping[str, Any]) -> bool:
    """True if MLmodel describes columns; without a signature, models take a data frame."""
    signature = _signature(document.get("signature"))
    return signature is None or '"tensor-spec"' not in str(document["signature"]["inputs"])


def _flavor(document: Any) -> str | None:
    """Return the first flavor whose file the server reads. Raises ValueError for a text that is not an MLmodel."""
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise ValueError("MLmodel has no flavors")
    return next((name for name in FILE_KEYS if isinstance(flavors.get(name), dict)), None)


def _logged(folder: Path, document: Any, options: Options) -> tuple[ModelFile, Signature | None]:
    """Return the model's file, with its inputs if MLmodel has them."""
    flavor = _flavor(document)
    flavors = document["flavors"]
    if flavor is None:
        message = f"{folder.name}/MLmodel has no flavor but {', '.join(map(str, flavors))}"
        remedy = f"log the model with one of {', '.join(FILE_KEYS)}, or set allowCodeExecution on the ModelVersion"
        if options.code_allowed:
            remedy = "log the model with a requirements.txt, or set environment with mlflow on the deployment"
        raise LoadError(f"{message}; {remedy}", "DependencyMissing" if options.code_allowed else "CodeExecutionRefused")
    # An ONNX file has its inputs; MLflow's names of them are those of a data frame.
    signature = None if flavor == "onnx" else _signature(document.get("signature"))
    return _file(folder, flavor, flavors[flavor]), signature


def _file(folder: Path, flavor: str, entry: Mapping[str, Any]) -> ModelFile:
    given = entry.get(FILE_KEYS[flavor])
    name = given if isinstance(given, str) else ""  # YAML aliases may expand to a text of any length.
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"MLmodel names {name!r} as the model, which is not a file of the folder")
    if path.suffix == ".skops":
        return ModelFile(path, "sklearn")
    return ModelFile(path, "pickle" if flavor == "sklearn" or path.suffix == ".pkl" else flavor)


def _signature(given: object, unnamed: str = INPUT) -> Signature | None:
    """Return the inputs; None if MLmodel has none, or if the protocol lacks the datatype of one of them.

    The outputs are the model's, because MLflow describes a single method and does not name it.
    """
    try:
        inputs = json.loads(given["inputs"])  # type: ignore[index]
        return Signature(tuple(_input(entry, unnamed) for entry in inputs), ())
    except (KeyError, TypeError, ValueError):
        return None


def _input(entry: Mapping[str, Any], unnamed: str) -> TensorSpec:
    if entry["type"] != "tensor":
        name = entry["name"] if unnamed == INPUT else entry.get("name") or unnamed
        return TensorSpec(str(name), _COLUMN_TYPES[entry["type"]], (-1,))
    tensor = entry["tensor-spec"]
    values = np.zeros(0, dtype=np.dtype(tensor["dtype"]))
    if values.dtype.kind not in "biufOSU":
        raise ValueError(tensor["dtype"])
    return TensorSpec(
        str(entry.get("name") or unnamed), datatype_of(values), tuple(int(size) for size in tensor["shape"])
    )
