"""Open Inference Protocol V2: one request document in, one response document out; no HTTP here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ultramarine_server.errors import BadRequest
from ultramarine_server.model import Model as Model
from ultramarine_server.signature import TensorSpec
from ultramarine_server.tensors import DTYPES, Array, decode, encode


def infer(model: Model, name: str, version: str, body: bytes) -> bytes:
    """Answer one request. Raises BadRequest for everything that the client can mend."""
    document = _parse(body)
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise BadRequest("id must be a string")
    inputs = _inputs(model, document)
    specs = _outputs(model, document)
    results = model.predict(inputs, [spec.name for spec in specs])
    outputs = []
    for spec in specs:
        shape, data = encode(results[spec.name], spec.datatype)
        outputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request_id:
        answer["id"] = request_id
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "; NaN and Infinity are not JSON" if b"NaN" in body or b"Infinity" in body else ""
        raise BadRequest(f"the body is not JSON: {error}{hint}") from error
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object with inputs")
    if not isinstance(document.get("parameters", {}), dict):
        raise BadRequest("parameters must be an object")
    return document


def _entries(document: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """Return a list of objects that have names, each once."""
    entries = document.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRequest(f"{field} must be a list of objects")
    names = [entry.get("name") for entry in entries]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise BadRequest(f"{field}[{index}].name must be a string")
        if name in names[:index]:
            raise BadRequest(f"{field}[{index}]: {name!r} is there twice")
        parameters = entries[index].get("parameters", {})
        if not isinstance(parameters, dict):
            raise BadRequest(f"{field}[{index}].parameters must be an object")
        if parameters.get("binary_data_size") or parameters.get("binary_data"):
            raise BadRequest(f"{field}[{index}]: binary tensors are not supported; send and take JSON")
    return entries


def _inputs(model: Model, document: Mapping[str, Any]) -> dict[str, Array]:
    entries = _entries(document, "inputs")
    names = [str(entry["name"]) for entry in entries]
    specs = {spec.name: spec for spec in model.expected(names)}
    for name in names:
        if name not in specs:
            raise BadRequest(f"input {name!r} is unknown; this model takes {_listed(specs)}")
    for name in specs:
        if name not in names:
            raise BadRequest(f"input {name!r} is missing; this model takes {_listed(specs)}")
    arrays = {}
    for name, entry in zip(names, entries, strict=True):
        try:
            datatype, array = _tensor(entry)
        except BadRequest as error:
            raise BadRequest(f"input {name!r}: {error}") from error
        arrays[name] = specs[name].take(array, datatype)
    return arrays


def _tensor(entry: Mapping[str, Any]) -> tuple[str, Array]:
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise BadRequest(f"datatype {datatype!r} is unknown; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadRequest("shape must be a list of sizes, such as [1, 30]")
    if not isinstance(data, list):
        raise BadRequest("data must be a list of values, flat or nested")
    return datatype, decode(datatype, shape, data)


def _outputs(model: Model, document: Mapping[str, Any]) -> list[TensorSpec]:
    """Return the outputs that the request selects; all when it selects none."""
    specs = {spec.name: spec for spec in model.signature.outputs}
    if not document.get("outputs"):
        return list(specs.values())
    selected = [str(entry["name"]) for entry in _entries(document, "outputs")]
    for name in selected:
        if name not in specs:
            raise BadRequest(f"output {name!r} is unknown; this model gives {_listed(specs)}")
    return [specs[name] for name in selected]


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    shown = [f"{name!r} ({spec.datatype or 'any'} {list(spec.shape)})" for name, spec in list(specs.items())[:10]]
    return ", ".join(shown) + (f" and {len(specs) - 10} more" if len(specs) > 10 else "")
