"""OpenAPI 3.1 document of the server, with the inputs and outputs of its model."""

from __future__ import annotations

from typing import Any

import ultramarine_server
from ultramarine_server.http.score import feature_names, scored_outputs
from ultramarine_server.models.model import Loaded, TensorSpec
from ultramarine_server.protocol.tensors import DTYPES

Schema = dict[str, Any]

_ERRORS = {
    "400": "The request is invalid, as its error says, or the model is not loaded.",
    "401": "A valid key is needed.",
    "404": "The model or version does not exist.",
    "408": "The rest of the request did not come in time.",
    "413": "The body is too large.",
    "415": "The body's type or encoding is not supported.",
    "500": "The model failed.",
    "503": "Too many requests are being answered, or the server is shutting down; try again.",
    "504": "The model did not answer in time.",
}


def document(loaded: Loaded, *, keyed: bool, alone: bool = True) -> Schema:
    """Return the document of a model; `alone` is false for a model of a pool."""
    signature = loaded.model.signature
    chosen = "" if alone else f"?model={loaded.name}"
    paths: Schema = {
        "/v2/health/live": {"get": _operation("live", "True if the process works.", _plain("live"), open_to_all=True)},
        "/v2/health/ready": {
            "get": _operation("ready", "True if the server accepts requests.", _plain("ready"), open_to_all=True)
        },
        "/v2": {"get": _operation("serverMetadata", "Name, version and extensions.", {"type": "object"})},
        f"/v2/models/{loaded.name}": {"get": _operation("modelMetadata", "Inputs and outputs.", {"type": "object"})},
        f"/v2/models/{loaded.name}/infer": {
            "post": _operation("infer", "Predict by the Open Inference Protocol V2.", _ref("Answer"), _ref("Request"))
        },
        f"/score{chosen}": {"post": _operation("score", "Predict for plain rows.", _ref("Scores"), _ref("Rows"))},
        f"/invocations{chosen}": {
            "post": _operation("invocations", "Predict as MLflow's server does.", _ref("Predictions"), _ref("Rows"))
        },
    }
    page: Schema = {
        "openapi": "3.1.0",
        "info": {"title": f"{loaded.name} {loaded.version}", "version": ultramarine_server.__version__},
        "paths": paths,
        "components": {
            "schemas": {
                "Request": _request(signature.inputs, signature.outputs),
                "Answer": _answer(loaded, signature.outputs),
                "Rows": _rows(loaded),
                "Scores": _scores(loaded, 2),
                "Predictions": _scores(loaded, 1),
                "Error": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            }
        },
    }
    if keyed:
        page["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
        }
        page["security"] = [{"bearer": []}, {"apiKey": []}]
    return page


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _plain(field: str) -> Schema:
    return {"type": "object", "properties": {field: {"type": "boolean"}}, "required": [field]}


def _operation(
    name: str, summary: str, answer: Schema, body: Schema | None = None, *, open_to_all: bool = False
) -> Schema:
    codes = _ERRORS if body else {"401": _ERRORS["401"]}
    errors = {code: {"description": words, "content": _json(_ref("Error"))} for code, words in codes.items()}
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": _json(answer)}},
    }
    if open_to_all:
        operation["security"] = []
    else:
        operation["responses"] |= errors
    if body:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def _value(datatype: str) -> Schema:
    if datatype == "BYTES":
        return {"type": ["string", "null"]}
    if datatype == "BOOL":
        return {"type": "boolean"}
    # null is NaN in a request, and NaN or infinity in an answer.
    return {"type": ["number", "null"] if DTYPES[datatype].kind == "f" else "integer"}


def _shape(shape: tuple[int, ...]) -> Schema:
    sizes = [{"type": "integer", "minimum": 0} if size < 0 else {"const": size} for size in shape]
    return {"type": "array", "prefixItems": sizes, "items": False, "minItems": len(sizes)}


