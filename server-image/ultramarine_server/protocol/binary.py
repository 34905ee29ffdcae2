"""Binary tensor data extension: tensors as raw little-endian bytes behind the JSON document."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence

import numpy as np

from ultramarine_server.errors import BadRequest
from ultramarine_server.protocol.tensors import DTYPES, Array, text_bytes

HEADER = "inference-header-content-length"


class Tail:
    """Bytes behind the document; tensors take their bytes in their order, and no byte may be left."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, size: object) -> memoryview:
        """Return the next `size` bytes."""
        if type(size) is not int or size < 0:
            raise BadRequest("parameters.binary_data_size must be a number of bytes")
        end = self._at + size
        if end > len(self._data):
            raise BadRequest(f"binary_data_size says {size} bytes, {len(self._data) - self._at} came")
        self._at, taken = end, self._data[self._at : end]
        return taken

    def finish(self) -> None:
        """Raise BadRequest for bytes that no tensor has taken."""
        if left := len(self._data) - self._at:
            raise BadRequest(f"{left} bytes follow the last tensor; the sum of binary_data_size has to cover them")


_NO_TAIL = Tail(memoryview(b""))  # empty, so all requests share it


def split(body: bytes, header_length: str) -> tuple[bytes, Tail]:
    """Return the document and the tensors behind it."""
    if not header_length:
        return body, _NO_TAIL
    if not re.fullmatch("[0-9]{1,18}", header_length) or int(header_length) > len(body):
        raise BadRequest(f"{HEADER} is {header_length!r}; it must be the length of the JSON document in the body")
    length = int(header_length)
    return body[:length], Tail(memoryview(body)[length:])


def decode(datatype: str, shape: Sequence[int], data: memoryview | bytes) -> Array:
    """Return the array of a tensor's bytes."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _strings(count, data).reshape(shape)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadRequest(f"shape {list(shape)} of {datatype} wants {count * dtype.itemsize} bytes, {len(data)} came")
    array = np.frombuffer(data, dtype.newbyteorder("<"))
    if datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise BadRequest("a BOOL byte must be 0 or 1")
    return array.reshape(shape)


def encode(array: Array, datatype: str) -> bytes:
    """Return the tensor's bytes."""
    if datatype != "BYTES":
        return np.ascontiguousarray(array, DTYPES[datatype].newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for value in array.ravel():
        text = text_bytes(value)
        parts += (struct.pack("<I", len(text)), text)
    return b"".join(parts)


def _strings(count: int, data: memoryview | bytes) -> Array:
    """Return the strings of a tensor: four bytes of length before each. Models take text, so all must be UTF-8."""
    values: list[str] = []
    at = 0
    while at < len(data) and len(values) <= count:
        if at + 4 > len(data):
            raise BadRequest("a BYTES element is cut off within its length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        if at > len(data):
            raise BadRequest(f"a BYTES element has {length} bytes, but the tensor ends before")
        try:
            values.append(bytes(data[at - length : at]).decode())
        except UnicodeDecodeError as error:
            raise BadRequest("a BYTES element is not UTF-8 text") from error
    if len(values) != count:
        raise BadRequest(f"the shape wants {count} BYTES elements, {len(values)} came")
    return np.array(values, dtype=object)
