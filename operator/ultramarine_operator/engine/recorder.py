"""Recorder: writes the facts about our objects into the object storage, beside the passes.

Each pass notices its object, and none waits for a record. The facts of an object are compared with the chain of its
namespace. So what an earlier leader did not write is written by the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import structs
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import KINDS, Fact, facts
from ultramarine_contract.meta import Key, Manifest
from ultramarine_contract.records import Chain, Storage, folder

from ..shared.conditions import timestamp
from ..shared.metrics import RECORDS

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
MAX_WAITING = 2000  # notices; of further objects only the keys are kept


class Notice(NamedTuple):
    """Facts about an object at one moment; `is_gone` if it was deleted then."""

    namespace: str
    uid: str
    time: str
    facts: tuple[Fact, ...] = ()
    is_gone: bool = False


@dataclass(frozen=True)
class Objects:
    """Objects that exist: `uid` and `get` return None for another name."""

    uid: Callable[[Key], str | None]
    get: Callable[[Key], Manifest | None]


class Recorder:
    """Notices that wait for their records, and the chain of each namespace.

    While the storage is away, notices wait, up to MAX_WAITING. Then the keys of changed objects wait, and their facts
    are read off the objects again afterwards. With `approvers` the API server records who moves aliases.
    """

    def __init__(self, storage: Storage, bucket: str, writer: str, objects: Objects, *, approvers: bool) -> None:
        self._storage = storage
        self._bucket = bucket
        self._writer = writer
        self._objects = objects
        self._approvers = approvers
        self._chains: dict[str, Chain] = {}
        self._waiting: deque[Notice] = deque()
        self._late: dict[Key, None] = {}  # objects whose facts are to be read again
        self._unclear: set[str] = set()  # namespaces in which the deletion of an object was not noticed
        self._versions: dict[str, str] = {}  # by uid: the version that was noticed last
        self._newest: dict[str, int] = {}  # by uid: hash of the values that were noticed last
        self._news = asyncio.Event()
        self._threads = ThreadPoolExecutor(1, "records")

    @property
    def waiting(self) -> int:
        """Number of notices and objects without records."""
        return len(self._waiting) + len(self._late)

    def notice(self, manifest: Manifest, *, is_gone: bool = False) -> None:
        """Take in an object as it is now, or as it was last seen before its end."""
        meta = manifest["metadata"]
        uid, version = meta["uid"], str(meta.get("resourceVersion", ""))
        if manifest["kind"] not in KINDS or (version and not is_gone and self._versions.get(uid) == version):
            return
        key = Key.named(manifest["kind"], manifest)
        if len(self._waiting) >= MAX_WAITING:
            self._postpone(key, uid, is_gone=is_gone)
            return
        now = timestamp(datetime.now(UTC))
        current = facts(manifest, approvers=self._approvers)
        dated = tuple(fact if fact.time else structs.replace(fact, time=now) for fact in current)
        values = hash(tuple((fact.slot, fact.value) for fact in dated))
        has_news = self._newest.get(uid, _NOTHING) != values
        if is_gone:
            self._forget(uid)
            self._late.pop(key, None)
        else:
            self._versions[uid], self._newest[uid] = version, values
        if is_gone or has_news:
            self._waiting.append(Notice(meta["namespace"], uid, now, dated, is_gone))
            self._news.set()

    def _postpone(self, key: Key, uid: str, *, is_gone: bool) -> None:
        """Keep what makes the facts of an object, or its end, appear later."""
        if is_gone:
            self._forget(uid)
            self._late.pop(key, None)
            self._unclear.add(key.namespace)
        else:
            self._late[key] = None

    def _forget(self, uid: str) -> None:
        self._versions.pop(uid, None)
        self._newest.pop(uid, None)

    def begin(self) -> None:
        """Forget everything: another replica may have written since this one led."""
        self._chains, self._newest, self._versions, self._late = {}, {}, {}, {}
        self._waiting.clear()
        self._unclear.clear()

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
                    if not self._waiting:
                        await self._catch_up()

    async def _catch_up(self) -> None:
        """Notice what was postponed, as far as there is room."""
        while self._unclear:
            namespace = self._unclear.pop()
            self._chains.pop(namespace, None)  # it is read again, and compared with the objects
            self._waiting.append(Notice(namespace, "", ""))
        while self._late and len(self._waiting) < MAX_WAITING:
            key = next(iter(self._late))
            del self._late[key]
            if (manifest := self._objects.get(key)) is not None:
                self.notice(manifest)
            await asyncio.sleep(0)

    def _write(self, notice: Notice) -> None:
        chain = self._chains.get(notice.namespace)
        if chain is None:
            chain = Chain(self._storage, folder(self._bucket, notice.namespace), self._writer)
            chain.load()
            self._append(chain, self._ended_meanwhile(chain, notice.namespace))
            self._chains[notice.namespace] = chain
        if notice.is_gone:
            self._append(chain, notice.facts)
            self._append(chain, chain.ends(notice.uid, notice.time))
        else:
            self._append(chain, (*notice.facts, *chain.closing(notice.uid, notice.time, notice.facts)))

    def _ended_meanwhile(self, chain: Chain, namespace: str) -> list[Fact]:
        """Return the ends of objects that were deleted while no operator was there."""
        gone = [
            uid
            for uid, recorded in chain.objects.items()
            if self._objects.uid(Key(recorded.kind, namespace, recorded.name)) != uid
        ]
        return [fact for uid in gone for fact in chain.ends(uid)]

    def _append(self, chain: Chain, new: Iterable[Fact]) -> None:
        for fact in new:
            if chain.append(fact):
                RECORDS.labels(outcome="ok").inc()


_NOTHING = hash(())
