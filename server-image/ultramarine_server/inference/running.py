"""Runner: it computes quick requests on the event loop's thread, others on threads with limits and batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ultramarine_server.errors import Problem
from ultramarine_server.inference.batching import Batcher
from ultramarine_server.inference.limits import Gate, Limits
from ultramarine_server.models.model import Loaded, Model
from ultramarine_server.protocol.tensors import Array
from ultramarine_server.telemetry import Telemetry

QUICK_SECONDS = 0.001  # The way to a thread and back takes about a tenth of that, and more under load.
QUICK_SECONDS_IN_BATCHES = 0.0001  # A batch gains more than that for slower requests.
_STRIKES = 8  # slow answers in a row; fewer may come from a process that was not scheduled


class Runner:
    """Threads, limits and batches of a service."""

    def __init__(self, threads: int, limits: Limits, telemetry: Telemetry) -> None:
        self.limits = limits
        self._gate = Gate(limits)
        self._telemetry = telemetry
        # Separate threads, so that probes and metrics are answered while the model computes.
        self._batcher = Batcher(ThreadPoolExecutor(threads, "predict"), threads, limits, telemetry, self._gate.leave)
        telemetry.queue_length = lambda: len(self._gate) + len(self._batcher)

    @property
    def quick_seconds(self) -> float:
        """Time that a request may take on the event loop's thread."""
        return QUICK_SECONDS_IN_BATCHES if self.limits.batch_rows > 1 else QUICK_SECONDS

    @property
    def has_room(self) -> bool:
        """True if no request waits, and one more leaves a place and a thread for the next request."""
        return not len(self._gate) + len(self._batcher) and self._gate.has_room and self._batcher.has_room

    def is_quick(self, loaded: Loaded, arrays: Mapping[str, Array]) -> bool:
        """True if the inputs are small enough for the event loop's thread."""
        return bool(loaded.quick) and sum([array.size for array in arrays.values()]) <= loaded.quick

    def run_now(self, loaded: Loaded, arrays: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Return the outputs; the event loop waits for them."""
        started = time.perf_counter()
        results = loaded.model.predict(arrays, names)
        if time.perf_counter() - started < 10 * QUICK_SECONDS:
            loaded.strikes = 0
        else:
            loaded.strikes += 1
            if loaded.strikes >= _STRIKES:  # The warm-up was quicker than requests are.
                loaded.quick = 0
        return results

    async def run(self, model: Model, arrays: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Return the outputs. Raises Problem 503 or 504 if that takes too long."""
        seconds = self.limits.timeout_seconds
        try:
            async with asyncio.timeout(seconds or None):
                started = time.perf_counter()
                try:
                    await self._gate.enter()
                except Problem:
                    self._telemetry.reject("queue")
                    raise
                return await self._batcher.run(model, arrays, names, started)
        except TimeoutError:
            self._telemetry.reject("timeout")
            raise Problem(504, f"the model gave no answer within {seconds:g} s") from None
