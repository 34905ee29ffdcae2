"""Requests and answers as named tensors, from HTTP or gRPC, without redacted values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import orjson

from ultramarine_server.errors import BadRequest
from ultramarine_server.http import score
from ultramarine_server.http.messages import Request, Response
from ultramarine_server.inference.service import Service
from ultramarine_server.models.model import Model
from ultramarine_server.protocol import binary, documents
from ultramarine_server.protocol.tensors import Tensor, encode

Document = dict[str, Any]  # name, datatype, shape, and data: flat


class Exchange(msgspec.Struct):
    """Tensors of a request and its answer: None for an unreadable request, and for an answer that is an error.

    Of a container without the protocol they are the JSON of the bodies.
    """

    id: str
    inputs: Any
    outputs: Any


class Capture(msgspec.Struct):
    """Answered request; the thread of the captures calls `read` for its tensors."""

    id: str
    path: str
    status: int
    seconds: float
    size: int
    read: Callable[[], Exchange]
    time: float = 0.0  # since 1970, when the request came


def described(tensors: Iterable[Tensor]) -> list[Document]:
    """Return tensors as documents."""
    return [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "data": encode(tensor.array, tensor.datatype),
        }
        for tensor in tensors
    ]


def of_infer(request: Request, response: Response) -> Exchange:
    """Return the tensors of a request to infer."""
    try:
        inference, _ = documents.read("", "", request.body, request.headers.get(binary.HEADER, ""))
    except BadRequest:
        return Exchange("", None, None)
    return Exchange(inference.id, described(inference.inputs), _inferred(response) if response.status == 200 else None)


def of_score(service: Service, request: Request, response: Response) -> Exchange:
    """Return the tensors of a request to score."""
    loaded = service.sole()
    model = loaded.model
    try:
        inputs = described(score.read(model, loaded.name, documents.parse(request.body)).inputs)
    except BadRequest:
        return Exchange("", None, None)
    if response.status != 200:
        return Exchange("", inputs, None)
    outputs: list[Document] = []
    values = orjson.loads(response.body).values()
    for spec, nested in zip(score.scored_outputs(model.signature), values, strict=False):
        if spec is not None:
            array = np.array(nested, dtype=object)
            data = array.ravel().tolist()
            outputs.append({"name": spec.name, "datatype": spec.datatype, "shape": array.shape, "data": data})
    return Exchange("", inputs, outputs)


def of_script(request: Request, response: Response) -> Exchange:
    """Return the bodies of a request to a scoring script, as texts."""
    question = [{"name": "body", "datatype": "BYTES", "shape": (1,), "data": [request.body.decode(errors="replace")]}]
    if response.status != 200:
        return Exchange("", question, None)
    answer = [{"name": "body", "datatype": "BYTES", "shape": (1,), "data": [response.body.decode(errors="replace")]}]
    return Exchange("", question, answer)


def reader_of(service: Service, request: Request, response: Response) -> partial[Exchange]:
    """Return the function that reads the tensors of a request by HTTP later."""
    if service.scripted and request.label == "score":
        return partial(of_script, request, response)
    if request.label == "score":
        return partial(of_score, service, request, response)
    return partial(of_infer, request, response)


def _inferred(response: Response) -> list[Document]:
    length = (response.headers or {}).get(binary.HEADER, "")
    text, tail = binary.split(response.body, length)
    outputs = []
    for output in orjson.loads(text)["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        if "data" in output:
            data = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            data = encode(binary.decode(datatype, shape, tail.take(size)), datatype)
        outputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
    return outputs


def _features(model: Model, names: Sequence[str]) -> list[str]:
    """Return the names of a matrix' columns if the model has them, for a request with inputs `names`."""
    columns = model.expected(names)
    if columns != model.signature.inputs:
        return [spec.name for spec in columns]
    return score.feature_names(model.signature) if len(columns) == 1 else []


class Redaction:
    """Redaction: inputs, outputs and features of these names get null in place of their values.

    A name that the model does not have redacts all values, because it may be a typing error or a column of a matrix.
    """

    def __init__(self, names: Collection[str], model: Model) -> None:
        self._names = frozenset(names)
        signature = model.signature
        features = _features(model, sorted(names))
        self._matrix = signature.inputs[0].name if len(signature.inputs) == 1 else ""
        self._width = len(features)
        self._columns = [index for index, name in enumerate(features) if name in self._names]
        self._model_names = {spec.name for spec in (*signature.inputs, *signature.outputs)} | {*features}
        self.unknown = sorted(self._names - self._model_names)

    def text(self, part: Sequence[Document] | None) -> str | None:
        """Return a side of an exchange as JSON."""
        if part is None:
            return None
        return orjson.dumps([self._redacted(document) for document in part], option=orjson.OPT_SERIALIZE_NUMPY).decode()

    def _redacted(self, document: Document) -> Document:
        name = document["name"]
        # A request with another name of an input was refused, and its values may be those of any input.
        if self.unknown or name in self._names or (self._names and name not in self._model_names):
            return {**document, "data": None}
        if not self._columns or name != self._matrix:
            return document
        shape = document["shape"]
        if len(shape) != 2 or shape[1] != self._width:  # The request was refused, and its values have no features.
            return {**document, "data": None}
        data = document["data"]
        values = data.tolist() if isinstance(data, np.ndarray) else list(data)
        for column in self._columns:
            values[column :: self._width] = [None] * shape[0]
        return {**document, "data": values}
