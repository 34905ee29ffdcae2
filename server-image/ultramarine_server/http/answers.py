"""Answers that are kept for a moment, so that a gateway can compare shadow traffic with the original answers.

They are kept only for readers of the last seconds, and hold only what a comparison needs.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson

from ultramarine_server.errors import Problem
from ultramarine_server.protocol.tensors import Outputs, Tensor, encode

MAX_ROWS, MAX_VALUES = 64, 1024  # Limits of an output that is compared.
_MAX_MATRIX = 64 * MAX_VALUES  # Limit of values in an output of which only each row's largest column counts.
KEPT_SECONDS = 10.0  # After a reader's last read.
_MAX_READERS = 16
_MAX_ANSWERS, _MAX_BYTES = 2000, 512 * 1024  # Limits of each reader; the oldest answers go first.
MAX_NAME = 128  # Characters of a request's name, and of a reader's.
# These statuses do not depend on the model: a rotated key, a slow client, no room or no time.
_NO_ANSWER = frozenset({401, 408, 429, 503, 504})

LABELS, LARGEST, NUMBERS = "labels", "largest", "numbers"
# A 4xx is reported as an output that no answer has. So two refusals are equal, and no gateway of any release takes a
# refusal for an answer.
REFUSAL = [["", "refused", "4xx"]]


class _Shelf(msgspec.Struct):
    until: float
    answers: deque[bytes] = msgspec.field(default_factory=deque)
    size: int = 0


class Answers:
    """Answers of each reader. While `readers` is empty, no gateway compares and no answer has to be taken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.readers: dict[str, _Shelf] = {}

    def take(self, header: str, status: int, outputs: Outputs | None) -> None:
        """Keep an answer, if the header's reader has read lately."""
        reader, _, name = header.partition(" ")
        shelf = self.readers.get(reader)
        if shelf is None or status in _NO_ANSWER or not 0 < len(name) <= MAX_NAME:
            return
        facts: Any = None if status != 200 or outputs is None else [fact for fact in map(_facts, outputs) if fact]
        if 400 <= status < 500:
            facts = REFUSAL
        line = orjson.dumps([name, facts], option=orjson.OPT_SERIALIZE_NUMPY)
        shelf.answers.append(line)
        shelf.size += len(line)
        while len(shelf.answers) > _MAX_ANSWERS or shelf.size > _MAX_BYTES:
            shelf.size -= len(shelf.answers.popleft())

    def read(self, reader: str) -> bytes:
        """Return the answers since the last read as JSON, a pair [request, outputs] each, and keep further answers.

        An output is [name, kind, value]. The outputs are REFUSAL for a 4xx, and null for another error.
        """
        self.lapse()
        until = self._clock() + KEPT_SECONDS
        if reader not in self.readers and len(self.readers) >= _MAX_READERS:
            raise Problem(429, f"{_MAX_READERS} gateway pods read answers already", retry_after=int(KEPT_SECONDS))
        shelf = self.readers.get(reader)
        self.readers[reader] = _Shelf(until)
        return b"[" + b",".join(shelf.answers if shelf else ()) + b"]"

    def lapse(self) -> None:
        """Drop readers that have stopped reading, and their answers."""
        now = self._clock()
        for reader in [reader for reader, shelf in self.readers.items() if shelf.until <= now]:
            del self.readers[reader]


def _facts(tensor: Tensor) -> list[Any] | None:
    """Return the part of an output that is compared: a digest, or its numbers; None for a large output."""
    array = tensor.array
    columns = array.ndim == 2 and array.shape[1] > 1
    floats = tensor.datatype.startswith("FP")
    rows = array.shape[0] if array.ndim else 1
    if rows > MAX_ROWS or array.size > (_MAX_MATRIX if floats and columns else MAX_VALUES):
        return None
    if floats and columns:
        return [tensor.name, LARGEST, _digest(array.argmax(axis=1).tolist())]
    if floats:
        return [tensor.name, NUMBERS, np.asarray(array, np.float64).ravel()]
    values = encode(array, tensor.datatype)
    return [tensor.name, LABELS, _digest(values.tolist() if isinstance(values, np.ndarray) else values)]


def _digest(values: Sequence[Any]) -> str:
    """Return a digest that is the same for equal values of 32 and of 64 bits."""
    return hashlib.sha256(orjson.dumps(values)).hexdigest()[:16]
