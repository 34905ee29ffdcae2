"""Bodies of the Open Inference Protocol V2: JSON for lists, binary tensors for arrays."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .signature import DataInvalid, Signature
from .tables import TYPES, Tensor, is_array

HEADER = "Inference-Header-Content-Length"
_PART_BYTES = 8 * 1024 * 1024  # of a request, of which the server takes eight times as much
_PART_ROWS = 20_000


def parts(signature: Signature, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the rows of a large table in requests of a size that servers take."""
    rows = tensors[0].rows
    whole = any(spec.shape[:1] != (-1,) for spec in signature.inputs) or any(t.rows != rows for t in tensors)
    size = sum(_row_bytes(tensor) for tensor in tensors)
    step = rows if whole else max(1, min(_PART_ROWS, _PART_BYTES // max(size, 1)))
    for start in range(0, rows, step):
        yield [tensor.part(start, start + step) for tensor in tensors]


def _row_bytes(tensor: Tensor) -> int:
    if is_array(tensor.values):
        return int(tensor.values.nbytes) // tensor.rows
    longest = max(tensor.values[:: max(1, tensor.rows // 100)], key=lambda row: len(str(row)))
    return len(str(longest)) + 8


def request(signature: Signature, tensors: Sequence[Tensor]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of an inference request."""
    inputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if is_array(tensor.values):
            tail.append(tensor.values.tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = _json(tensor.name, tensor.values)
        inputs.append(entry)
    document: dict[str, Any] = {"inputs": inputs}
    if tail:  # A missing text has no binary form.
        document["outputs"] = [
            {"name": output.name, "parameters": {"binary_data": output.datatype != "BYTES"}}
            for output in signature.outputs
        ]
    head = json.dumps(document, ensure_ascii=False).encode()
    if not tail:
        return {"Content-Type": "application/json"}, head
    return {"Content-Type": "application/octet-stream", HEADER: str(len(head))}, b"".join([head, *tail])


def _json(name: str, value: Any) -> Any:
    """Return a value as JSON has it: null for NaN."""
    if isinstance(value, list | tuple):
        return [_json(name, part) for part in value]
    if hasattr(value, "tolist"):  # a number of numpy
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise DataInvalid(f"column {name!r} holds an infinite number, which JSON does not have. Give an array instead.")
    if value is not None and not isinstance(value, str | bool | int | float):
        raise DataInvalid(f"column {name!r} holds a {type(value).__name__}. Convert it to numbers or text.")
    return value


def outputs(headers: Mapping[str, str], body: bytes, *, arrays: bool) -> dict[str, Any]:
    """Return the outputs of an answer by name: nested lists, or arrays of numpy."""
    length = int(headers.get(HEADER) or len(body))
    document, at = json.loads(body[:length]), length
    made = {}
    for entry in document["outputs"]:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            made[entry["name"]] = _values(entry, arrays=arrays)
        else:
            made[entry["name"]] = _array(entry, body[at : at + size])
            at += size
    return made


def _values(entry: Mapping[str, Any], *, arrays: bool) -> Any:
    data, shape = entry["data"], entry["shape"]
    if not arrays:
        return _nested(data, shape)
    import numpy as np

    texts = entry["datatype"] == "BYTES"
    return np.array(data, dtype=object if texts else TYPES[entry["datatype"]]).reshape(shape)


def _array(entry: Mapping[str, Any], data: bytes) -> Any:
    import numpy as np

    if entry["datatype"] == "BYTES":
        return np.array(list(_texts(data)), dtype=object).reshape(entry["shape"])
    return np.frombuffer(data, TYPES[entry["datatype"]]).reshape(entry["shape"]).copy()


def _texts(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        yield data[at + 4 : at + 4 + length].decode(errors="replace")
        at += 4 + length


def _nested(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Return flat values as lists of lists."""
    for size in reversed(shape[1:]):
        data = [data[at : at + size] for at in range(0, len(data), size)] if size else [[] for _ in range(shape[0])]
    return data


def joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the outputs of the parts of a table."""
    if len(pieces) == 1:
        return pieces[0]
    whole: dict[str, Any] = {}
    for name in pieces[0]:
        values = [piece[name] for piece in pieces]
        if is_array(values[0]):
            import numpy as np

            whole[name] = np.concatenate(values)
        else:
            whole[name] = [row for part in values for row in part]
    return whole
