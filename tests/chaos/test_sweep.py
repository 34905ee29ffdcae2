"""Seeds: random faults over random lives; a failure shows the seed and the shortest schedule that fails."""

from __future__ import annotations

import functools
import os
from random import Random

import pytest
from materials import LIVES
from proxy import OF_EVENTS, Deed, Fault
from rig import Rig, together
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.testing import Life

SEEDS = int(os.environ.get("ULTRAMARINE_CHAOS_SEEDS", "12"))
FIRST = int(os.environ.get("ULTRAMARINE_CHAOS_FIRST_SEED", "1"))
AT_ONCE = 6
SHRINKS = 12  # runs at most, to find what is not needed for a failure
TYPES = sorted({r.plural for kind in KINDS for r in (kind.resource, *kind.children)})
# What each deed is done to, and for how long at most, in seconds.
DEEDS: dict[Deed, tuple[tuple[str, ...], float]] = {
    "answer": (("write", "list", "watch", "get"), 1),
    "lose": (("write",), 0),
    "delay": (("write", "list", "watch"), 1),
    "hang": (("write", "list"), 5),
    "stale": (("list",), 0),
    "kill-before": (("write", "list"), 0),
    "kill-after": (("write", "list"), 0),
    "refuse": (("write", "list"), 3),
    "drop": (("", "MODIFIED", "DELETED"), 0),
    "hold": (("", "ADDED", "MODIFIED"), 1),
    "twice": (("",), 0),
    "swap": (("",), 0),
    "cut": (("",), 0),
    "error": (("",), 0),
}


def schedule(seed: int) -> tuple[Life, list[Fault]]:
    """The life and the faults of a seed."""
    random = Random(seed)
    return random.choice(LIVES), [_fault(random) for _ in range(random.randint(1, 6))]


def _fault(random: Random) -> Fault:
    deed = random.choice(list(DEEDS))
    verbs, longest = DEEDS[deed]
    verb = random.choice(verbs)
    refusals = (409, 429, 500, 503) if verb == "write" else (429, 500, 503)  # nothing that is read conflicts
    codes = {"answer": refusals, "error": (410, 500)}.get(deed, (0,))
    killing = deed in ("kill-before", "kill-after", "refuse", "hang")
    return Fault(
        deed,
        verb,
        random.choice(["", *TYPES]) if deed in OF_EVENTS else "",
        nth=random.randint(1, 20),
        times=1 if killing else random.randint(1, 8),
        code=random.choice(codes),
        seconds=round(random.uniform(0.05, longest), 2) if longest and deed != "answer" else 0.0,
    )


async def _fails(rig: Rig, life: Life, faults: list[Fault]) -> str:
    """The story of a failure, or nothing."""
    try:
        await rig.run(life, faults, calm=await rig.calm(life))
    except AssertionError as failure:
        return str(failure)
    return ""


async def _shortest(rig: Rig, life: Life, faults: list[Fault], story: str) -> tuple[list[Fault], str]:
    """Leave faults out one by one while the run still fails."""
    rest, place = SHRINKS, 0
    while place < len(faults) and rest and len(faults) > 1:
        rest -= 1
        fewer = [*faults[:place], *faults[place + 1 :]]
        if shorter := await _fails(rig, life, fewer):
            faults, story = fewer, shorter
        else:
            place += 1
    return faults, story


async def _swept(rig: Rig, seed: int) -> None:
    life, faults = schedule(seed)
    story = await _fails(rig, life, faults)
    if story:
        faults, story = await _shortest(rig, life, faults, story)
        shown = "".join(f"\n  {fault}" for fault in faults)
        pytest.fail(
            f"ULTRAMARINE_CHAOS_FIRST_SEED={seed} ULTRAMARINE_CHAOS_SEEDS=1; shortest schedule:{shown}\n{story}"
        )


async def test_seeds(rig: Rig) -> None:
    """Whatever happens on the way, a life comes to its end."""
    seeds = rig.sample.of(range(FIRST, FIRST + SEEDS), kind=lambda seed: schedule(seed)[0].kind)
    await together((functools.partial(_swept, rig, seed) for seed in seeds), AT_ONCE)


def test_schedules_are_repeatable() -> None:
    """A seed always means the same life and the same faults."""
    assert [schedule(seed) for seed in range(50)] == [schedule(seed) for seed in range(50)]
