"""POST /score and /invocations: plain rows and predictions, in the forms of Azure's and MLflow's servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from ultramarine_contract.errors import counted, listed

from ultramarine_server.errors import BadRequest
from ultramarine_server.models.model import Model, Signature, TensorSpec
from ultramarine_server.protocol import documents
from ultramarine_server.protocol.tensors import Array, Inference, Outputs, Tensor, array_of, encode

FIELDS = ("data", "input_data", "dataframe_split", "dataframe_records", "instances", "inputs")
_FORMS = (
    'send a list of rows, or {"data": rows}; a row is a list, or an object by name; in place of data, input_data and '
    "MLflow's dataframe_split, dataframe_records, instances and inputs are taken"
)


def feature_names(signature: Signature) -> list[str]:
    """Return the names of a row's values in their order, or an empty list if the model has no names."""
    if len(signature.inputs) > 1:
        return [spec.name for spec in signature.inputs]
    [only] = signature.inputs
    names = only.parameters.get("feature_names", "")
    if not names and (len(only.shape) == 1 or (len(only.shape) == 2 and only.shape[1] == 1)):
        return [only.name]
    return str(names).split(", ") if names else []


def scored_outputs(signature: Signature) -> tuple[TensorSpec, TensorSpec | None]:
    """Return the output that is shown as predictions, and that with the classes' probabilities, or None."""
    first, *others = signature.outputs
    probabilities = [spec for spec in others if "proba" in spec.name.lower() and spec.datatype.startswith("FP")]
    return first, probabilities[0] if probabilities else None


def parse(body: bytes) -> Any:
    """Return the document of a body, which may have NaN and Infinity, as MLflow's examples do."""
    try:
        return documents.parse(body)
    except BadRequest:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error


def read(model: Model, name: str, document: Any, *, first: bool = False) -> Inference:
    """Return the question of a document with rows, for the `first` output alone or for probabilities too.

    Raises BadRequest for a document without rows, and for rows that do not fit the model.
    """
    columns, rows = _rows(document)
    if not isinstance(rows, list) or not rows:
        raise BadRequest(f"there are no rows; {_FORMS}")
    if isinstance(rows[0], dict):
        if {"name", "datatype", "shape"} <= set(rows[0]):
            raise BadRequest(f"this is a request of the protocol; send it to /v2/models/{name}/infer")
        if columns:
            raise BadRequest("rows are lists where columns are named beside them")
        columns, rows = _of_objects(rows)
    outputs = [spec.name for spec in scored_outputs(model.signature)[: 1 if first else 2] if spec is not None]
    return Inference(name, tuple(_tensors(model, columns, rows)), tuple(outputs))


def write(outputs: Outputs) -> dict[str, Any]:
    """Return the answer's document: predictions, and probabilities if the model has them."""
    names = ("predictions", "probabilities")
    return {name: _listed(tensor) for name, tensor in zip(names, outputs, strict=False)}


def _rows(document: Any) -> tuple[list[str], Any]:
    """Return column names, if the document has them, and rows."""
    field = ""
    if isinstance(document, dict):
        given = [name for name in FIELDS if name in document]
        if len(given) != 1:
            raise BadRequest(f"the body needs exactly one of {', '.join(FIELDS)}; {_FORMS}")
        if document.get("params"):
            raise BadRequest("params are not supported: models here take rows alone; leave params out")
        [field] = given
        is_table = field == "data" and "columns" in document  # as in MLflow's input_example.json
        document = document if is_table else document[field]
    if not isinstance(document, dict):
        return [], document
    if field == "inputs":
        return _of_columns(document)
    if field in ("dataframe_records", "instances"):
        raise BadRequest(f"{field} must be a list of rows")
    columns = document.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise BadRequest(f"{field}.columns must be a list of names")
    if len(set(columns)) < len(columns):
        raise BadRequest(f"{field}.columns names a column twice")
    if "data" not in document:
        raise BadRequest(f"{field} needs data, a list of rows, beside columns and index")
    return columns, document["data"]


def _of_columns(document: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table that came by columns."""
    lengths = {len(values) for values in document.values() if isinstance(values, list)}
    if not all(isinstance(values, list) for values in document.values()) or len(lengths) != 1:
        raise BadRequest("inputs, by name, must be lists of one length: a value for each row")
    return list(document), [list(row) for row in zip(*document.values(), strict=True)]


def _of_objects(rows: Sequence[Any]) -> tuple[list[str], list[list[Any]]]:
    columns = list(rows[0])
    table = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or len(row) != len(columns) or any(name not in row for name in columns):
            raise BadRequest(f"row {index} does not have the same names as row 0: {listed(columns)}")
        table.append([row[name] for name in columns])
    return columns, table


def _tensors(model: Model, columns: Sequence[str], rows: Sequence[Any]) -> list[Tensor]:
    signature = model.signature
    features = feature_names(signature)
    [first, *others] = signature.inputs
    if not columns and (not features or (not others and not _has_text(rows[0]))):
        if others or len(first.shape) == 0:
            raise BadRequest("this model takes several inputs; send rows as objects by their names")
        return [Tensor(first.name, first.datatype, _fitted(first, array_of(first.datatype, list(rows))))]
    if columns and not features:
        raise BadRequest("this model does not know its features' names; send rows as lists, without names")
    names = list(columns) or features
    if missing := [name for name in features if name not in names]:
        raise BadRequest(f"feature {missing[0]!r} is missing; the model takes {listed(features)}")
    if unknown := [name for name in names if name not in features]:
        raise BadRequest(f"feature {unknown[0]!r} is unknown; the model takes {listed(features)}")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise BadRequest(f"row {index} must be a list of {counted(len(names), 'value')}")
    specs = {spec.name: spec for spec in model.expected(names)}
    if set(specs) != set(names):  # a matrix whose columns have names
        order = [names.index(name) for name in features]
        table = [[row[at] for at in order] for row in rows]
        return [Tensor(first.name, first.datatype, array_of(first.datatype, table, features))]
    return [_column(specs[name], [row[index] for row in rows]) for index, name in enumerate(names)]


def _column(spec: TensorSpec, values: list[Any]) -> Tensor:
    datatype = spec.datatype or _datatype(values)
    try:
        return Tensor(spec.name, datatype, _fitted(spec, array_of(datatype, values)))
    except BadRequest as error:
        raise BadRequest(f"feature {spec.name!r}: {error}") from error


def _datatype(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None} or {float}
    if kinds <= {str}:
        return "BYTES"
    if kinds <= {bool}:
        return "BOOL"
    return "INT64" if kinds <= {int} and None not in values else "FP64"


def _fitted(spec: TensorSpec, array: Array) -> Array:
    """Return a list of single values as a matrix, if the tensor takes a matrix of one column."""
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] in (1, -1):
        return array.reshape(-1, 1)
    return array


def _has_text(row: Any) -> bool:
    return isinstance(row, list) and any(isinstance(value, str) for value in row)


def _listed(tensor: Tensor) -> Any:
    data = encode(tensor.array, tensor.datatype)
    if tensor.datatype == "BYTES":
        return np.array(data, dtype=object).reshape(tensor.array.shape).tolist()
    return data.reshape(tensor.array.shape)
