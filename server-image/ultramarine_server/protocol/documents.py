"""JSON documents of the Open Inference Protocol V2: requests are read and answers written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import orjson

from ultramarine_server.errors import BadRequest
from ultramarine_server.protocol import binary
from ultramarine_server.protocol.tensors import DTYPES, Array, Inference, Tensor, decode, encode

T = TypeVar("T")

_UNSUPPORTED = {
    "shared_memory_region": "shared memory is not supported; send the values",
    "classification": "classification is not supported; take the values",
}


class _Input(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] = {}


_REQUEST: msgspec.json.Decoder[_Request] = msgspec.json.Decoder(_Request)
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)


class Form(msgspec.Struct):
    """Form of the answer: True for an output in `named` means bytes; `others` is for all other outputs."""

    named: Mapping[str, bool]
    others: bool = False

    def is_binary(self, name: str) -> bool:
        return self.named.get(name, self.others)


def parse(body: bytes) -> Any:
    """Return the JSON document of a body. Raises BadRequest for other text."""
    return _decoded(_ANYTHING, body)


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the request is not one of the protocol: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "; NaN and Infinity are not JSON" if b"NaN" in text or b"Infinity" in text else ""
        raise BadRequest(f"the body is not JSON: {error}{hint}") from error


def read(model: str, version: str, body: bytes, header_length: str = "") -> tuple[Inference, Form]:
    """Return the question, and the form of its answer. Raises BadRequest for an error that the client can fix."""
    text, tail = binary.split(body, header_length)
    request = _decoded(_REQUEST, text)
    inputs = tuple([_tensor(entry, tail) for entry in request.inputs])
    tail.finish()
    names: tuple[str, ...] = ()
    named: dict[str, bool] = {}
    if request.outputs:
        names = tuple([output.name for output in request.outputs])
        for output in request.outputs:
            if output.parameters:
                _refuse_unsupported(output.parameters)
                if "binary_data" in output.parameters:
                    named[output.name] = bool(output.parameters["binary_data"])
    form = Form(named, bool(request.parameters and request.parameters.get("binary_data_output")))
    return Inference(model, inputs, names, version, request.id, request.parameters), form


def write(model: str, version: str, request_id: str, outputs: Sequence[Tensor], form: Form) -> tuple[bytes, int]:
    """Return the answer, and the length of its JSON document, or 0 if no bytes follow the document."""
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


def _refuse_unsupported(parameters: Mapping[str, Any]) -> None:
    for word, reason in _UNSUPPORTED.items():
        if word in parameters:
            raise BadRequest(reason)


def _tensor(entry: _Input, tail: binary.Tail) -> Tensor:
    try:
        return Tensor(entry.name, entry.datatype, _array(entry, tail))
    except (BadRequest, ValueError, OverflowError) as error:  # numpy limits dimensions and sizes.
        raise BadRequest(f"input {entry.name!r}: {error}") from error


def _array(entry: _Input, tail: binary.Tail) -> Array:
    if entry.datatype not in DTYPES:
        raise BadRequest(f"datatype {entry.datatype!r} is unknown; known are {', '.join(DTYPES)}")
    if entry.parameters:
        _refuse_unsupported(entry.parameters)
        if "binary_data_size" in entry.parameters:
            if entry.data is not None:
                raise BadRequest("data and parameters.binary_data_size exclude each other")
            return binary.decode(entry.datatype, entry.shape, tail.take(entry.parameters["binary_data_size"]))
    if entry.data is None:
        raise BadRequest("data must be a list of values, flat or nested")
    return decode(entry.datatype, entry.shape, entry.data)
