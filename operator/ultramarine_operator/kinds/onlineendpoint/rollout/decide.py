"""How a rollout begins, goes on and ends: by steps, as long as the candidate keeps the gates, and back if it does not.

`traffic` says who answers otherwise: the champions. All that is known stands in status.rollout, so a pass after a
crash goes on where the one before it was. What another version, other settings of the candidate or another rollout
make of it begins anew, from a moment at which the candidate gets no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError
from ultramarine.resources.onlineendpoint_rollout import RolloutStatus
from ultramarine_contract.meta import content_hash

from ....shared.conditions import parse_timestamp, timestamp
from ....shared.plan import Event, Seen
from ..deployment.health import Judged
from ..deployment.manifests import Endpoint
from ..resolve import Resolved, resolve
from ..routing.direct import Direct
from ..routing.gateway import Routed
from ..routing.step import SOON
from ..signatures.inputs import change, inputs_of
from .decision import PAUSED, PROMOTED, ROLLED_BACK, WAITING, Course, Stage
from .step import in_step, refused, step


def course_of(
    endpoint: Endpoint, way: Direct | Routed, judged: Mapping[str, Judged], seen: Seen, now: datetime
) -> Course:
    """Say how the rollout of an endpoint goes on, given how requests come to it and how its deployments are."""
    spec = endpoint.spec.rollout
    if spec is None or spec.candidate not in judged:
        return Course(endpoint.spec.shares)
    candidate = judged[spec.candidate]
    beside = {name: judged[name] for name in endpoint.spec.shares if name in judged}
    changed = _signature_change(way, candidate, beside, seen)
    stage = Stage(endpoint, spec, way, candidate, identity(endpoint, seen), now, beside, changed)
    old = _told(stage)
    if old is None or (stage.identity and old.identity != stage.identity):
        return _begin(stage)
    if old.phase == PROMOTED:
        return stage.course(old, {spec.candidate: 100}, well=True)
    if old.phase == ROLLED_BACK:
        return stage.course(old, stage.champions, well=False, in_need=way.may_ask(spec.candidate))
    if isinstance(way, Direct):
        return _begin(stage)
    if old.phase == PAUSED:
        return stage.course(old, stage.shares(old), well=False)
    return in_step(stage, old)


def _signature_change(way: Direct | Routed, candidate: Judged, beside: Mapping[str, Judged], seen: Seen) -> str:
    """Say why the candidate refuses what a champion takes, as far as the inputs of both are known."""
    takes = inputs_of(candidate.version, seen, way.proxies)
    for champion in beside.values() if takes is not None else ():
        before = inputs_of(champion.version, seen, way.proxies)
        if takes is not None and before is not None and (why := change(before, takes)):
            return f"{candidate.version} refuses requests that {champion.version} takes: {why}"
    return ""


def identity(endpoint: Endpoint, seen: Seen) -> str:
    """Names what is rolled out and how, but for the number of pods; nothing while the model leads nowhere."""
    spec = endpoint.spec.rollout
    deployment = next((d for d in endpoint.spec.deployments if spec and d.name == spec.candidate), None)
    found = resolve(deployment.model, seen) if deployment and deployment.model else None
    if spec is None or deployment is None or not isinstance(found, Resolved):
        return ""
    settings = {"resources", "request_settings", "batching", "warmup"}
    # Without what is as usual: a field that a later release adds must not begin every rollout anew.
    own = deployment.model_dump(mode="json", include=settings, exclude_defaults=True)
    asked = spec.model_dump(mode="json", exclude_defaults=True)
    return content_hash([asked, own, *found.identity])[:16]


def _told(stage: Stage) -> RolloutStatus | None:
    """What the status says, if that can be: anybody may have written it."""
    try:
        old = RolloutStatus.model_validate(stage.endpoint.status.get("rollout"))
    except ValidationError:
        return None
    moments = {name: getattr(old, name) for name in ("since", "failing_since", "checked")}
    late = {name: timestamp(stage.now) for name, at in moments.items() if at and parse_timestamp(at) > stage.now}
    old = old.model_copy(update=late)
    return old if old.identity and 1 <= old.step <= len(stage.spec.steps) else None


def _begin(stage: Stage) -> Course:
    """Nothing begins before every gateway pod gives all requests to the champions."""
    spec, way = stage.spec, stage.way
    busy = way.may_ask(spec.candidate)
    if isinstance(way, Direct):
        reason = "NoGateway"
        message = f"a rollout needs the gateway, and {way.remedy}, or remove rollout"
    elif not stage.identity:
        reason, message = "NothingToServe", stage.candidate.message
    elif spec.gates is not None and not way.counts:
        reason = "NoFigures"
        message = "gates need the gateway of the chart, which counts requests: remove gates, and time alone decides"
    elif stage.signature_change and not busy:
        return refused(stage, step(stage, 1))
    elif way.confirms(stage.champions) and stage.absence:
        reason = "ChampionNotReady"
        message = f"the rollout waits for its champion: {stage.absence}"
    elif way.confirms(stage.champions):
        words = f"{spec.candidate} ({stage.candidate.version}) takes over in {len(spec.steps)} steps"
        # The status first: weights without it would be taken for those of another rollout.
        message = f"{words}: {', '.join(f'{percent} %' for percent in spec.steps)}"
        begun = step(stage, 1).model_copy(update={"reason": "Started", "message": message})
        return replace(stage.course(begun, stage.champions, Event("RolloutStarted", message)), after=SOON)
    else:
        reason = "ChampionFirst"
        message = f"the rollout begins when every gateway pod gives all requests to {' and '.join(stage.champions)}"
        if busy:
            message += f"; until then the pods of {spec.candidate} stay as they are"
    return stage.course(RolloutStatus(phase=WAITING, reason=reason, message=message), stage.champions, holds=busy)
