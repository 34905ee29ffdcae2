"""Loading a model file without running code that came with it, unless its owner has allowed that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ultramarine.shared.contract import CODE_EXECUTING_FORMATS, ServingTask

from ultramarine_server.artifact import ModelFile
from ultramarine_server.errors import LoadError
from ultramarine_server.protocol import Model
from ultramarine_server.signature import Signature, signature_from

T = TypeVar("T")

_REMEDY = "store the model with skops or as ONNX, or set allowCodeExecution on the ModelVersion if you trust its author"

# What model metadata calls the platform.
PLATFORMS = {"sklearn": "sklearn_skops", "onnx": "onnx_onnxv1", "pickle": "sklearn_pickle", "joblib": "sklearn_joblib"}


def load(file: ModelFile, task: ServingTask, threads: int) -> Model:
    """Return the model, ready to predict. Raises LoadError with what its owner can do. Imports by format."""
    given = signature_from(task.signature) if task.signature else None
    if file.format in CODE_EXECUTING_FORMATS and not task.allow_code_execution:
        message = f"{file.path.name} is a {file.format} file, which runs code when it is loaded; {_REMEDY}"
        raise LoadError(message, "CodeExecutionRefused")
    if file.format == "onnx":
        return _guarded(file, lambda: _onnx(file, threads, given))
    from ultramarine_server.sklearn_model import SklearnModel

    return _guarded(file, lambda: SklearnModel(_estimator(file, task), given))


def _onnx(file: ModelFile, threads: int, given: Signature | None) -> Model:
    from ultramarine_server.compiled_model import CompiledModel
    from ultramarine_server.onnx_model import SIGNATURE, OnnxModel

    session = OnnxModel(file.path, threads, given)
    return CompiledModel(session) if SIGNATURE in session.metadata else session


def _guarded(file: ModelFile, read: Callable[[], T]) -> T:
    try:
        return read()
    except LoadError:
        raise
    except (ImportError, AttributeError) as error:
        message = f"{file.path.name} needs code that the server image lacks: {error}"
        raise LoadError(f"{message}; store a model of the libraries in the image", "DependencyMissing") from error
    except Exception as error:  # Parsers of damaged files raise whatever they stumble over.
        message = f"{file.path.name} is not a readable {file.format} model: {type(error).__name__}: {error}"
        raise LoadError(f"{message}; store it again", "ModelCorrupt") from error


def _estimator(file: ModelFile, task: ServingTask) -> Any:
    if file.format == "joblib":
        import joblib

        return joblib.load(file.path)
    if file.format == "pickle":
        import pickle

        with file.path.open("rb") as stream:
            return pickle.load(stream)
    import skops.io

    untrusted = skops.io.get_untrusted_types(file=file.path)
    if untrusted and not task.allow_code_execution:
        listed = ", ".join(untrusted[:10]) + (", ..." if len(untrusted) > 10 else "")
        message = f"{file.path.name} holds types that are not known to be safe: {listed}"
        raise LoadError(f"{message}; {_REMEDY}", "CodeExecutionRefused")
    return skops.io.load(file.path, trusted=untrusted)
