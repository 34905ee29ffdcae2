"""The coordinator of a sweep: gives trials to workers, hears how they go, and knows when the sweep is over."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import to_builtins
from ultramarine_contract.sweep_records import SweepSummary, SweepTask

from ultramarine_sweep.service.http import BadRequest, Route, Server
from ultramarine_sweep.service.recording import Recorder
from ultramarine_sweep.state.commits import Commits
from ultramarine_sweep.state.journal import Journal, Record
from ultramarine_sweep.state.trial import Ask, Done, Finished, Known, Lease, Stopper, Suggester, Trial, Wait
from ultramarine_sweep.state.trials import SILENCE, Trials

_NEWS = ("requeued", "end")  # records that change what a worker without a trial is told


@dataclass(frozen=True)
class Times:
    """Seconds: between two looks at what is due, of deafness that is not the workers' fault, and at the end.

    `ending` is for trials that still run at the end of the sweep, and `storing` for those that store their outputs
    then. `goodbye` is for the workers' last requests.
    """

    tick: float = 0.5
    deaf: float = 5.0
    ending: float = 6.0
    storing: float = 120.0
    goodbye: float = 5.0


class Coordinator:
    """One sweep, from what its journal says to its end; `tell` gets a summary whenever something may have changed.

    `suggester` has been told of no trial of this sweep, and `stopper` of no value. `recorder` gets the trials that
    have ended, by the journal.
    """

    def __init__(
        self,
        task: SweepTask,
        token: str,
        journal: Journal,
        suggester: Suggester,
        stopper: Stopper | None,
        tell: Callable[[SweepSummary], None],
        recorder: Recorder,
        times: Times | None = None,
    ) -> None:
        self._task, self._suggester = task, suggester
        self._tell, self._times, self._recorder = tell, times or Times(), recorder
        self._trials = Trials(task, journal.records, stopper)
        journal.records = ()  # the memory of a long sweep's is worth something
        self._commits = Commits(journal, self._trials.snapshot, self._recordable)
        self._server = Server(token, self._routes(), self._fail)
        self._asking = asyncio.Lock()
        self._untold: list[Known] = []
        self._behind, self._started = self._trials.now, time.monotonic()
        self._workers: dict[str, float] = {}  # when they were heard
        self._dismissed: set[str] = set()
        self._change = asyncio.Event()  # that may be a worker's turn, or the end; each time another one
        self._alone, self._promoted = self._trials.is_alone, self._trials.promoted
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for trial in self._trials:  # one by one: all of them with their points would be most of the memory
            suggester.tell(trial.view)
            if trial.number in self._trials.finished:
                recorder.add(trial)

    @property
    def now(self) -> float:
        """The sweep's own time, in seconds."""
        return self._behind + time.monotonic() - self._started

    @property
    def finished(self) -> Iterable[Trial]:
        """The trials that have ended."""
        return self._trials.finished.values()

    @property
    def kept(self) -> set[str]:
        """URIs of the outputs that stay when the sweep is over."""
        return self._trials.kept

    @property
    def ended(self) -> int:
        """Number of trials that have ended or are paused."""
        return len(self._trials.finished) + len(self._trials.paused)

    async def listen(self, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Begin to answer; return the port."""
        return await self._server.listen(port, tls)

    async def run(self) -> SweepSummary:
        """Come back when the sweep is over and its workers know it. Raises Fenced, StorageError, and what is a bug."""
        # In this order: a journal that another one has taken is the cause of all else.
        tasks = [
            asyncio.ensure_future(coroutine) for coroutine in (self._commits.run(), *self._besides(), self._tick())
        ]
        try:
            await asyncio.wait((*tasks, self._broken), return_when=asyncio.FIRST_COMPLETED)
            for ended in (*tasks[:-1], self._broken, tasks[-1]):
                if ended.done():
                    ended.result()
            return self._trials.summary(self.now)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._broken.done():
                self._broken.exception()
            self._server.close()

    def _routes(self) -> Mapping[str, Route]:
        return {"/lease": self._lease, "/report": self._report}

    def _besides(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Run other tasks until the sweep is over."""
        return ()

    def _summary(self, now: float) -> SweepSummary:
        """Return the summary of the sweep for the operator."""
        return self._trials.summary(now)

    def _fail(self, error: Exception) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _record(self) -> None:
        """Hand what was decided to the journal, and trials that have ended to the suggester."""
        records = self._trials.drain()
        self._untold += [self._trials[r["trial"]].view for r in records if r["kind"] in ("paused", "finished")]
        self._commits.add(records)
        before, self._alone = self._alone, self._trials.is_alone
        paused, self._promoted = self._promoted, self._trials.promoted
        may_go_on = self._promoted is not None and self._promoted != paused
        # Not every trial that ends: at a large sweep's end hundreds wait, and would all ask in vain.
        if any(record["kind"] in _NEWS for record in records) or before != self._alone or may_go_on:
            self._announce()

    def _announce(self) -> None:
        """Wake all who wait for news."""
        self._change.set()
        self._change = asyncio.Event()

    def _recordable(self, records: Sequence[Record]) -> None:
        for record in records:
            if record["kind"] == "finished":
                self._recorder.add(self._trials.finished[record["trial"]])

    async def _tick(self) -> None:
        last, ended, idle = self.now, 0.0, 0.0
        while True:
            news, now = self._change, self.now
            # Nor is it the workers' fault that they hear of no trial before the storage has it.
            if now - last > self._times.deaf or self._commits.behind > self._times.deaf:
                self._trials.renew_all(now)
            last = now
            self._trials.tick(now)
            if self._trials.end:
                ended = ended or now
                if self._trials.live and now - ended >= self._times.ending:
                    self._trials.abandon(now, spare_storing=now - ended < self._times.storing)
            self._record()
            if self._trials.end and not self._trials.live:
                await self._commits.durable()
                idle = idle or now
                if self._all_dismissed(now) or now - idle >= self._times.ending + self._times.goodbye:
                    return
            self._tell(self._summary(now))
            await _at_most(self._times.tick, news)

    def _all_dismissed(self, now: float) -> bool:
        """True if all workers know that the sweep is over, as far as they still are there."""
        there = {worker for worker, heard in self._workers.items() if now - heard < SILENCE}
        # A young coordinator has not been found yet by all who wait for it.
        return there <= self._dismissed and now - self._behind >= self._times.goodbye

    async def _lease(self, body: dict[str, Any]) -> dict[str, Any]:
        worker, news = worker_of(body), self._change
        self._workers[worker] = self.now
        if body.get("finished") is not None and self._finish(worker, body["finished"]):
            self._record()
            return {"keep": True}
        self._record()
        step = await self._step(worker)
        self._record()
        await self._commits.durable()
        match step:
            case Lease():
                self._trials.renew(step.number, self.now)
                names = [objective.metric for objective in self._trials.objectives]
                timeout = {"timeoutSeconds": self._task.trial_timeout_seconds}
                return {"trial": to_builtins(step) | timeout | {"objectives": names}}
            case Wait():
                # Who tells of a trial has to know that this is kept, and asks again; then it is kept waiting. It gets
                # nothing at the end of that but the word to ask: it may have died meanwhile.
                if body.get("finished") is None:
                    await _at_most(step.seconds, news)
                return {"wait": 0}
        self._dismissed.add(worker)
        self._announce()
        return {"done": True}

    def _finish(self, worker: str, document: Any) -> bool:
        """Take a trial that has ended, with the values that no report has told; True where its outputs are wanted."""
        try:
            finished = Finished.of(document)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        points = [_point(point) for point in document.get("points") or ()]
        self._trials.report(worker, finished.trial, finished.attempt, points, self.now)
        return self._end(worker, finished)

    def _end(self, worker: str, finished: Finished) -> bool:
        was_live = finished.trial in self._trials.live
        keep = self._trials.finish(worker, finished, self.now)
        if was_live and finished.trial in self._trials.finished:
            self._recorder.hear(finished.trial, finished.metrics)
        return keep

    async def _step(self, worker: str) -> Lease | Wait | Done:
        step = self._trials.lease(worker, self.now)
        if not isinstance(step, Ask):
            return step
        async with self._asking:
            step = self._trials.lease(worker, self.now)  # there may be another answer by now
            if not isinstance(step, Ask):
                return step
            return self._trials.start(worker, step.number, await self._suggested(step.number), self.now)

    async def _suggested(self, number: int) -> dict[str, Any] | None:
        news, self._untold = self._untold, []
        return await asyncio.to_thread(self._suggest, number, news)

    def _suggest(self, number: int, news: list[Known]) -> dict[str, Any] | None:
        for trial in news:
            self._suggester.tell(trial)
        return self._suggester.ask(number)

    async def _report(self, body: dict[str, Any]) -> dict[str, Any]:
        worker, number, attempt = worker_of(body), body.get("trial"), body.get("attempt")
        self._workers[worker] = self.now
        if not isinstance(number, int) or not isinstance(attempt, int):
            raise BadRequest("trial and attempt must be numbers")
        if body.get("released"):
            self._trials.release(worker, number, attempt, self.now)
            del self._workers[worker]
            self._record()
            await self._commits.durable()
            return {"stop": ""}
        points = [_point(point) for point in body.get("points") or ()]
        why = self._trials.report(worker, number, attempt, points, self.now)
        if body.get("storing") and why is not None:
            self._trials.store(number)
        self._record()
        if why is None:
            return {"lost": True}
        return {"stop": why, "pause": True} if why and self._trials.may_pause else {"stop": why}


async def _at_most(seconds: float, news: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await news.wait()


def worker_of(body: dict[str, Any]) -> str:
    """Return the name of the worker that sent a request. Raises BadRequest."""
    worker = body.get("worker")
    if not isinstance(worker, str) or not 0 < len(worker) <= 300:
        raise BadRequest("worker must be a name")
    return worker


def _point(point: Any) -> tuple[str, int, float]:
    try:
        step, value = point["step"], point["value"]
        if type(step) is not int or not 0 <= step < 2**63 or type(value) not in (int, float):
            raise TypeError("no number")
        return str(point["name"]), step, float(value)
    except (KeyError, TypeError, OverflowError) as error:
        raise BadRequest(f"{point!r} is not a point") from error
