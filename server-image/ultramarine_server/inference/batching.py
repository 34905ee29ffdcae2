"""Batches: threads compute waiting requests, alone or, if the model allows it, as one batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import msgspec
import numpy as np

from ultramarine_server.inference.limits import Limits
from ultramarine_server.models.model import Model, Signature
from ultramarine_server.protocol.tensors import Array
from ultramarine_server.telemetry import Telemetry


class _Entry(msgspec.Struct, eq=False):
    model: Model
    arrays: Mapping[str, Array]
    names: tuple[str, ...]
    since: float  # arrival, by time.perf_counter
    answer: asyncio.Future[dict[str, Array]]
    rows: int = 0  # 0: not in a batch
    key: Any = None


def can_batch(signature: Signature) -> bool:
    """True if requests can be concatenated: all tensors have any number of rows."""
    return all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))


class Batcher:
    """Queue that starts a request once a thread is free, and waits for a full batch only while others run."""

    def __init__(
        self, executor: Executor, threads: int, limits: Limits, telemetry: Telemetry, leave: Callable[[], None]
    ) -> None:
        self._executor, self._threads, self._limits = executor, threads, limits
        self._telemetry, self._leave = telemetry, leave
        self._waiting: deque[_Entry] = deque()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """True if one more request leaves a thread free, or is the only request."""
        return not self._running or self._running + 1 < self._threads

    async def run(
        self, model: Model, arrays: Mapping[str, Array], names: Sequence[str], since: float
    ) -> dict[str, Array]:
        """Return the outputs; the batcher calls `leave` when the request is really finished."""
        entry = _Entry(model, arrays, tuple(names), since, asyncio.get_running_loop().create_future())
        if self._limits.batch_rows > 1 and can_batch(model.signature):
            counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
            if len(counts) == 1:
                [entry.rows] = counts
                shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(arrays.items()))
                entry.key = (id(model), entry.names, shapes)
        self._waiting.append(entry)
        self._start_waiting()
        return await entry.answer

    def _start_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._running < self._threads:
            batch, full = self._next()
            if not batch:
                continue
            wait = batch[0].since + self._limits.batch_seconds - time.perf_counter()
            if batch[0].rows and not full and self._running and wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._start_waiting)
                return
            for entry in batch:
                self._waiting.remove(entry)
            self._start(batch)

    def _next(self) -> tuple[list[_Entry], bool]:
        """Return the first waiting request with those that fit into its batch, and True if the batch is full."""
        first = self._waiting[0]
        if first.answer.done():  # The client has gone, or the request timed out.
            self._waiting.popleft()
            self._leave()
            return [], False
        batch, rows, limit = [first], first.rows, self._limits.batch_rows
        if first.rows:
            for entry in list(self._waiting)[1:]:
                if rows >= limit:
                    break
                if entry.key == first.key and rows + entry.rows <= limit and not entry.answer.done():
                    batch.append(entry)
                    rows += entry.rows
        return batch, rows >= limit

    def _start(self, batch: list[_Entry]) -> None:
        now = time.perf_counter()
        for entry in batch:
            self._telemetry.queued(now - entry.since)
        if batch[0].rows:
            self._telemetry.batched(sum(entry.rows for entry in batch))
        self._running += 1
        work = asyncio.get_running_loop().run_in_executor(self._executor, _compute, batch)
        work.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: list[_Entry], work: asyncio.Future[list[dict[str, Array]]]) -> None:
        self._running -= 1
        error = work.exception()
        if error is not None and len(batch) > 1:
            # The values of one request may have failed the batch, so each request runs alone.
            for entry in reversed(batch):
                entry.rows = 0
                self._waiting.appendleft(entry)
        else:
            for index, entry in enumerate(batch):
                self._leave()
                if not entry.answer.done():
                    if error is not None:
                        entry.answer.set_exception(error)
                    else:
                        entry.answer.set_result(work.result()[index])
        self._start_waiting()


def _compute(batch: Sequence[_Entry]) -> list[dict[str, Array]]:
    first = batch[0]
    if len(batch) == 1:
        return [first.model.predict(first.arrays, first.names)]
    merged = {name: np.concatenate([entry.arrays[name] for entry in batch]) for name in first.arrays}
    results = first.model.predict(merged, first.names)
    ends = np.cumsum([entry.rows for entry in batch])
    if any(array.shape[:1] != (ends[-1],) for array in results.values()):
        raise ValueError(f"the model did not answer each of {ends[-1]} rows; turn batching off for it")
    return [
        {name: array[end - entry.rows : end] for name, array in results.items()}
        for end, entry in zip(ends, batch, strict=True)
    ]
