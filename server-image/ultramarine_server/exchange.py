"""A request and its answer as named tensors, whatever they came by, and without the values that are not to be kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import orjson

from ultramarine_server import binary, protocol, score
from ultramarine_server.errors import BadRequest
from ultramarine_server.messages import Request, Response
from ultramarine_server.model import Model
from ultramarine_server.service import Service, Tensor
from ultramarine_server.tensors import encode

Document = dict[str, Any]  # name, datatype, shape, and data: flat


class Exchange(msgspec.Struct):
    """What was asked and answered: None for a question that could not be read, and for an answer that is an error."""

    id: str
    inputs: Sequence[Document] | None
    outputs: Sequence[Document] | None


class Capture(msgspec.Struct):
    """One answered request; `read` takes it apart, which is left to the thread."""

    id: str
    path: str
    status: int
    seconds: float
    size: int
    read: Callable[[], Exchange]
    time: float = 0.0  # since 1970, when the request came


def documents(tensors: Iterable[Tensor]) -> list[Document]:
    """Return tensors as documents."""
    return [
        {"name": one.name, "datatype": one.datatype, "shape": one.array.shape, "data": encode(one.array, one.datatype)}
        for one in tensors
    ]


def of_infer(request: Request, response: Response) -> Exchange:
    """Take apart what came by infer."""
    try:
        inference, _ = protocol.read("", "", request.body, request.headers.get(binary.HEADER, ""))
    except BadRequest:
        return Exchange("", None, None)
    return Exchange(inference.id, documents(inference.inputs), _inferred(response) if response.status == 200 else None)


def of_score(service: Service, request: Request, response: Response) -> Exchange:
    """Take apart what came by score."""
    loaded = service.sole()
    model = loaded.model
    try:
        inputs = documents(score.read(model, loaded.name, protocol.parse(request.body)).inputs)
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


def reader_of(service: Service, request: Request, response: Response) -> partial[Exchange]:
    """Return what takes apart a request by HTTP; to make it takes no time."""
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
    """Return the names of a matrix' columns, as far as they are known; `names` are asked for."""
    columns = model.expected(names)
    if columns != model.signature.inputs:
        return [spec.name for spec in columns]
    return score.feature_names(model.signature) if len(columns) == 1 else []


class Redaction:
    """Leaves out the values of inputs, outputs and features of these names: null stands in their place.

    With a name that the model does not have all values are left out: it may be a slip, or a column of a matrix.
    """

    def __init__(self, names: Collection[str], model: Model) -> None:
        self._names = frozenset(names)
        signature = model.signature
        features = _features(model, sorted(names))
        self._matrix = signature.inputs[0].name if len(signature.inputs) == 1 else ""
        self._width = len(features)
        self._columns = [index for index, name in enumerate(features) if name in self._names]
        self._known = {spec.name for spec in (*signature.inputs, *signature.outputs)} | {*features}
        self.unknown = sorted(self._names - self._known)

    def text(self, part: Sequence[Document] | None) -> str | None:
        """Return one side of an exchange as JSON."""
        if part is None:
            return None
        return orjson.dumps([self._without(one) for one in part], option=orjson.OPT_SERIALIZE_NUMPY).decode()

    def _without(self, document: Document) -> Document:
        name = document["name"]
        # A client that calls an input by another name is refused, and its values may be those of any.
        if self.unknown or name in self._names or (self._names and name not in self._known):
            return {**document, "data": None}
        if not self._columns or name != self._matrix:
            return document
        shape = document["shape"]
        if len(shape) != 2 or shape[1] != self._width:  # It was refused; which value belongs to which feature is open.
            return {**document, "data": None}
        data = document["data"]
        values = data.tolist() if isinstance(data, np.ndarray) else list(data)
        for column in self._columns:
            values[column :: self._width] = [None] * shape[0]
        return {**document, "data": values}
