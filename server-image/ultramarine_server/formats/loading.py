"""Load a model of any format, without running code that came with it unless its owner has allowed that.

A new format is a module of its name in this folder, with `PLATFORM` and `load(path, options)`. It also needs its lines
in `ultramarine_contract.formats`, which recognizes artifacts by their files.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

import msgspec
from ultramarine_contract.common import ENVIRONMENT_DIR
from ultramarine_contract.formats import CODE_EXECUTING_FORMATS
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.models.model import Model, Signature, signature_from
from ultramarine_server.releases import misfit, other_releases, remedy

_REMEDY = "store the model with skops or as ONNX, or set allowCodeExecution on the ModelVersion if you trust its author"

_OF_SCIKIT_LEARN = ("sklearn", "joblib", "pickle")
_NATIVE_FORMATS = ("onnx", "xgboost", "lightgbm")  # They run no code of the file's author.


class Options(msgspec.Struct, frozen=True):
    """Conditions of a load: the registered signature, CPU threads, permission to run code, and memory before speed.

    `isolated` is true in a worker process, which may run code of any library.
    """

    signature: Signature | None = None
    threads: int = 1
    code_allowed: bool = False
    lean: bool = False
    isolated: bool = False


class Format(Protocol):
    """Module of one format; `PLATFORM` is the format's name in model metadata."""

    PLATFORM: str

    def load(self, path: Path, options: Options) -> Model:
        """Return the model, ready to predict. An exception other than LoadError means that the file is damaged."""


def format_module(name: str) -> Format:
    """Return the module of a format, which imports the format's library."""
    return cast(Format, importlib.import_module(f"ultramarine_server.formats.{name}"))


def runs_apart(file: ModelFile, task: ServingTask) -> bool:
    """True if a worker process of the task's environment loads the model, as it may run code."""
    return bool(task.environment and task.allow_code_execution) and file.format not in _NATIVE_FORMATS


def load(file: ModelFile, task: ServingTask, threads: int, environment: Path = Path(ENVIRONMENT_DIR)) -> Model:
    """Return the model of a task, ready to predict. Raises LoadError with the remedy for its owner."""
    if runs_apart(file, task):
        from ultramarine_server.workers.models import start_model

        return start_model(file.path, file.format, task.signature, threads, environment, task.timeout_seconds)
    signature = signature_from(task.signature) if task.signature else None
    return load_file(file, Options(signature, threads, task.allow_code_execution, bool(task.pool_bytes)))


def load_file(file: ModelFile, options: Options) -> Model:
    """Return the model of a file, ready to predict. Raises LoadError with the remedy for its owner."""
    if file.format in CODE_EXECUTING_FORMATS and not options.code_allowed:
        message = f"{file.path.name} is of format {file.format}, which runs code when it is loaded"
        raise LoadError(f"{message}; {_REMEDY}", "CodeExecutionRefused")
    try:
        return format_module(file.format).load(file.path, options)
    except LoadError:
        raise
    except Exception as error:  # A parser of a damaged file, or of another release's, raises any exception.
        raise _refusal(file, options, error) from error


def _refusal(file: ModelFile, options: Options, error: Exception) -> LoadError:
    """Return the cause and the remedy for what the format's library raised."""
    releases = other_releases(file.path) if file.format in _OF_SCIKIT_LEARN else []
    if releases and "__main__" not in str(error):
        why = f"{misfit(file.path, releases)} ({type(error).__name__}: {error})"
        return LoadError(f"{why}; {remedy(releases)}, or train it again", "DependencyMissing")
    if isinstance(error, ImportError | AttributeError):
        place = "the environment" if options.isolated else "the server image"
        message = f"{file.path.name} needs code that {place} lacks: {error}"
        missing = "add its package to environment.requirements of the deployment"
        if not options.isolated:
            missing += ", or store a model of the libraries in the image (docs/formats.md)"
        if "__main__" in str(error):
            from ultramarine_contract.trusted_types import SCRIPT_REMEDY

            return LoadError(f"{message}; {SCRIPT_REMEDY}", "ModelUnsupported")
        return LoadError(f"{message}; {missing}", "DependencyMissing")
    if "LZ4 is not installed" in str(error):  # joblib raises ValueError
        lacking = f"{file.path.name} is compressed by lz4, which is not installed"
        adding = "add lz4 to environment.requirements of the deployment, or compress it by zlib"
        return LoadError(f"{lacking}; {adding}", "DependencyMissing")
    message = f"{file.path.name} is not a readable {file.format} model: {type(error).__name__}: {error}"
    return LoadError(f"{message}; store it again", "ModelCorrupt")
