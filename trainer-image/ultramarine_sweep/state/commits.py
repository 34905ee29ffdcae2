"""Group commit: all records that come while a segment is being written are the next segment."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

from ultramarine_sweep.state.journal import Journal, Record

LAZY = 1.0  # seconds that records may wait if no worker waits for them


class Commits:
    """Writes to a journal, and makes it shorter where that is due, while `run` runs.

    `snapshot` gives records that make the very state which all records make that were added, also if they are taken
    later, in another thread. `written` is told what the journal has.
    """

    def __init__(
        self,
        journal: Journal,
        snapshot: Callable[[], Iterable[Record]],
        written: Callable[[Sequence[Record]], None] = lambda records: None,
    ) -> None:
        self._journal, self._snapshot, self._tell = journal, snapshot, written
        self._waiting: list[Record] = []
        self._added = self._written = 0
        self._since = 0.0  # when the oldest record came that is not written
        self._changed = asyncio.Condition()
        self._asked = asyncio.Event()
        self._deleting: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    def add(self, records: Iterable[Record]) -> None:
        """Take records, which are written within LAZY seconds."""
        before = len(self._waiting)
        self._waiting += records
        if self._written == self._added:
            self._since = time.monotonic()
        self._added += len(self._waiting) - before

    @property
    def behind(self) -> float:
        """For how many seconds something has waited to be written."""
        return time.monotonic() - self._since if self._written < self._added else 0.0

    async def durable(self) -> None:
        """Come back when all is written that has been added. Raises what `run` has failed with."""
        target = self._added
        if self._written >= target:
            return
        self._asked.set()
        async with self._changed:
            await self._changed.wait_for(lambda: self._written >= target or self._failure)
        if self._failure:
            raise self._failure

    async def run(self) -> None:
        """Write, forever. Raises Fenced and StorageError."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAZY):
                        await self._asked.wait()
                self._asked.clear()
                if self._waiting:
                    await self._write()
        except BaseException as error:
            self._failure = error if isinstance(error, Exception) else ConnectionError("the coordinator ends")
            async with self._changed:
                self._changed.notify_all()
            raise

    async def _write(self) -> None:
        if self._journal.is_long:
            if self._deleting:
                await self._deleting
            records, target = self._snapshot(), self._added
            news, self._waiting = self._waiting, []  # the snapshot says it all
            superfluous = await asyncio.to_thread(self._journal.compact, records)
            self._deleting = asyncio.ensure_future(asyncio.to_thread(self._journal.delete, superfluous))
        else:
            news, target, self._waiting = self._waiting, self._added, []
            await asyncio.to_thread(self._journal.append, news)
        self._written, self._since = target, time.monotonic()
        self._tell(news)
        async with self._changed:
            self._changed.notify_all()
