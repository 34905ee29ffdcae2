"""Recorder: writes the facts about our objects into the object storage, beside the passes.

Each pass notices its object, and none waits for a record. The facts of an object are compared with the chain of its
namespace. So what an earlier leader did not write is written by the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import structs
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import Fact, facts
from ultramarine_contract.meta import Key, Manifest
from ultramarine_contract.records import Chain, Storage, folder

from ..shared.conditions import timestamp
from ..shared.metrics import RECORDS

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


class Notice(NamedTuple):
    """Facts about an object at one moment; `is_gone` if it was deleted then."""

    namespace: str
    uid: str
    facts: tuple[Fact, ...]
    is_gone: bool = False

    @property
    def values(self) -> tuple[tuple[str, str], ...]:
        return tuple((fact.slot, fact.value) for fact in self.facts)


class Recorder:
    """Notices that wait for their records, and the chain of each namespace."""

    def __init__(self, storage: Storage, bucket: str, writer: str, uid_of: Callable[[Key], str | None]) -> None:
        self._storage = storage
        self._bucket = bucket
        self._writer = writer
        self._uid_of = uid_of  # the uid of an object that exists
        self._chains: dict[str, Chain] = {}
        self._waiting: deque[Notice] = deque()
        self._newest: dict[str, tuple[tuple[str, str], ...]] = {}  # by uid: the values that were noticed last
        self._news = asyncio.Event()
        self._threads = ThreadPoolExecutor(1, "records")

    @property
    def waiting(self) -> int:
        """Number of notices without records."""
        return len(self._waiting)

    def notice(self, manifest: Manifest, *, is_gone: bool = False) -> None:
        """Take in an object as it is now, or as it was last seen before its end."""
        meta = manifest["metadata"]
        now = timestamp(datetime.now(UTC))
        dated = (fact if fact.time else structs.replace(fact, time=now) for fact in facts(manifest))
        notice = Notice(meta["namespace"], meta["uid"], tuple(dated), is_gone)
        if is_gone:
            self._newest.pop(notice.uid, None)
        elif self._newest.get(notice.uid, ()) == notice.values:
            return
        else:
            self._newest[notice.uid] = notice.values
        self._waiting.append(notice)
        self._news.set()

    def begin(self) -> None:
        """Forget everything: another replica may have written since this one led."""
        self._chains, self._newest = {}, {}
        self._waiting.clear()

    async def run(self) -> None:
        """Write records, in the order in which the facts were noticed. Never returns."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                notice = self._waiting[0]
                try:
                    await asyncio.get_running_loop().run_in_executor(self._threads, self._write, notice)
                except StorageError as error:
                    log.warning("records of %s wait: %s", notice.namespace, error)
                    RECORDS.labels(outcome=error.reason).inc()
                    self._chains.pop(notice.namespace, None)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    self._waiting.popleft()

    def _write(self, notice: Notice) -> None:
        chain = self._chains.get(notice.namespace)
        if chain is None:
            chain = Chain(self._storage, folder(self._bucket, notice.namespace), self._writer)
            chain.load()
            self._append(chain, self._ended_meanwhile(chain, notice.namespace))
            self._chains[notice.namespace] = chain
        ends = chain.ends(notice.uid) if notice.is_gone else chain.closing(notice.uid, notice.facts)
        self._append(chain, (*notice.facts, *ends))

    def _ended_meanwhile(self, chain: Chain, namespace: str) -> tuple[Fact, ...]:
        """Return the ends of objects that were deleted while no operator was there."""
        keys = {uid: Key(fact.kind, namespace, fact.name) for uid, fact in chain.living().items()}
        gone = [uid for uid, key in keys.items() if self._uid_of(key) != uid]
        return tuple(fact for uid in gone for fact in chain.ends(uid))

    def _append(self, chain: Chain, new: Iterator[Fact] | tuple[Fact, ...]) -> None:
        for fact in new:
            if chain.append(fact):
                RECORDS.labels(outcome="ok").inc()
