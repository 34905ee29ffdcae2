"""Documents of Open Inference Protocol V2: a request is read, an answer written; no HTTP here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ultramarine_server import binary
from ultramarine_server.errors import BadRequest
from ultramarine_server.service import Inference, Tensor
from ultramarine_server.tensors import DTYPES, Array, decode, encode

_UNSUPPORTED = {
    "shared_memory_region": "shared memory is not supported; send the values",
    "classification": "classification is not supported; take the values",
}


@dataclass(frozen=True, slots=True)
class Form:
    """Which outputs are wanted as bytes: those of these names, or all but those where `others`."""

    named: Mapping[str, bool]
    others: bool = False

    def is_binary(self, name: str) -> bool:
        return self.named.get(name, self.others)


def parse(body: bytes) -> Any:
    """Return a JSON document. Raises BadRequest for anything else."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "; NaN and Infinity are not JSON" if b"NaN" in body or b"Infinity" in body else ""
        raise BadRequest(f"the body is not JSON: {error}{hint}") from error


def read(model: str, version: str, body: bytes, header_length: str = "") -> tuple[Inference, Form]:
    """Return what is asked, and how the answer is wanted. Raises BadRequest for everything that the client can mend."""
    text, tail = binary.split(body, header_length)
    document = parse(text)
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object with inputs")
    request_id, parameters = document.get("id", ""), document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("parameters must be an object")
    if not isinstance(request_id, str):
        raise BadRequest("id must be a string")
    inputs = tuple([_tensor(entry, tail) for entry in _entries(document, "inputs")])
    tail.finish()
    names: tuple[str, ...] = ()
    named: dict[str, bool] = {}
    if document.get("outputs"):
        outputs = _entries(document, "outputs")
        names = tuple([entry["name"] for entry in outputs])
        for entry in outputs:
            if "binary_data" in (given := entry.get("parameters", {})):
                named[entry["name"]] = bool(given["binary_data"])
    form = Form(named, bool(parameters.get("binary_data_output")))
    return Inference(model, inputs, names, version, request_id, parameters), form


def write(model: str, version: str, request_id: str, outputs: Sequence[Tensor], form: Form) -> tuple[bytes, int]:
    """Return the answer, and the length of the JSON document where bytes follow it (else 0)."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in outputs:
        name, datatype = tensor.name, tensor.datatype
        if form.is_binary(name):
            data = binary.encode(tensor.array, datatype)
            parts.append(data)
            values: dict[str, Any] = {"parameters": {"binary_data_size": len(data)}}
        else:
            values = {"data": encode(tensor.array, datatype)}
        described.append({"name": name, "datatype": datatype, "shape": tensor.array.shape, **values})
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request_id:
        answer["id"] = request_id
    document = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([document, *parts]), len(document)) if parts else (document, 0)


def _entries(document: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """Return a list of objects that have names, each once."""
    entries = document.get(field)
    if not isinstance(entries, list) or not all([isinstance(entry, dict) for entry in entries]):
        raise BadRequest(f"{field} must be a list of objects")
    seen = set()
    for index, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise BadRequest(f"{field}[{index}].name must be a string")
        if name in seen:
            raise BadRequest(f"{field}[{index}]: {name!r} is there twice")
        seen.add(name)
        if "parameters" in entry:
            parameters = entry["parameters"]
            if not isinstance(parameters, dict):
                raise BadRequest(f"{field}[{index}].parameters must be an object")
            for word, reason in _UNSUPPORTED.items():
                if word in parameters:
                    raise BadRequest(f"{field}[{index}]: {reason}")
    return entries


def _tensor(entry: Mapping[str, Any], tail: binary.Tail) -> Tensor:
    name = entry["name"]
    try:
        datatype, array = _array(entry, tail)
    except BadRequest as error:
        raise BadRequest(f"input {name!r}: {error}") from error
    return Tensor(name, datatype, array)


def _array(entry: Mapping[str, Any], tail: binary.Tail) -> tuple[str, Array]:
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise BadRequest(f"datatype {datatype!r} is unknown; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all([type(size) is int and size >= 0 for size in shape]):
        raise BadRequest("shape must be a list of sizes, such as [1, 30]")
    if "parameters" in entry and "binary_data_size" in entry["parameters"]:
        if "data" in entry:
            raise BadRequest("data and parameters.binary_data_size exclude each other")
        return datatype, binary.decode(datatype, shape, tail.take(entry["parameters"]["binary_data_size"]))
    data = entry.get("data")
    if not isinstance(data, list):
        raise BadRequest("data must be a list of values, flat or nested")
    return datatype, decode(datatype, shape, data)
