"""The promises of a reliable operator, each a test over all lives; see docs/reliability.md."""

from __future__ import annotations

from lives import LIVES
from proxy import Fault
from rig import Rig, together


async def test_01_killed_after_any_write(rig: Rig) -> None:
    """Killed before or after any one of its writes, the operator comes to the same end, and makes nothing twice."""
    runs = []
    for life in LIVES:
        calm = await rig.calm(life)
        for number in range(1, calm.writes + 1):
            for deed in ("kill-before", "kill-after"):
                fault = Fault(deed, "write", nth=number)
                runs.append(lambda life=life, fault=fault, calm=calm: rig.run(life, [fault], calm=calm))
    outcomes = await together(runs)
    assert all(outcome.fired for outcome in outcomes)
