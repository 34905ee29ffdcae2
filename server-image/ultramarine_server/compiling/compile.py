"""Compile a model to ONNX, compare its answers with the native model's, and store it with a verdict."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from ultramarine_contract.common import (
    COMPILED_NAME,
    ENV_STORAGE_ENDPOINT,
    ENV_STORAGE_REGION,
    RESULT_NAME,
    VERDICT_NAME,
)
from ultramarine_contract.mlflow_folders import REQUIREMENTS_FILE, requirements
from ultramarine_contract.version_records import CompileRecord, CompileTask

from ultramarine_server.compiling.gaps import refused, rows_with_gaps
from ultramarine_server.compiling.parity import Parity, compare
from ultramarine_server.compiling.rows import Rows, drawn, example
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile, find_model
from ultramarine_server.formats.loading import load
from ultramarine_server.models.model import Model
from ultramarine_server.protocol.tensors import DTYPES, Array

NOT_CONVERTIBLE, PARITY_FAILED = "NotConvertible", "ParityFailed"
_DIFFER = "its answers may differ; train it again with the server's version, or store it as ONNX"
ARTIFACT = "artifact"  # the folder below COMPILED_DIR that is stored


def compile_model(task: CompileTask, model_folder: Path, into: Path, threads: int) -> CompileRecord:
    """Compile the model in `model_folder` to a file below `into`, and write the verdict beside it.

    A fault of the model is a verdict, not an error, because another attempt would end the same way.
    """
    target = into / ARTIFACT / COMPILED_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        native, mismatch = _load(task, model_folder, threads)
    except LoadError as error:
        if error.reason == "ModelMissing" or isinstance(error.__cause__, MemoryError | OSError):
            raise  # a fault of this pod
        lines = _requirements(task, model_folder) if error.reason == "DependencyMissing" else ()
        verdict = CompileRecord(load_error=error.reason, message=error.message, requirements=lines)
    else:
        try:
            verdict = _attempt(task, native, model_folder, target, threads)
        except LoadError as error:
            verdict = CompileRecord(reason=NOT_CONVERTIBLE, message=error.message)
        verdict = structs.replace(verdict, mismatch=mismatch)
    if verdict.reason or verdict.load_error:
        target.unlink(missing_ok=True)
    (into / VERDICT_NAME).write_bytes(verdict.to_json())
    return verdict


def _load(task: CompileTask, folder: Path, threads: int) -> tuple[tuple[ModelFile, Model], str]:
    """Return the native model as a server loads it, and a warning if another version of its library saved it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = find_model(folder, task.native)
        model = load(file, task.native, threads)
    for warning in caught:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    return (file, model), _mismatch([warning.message for warning in caught])


def _requirements(task: CompileTask, folder: Path) -> tuple[str, ...]:
    """Return the requirements that an MLflow folder names."""
    file = find_model(folder, task.native)
    path = file.path / REQUIREMENTS_FILE
    return requirements(path.read_text(errors="replace")) if file.format == "mlflow" and path.is_file() else ()


def _mismatch(caught: Iterable[Warning | str]) -> str:
    facts: set[str] = set()
    for warning in caught:
        saved, here = (getattr(warning, f"{which}_sklearn_version", "") for which in ("original", "current"))
        if saved and here:
            facts.add(f"saved by scikit-learn {saved}, the server has {here}")
        elif "older version of XGBoost" in str(warning):
            facts.add("saved by another version of xgboost than the server has")
    return f"{' and '.join(sorted(facts))}: {_DIFFER}" if facts else ""


def _attempt(
    task: CompileTask, native_model: tuple[ModelFile, Model], folder: Path, target: Path, threads: int
) -> CompileRecord:
    # Imported here, because `store` needs no converter.
    from onnx import save_model

    from ultramarine_server.compiling.conversion import Native, conversions, final_step

    file, model = native_model
    if file.format == "onnx":
        raise LoadError("it is stored as ONNX already", "AlreadyCompiled")
    estimator = getattr(model, "estimator", None)
    if estimator is None:
        raise LoadError(f"models of format {file.format} cannot be converted to {task.to}", "FormatUnknown")
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    features = getattr(model, "features", ()) or _features(estimator)
    count = int(getattr(estimator, "n_features_in_", len(features) or _width(model)))
    rows = example(folder, features) or drawn(estimator, count)
    columns = _columns(estimator, features, model, rows)
    inputs = _inputs(model, rows, columns)
    outputs = [spec.name for spec in model.signature.outputs]
    try:
        expected = model.predict(inputs, outputs)
    except Exception as error:  # An estimator may refuse rows by any exception.
        remedy = "put an input_example.json with rows that it takes beside the model"
        raise LoadError(f"the native model does not take the rows of {rows.source}: {error}; {remedy}") from error
    native = Native(model, estimator, features, columns, refused(model, inputs, outputs))
    gaps = rows_with_gaps(inputs, native.gaps)
    try:
        expected_of_gaps = model.predict(gaps, outputs) if gaps else {}
    except Exception as error:  # The model takes a missing value in some rows, and not in others.
        message = f"the native model takes a missing value in some rows of {rows.source} and not in others: {error}"
        raise LoadError(f"{message}; what it refuses would not be known") from error
    has_labels = "predict_proba" in outputs or hasattr(final_step(estimator), "classes_")
    labels = ["predict"] if has_labels else []
    best, why = CompileRecord(reason=NOT_CONVERTIBLE), ""
    for convert in conversions(native):
        try:
            made = convert()
            save_model(made, target)
            compiled = load(ModelFile(target, "onnx"), structs.replace(task.native, signature=None), threads)
            parity = compare(expected, compiled.predict(inputs, outputs), labels)
            of_gaps = compare(expected_of_gaps, compiled.predict(gaps, outputs), labels) if gaps else parity
        except Exception as error:  # Converters, and the runtime with their results, raise any exception.
            why = why or f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            continue
        verdict = _verdict(task, parity, rows, len(next(iter(inputs.values()))), _opset(made))
        if not verdict.reason and not of_gaps.holds(task.rtol, task.label_agreement):
            message = "the answers to rows with a missing value differ from the native model's"
            verdict = structs.replace(verdict, reason=PARITY_FAILED, message=message)
        if not verdict.reason or best.reason == NOT_CONVERTIBLE:
            best = verdict
        if not best.reason:
            return best
    if best.reason == NOT_CONVERTIBLE:
        kind = type(estimator).__name__
        return structs.replace(best, message=f"{kind} cannot be converted to {task.to}: {why}")
    return best


