"""Tensors of the Open Inference Protocol over gRPC, from protobuf to numpy and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ultramarine_server.collecting.exchange import Exchange, described
from ultramarine_server.errors import BadRequest
from ultramarine_server.grpc.stubs.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from ultramarine_server.protocol import binary
from ultramarine_server.protocol.tensors import DTYPES, Array, Inference, Tensor, text_bytes

# Field of typed contents, by datatype. FP16 has none, and is always raw.
_LISTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

# Extensions of Triton that change the answer; a plain answer would mislead a client that asks for one of these.
_REFUSED_OF_OUTPUTS = ("classification", "shared_memory_region")


def question(request: ModelInferRequest) -> Inference:
    """Return the question of a request. Raises BadRequest for tensors that cannot be read."""
    for output in request.outputs:
        for name in _REFUSED_OF_OUTPUTS:
            if name in output.parameters:
                raise BadRequest(f"output {output.name!r}: {name} is not supported; take the values as they are")
    return Inference(
        request.model_name,
        _inputs(request),
        tuple([output.name for output in request.outputs]),
        request.model_version,
        request.id,
        _parameters(request.parameters) if request.parameters else {},
    )


def answer(request: ModelInferRequest, version: str, tensors: Sequence[Tensor]) -> ModelInferResponse:
    """Return the response, with raw or typed contents as in the request."""
    response = ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    typed = any(tensor.HasField("contents") for tensor in request.inputs)
    typed = typed and all(tensor.datatype in _LISTS for tensor in tensors)
    for tensor in tensors:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if typed:
            getattr(output.contents, _LISTS[tensor.datatype]).extend(_values(tensor))
        else:
            response.raw_output_contents.append(binary.encode(tensor.array, tensor.datatype))
    return response


def exchange(request: ModelInferRequest, answered: ModelInferResponse | ModelStreamInferResponse | None) -> Exchange:
    """Return the tensors of a request, and of its answer if it has one."""
    try:
        inputs = described(_inputs(request))
    except BadRequest:
        return Exchange(request.id, None, None)
    if answered is None:
        return Exchange(request.id, inputs, None)
    response = answered.infer_response if isinstance(answered, ModelStreamInferResponse) else answered
    raw = response.raw_output_contents
    outputs = []
    for index, tensor in enumerate(response.outputs):
        shape = tuple(tensor.shape)
        array = binary.decode(tensor.datatype, shape, raw[index]) if raw else _from_contents(tensor, shape)
        outputs.append(Tensor(tensor.name, tensor.datatype, array))
    return Exchange(request.id, inputs, described(outputs))


def _inputs(request: ModelInferRequest) -> tuple[Tensor, ...]:
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise BadRequest(f"raw_input_contents must hold one entry for each of {len(inputs)} inputs; {len(raw)} came")
    tensors = []
    for index, tensor in enumerate(inputs):
        try:
            shape = tuple(tensor.shape)
            if tensor.datatype not in DTYPES:
                raise BadRequest(f"datatype {tensor.datatype!r} is unknown; known are {', '.join(DTYPES)}")
            if shape and min(shape) < 0:
                raise BadRequest(f"shape {list(shape)} has a negative size; state how many values come")
            if raw and tensor.HasField("contents"):
                raise BadRequest("values came in raw_input_contents and in contents; send one of them")
            read = binary.decode(tensor.datatype, shape, raw[index]) if raw else _from_contents(tensor, shape)
        except (BadRequest, ValueError) as error:  # numpy has a limit to dimensions and sizes.
            raise BadRequest(f"input {tensor.name!r}: {error}") from error
        tensors.append(Tensor(tensor.name, tensor.datatype, read))
    return tuple(tensors)


def _from_contents(
    tensor: ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor, shape: tuple[int, ...]
) -> Array:
    datatype, count = tensor.datatype, math.prod(shape)
    field = _LISTS.get(datatype)
    if field is None:
        raise BadRequest(f"{datatype} has no typed contents; send raw_input_contents")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise BadRequest(f"shape {list(shape)} wants {count} values in {field}, {len(values)} came")
    if datatype == "BYTES":
        return np.array([_text(value) for value in values], dtype=object).reshape(shape)
    dtype = DTYPES[datatype]
    if dtype.itemsize >= 4 or datatype == "BOOL":
        return np.array(values, dtype).reshape(shape)
    wide = np.array(values, np.int64)
    limits = np.iinfo(dtype)
    if count and (wide.min() < limits.min or wide.max() > limits.max):
        raise BadRequest(f"{field} holds a number outside of {datatype}, which is {limits.min} to {limits.max}")
    return wide.astype(dtype).reshape(shape)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("a value of bytes_contents is not UTF-8 text") from error


def _values(tensor: Tensor) -> list[Any]:
    values: list[Any] = tensor.array.ravel().tolist()
    if tensor.datatype != "BYTES":
        return values
    return [text_bytes(value) for value in values]


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in given.items()}
