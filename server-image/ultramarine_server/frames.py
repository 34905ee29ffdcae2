"""Frames between the server and its worker processes: a header of JSON and a body, over a Unix socket.

This module runs in both, so it needs the standard library only, and Python 3.9. Arrays need numpy.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER = 16 * 1024 * 1024  # bytes
MAX_BODY = 64 * 1024 * 1024  # bytes of a request and of an answer, as for all models
_LENGTHS = struct.Struct("!II")
_SMALL = 64 * 1024  # bytes; a larger body is not copied behind its header


class Closed(Exception):
    """The other process has closed the connection, or has sent bytes that are not a frame."""


def send(connection: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    """Send a frame. Raises OSError, and TimeoutError after the time of the socket."""
    text = json.dumps(header).encode()
    head = _LENGTHS.pack(len(text), len(body)) + text
    if len(body) < _SMALL:
        connection.sendall(head + body)
    else:
        connection.sendall(head)
        connection.sendall(body)


def receive(connection: socket.socket, deadline: float = math.inf) -> tuple[dict[str, Any], bytearray]:
    """Return header and body. Raises Closed, OSError, and TimeoutError at the deadline, by time.monotonic."""
    header_size, body_size = _LENGTHS.unpack(_take(connection, _LENGTHS.size, deadline))
    if header_size > MAX_HEADER or body_size > MAX_BODY:
        raise Closed("a frame is larger than allowed")
    text = _take(connection, header_size, deadline)
    body = _take(connection, body_size, deadline)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise Closed("a frame has no header") from error
    if not isinstance(header, dict):
        raise Closed("a frame has no header")
    return header, body


def _take(connection: socket.socket, size: int, deadline: float) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        if deadline != math.inf:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        count = connection.recv_into(view[at:])
        if not count:
            raise Closed("the connection is closed")
        at += count
    return data


def pack(arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[list[Any], bytes]:
    """Return the descriptions of arrays, for a header, and their values, for a body."""
    described: list[Any] = []
    parts: list[bytes] = []
    for name, array in arrays.items():
        if array.dtype.kind in "biuf":
            dtype, data = array.dtype.str, array.tobytes()
        else:
            dtype, data = "", json.dumps([_text(value) for value in array.ravel().tolist()]).encode()
        described.append([name, dtype, list(array.shape), len(data)])
        parts.append(data)
    return described, b"".join(parts)


def unpack(described: Sequence[Any], body: bytearray) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a frame, which the caller may change. Raises Closed for other descriptions."""
    import numpy as np

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    at = 0
    try:
        for name, dtype, shape, size in described:
            if dtype:
                kind = np.dtype(dtype)
                array = np.frombuffer(body, kind, size // kind.itemsize, at).copy()
            else:
                values = json.loads(body[at : at + size])
                array = np.empty(len(values), dtype=object)
                array[:] = values
            arrays[name] = array.reshape(shape)
            at += size
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise Closed("a frame has no arrays") from error
    return arrays


def _text(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
