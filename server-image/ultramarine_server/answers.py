"""Answers that are kept for a moment, so that a gateway can compare those to copies of requests with the others.

They are kept only for who has asked in the last seconds, and as little of them as a comparison needs.
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
from ultramarine_server.service import Outputs, Tensor
from ultramarine_server.tensors import encode

ROWS, VALUES = 64, 1024  # of an output that is compared; larger ones are left out
_COLUMNS = 64 * VALUES  # values of an output of which only each row's largest column counts
KEPT_SECONDS = 10.0  # after its last question nothing more is kept for a reader
_READERS = 16
_ANSWERS, _BYTES = 2000, 512 * 1024  # for each reader; the oldest go first
NAME_LIMIT = 128  # characters of a request's name, and of a reader's word
# These say nothing of how the model answers: a key that was exchanged, a client that was slow, no room or no time.
_NO_ANSWER = frozenset({401, 408, 429, 503, 504})

LABELS, LARGEST, NUMBERS = "labels", "largest", "numbers"
# A request that was refused with 4xx is told as an output that no answer has: two refusals are alike, and no gateway,
# not even an older one, takes a refusal for an answer.
REFUSAL = [["", "refused", "4xx"]]


class _Shelf(msgspec.Struct):
    until: float
    answers: deque[bytes] = msgspec.field(default_factory=deque)
    size: int = 0


class Answers:
    """What is kept for each reader. While `readers` is empty nobody asks, and there is nothing to take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.readers: dict[str, _Shelf] = {}

    def take(self, header: str, status: int, outputs: Outputs | None) -> None:
        """Keep an answer, if the reader that the header names has asked."""
        reader, _, name = header.partition(" ")
        shelf = self.readers.get(reader)
        if shelf is None or status in _NO_ANSWER or not 0 < len(name) <= NAME_LIMIT:
            return
        told: Any = None if status != 200 or outputs is None else [one for one in map(_told, outputs) if one]
        if 400 <= status < 500:
            told = REFUSAL
        line = orjson.dumps([name, told], option=orjson.OPT_SERIALIZE_NUMPY)
        shelf.answers.append(line)
        shelf.size += len(line)
        while len(shelf.answers) > _ANSWERS or shelf.size > _BYTES:
            shelf.size -= len(shelf.answers.popleft())

    def read(self, reader: str) -> bytes:
        """Return as JSON what was kept since the last question, and keep on: [request, outputs] each.

        Outputs are [name, kind, value] each, REFUSAL where the answer was 4xx, or null where it was another error.
        """
        self.lapse()
        until = self._clock() + KEPT_SECONDS
        if reader not in self.readers and len(self.readers) >= _READERS:
            raise Problem(429, f"{_READERS} gateway pods ask for answers already", retry_after=int(KEPT_SECONDS))
        shelf = self.readers.get(reader)
        self.readers[reader] = _Shelf(until)
        return b"[" + b",".join(shelf.answers if shelf else ()) + b"]"

    def lapse(self) -> None:
        """Forget readers that ask no more, and what was kept for them."""
        now = self._clock()
        for reader in [reader for reader, shelf in self.readers.items() if shelf.until <= now]:
            del self.readers[reader]


def _told(tensor: Tensor) -> list[Any] | None:
    """What is compared of an output, which says all where it is equal but for numbers; nothing of a large one."""
    array = tensor.array
    columns = array.ndim == 2 and array.shape[1] > 1
    floats = tensor.datatype.startswith("FP")
    rows = array.shape[0] if array.ndim else 1
    if rows > ROWS or array.size > (_COLUMNS if floats and columns else VALUES):
        return None
    if floats and columns:
        return [tensor.name, LARGEST, _digest(array.argmax(axis=1).tolist())]
    if floats:
        return [tensor.name, NUMBERS, np.asarray(array, np.float64).ravel()]
    values = encode(array, tensor.datatype)
    return [tensor.name, LABELS, _digest(values.tolist() if isinstance(values, np.ndarray) else values)]


def _digest(values: Sequence[Any]) -> str:
    """A word that is the same for the same values, be they of 32 bits or of 64."""
    return hashlib.sha256(orjson.dumps(values)).hexdigest()[:16]
