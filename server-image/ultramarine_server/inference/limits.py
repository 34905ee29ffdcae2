"""Limits of a model: concurrent requests, the queue, and time."""

from __future__ import annotations

import asyncio
import math
from collections import deque

import msgspec
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server.errors import Problem


class Limits(msgspec.Struct, frozen=True):
    """Limits of a model: 0 concurrent requests mean no limit, 0 seconds no timeout."""

    concurrent: int = 0
    queue_seconds: float = 0.5
    timeout_seconds: float = 60.0
    batch_rows: int = 1
    batch_seconds: float = 0.0

    @classmethod
    def of(cls, task: ServingTask) -> Limits:
        """Return the limits of a task."""
        return cls(
            task.max_concurrent_requests,
            task.max_queue_milliseconds / 1000,
            task.timeout_seconds,
            task.max_batch_size,
            task.max_latency_milliseconds / 1000,
        )


class Gate:
    """Limit of concurrent requests; a request that waits too long is rejected with a time to retry."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Number of waiting requests."""
        return sum(not waiter.done() for waiter in self._waiting)

    @property
    def has_room(self) -> bool:
        """True if one more request leaves a place free, or is the only request."""
        return not self._limits.concurrent or not self._inside or self._inside + 1 < self._limits.concurrent

    async def enter(self) -> None:
        """Wait for a place, which `leave` gives back. Raises Problem 503 if no place is free in time."""
        limit, seconds = self._limits.concurrent, self._limits.queue_seconds
        if not limit or self._inside < limit:
            self._inside += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            # The future hands the place over, so that a newcomer cannot take it.
            await asyncio.wait_for(asyncio.shield(waiter), seconds)
        except TimeoutError:
            if waiter.done():
                return  # The place came in the same moment.
            waiter.cancel()
            message = f"{limit} requests are being answered, and no place was free within {seconds:g} s"
            raise Problem(503, f"{message}; try again later", max(1, math.ceil(seconds))) from None
        except asyncio.CancelledError:  # The client has gone.
            if waiter.done() and not waiter.cancelled():
                self.leave()
            waiter.cancel()
            raise

    def leave(self) -> None:
        """Give the place to the request that has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._inside -= 1
