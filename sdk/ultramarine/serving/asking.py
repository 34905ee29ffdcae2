"""Requests with rows: by the signature of a model, or in the form that a scoring script reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from . import messages
from .reading import Columns, path_of
from .signature import Signature
from .tables import is_array, is_frame, tensors

Reply = tuple[Mapping[str, str], bytes]  # headers and body
Post = Callable[[str, bytes, Mapping[str, str]], Reply]  # of a path, a body and headers
Schema = Mapping[str, Any]


class Answers(dict[str, Any]):
    """Outputs of a model by name."""


def infer(signature: Signature, data: Any, post: Post) -> Answers:
    """Return all outputs for rows, asked in parts of a size that servers take. Raises DataInvalid."""
    path = f"/v2/models/{quote(signature.model)}/infer"
    pieces = []
    for part in messages.parts(signature, tensors(signature, data)):
        headers, body = messages.request(signature, part)
        answered, content = post(path, body, headers)
        pieces.append(messages.outputs(answered, content, arrays=is_array(data) or is_frame(data)))
    return Answers(messages.joined(pieces))


def scored(schema: Schema, data: Any, post: Post) -> Any:
    """Return the answer of a script to rows; `schema` is the one that it shows, or empty."""
    _, content = post("/score", json.dumps(script_document(schema, data), default=str).encode(), {})
    return _document(content)


def answer(signature: Signature | None, schema: Schema, data: Any, post: Post) -> Any:
    """Return the answer to rows, or to a complete request of the protocol, which is sent as it is."""
    if path := path_of(data, signature):
        return _document(post(path, json.dumps(data).encode(), {})[1])
    return infer(signature, data, post) if signature else scored(schema, data, post)


def script_document(schema: Schema, data: Any) -> Any:
    """Return the JSON document of rows for run(data) of Azure's contract.

    A table becomes `{"columns": names, "data": rows}`, as pandas writes it with orient="split". With the decorators of
    inference-schema it has the parameter's name and the rows that the sample has. Other rows become `{"data": rows}`;
    an object is sent as it is.
    """
    properties: dict[str, Schema] = schema.get("properties") or {}
    arrays = {name: part for name, part in properties.items() if part.get("type") == "array"}
    name = next(iter(arrays), "data")
    sample = arrays.get(name, {})
    if is_frame(data):
        split = data.astype(object).where(data.notna(), None).to_dict("split")
        names, rows = [str(column) for column in split["columns"]], split["data"]
    elif isinstance(data, Columns):
        names, rows = list(data), [list(row) for row in zip(*data.values(), strict=True)]
    else:
        rows = data.tolist() if hasattr(data, "tolist") else data
        return rows if isinstance(rows, dict) else {name: rows}
    if (sample.get("items") or {}).get("type") == "object":
        return {name: [dict(zip(names, row, strict=True)) for row in rows]}
    return {name: rows} if sample else {"columns": names, "data": rows}


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:  # a script may answer with any text
        return body.decode(errors="replace")
