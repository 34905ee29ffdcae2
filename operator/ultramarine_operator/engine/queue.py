"""A queue of keys: each key waits in it once, is worked on by one worker at a time, and backs off when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import Callable

from ultramarine_contract.meta import Key

FIRST_BACKOFF = 0.2  # seconds, doubled with every failure in a row
MAX_BACKOFF = 60.0


class Queue:
    """Deduplicating, delaying, and fair in the order of due times.

    A key that is added during its pass is handed out again after the pass, so no change is lost.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after: float = 0.0) -> None:
        """Ask for `key` to be handed out in `after` seconds, or earlier if an earlier time is due."""
        due = self._clock() + after
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._changed.set()

    async def get(self) -> Key:
        """Wait for a key that is due and has no pass. Call `done` or `failed` once for every `get`."""
        while True:
            now = self._clock()
            wait: float | None = None
            held: list[tuple[float, Key]] = []
            next_key: Key | None = None
            while self._heap:
                due, key = self._heap[0]
                if self._due.get(key) != due:  # superseded by an earlier time
                    heapq.heappop(self._heap)
                    continue
                if due > now:
                    wait = due - now
                    break
                heapq.heappop(self._heap)
                if key in self._working:
                    held.append((due, key))
                    continue
                next_key = key
                break
            for entry in held:
                heapq.heappush(self._heap, entry)
            if next_key is not None:
                del self._due[next_key]
                self._working.add(next_key)
                return next_key
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the wake-up.
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def done(self, key: Key, after: float | None = None, *, well: bool = True) -> None:
        """End a pass, and add the key again in `after` seconds if that is given. Failures count on if not `well`."""
        self._working.discard(key)
        if well:
            self._failures.pop(key, None)
        if after is not None:
            self.add(key, after)
        self._changed.set()

    def backoff(self, key: Key) -> float:
        """Return the seconds for which the key is held back if its pass fails now."""
        return min(FIRST_BACKOFF * 2.0 ** self._failures.get(key, 0), MAX_BACKOFF)

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """End a pass that failed; hand the key out again after its back-off, which is returned in seconds."""
        delay = max(self.backoff(key), at_least)
        self._failures[key] = min(self._failures.get(key, 0) + 1, 30)  # the back-off is at its maximum by then
        self._working.discard(key)
        self.add(key, delay)
        self._changed.set()
        return delay

    def clear(self) -> None:
        """Forget all keys; those that are worked on are handed back by their workers."""
        self._due.clear()
        self._heap.clear()
        self._failures.clear()

    @property
    def working(self) -> bool:
        """True if a pass is running."""
        return bool(self._working)

    @property
    def depth(self) -> int:
        """Number of keys that are due now."""
        now = self._clock()
        return sum(1 for due in self._due.values() if due <= now)

    @property
    def age(self) -> float:
        """Seconds for which the most overdue key has been waiting."""
        now = self._clock()
        return max((now - due for due in self._due.values() if due <= now), default=0.0)
