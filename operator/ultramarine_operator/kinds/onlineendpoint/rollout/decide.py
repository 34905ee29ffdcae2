"""Canary rollouts: steps forward while the candidate passes its gates, and back when it fails one.

`spec.traffic` names the champions, which answer otherwise. All memory is in status.rollout, so a pass continues after
a crash. A new version, new settings or a new rollout start from the first step, when the candidate gets no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from ultramarine.resources.onlineendpoint_rollout import RolloutStatus
from ultramarine_contract.errors import counted
from ultramarine_contract.meta import content_hash

from ....shared.conditions import parse_timestamp, timestamp
from ....shared.environments import Usable
from ....shared.plan import Event, Seen
from ..deployment.health import DeploymentHealth
from ..deployment.own_code import environment_of, in_own_environment
from ..endpoint import PAUSED, PROMOTED, ROLLED_BACK, WAITING, Endpoint
from ..resolve import Resolved, resolve
from ..routing.direct import DirectRouting
from ..routing.gateway import GatewayRouting
from ..routing.step import SOON
from ..signatures.inputs import attributed, incompatibility, inputs_of
from ..signatures.warning import of_containers
from .decision import RolloutDecision, Stage
from .step import continue_step, first_status, roll_back_signature

# Fields of a deployment whose change starts a rollout again, since its pods change; and those whose change does not.
STARTS_AGAIN = {
    *("resources", "request_settings", "batching", "warmup"),
    *("environment", "scoring", "container", "env", "env_from", "pod_template"),
}
GOES_ON = {"name", "pool", "model", "replicas", "autoscale"}  # identity() has the resolved model by itself


def decide(
    endpoint: Endpoint,
    routing: DirectRouting | GatewayRouting,
    health: Mapping[str, DeploymentHealth],
    seen: Seen,
    now: datetime,
) -> RolloutDecision:
    """Decide how the rollout of an endpoint continues, given its routing and the health of its deployments."""
    spec = endpoint.spec.rollout
    if spec is None or spec.candidate not in health:
        return RolloutDecision(endpoint.spec.shares)
    candidate = health[spec.candidate]
    champions = {name: health[name] for name in endpoint.spec.shares if name in health}
    changed = _signature_change(endpoint, routing, candidate, champions, seen)
    stage = Stage(endpoint, spec, routing, candidate, identity(endpoint, seen), now, champions, changed)
    former = _former(stage)
    if former is None or (stage.identity and former.identity != stage.identity):
        return _begin(stage)
    if former.phase == PROMOTED:
        return stage.decision(former, {spec.candidate: 100}, healthy=True)
    if former.phase == ROLLED_BACK:
        return stage.decision(former, stage.champions, healthy=False, urgent=routing.may_receive(spec.candidate))
    if isinstance(routing, DirectRouting):
        return _begin(stage)
    if former.phase == PAUSED:
        return stage.decision(former, stage.shares(former), healthy=False)
    return continue_step(stage, former)


def _signature_change(
    endpoint: Endpoint,
    routing: DirectRouting | GatewayRouting,
    candidate: DeploymentHealth,
    champions: Mapping[str, DeploymentHealth],
    seen: Seen,
) -> str:
    """Say why the candidate refuses requests that a champion accepts; empty if their inputs match or are unknown."""
    containers = of_containers(endpoint, {**champions, candidate.name: candidate})
    proxies = attributed(routing.proxies, containers)
    new = inputs_of(candidate.version, seen, proxies)
    for champion in champions.values() if new is not None else ():
        old = inputs_of(champion.version, seen, proxies)
        if new is not None and old is not None and (why := incompatibility(old, new)):
            return f"{candidate.version} refuses requests that {champion.version} takes: {why}"
    return ""


def identity(endpoint: Endpoint, seen: Seen) -> str:
    """Name the model and the settings of a rollout, without its number of pods; empty if the model is unresolved."""
    spec = endpoint.spec.rollout
    deployment = next((d for d in endpoint.spec.deployments if spec and d.name == spec.candidate), None)
    resolved = resolve(deployment.model, seen) if deployment and deployment.model else None
    is_alone = deployment is not None and deployment.container is not None and deployment.model is None
    if spec is None or deployment is None or not (is_alone or isinstance(resolved, Resolved)):
        return ""
    # Without defaults: a field that a later release adds must not restart every rollout.
    own = deployment.model_dump(mode="json", include=STARTS_AGAIN, exclude_defaults=True)
    rollout = spec.model_dump(mode="json", exclude_defaults=True)
    if isinstance(resolved, Resolved):
        deployment = in_own_environment(deployment, resolved.environment)
    environment = environment_of(endpoint, deployment, seen)
    if environment is not None and not isinstance(environment, Usable):
        return ""
    archive = [environment.archive.digest] if environment else []
    model = resolved.identity if isinstance(resolved, Resolved) else ()
    return content_hash([rollout, own, *model, *archive])[:16]


def _former(stage: Stage) -> RolloutStatus | None:
    """Return the former status with no moment in the future; None if it does not fit the rollout."""
    former = stage.endpoint.former.rollout
    if former is None:
        return None
    moments = {name: getattr(former, name) for name in ("since", "failing_since", "checked")}
    late = {name: timestamp(stage.now) for name, at in moments.items() if at and parse_timestamp(at) > stage.now}
    former = former.model_copy(update=late)
    return former if former.identity and 1 <= former.step <= len(stage.spec.steps) else None


def _begin(stage: Stage) -> RolloutDecision:
    """Begin when every gateway pod gives all requests to the champions, and wait until then."""
    spec, routing = stage.spec, stage.routing
    busy = routing.may_receive(spec.candidate)
    if isinstance(routing, DirectRouting):
        reason = "NoGateway"
        message = f"a rollout needs the gateway, and {routing.remedy}, or remove rollout"
    elif not stage.identity:
        reason, message = "NothingToServe", stage.candidate.message
    elif spec.gates is not None and not routing.has_figures:
        reason = "NoFigures"
        message = "gates need the gateway of the chart, which counts requests: remove gates, and time alone decides"
    elif stage.signature_change and not busy:
        return roll_back_signature(stage, first_status(stage, 1))
    elif routing.confirms(stage.champions) and stage.absence:
        reason = "ChampionNotReady"
        message = f"the rollout waits for its champion: {stage.absence}"
    elif routing.confirms(stage.champions):
        version = f" ({stage.candidate.version})" if stage.candidate.version else ""
        title = f"{spec.candidate}{version} takes over in {counted(len(spec.steps), 'step')}"
        # The status comes first: weights without it would belong to an unknown rollout.
        message = f"{title}: {', '.join(f'{percent} %' for percent in spec.steps)}"
        begun = first_status(stage, 1).model_copy(update={"reason": "Started", "message": message})
        return replace(stage.decision(begun, stage.champions, Event("RolloutStarted", message)), after=SOON)
    else:
        reason = "ChampionFirst"
        message = f"the rollout begins when every gateway pod gives all requests to {' and '.join(stage.champions)}"
        if busy:
            message += f"; until then the pods of {spec.candidate} stay as they are"
    waiting = RolloutStatus(phase=WAITING, reason=reason, message=message)
    return stage.decision(waiting, stage.champions, freezes=busy)
