"""Compile a model to ONNX, check that it answers as the native one does, and say what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ultramarine_contract.common import (
    COMPILED_NAME,
    ENV_STORAGE_ENDPOINT,
    ENV_STORAGE_REGION,
    RESULT_NAME,
    VERDICT_NAME,
)
from ultramarine_contract.version_records import CompileRecord, CompileTask

from ultramarine_server.artifact import ModelFile, find_model
from ultramarine_server.errors import LoadError
from ultramarine_server.gaps import refused, rows_with_gaps
from ultramarine_server.loading import load
from ultramarine_server.model import Model
from ultramarine_server.parity import Parity, compare
from ultramarine_server.rows import Rows, drawn, example
from ultramarine_server.tensors import DTYPES, Array

NOT_CONVERTIBLE, PARITY_FAILED = "NotConvertible", "ParityFailed"
_DIFFER = "its answers may differ; train it again with the server's version, or store it as ONNX"
ARTIFACT = "artifact"  # the folder below COMPILED_DIR that is stored


def compile_model(task: CompileTask, model_folder: Path, into: Path, threads: int) -> CompileRecord:
    """Compile the model in `model_folder` to a file below `into`, where the verdict is left too.

    Whatever is wrong with the model itself is a verdict, not an error: another attempt would end the same way.
    """
    target = into / ARTIFACT / COMPILED_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        native, mismatch = _load(task, model_folder, threads)
    except LoadError as error:
        if error.reason == "ModelMissing" or isinstance(error.__cause__, MemoryError | OSError):
            raise  # that says something of this pod
        verdict = CompileRecord(load_error=error.reason, message=error.message)
    else:
        try:
            verdict = _attempt(task, native, model_folder, target, threads)
        except LoadError as error:
            verdict = CompileRecord(reason=NOT_CONVERTIBLE, message=error.message)
        verdict = replace(verdict, mismatch=mismatch)
    if verdict.reason or verdict.load_error:
        target.unlink(missing_ok=True)
    (into / VERDICT_NAME).write_bytes(verdict.to_json())
    return verdict


def _load(task: CompileTask, folder: Path, threads: int) -> tuple[tuple[ModelFile, Model], str]:
    """The native model as a server loads it, and by which version of its library it was saved, if by another one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = find_model(folder, task.native)
        model = load(file, task.native, threads)
    for warning in caught:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    return (file, model), _mismatch([warning.message for warning in caught])


def _mismatch(caught: Iterable[Warning | str]) -> str:
    said: set[str] = set()
    for warning in caught:
        saved, here = (getattr(warning, f"{which}_sklearn_version", "") for which in ("original", "current"))
        if saved and here:
            said.add(f"saved by scikit-learn {saved}, the server has {here}")
        elif "older version of XGBoost" in str(warning):
            said.add("saved by another version of xgboost than the server has")
    return f"{' and '.join(sorted(said))}: {_DIFFER}" if said else ""