def _verdict(task: CompileTask, parity: Parity, rows: Rows, count: int, opset: int) -> CompileRecord:
    record = CompileRecord(
        opset=opset,
        rows=count,
        rows_from=rows.source,
        worst_relative_error=parity.worst_relative_error,
        label_agreement=parity.label_agreement,
    )
    if parity.holds(task.rtol, task.label_agreement):
        return record
    message = (
        f"of {count} rows ({rows.source}) {parity.label_agreement:.2%} have the same labels, and values differ by "
        f"up to {parity.worst_relative_error:.3g}; the limits are labelAgreement {task.label_agreement:g} and rtol "
        f"{task.rtol:g}"
    )
    return structs.replace(record, reason=PARITY_FAILED, message=message)


def _opset(made: Any) -> int:
    return max((entry.version for entry in made.opset_import if entry.domain == ""), default=0)


def _width(model: Model) -> int:
    shape = model.signature.inputs[0].shape
    return len(model.signature.inputs) if len(shape) < 2 else shape[1]


def _features(estimator: Any) -> tuple[str, ...]:
    """Return the names of features, or none if the model has only their numbers."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:  # A Booster of xgboost has an attribute; that of lightgbm has a method, and default names.
        names = getattr(estimator, "feature_names", None) or getattr(estimator, "feature_name", tuple)()
        names = () if list(names) == [f"Column_{index}" for index in range(len(names))] else names
    return tuple(str(name) for name in names)


def _columns(estimator: Any, features: tuple[str, ...], model: Model, rows: Rows) -> dict[str, str]:
    """Return the datatypes of mixed columns; empty for a model that takes a matrix."""
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    if not features or not hasattr(first, "transformers_"):
        return {}
    own = {spec.name: spec.datatype for spec in model.signature.inputs if spec.name in features}
    converted = {"BYTES": "BYTES", "INT64": "INT64", "INT32": "INT64"}
    return {
        name: converted.get(own[name], "FP64") if name in own else _datatype(first, index, rows.table[:, index])
        for index, name in enumerate(features)
    }


def _datatype(transformer: Any, index: int, column: Array) -> str:
    if any(isinstance(value, str) for value in column):
        return "BYTES"
    for name, part, _ in transformer.transformers_:
        indices = list(transformer._transformer_to_input_indices.get(name, ()))
        categories = getattr(part, "categories_", None)
        if categories is not None and index in indices and categories[indices.index(index)].dtype.kind in "iu":
            return "INT64"
    return "FP64"


def _inputs(model: Model, rows: Rows, columns: Mapping[str, str]) -> dict[str, Array]:
    """Return the rows as a client sends them."""
    specs = {spec.name: spec.datatype for spec in model.signature.inputs}
    table = rows.table
    try:
        if columns and len(specs) == 1:
            specs = dict(columns)
        if len(specs) == 1:
            [(name, datatype)] = specs.items()
            return {name: _typed(table, datatype)}
        return {name: _typed(table[:, index], datatype) for index, (name, datatype) in enumerate(specs.items())}
    except (ValueError, TypeError, IndexError) as error:
        message = f"the rows of {rows.source} do not fit the model's signature: {error}"
        raise LoadError(message, "ExampleInvalid") from error


def _typed(values: Array, datatype: str) -> Array:
    array = np.ascontiguousarray(values, dtype=DTYPES[datatype])
    if array.dtype == object:  # An encoder has a missing value among its categories, as NaN or None.
        array = array.copy()
        array[array != array] = None
    return array


def store(task: CompileTask, folder: Path, environment: Mapping[str, str]) -> CompileRecord:
    """Store the result of `compile_model` in `folder`, and then its verdict. Raises StorageError."""
    from ultramarine_contract.storage import Storage  # The container that loads the model must not import boto3.

    try:
        verdict = CompileRecord.from_json((folder / VERDICT_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(
            f"no verdict in {folder}: {error}; see the log of the container that compiles", "CompileFailed"
        ) from error
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    # The place of the artifact comes from here alone, because a model's code may have written the verdict.
    verdict = structs.replace(verdict, uri="", digest="", bytes=0, message=verdict.message[:2000])
    if not verdict.reason and not verdict.load_error:
        stored = storage.upload_folder(folder / ARTIFACT, task.prefix, "onnx")
        verdict = structs.replace(verdict, uri=stored.uri, digest=stored.digest, bytes=stored.bytes)
    storage.write(task.prefix + RESULT_NAME, verdict.to_json())
    return verdict
