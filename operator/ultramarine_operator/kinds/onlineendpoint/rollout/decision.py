"""What a rollout wants of one pass, in shares and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ultramarine.resources.onlineendpoint_rollout import Rollout, RolloutStatus
from ultramarine_contract.meta import Manifest

from ....shared.conditions import Condition, parse_timestamp
from ....shared.plan import Event
from ..deployment.health import Judged
from ..deployment.manifests import Endpoint
from ..routing.direct import Direct
from ..routing.gateway import Routed
from ..routing.step import Shares

LOOK = timedelta(seconds=3)
LONGEST = 4096  # characters of a message
WAITING, PROGRESSING, PAUSED, ROLLED_BACK, PROMOTED = "Waiting", "Progressing", "Paused", "RolledBack", "Promoted"


@dataclass(frozen=True)
class Course:
    """Who shall answer, `in_need` where that must not wait for what can be spared, and what the status says of it.

    `holds` keeps the candidate's pods as they are.
    """

    shares: Shares
    status: RolloutStatus | None = None
    condition: Condition | None = None
    events: tuple[Event, ...] = ()
    holds: bool = False
    in_need: bool = False
    after: timedelta | None = None

    def compared(self, spec: Rollout | None) -> str:
        """The deployment whose answers are compared with the others' now; nobody where that would tell nothing."""
        asked = spec is not None and spec.gates is not None and spec.gates.agreement is not None
        return spec.candidate if spec is not None and asked and self.goes_on else ""

    @property
    def stops(self) -> str:
        """What only a person can mend."""
        return self.status.message if self.status and self.status.phase in (PAUSED, ROLLED_BACK) else ""

    @property
    def goes_on(self) -> str:
        """What is under way."""
        return self.status.message if self.status and self.status.phase in (WAITING, PROGRESSING) else ""

    def written(self) -> Manifest:
        """The entry in the status."""
        return self.status.model_dump(by_alias=True, exclude_defaults=True, mode="json") if self.status else {}


@dataclass(frozen=True)
class Stage:
    """An endpoint with a rollout at one moment: how requests come to it, how its candidate is and what it consists of.

    `identity` names what is rolled out and how, and is empty while the candidate's model leads nowhere. `beside` says
    how the champions are. `signature_change` says why the candidate refuses requests that a champion takes.
    """

    endpoint: Endpoint
    spec: Rollout
    way: Direct | Routed
    candidate: Judged
    identity: str
    now: datetime
    beside: Mapping[str, Judged]
    signature_change: str = ""

    @property
    def champions(self) -> Shares:
        """Who answers otherwise."""
        return self.endpoint.spec.shares

    @property
    def absence(self) -> str:
        """Say which champion has no ready pod, and why; nothing if each has one, or sleeps until it is asked."""
        for name in self.champions:
            judged = self.beside.get(name)
            if judged is not None and not (judged.ready or judged.may_sleep):
                return line(f"{name} has no ready pod", judged.message)
        return ""

    def shares(self, status: RolloutStatus) -> dict[str, int]:
        """Who shall answer in a step."""
        return mixed(self.champions, self.spec.candidate, self.spec.steps[status.step - 1])

    def where(self, status: RolloutStatus) -> str:
        """A step in words."""
        return f"{self.spec.candidate} at {status.weight} %, step {status.step} of {len(self.spec.steps)}"

    def course(
        self,
        status: RolloutStatus,
        shares: Mapping[str, int],
        *events: Event,
        well: bool | None = None,
        holds: bool = False,
        in_need: bool = False,
    ) -> Course:
        """The course with the condition that follows from a status; `well` is None where that is not known yet."""
        status = status.model_copy(update={"message": status.message[:LONGEST]})
        numbers = "; ".join(one.message for one in status.evidence) if status.phase == PROGRESSING else ""
        condition = Condition("RolloutHealthy", well, status.reason, line(status.message, numbers))
        return Course(shares, status, condition, events, holds, in_need, self._after(status))

    def _after(self, status: RolloutStatus) -> timedelta | None:
        if status.phase not in (WAITING, PROGRESSING):
            return None
        if status.failing_since or (status.since and self.spec.gates):
            return LOOK
        if not status.since:
            return None  # who waits for pods or for the gateway is rung, or looks again for that
        left = parse_timestamp(status.since) + timedelta(seconds=self.spec.step_seconds) - self.now
        return max(left, LOOK)


def mixed(champions: Shares, candidate: str, percent: int) -> dict[str, int]:
    """The candidate's percent, and the champions' traffic scaled to the rest: whole numbers that sum to 100."""
    rest = 100 - percent
    parts = {name: divmod(share * rest, 100) for name, share in champions.items()}
    short = rest - sum(whole for whole, _ in parts.values())
    larger = sorted(parts, key=lambda name: (-parts[name][1], name))[:short]
    shares = {name: whole + (name in larger) for name, (whole, _) in parts.items()}
    return {name: share for name, share in sorted({**shares, candidate: percent}.items()) if share}


def line(what: str, shown: str) -> str:
    """A sentence, and the numbers behind it where there are some."""
    return f"{what}: {shown}" if shown else what