def _attempt(
    task: CompileTask, native_model: tuple[ModelFile, Model], folder: Path, target: Path, threads: int
) -> CompileRecord:
    # Imported here, so that storing the result needs no converter.
    from onnx import save_model

    from ultramarine_server.conversion import Native, conversions, final_step

    file, model = native_model
    if file.format == "onnx":
        raise LoadError("it is stored as ONNX already", "AlreadyCompiled")
    estimator = getattr(model, "estimator", None)
    if estimator is None:
        raise LoadError(f"models of format {file.format} cannot be converted to {task.to}", "FormatUnknown")
    estimator = getattr(estimator, "best_estimator_", estimator)  # a search predicts by what it has found
    features = getattr(model, "features", ()) or _features(estimator)
    count = int(getattr(estimator, "n_features_in_", len(features) or _width(model)))
    rows = example(folder, features) or drawn(estimator, count)
    columns = _columns(estimator, features, model, rows)
    inputs = _inputs(model, rows, columns)
    outputs = [spec.name for spec in model.signature.outputs]
    try:
        wanted = model.predict(inputs, outputs)
    except Exception as error:  # Estimators refuse rows by any exception.
        remedy = "put an input_example.json with rows that it takes beside the model"
        raise LoadError(f"the native model does not take the rows of {rows.source}: {error}; {remedy}") from error
    native = Native(model, estimator, features, columns, refused(model, inputs, outputs))
    gaps = rows_with_gaps(inputs, native.gaps)
    try:
        wanted_of_gaps = model.predict(gaps, outputs) if gaps else {}
    except Exception as error:  # It takes a missing value in some rows, and not in others.
        message = f"the native model takes a missing value in some rows of {rows.source} and not in others: {error}"
        raise LoadError(f"{message}; what it refuses would not be known") from error
    has_labels = "predict_proba" in outputs or hasattr(final_step(estimator), "classes_")
    labels = ["predict"] if has_labels else []
    best, why = CompileRecord(reason=NOT_CONVERTIBLE), ""
    for convert in conversions(native):
        try:
            made = convert()
            save_model(made, target)
            compiled = load(ModelFile(target, "onnx"), replace(task.native, signature=None), threads)
            parity = compare(wanted, compiled.predict(inputs, outputs), labels)
            of_gaps = compare(wanted_of_gaps, compiled.predict(gaps, outputs), labels) if gaps else parity
        except Exception as error:  # Converters, and the runtime with what they made, raise anything at all.
            why = why or f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            continue
        verdict = _verdict(task, parity, rows, len(next(iter(inputs.values()))), _opset(made))
        if not verdict.reason and not of_gaps.holds(task.rtol, task.label_agreement):
            message = "the answers to rows with a missing value differ from the native model's"
            verdict = replace(verdict, reason=PARITY_FAILED, message=message)
        if not verdict.reason or best.reason == NOT_CONVERTIBLE:
            best = verdict
        if not best.reason:
            return best
    if best.reason == NOT_CONVERTIBLE:
        kind = type(estimator).__name__
        return replace(best, message=f"{kind} cannot be converted to {task.to}: {why}")
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
    return replace(record, reason=PARITY_FAILED, message=message)


def _opset(made: Any) -> int:
    return max((entry.version for entry in made.opset_import if entry.domain == ""), default=0)


def _width(model: Model) -> int:
    shape = model.signature.inputs[0].shape
    return len(model.signature.inputs) if len(shape) < 2 else shape[1]


def _features(estimator: Any) -> tuple[str, ...]:
    """The names by which a client may send single features; none where the model knows them by number only."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:  # a Booster: of xgboost it has an attribute, of lightgbm a method and names of its own
        names = getattr(estimator, "feature_names", None) or getattr(estimator, "feature_name", tuple)()
        names = () if list(names) == [f"Column_{index}" for index in range(len(names))] else names
    return tuple(str(name) for name in names)


def _columns(estimator: Any, features: tuple[str, ...], model: Model, rows: Rows) -> dict[str, str]:
    """The datatypes of the columns, where they are mixed or chosen by name; nothing for a model that takes a matrix."""
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    if not features or not hasattr(first, "transformers_"):
        return {}
    told = {spec.name: spec.datatype for spec in model.signature.inputs if spec.name in features}
    known = {"BYTES": "BYTES", "INT64": "INT64", "INT32": "INT64"}
    return {
        name: known.get(told[name], "FP64") if name in told else _datatype(first, index, rows.table[:, index])
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
    """The rows as a client sends them."""
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
    if array.dtype == object:  # An encoder has what was missing among its categories, as NaN or None.
        array = array.copy()
        array[array != array] = None
    return array


def store(task: CompileTask, folder: Path, environment: Mapping[str, str]) -> CompileRecord:
    """Store what `compile_model` left in `folder`, and its verdict after that. Raises StorageError."""
    from ultramarine_contract.storage import Storage  # boto3 is not for the container that loads the model.

    try:
        verdict = CompileRecord.from_json((folder / VERDICT_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"there is no verdict in {folder}: {error}", "CompileFailed") from error
    storage = Storage(environment.get(ENV_STORAGE_ENDPOINT, ""), environment.get(ENV_STORAGE_REGION, ""))
    # Where the artifact lies is said here alone: a model that runs code may have written the verdict.
    verdict = replace(verdict, uri="", digest="", bytes=0, message=verdict.message[:2000])
    if not verdict.reason and not verdict.load_error:
        stored = storage.upload_folder(folder / ARTIFACT, task.prefix, "onnx")
        verdict = replace(verdict, uri=stored.uri, digest=stored.digest, bytes=stored.bytes)
    storage.write(task.prefix + RESULT_NAME, verdict.to_json())
    return verdict
