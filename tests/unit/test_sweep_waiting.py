"""Workers that have no trial: they are kept waiting, and hear at once what changes that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.storage import Storage
from ultramarine_sweep.state.trial import POLL
from ultramarine_trainer.trials.connection import Connection, Unreachable
from unit.conftest import eventually
from unit.sweeping import TOKEN, Fleet

SOON = POLL / 2  # less than a wait without any news


@pytest.fixture
def fleet(tmp_path: Path, storage: Storage, bucket: str) -> Iterator[Fleet]:
    """A place for a sweep, whose workers the test itself plays."""
    fleet = Fleet(tmp_path, storage.name, bucket)
    yield fleet
    fleet.end()


class Played:
    """A worker that the test plays."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._name = name
        self._connection = Connection(f"http://127.0.0.1:{fleet.port}", TOKEN, 30)
        self._thread = ThreadPoolExecutor(1)

    def lease(self, finished: int | None = None) -> dict[str, Any]:
        """Ask for what comes next, telling that a trial has ended."""
        told = {"attempt": 1, "outcome": "Succeeded", "metrics": {"loss": 1.0}}
        document = {"trial": finished, **told} if finished is not None else None
        return self._connection.post("/lease", {"worker": self._name, "finished": document})

    def first_lease(self) -> dict[str, Any]:
        """Ask as soon as the coordinator listens."""
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            try:
                found.append(self.lease())
            except Unreachable:
                return False
            return True

        eventually(answered)
        return found[0]["trial"]

    def waiting(self) -> Future[dict[str, Any]]:
        """Ask while the test goes on; the coordinator keeps it waiting by the time that this comes back."""
        asked = self._thread.submit(self.lease)
        time.sleep(1.5)
        assert not asked.done()
        return asked

    def release(self, number: int) -> None:
        """Give a trial back."""
        self._connection.post("/report", {"worker": self._name, "trial": number, "attempt": 1, "released": True})


@pytest.mark.slow
def test_who_waits_hears_at_once_that_the_sweep_is_over(fleet: Fleet) -> None:
    """The last trial ends at one worker: the other one, which waits, asks again and is dismissed, and all is over."""
    coordinator = fleet.coordinate(max_trials=1)
    one, other = Played(fleet, "one"), Played(fleet, "other")
    assert one.first_lease()["number"] == 0
    asked = other.waiting()

    assert one.lease(finished=0) == {"done": True}
    assert asked.result(SOON) == {"wait": 0}
    assert other.lease() == {"done": True}
    assert coordinator.wait(240) == 0, fleet.said("coordinator")
    assert fleet.last_words().succeeded == 1


def test_who_waits_gets_a_trial_that_was_given_back(fleet: Fleet) -> None:
    """It is told to ask again, since it may have died while it waited; and then the trial is its own."""
    fleet.coordinate(max_trials=1)
    one, other = Played(fleet, "one"), Played(fleet, "other")
    one.first_lease()
    asked = other.waiting()
    one.release(0)

    assert asked.result(SOON) == {"wait": 0}
    trial = other.lease()["trial"]
    assert (trial["number"], trial["attempt"]) == (0, 2)


def test_who_waits_for_the_canary_gets_a_trial_when_that_has_ended(fleet: Fleet) -> None:
    """All others wait while the first trial runs alone, and no longer."""
    fleet.coordinate(max_trials=3, canary_trial=True)
    one, other = Played(fleet, "one"), Played(fleet, "other")
    one.first_lease()
    asked = other.waiting()

    assert one.lease(finished=0)["trial"]["number"] == 1
    assert asked.result(SOON) == {"wait": 0}
    assert other.lease()["trial"]["number"] == 2


@pytest.mark.slow
def test_another_trials_end_is_no_news(fleet: Fleet) -> None:
    """Where all trials are given out, who waits is not woken by each one that ends."""
    fleet.coordinate(max_trials=2)
    one, another, idle = (Played(fleet, name) for name in ("one", "another", "idle"))
    one.first_lease()
    another.lease()
    asked = idle.waiting()
    one.lease(finished=0)
    time.sleep(0.3)

    assert not asked.done()
    assert another.lease(finished=1) == {"done": True}
    assert asked.result(SOON) == {"wait": 0}


def test_who_tells_of_a_trial_is_not_kept_waiting(fleet: Fleet) -> None:
    """Its result is kept, and it has to know that soon: until then a signal does not end it."""
    fleet.coordinate(max_trials=2)
    one, other = Played(fleet, "one"), Played(fleet, "other")
    one.first_lease()
    other.lease()
    began = time.monotonic()

    assert one.lease(finished=0) == {"wait": 0}
    assert time.monotonic() - began < SOON


@pytest.mark.slow
def test_without_news_a_wait_ends_too(fleet: Fleet) -> None:
    """A worker that waits is heard now and then, so that it is not missed."""
    fleet.coordinate(max_trials=1)
    one, other = Played(fleet, "one"), Played(fleet, "other")
    one.first_lease()

    assert other.waiting().result(2 * POLL) == {"wait": 0}
