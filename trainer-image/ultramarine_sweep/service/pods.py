"""The coordinator of a sweep whose trials are TrainingJobs: it says which run, and the operator sees to their pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs
from ultramarine_contract.common import UNREADABLE
from ultramarine_contract.sweep_records import SweepSummary, WantedTrial, trial_worker

from ultramarine_sweep.service.coordinator import Coordinator, worker_of
from ultramarine_sweep.service.http import BadRequest, Route
from ultramarine_sweep.state.trial import Ask, Finished, Lease

_NOBODY = ""  # asks what is next: no trial has it as its worker
_ATTEMPT = 1
# The trial of any other job would run forever, since no sweep would own it.
_ONE_ATTEMPT = "to its sweep it has one attempt, and its TrainingJob's retries are its own; leave it to that job"
_TOLD_LIMIT = 128 * 1024  # bytes of what one summary wants; where it is more, the last trials have to wait


class PodCoordinator(Coordinator):
    """A coordinator that starts trials itself, as many at a time as the operator's last answer allows."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._parallel = 0
        self._due, self._paused = self._live(), tuple(sorted(self._trials.paused))  # they are in the journal
        self._holds = False  # whether the operator is one that holds the jobs of paused trials
        self._held: set[int] = set()  # paused trials whose jobs it holds
        self._changed = asyncio.Event()

    def hear(self, answer: Any) -> None:
        """Take what the operator answered: how many trials may run, what has become of those that told nothing, and
        which of the paused ones are held.

        What makes no sense is another release's, and left out.
        """
        try:
            parallel, ended = int(answer["parallel"]), [Finished.of(document) for document in answer.get("ended") or ()]
            # An operator that holds no jobs tells of none.
            held = {int(number) for number in answer["held"]} if "held" in answer else None
        except (ValueError, *UNREADABLE):
            return
        self._parallel, self._holds = parallel, held is not None
        self._held = {*self._trials.paused} if held is None else held
        for finished in ended:
            # A job's status has the time of all its pods; what it took before a pause is known.
            before = self._trials.live[finished.trial].seconds if finished.trial in self._trials.live else 0.0
            since = replace(finished, seconds=max(finished.seconds - before, 0.0))
            self._end(trial_worker(finished.trial), since)
        self._record()
        self._changed.set()

    def _routes(self) -> Mapping[str, Route]:
        return {"/report": self._report, "/finished": self._finished}

    def _besides(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return (self._keep_starting(),)

    def _summary(self, now: float) -> SweepSummary:
        return structs.replace(super()._summary(now), wanted=self._due, paused=self._paused)

    def _all_dismissed(self, now: float) -> bool:
        return True  # no worker waits for another trial

    async def _report(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("released"):
            raise BadRequest(f"a trial with a job of its own cannot be released: {_ONE_ATTEMPT}")
        number = body.get("trial")
        if isinstance(number, int) and (trial := self._trials.paused.get(number)):
            return {"stop": trial.message or "it is paused", "pause": True}  # its pod has still to go
        answer = await super()._report(body)
        trial = self._trials.live.get(number) if isinstance(number, int) else None
        return {**answer, "step": trial.step} if trial and trial.step >= 0 else answer

    async def _finished(self, body: dict[str, Any]) -> dict[str, Any]:
        worker, finished = worker_of(body), body.get("finished")
        if not isinstance(finished, dict):
            raise BadRequest("finished must be a trial")
        number = finished.get("trial")
        self._finish(worker, finished if self._holds else {**finished, "checkpoint": None})
        self._record()
        if paused := number in self._trials.paused:
            self._held.discard(number)  # a late answer may have been of its last pause
        self._changed.set()
        await self._commits.durable()
        return {"paused": paused}

    async def _keep_starting(self) -> None:
        """Start trials while there is room; the operator is told of none that is not in the journal."""
        while True:
            self._changed.clear()
            started = await self._start()
            await self._commits.durable()
            is_over = self._trials.end is not None
            self._due, self._paused = ((), ()) if is_over else (self._live(), tuple(sorted(self._trials.paused)))
            self._tell(self._summary(self.now))
            if not started:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._times.tick):
                        await self._changed.wait()

    async def _start(self) -> bool:
        """Start one trial, if there is room for it, and say whether it was."""
        leaving = self._trials.paused.keys() - self._held
        if len(self._trials.live) + len(leaving) >= self._parallel:
            return False
        if (number := self._trials.promoted) is not None and not self._trials.end:
            if number in leaving:  # it would not notice that it was paused, and its pod waits for that
                return False
            self._held.discard(number)
            self._trials.go_on(trial_worker(number), number, _ATTEMPT, self.now)
            self._record()
            return True
        step = self._trials.lease(_NOBODY, self.now)
        if isinstance(step, Ask):
            params = await self._suggested(step.number)
            step = self._trials.start(trial_worker(step.number), step.number, params, self.now)
            self._record()
        return isinstance(step, Lease)

    def _live(self) -> tuple[WantedTrial, ...]:
        trials, room = [], _TOLD_LIMIT
        for trial in sorted(self._trials.live.values(), key=lambda trial: trial.number):
            trials.append(WantedTrial(trial.number, trial.params))
            room -= len(json.dumps(trials[-1].document()))
            if room < 0:
                break
        return tuple(trials)