def _nested(datatype: str, shape: tuple[int, ...]) -> Schema:
    schema = _value(datatype)
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _tensor(spec: TensorSpec, *, sent: bool) -> Schema:
    # An input accepts all datatypes that convert without loss.
    datatypes = {"enum": list(DTYPES)} if sent else {"const": spec.datatype}
    flat = {"type": "array", "items": _value(spec.datatype)}
    return {
        "type": "object",
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"type": "string", **datatypes, "default": spec.datatype},
            "shape": _shape(spec.shape) if not sent else {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"anyOf": [flat, _nested(spec.datatype, spec.shape)]} if sent else flat,
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }


def _list_of(tensors: tuple[TensorSpec, ...], *, sent: bool) -> Schema:
    schemas = [_tensor(spec, sent=sent) for spec in tensors]
    return {"type": "array", "items": {"anyOf": schemas}, "minItems": 1}


def _request(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Schema:
    named = {"enum": [spec.name for spec in outputs]}
    output = {"type": "object", "properties": {"name": named, "parameters": {"type": "object"}}, "required": ["name"]}
    schema: Schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": _list_of(inputs, sent=True),
            "outputs": {"type": "array", "items": output},
        },
        "required": ["inputs"],
    }
    if all("example" in spec.parameters for spec in inputs):
        rows = {spec.name: spec.one_row() for spec in inputs}
        sent = [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(row.shape), "data": row.ravel().tolist()}
            for spec, row in zip(inputs, rows.values(), strict=True)
        ]
        schema["examples"] = [{"inputs": sent}]
    return schema


def _answer(loaded: Loaded, outputs: tuple[TensorSpec, ...]) -> Schema:
    return {
        "type": "object",
        "properties": {
            "model_name": {"const": loaded.name},
            "model_version": {"const": loaded.version},
            "id": {"type": "string"},
            "outputs": _list_of(outputs, sent=False),
        },
        "required": ["model_name", "model_version", "outputs"],
    }


def _rows(loaded: Loaded) -> Schema:
    signature = loaded.model.signature
    names = feature_names(signature)
    [first, *others] = signature.inputs
    row = _nested(first.datatype, first.shape[1:])
    forms = [row] if not others else []
    if names:
        # The type of a single value is known if each feature is an input.
        values = {spec.name: _nested(spec.datatype, spec.shape[2:]) for spec in signature.inputs} if others else {}
        properties = {name: values.get(name, {}) for name in names}
        forms.append({"type": "object", "properties": properties, "required": names, "additionalProperties": False})
        forms.append({"type": "array", "minItems": len(names), "maxItems": len(names)})
    rows: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": forms}}
    columns: Schema = {"type": "array", "items": {"enum": names} if names else {"type": "string"}}
    table: Schema = {
        "type": "object",
        "properties": {"columns": columns, "index": {"type": "array"}, "data": rows},
        "required": ["data"],
    }
    either = {"anyOf": [rows, table]}
    by_column: Schema = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
    fields = {
        "data": either,
        "input_data": either,
        "dataframe_split": table,
        "dataframe_records": rows,
        "instances": rows,
        "inputs": {"anyOf": [rows, by_column]},
    }
    named = ({"type": "object", "properties": {name: form}, "required": [name]} for name, form in fields.items())
    schema: Schema = {"anyOf": [rows, *named]}
    if all("example" in spec.parameters for spec in signature.inputs):
        example = [spec.one_row().ravel().tolist()[0] for spec in signature.inputs]
        schema["examples"] = [{"data": [dict(zip(names, example, strict=True)) if names else example]}]
    return schema


def _scores(loaded: Loaded, count: int) -> Schema:
    names = ("predictions", "probabilities")
    specs = [spec for spec in scored_outputs(loaded.model.signature)[:count] if spec is not None]
    properties = {name: _nested(spec.datatype, spec.shape) for name, spec in zip(names, specs, strict=False)}
    return {"type": "object", "properties": properties, "required": list(properties)}
