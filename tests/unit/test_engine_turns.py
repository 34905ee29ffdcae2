"""How the engine takes turns: beside a backlog, as a standby, and after an error that nobody expected."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from builders import NOW, PLATFORM, ours, read, seen
from ultramarine.engine.engine import Engine, _end
from ultramarine.engine.mirror import Mirror
from ultramarine.kinds import KINDS
from ultramarine.kinds.model.plan import plan_model
from ultramarine.shared.meta import MODEL, Key, Manifest

COUNT = 500


@dataclass
class Held:
    """A Lease that is ours until it is lost."""

    lost: asyncio.Event
    held: bool = True

    async def keep(self) -> None:
        """Return when it is lost."""
        await self.lost.wait()
        self.held = False


def model(number: int) -> Manifest:
    """A Model whose status says already what its plan will say: a pass over it writes nothing."""
    found = ours("Model", f"m-{number}", {})
    return {**found, "status": plan_model(read(found), seen(), NOW).status}


@pytest.fixture
def engine() -> Engine:
    """An engine that holds its Lease, and has nobody to write to."""
    nobody: Any = None
    lease: Any = Held(asyncio.Event())
    return Engine(KINDS, (None,), Mirror(KINDS), nobody, nobody, PLATFORM, lease)


async def led(engine: Engine, until: Any) -> int:
    """Lead until `until` holds; how often something else had its turn meanwhile."""
    leading = asyncio.create_task(engine._lead())
    turns = 0
    while not until():
        turns += 1
        await asyncio.sleep(0)
    await _end([leading])
    return turns


async def test_a_backlog_leaves_turns_to_the_lease_and_the_probes(engine):
    """Passes that write nothing wait for nothing; between any two of them everything else gets its turn."""
    for number in range(COUNT):
        engine.tell(MODEL, model(number))
    turns = await led(engine, lambda: engine._done is not None and engine.queue.depth == 0)

    assert turns >= COUNT / 16, "sixteen workers, each of which gives way after each pass"


async def test_a_standby_collects_no_work_and_a_leader_looks_at_everything(engine):
    """What happens while another replica leads is not queued; who begins to lead looks at all that there is."""
    for number in range(COUNT):
        engine.tell(MODEL, model(number))
    engine.tell(MODEL, model(0), deleted=True)
    assert engine.queue.depth == 0
    looked: list[Key] = []
    reconcile = engine._reconciler.reconcile

    async def noted(key: Key) -> Any:
        looked.append(key)
        return await reconcile(key)

    engine._reconciler.reconcile = noted
    await led(engine, lambda: len(looked) >= COUNT - 1)

    assert sorted(looked) == sorted(Key("Model", "team-a", f"m-{number}") for number in range(1, COUNT))
    assert engine.queue.depth == 0, "and whose turn it was not is forgotten again"


async def test_an_error_in_the_telling_of_an_error_ends_no_worker(engine, monkeypatch):
    """Each of many keys whose pass fails in a way that nobody thought of is tried, and no worker is lost."""
    tried = set()

    async def broken(key: Key) -> None:
        tried.add(key)
        raise RuntimeError("unthought of")

    monkeypatch.setattr(engine, "_pass", broken)
    for number in range(40):
        engine.tell(MODEL, model(number))
    await led(engine, lambda: len(tried) == 40)
