"""One question to a model by the documents of the protocol, without a server; used by the tests of models."""

from __future__ import annotations

from ultramarine_server.inference.service import check_inputs, select_outputs, typed
from ultramarine_server.models.model import Model
from ultramarine_server.protocol import documents


def infer(model: Model, name: str, version: str, body: bytes, header_length: str = "") -> bytes:
    """Return the answer to a request's body, as the server gives it; BadRequest is raised."""
    inference, form = documents.read(name, version, body, header_length)
    specs = select_outputs(model, inference.outputs)
    results = model.predict(check_inputs(model, inference.inputs), [spec.name for spec in specs])
    answer, _ = documents.write(name, version, inference.id, typed(specs, results), form)
    return answer
