"""Loading a model without running code that came with it, unless its owner has allowed that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ultramarine_contract.formats import CODE_EXECUTING_FORMATS
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server.artifact import ModelFile
from ultramarine_server.errors import LoadError
from ultramarine_server.model import Model
from ultramarine_server.signature import Signature, signature_from

T = TypeVar("T")

_REMEDY = "store the model with skops or as ONNX, or set allowCodeExecution on the ModelVersion if you trust its author"

# What model metadata calls the platform.
PLATFORMS = {
    "sklearn": "sklearn_skops",
    "onnx": "onnx_onnxv1",
    "xgboost": "xgboost_native",
    "lightgbm": "lightgbm_native",
    "mlflow": "mlflow_folder",
    "torch": "pytorch_program",
    "python": "python_code",
    "pickle": "sklearn_pickle",
    "joblib": "sklearn_joblib",
}


def load(file: ModelFile, task: ServingTask, threads: int) -> Model:
    """Return the model, ready to predict. Raises LoadError with what its owner can do. Imports by format."""
    given = signature_from(task.signature) if task.signature else None
    return _load(file, given, threads, allowed=task.allow_code_execution, lean=bool(task.pool_bytes))


def _load(file: ModelFile, given: Signature | None, threads: int, *, allowed: bool, lean: bool) -> Model:
    if file.format in CODE_EXECUTING_FORMATS and not allowed:
        message = f"{file.path.name} is of format {file.format}, which runs code when it is loaded"
        raise LoadError(f"{message}; {_REMEDY}", "CodeExecutionRefused")
    if file.format == "mlflow":
        from ultramarine_server.mlflow_folder import logged

        found = _guarded(file, lambda: logged(file.path))
        return _load(found.file, given or found.signature, threads, allowed=allowed, lean=lean)
    return _guarded(file, lambda: _read(file, given, threads, allowed=allowed, lean=lean))


def _read(file: ModelFile, given: Signature | None, threads: int, *, allowed: bool, lean: bool) -> Model:
    match file.format:
        case "onnx":
            return _onnx(file, threads, given, lean=lean)
        case "xgboost":
            from ultramarine_server.xgboost_model import xgboost_model

            return xgboost_model(file.path, threads, given)
        case "lightgbm":
            from ultramarine_server.lightgbm_model import lightgbm_model

            return lightgbm_model(file.path, threads, given)
        case "torch":
            from ultramarine_server.torch_model import torch_model

            return torch_model(file.path, threads, given)
        case "python":
            from ultramarine_server.python_model import PythonModel

            return PythonModel(file.path, given)
    from ultramarine_server.sklearn_model import SklearnModel

    return SklearnModel(_estimator(file, allowed=allowed), given)


def _onnx(file: ModelFile, threads: int, given: Signature | None, *, lean: bool) -> Model:
    from ultramarine_server.compiled_model import CompiledModel
    from ultramarine_server.onnx_model import SIGNATURE, OnnxModel

    session = OnnxModel(file.path, threads, given, lean=lean)
    return CompiledModel(session) if SIGNATURE in session.metadata else session


def _guarded(file: ModelFile, read: Callable[[], T]) -> T:
    try:
        return read()
    except LoadError:
        raise
    except (ImportError, AttributeError) as error:
        message = f"{file.path.name} needs code that the server image lacks: {error}"
        remedy = "store a model of the libraries in the image, or build an image with more (docs/formats.md)"
        if "__main__" in str(error):
            from ultramarine_contract.trusted_types import SCRIPT_REMEDY as remedy
        raise LoadError(f"{message}; {remedy}", "DependencyMissing") from error
    except Exception as error:  # Parsers of damaged files raise whatever they stumble over.
        message = f"{file.path.name} is not a readable {file.format} model: {type(error).__name__}: {error}"
        raise LoadError(f"{message}; store it again", "ModelCorrupt") from error


def _estimator(file: ModelFile, *, allowed: bool) -> Any:
    if file.format == "joblib":
        import joblib

        return joblib.load(file.path)
    if file.format == "pickle":
        import pickle

        with file.path.open("rb") as stream:
            return pickle.load(stream)
    from ultramarine_server.skops_file import load_skops

    return load_skops(file.path, allowed=allowed)
