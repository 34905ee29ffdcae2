"""The stage of a rollout in one pass, and the decision that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ultramarine.resources.onlineendpoint_rollout import Rollout, RolloutStatus

from ....shared.conditions import Condition, parse_timestamp
from ....shared.plan import Event
from ..deployment.health import DeploymentHealth
from ..endpoint import PAUSED, PROGRESSING, ROLLED_BACK, WAITING, Endpoint, Shares
from ..routing.direct import DirectRouting
from ..routing.gateway import GatewayRouting

LOOK = timedelta(seconds=3)
MAX_MESSAGE = 4096  # characters


@dataclass(frozen=True)
class RolloutDecision:
    """The shares to reach, and what the status reports of the rollout.

    With `urgent` the shares do not wait for all pods. `freezes` keeps the candidate's pods as they are.
    """

    shares: Shares
    status: RolloutStatus | None = None
    condition: Condition | None = None
    events: tuple[Event, ...] = ()
    freezes: bool = False
    urgent: bool = False
    after: timedelta | None = None

    def compared(self, spec: Rollout | None) -> str:
        """Return the deployment whose answers are compared with the others'; empty if none is compared."""
        has_gate = spec is not None and spec.gates is not None and spec.gates.agreement is not None
        return spec.candidate if spec is not None and has_gate and self.progress else ""

    @property
    def failure(self) -> str:
        """The message of a rollout that needs user action; empty otherwise."""
        return self.status.message if self.status and self.status.phase in (PAUSED, ROLLED_BACK) else ""

    @property
    def progress(self) -> str:
        """The message of a rollout that is under way; empty otherwise."""
        return self.status.message if self.status and self.status.phase in (WAITING, PROGRESSING) else ""


@dataclass(frozen=True)
class Stage:
    """An endpoint with a rollout at one moment: its routing, its candidate and its champions.

    `identity` names what is rolled out and how; it is empty while the candidate's model cannot be resolved.
    `signature_change` says why the candidate refuses requests that a champion accepts.
    """

    endpoint: Endpoint
    spec: Rollout
    routing: DirectRouting | GatewayRouting
    candidate: DeploymentHealth
    identity: str
    now: datetime
    champion_health: Mapping[str, DeploymentHealth]
    signature_change: str = ""

    @property
    def champions(self) -> Shares:
        """The shares without the candidate."""
        return self.endpoint.spec.shares

    @property
    def absence(self) -> str:
        """The first champion without a ready pod, and the reason; empty if each has one, or sleeps."""
        for name in self.champions:
            health = self.champion_health.get(name)
            if health is not None and not (health.ready or health.may_sleep):
                return with_details(f"{name} has no ready pod", health.message)
        return ""

    def shares(self, status: RolloutStatus) -> dict[str, int]:
        """Return the shares of a step."""
        return mixed(self.champions, self.spec.candidate, self.spec.steps[status.step - 1])

    def step_name(self, status: RolloutStatus) -> str:
        """Describe a step."""
        return f"{self.spec.candidate} at {status.weight} %, step {status.step} of {len(self.spec.steps)}"

    def decision(
        self,
        status: RolloutStatus,
        shares: Mapping[str, int],
        *events: Event,
        healthy: bool | None = None,
        freezes: bool = False,
        urgent: bool = False,
    ) -> RolloutDecision:
        """Return the decision with the condition that follows from a status; `healthy` is None if unknown."""
        status = status.model_copy(update={"message": status.message[:MAX_MESSAGE]})
        figures = "; ".join(gate.message for gate in status.evidence) if status.phase == PROGRESSING else ""
        condition = Condition("RolloutHealthy", healthy, status.reason, with_details(status.message, figures))
        return RolloutDecision(shares, status, condition, events, freezes, urgent, self._after(status))

    def _after(self, status: RolloutStatus) -> timedelta | None:
        if status.phase not in (WAITING, PROGRESSING):
            return None
        if status.failing_since or (status.since and self.spec.gates):
            return LOOK
        if not status.since:
            return None  # pods start a pass by their events, and the routing asks for a pass by itself
        left = parse_timestamp(status.since) + timedelta(seconds=self.spec.step_seconds) - self.now
        return max(left, LOOK)


def mixed(champions: Shares, candidate: str, percent: int) -> dict[str, int]:
    """Give the candidate its percent, and scale the champions' shares to whole numbers; the sum is 100."""
    rest = 100 - percent
    parts = {name: divmod(share * rest, 100) for name, share in champions.items()}
    short = rest - sum(whole for whole, _ in parts.values())
    larger = sorted(parts, key=lambda name: (-parts[name][1], name))[:short]
    shares = {name: whole + (name in larger) for name, (whole, _) in parts.items()}
    return {name: share for name, share in sorted({**shares, candidate: percent}.items()) if share}


def with_details(message: str, details: str) -> str:
    """Append details to a message if there are any."""
    return f"{message}: {details}" if details else message
