"""Captures as Parquet."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import pyarrow
from pyarrow.parquet import write_table
from ultramarine_contract.serving_records import ServingTask


class Row(msgspec.Struct):
    """Line that the server has written; `time` is in microseconds since 1970."""

    time: int
    request_id: str
    inference_id: str
    path: str
    status: int
    duration_ms: float
    request: str | None
    response: str | None


_ROW: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)


def rows_in(lines: Iterable[bytes]) -> tuple[list[Row], int]:
    """Return the captures of lines, and the number of unreadable lines."""
    rows, wrong = [], 0
    for line in lines:
        try:
            row = _ROW.decode(line)
            wrong_number = not (-(2**63) <= row.time < 2**63 and 0 <= row.status < 1000)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            wrong_number = True
        if wrong_number:
            wrong += 1
        else:
            rows.append(row)
    return rows, wrong


def parquet_of(rows: Sequence[Row], task: ServingTask) -> bytes:
    """Return a Parquet file of rows; the task names endpoint and model, because a model's code may write lines."""
    assert task.collect is not None
    same = {
        "endpoint": task.collect.endpoint,
        "deployment": task.collect.deployment,
        "model": task.model,
        "version": task.version,
    }
    columns: dict[str, Any] = {
        "time": _numbers(pyarrow.timestamp("us", "UTC"), array("q", [row.time for row in rows])),
        "request_id": _texts([row.request_id for row in rows]),
        "inference_id": _texts([row.inference_id for row in rows]),
        **{name: _texts([value] * len(rows)) for name, value in same.items()},
        "path": _texts([row.path for row in rows]),
        "status": _numbers(pyarrow.int32(), array("i", [row.status for row in rows])),
        "duration_ms": _numbers(pyarrow.float64(), array("d", [row.duration_ms for row in rows])),
        "request": _texts([row.request for row in rows]),
        "response": _texts([row.response for row in rows]),
    }
    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    sink = pyarrow.BufferOutputStream()
    write_table(table, sink, compression="zstd", use_dictionary=[*same, "path"])
    return bytes(sink.getvalue())


# Arrays are made of buffers, because pyarrow.array() imports pandas, which takes 60 MiB.


def _numbers(type: Any, data: array[Any]) -> Any:
    return pyarrow.Array.from_buffers(type, len(data), [None, pyarrow.py_buffer(data)])


def _texts(values: Sequence[str | None]) -> Any:
    words = [(value or "").encode() for value in values]
    ends = array("i", accumulate(map(len, words), initial=0))
    there = bytes(
        sum((value is not None) << bit for bit, value in enumerate(values[at : at + 8]))
        for at in range(0, len(values), 8)
    )
    buffers = [pyarrow.py_buffer(there), pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(words))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(words), buffers)
