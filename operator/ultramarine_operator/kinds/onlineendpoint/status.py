"""Status of an OnlineEndpoint, and the Events of its changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from ultramarine.resources.base import ConditionStatus
from ultramarine.resources.onlineendpoint import OnlineEndpointStatus
from ultramarine.resources.onlineendpoint_deployment import DeploymentStatus
from ultramarine.resources.onlineendpoint_rollout import RolloutStatus
from ultramarine.resources.onlineendpoint_signature import SignaturesStatus
from ultramarine_contract.meta import Manifest

from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.plan import Event
from ...shared.statuses import cut, dumped
from .deployment import autoscale
from .deployment.health import DeploymentHealth
from .endpoint import Endpoint, Shares, keys_secret
from .rollout.decision import RolloutDecision
from .routing.step import RoutingStep
from .signatures.warning import CONDITION as SIGNATURE_CHANGED
from .signatures.warning import SignatureChange

MAX_VERSION = 253
SECRET_MISSING = "SecretMissing"  # the reason of RoutesReady that needs user action


def new_status(
    endpoint: Endpoint,
    deployments: Mapping[str, DeploymentHealth],
    answering: list[DeploymentHealth],
    step: RoutingStep,
    decision: RolloutDecision,
    scalings: Mapping[str, autoscale.Scaling],
    signatures: SignatureChange,
    now: datetime,
) -> OnlineEndpointStatus:
    """Return the status: the deployments that answer, and what the others wait for."""
    ready = sum(min(deployment.ready, deployment.replicas) for deployment in deployments.values())
    conditions = _conditions(endpoint, deployments, answering, step, decision, scalings, signatures)
    merged = merge(endpoint.status.get("conditions") or [], conditions, endpoint.generation, now)
    optional: dict[str, Any] = {
        "keys_secret": keys_secret(endpoint),
        "rollout": _without_defaults(RolloutStatus, decision.status),
        "signatures": _without_defaults(SignaturesStatus, signatures.status),
        "gateway_port": step.port,
        "model_version": _versions(answering),
    }
    url = step.url or f"{'https' if step.secure else 'http'}://{endpoint.name}.{endpoint.namespace}.svc"
    replicas = f"{ready}/{sum(deployment.replicas for deployment in deployments.values())}"
    return OnlineEndpointStatus(
        **cut(OnlineEndpointStatus, url=url, replicas=replicas),
        observed_generation=endpoint.generation,
        traffic=dict(step.answering),
        deployments=[_entry(deployment, scalings.get(name)) for name, deployment in deployments.items()],
        conditions=[ConditionStatus.model_validate(condition) for condition in merged],
        **{name: value for name, value in optional.items() if value},
    )


def _without_defaults(model: type[BaseModel], status: BaseModel | None) -> BaseModel | None:
    """Return the part of a status as if fields with default values had not been set; None if all have."""
    changed = status.model_dump(exclude_defaults=True) if status is not None else {}
    return model.model_validate(changed) if changed else None


def _entry(deployment: DeploymentHealth, scaling: autoscale.Scaling | None) -> DeploymentStatus:
    entry = autoscale.entry(scaling)
    return deployment.status().model_copy(update={"autoscale": entry} if entry else {})


def _conditions(
    endpoint: Endpoint,
    deployments: Mapping[str, DeploymentHealth],
    answering: list[DeploymentHealth],
    step: RoutingStep,
    decision: RolloutDecision,
    scalings: Mapping[str, autoscale.Scaling],
    signatures: SignatureChange,
) -> tuple[Condition, ...]:
    target = [deployments[name] for name in decision.shares]
    unready = [deployment for deployment in target if deployment.state != "Ready"]
    has_shares = not step.shares or step.shares == decision.shares
    # Requests wait for a pod that wakes. Before the first pod was ready, none can wake.
    was_ready = is_true(endpoint.status, "Ready")
    answers = (
        step.answers and bool(answering) and all(_answers_requests(deployment, was_ready) for deployment in answering)
    )
    good = not unready and step.settled
    message = step.blocked or _message(target, unready, step) or _serving(answering, step)
    if answers and not step.blocked:
        if step.diverted:
            message = _diverted(step, deployments)
        elif not has_shares:
            take = "take over" if len(decision.shares) > 1 else "takes over"
            message = f"{_answer(step.answering)} until {_names(decision.shares)} {take}: {message}"
        elif not good and (serving := _serving(answering, step)) != message:
            message = f"{serving}; {message}"
    rolled_out = endpoint.spec.rollout.candidate if endpoint.spec.rollout and decision.progress else ""
    concerned = {*decision.shares, rolled_out} - {""}
    stalled = next((f"{d.name}: {d.message}" for name, d in deployments.items() if name in concerned and d.stalled), "")
    reason = unready[0].state if unready else "Serving" if step.settled else "Switching"
    reason = "Diverted" if step.diverted and answers else reason
    return (
        Condition("Accepted", True, "Valid", ""),
        # During a rolling update the endpoint stays ready as long as pods answer.
        Condition("Ready", good or answers, reason if has_shares or step.diverted else "Switching", message),
        *(condition for condition in (step.condition, decision.condition, signatures.condition) if condition),
        *autoscale.conditions(scalings),
        *health(
            done=good and not decision.progress,
            failed=step.blocked or decision.failure or stalled,
            progress=decision.progress if good else message,
        ),
    )


def _answers_requests(deployment: DeploymentHealth, was_ready: bool) -> bool:
    """True if a deployment answers requests, after a wait if it sleeps."""
    return bool(deployment.ready) or (was_ready and deployment.may_sleep)


def _message(target: list[DeploymentHealth], unready: list[DeploymentHealth], step: RoutingStep) -> str:
    """Say what the target waits for; empty if it is reached."""
    if unready:
        first = unready[0]
        more = f" and {len(unready) - 1} more" if len(unready) > 1 else ""
        return first.message if len(target) == 1 else f"{first.name}: {first.message}{more}"
    return step.waits


def _serving(answering: list[DeploymentHealth], step: RoutingStep) -> str:
    """Name the deployments that answer, in a sentence without a failure."""
    if len(answering) == 1:
        [deployment] = answering
        if deployment.asleep:
            return f"{deployment.serves or deployment.name} sleeps: {deployment.message}"
        answers = f"{deployment.serves} answers" if deployment.serves else _note(deployment)
        return answers or f"{deployment.name} answers"
    contents = {d.name: f", {about}" if (about := d.serves or _note(d)) else "" for d in answering}
    return f"{_listed(f'{name} ({step.answering[name]} %{what})' for name, what in contents.items())} answer"


def _note(deployment: DeploymentHealth) -> str:
    """Return the message of a deployment without a failure; _message names failures."""
    return deployment.message if deployment.state == "Ready" else ""


def _diverted(step: RoutingStep, deployments: Mapping[str, DeploymentHealth]) -> str:
    """Name the deployments without a pod, the reasons, and the deployments that answer instead."""
    absent = [deployments[name] for name in sorted(step.diverted) if name in deployments]
    reasons = "; ".join(
        f"{d.name} has no ready pod and gets none of its {step.shares[d.name]} %: {d.message}" for d in absent
    )
    return f"{_answer(step.answering)} all requests; {reasons}"


def _answer(shares: Shares) -> str:
    return f"{_names(shares)} {'answer' if len(shares) > 1 else 'answers'}"


def _names(shares: Shares) -> str:
    return _listed(name if share == 100 else f"{name} ({share} %)" for name, share in shares.items())


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)


def _versions(answering: Iterable[DeploymentHealth]) -> str:
    """Join the versions that answer, without duplicates."""
    served = {version for d in answering if d.ready or d.asleep for version in d.serves.split(" and ")}
    return " and ".join(sorted(served - {""}))[:MAX_VERSION]


def events_for(
    endpoint: Endpoint,
    new: OnlineEndpointStatus,
    deployments: Mapping[str, DeploymentHealth],
    answering: list[DeploymentHealth],
    step: RoutingStep,
) -> tuple[Event, ...]:
    """Return an Event for each change of readiness, traffic, inputs and scale, and for each new failure."""
    events: list[Event] = []
    current = dumped(new)
    before, after = find(endpoint.status, "Ready") or {}, find(current, "Ready") or {}
    if after["status"] == "True" and before.get("status") != "True":
        events.append(Event("Ready", _serving(answering, step)))
    elif before.get("status") == "True" and after["status"] != "True":
        events.append(Event("NotReady", after["message"], "Warning"))
    events += _traffic_events(endpoint, new, step)
    events += _certificate_events(endpoint, current)
    warned = (find(endpoint.status, SIGNATURE_CHANGED) or {}).get("message")
    if (differs := find(current, SIGNATURE_CHANGED)) and differs["message"] != warned:
        events.append(Event(SIGNATURE_CHANGED, differs["message"], "Warning"))
    former = {deployment.name: deployment for deployment in endpoint.former.deployments}
    for deployment in new.deployments:
        old = former.get(deployment.name, DeploymentStatus(name=deployment.name))
        is_transient = deployments[deployment.name].transient
        events += _deployment_events(old, deployment, is_transient=is_transient)
    return tuple(events)


def _deployment_events(old: DeploymentStatus, new: DeploymentStatus, *, is_transient: bool) -> Iterable[Event]:
    if new.state == "Failing" != old.state:
        yield Event("DeploymentFailing", f"{new.name}: {new.message}", "Warning")
    if new.state == "Waiting" and old.message != new.message:
        yield Event("Waiting", f"{new.name}: {new.message}", "Normal" if is_transient else "Warning")
    if new.model_version and new.model_version != old.model_version:
        yield Event("VersionChosen", f"{new.name} is to serve {new.model_version}")
    before, after = (status.autoscale.replicas if status.autoscale else None for status in (old, new))
    if before is not None and after is not None and before != after:
        yield Event("Scaled", f"{new.name} is scaled from {before} to {after} pods")


def _certificate_events(endpoint: Endpoint, new: Manifest) -> Iterable[Event]:
    """Yield an Event if the Secret of the certificate is missing; pods report missing keys themselves."""
    tls, routes = endpoint.spec.tls, find(new, "RoutesReady") or {}
    before = (find(endpoint.status, "RoutesReady") or {}).get("reason")
    if tls and routes.get("reason") == SECRET_MISSING != before and f"Secret {tls.secret_name} " in routes["message"]:
        yield Event(SECRET_MISSING, routes["message"], "Warning")


def _traffic_events(endpoint: Endpoint, new: OnlineEndpointStatus, step: RoutingStep) -> Iterable[Event]:
    """Yield an Event if other deployments answer than before, with the reason if a deployment has no pod."""
    old, shares = endpoint.former.traffic, new.traffic
    if absent := sorted(name for name in step.diverted if name in old or not old):
        message = f"{_listed(absent)} has no ready pod: {_answer(shares)} its requests"
        yield Event("TrafficDiverted", message, "Warning")
    elif old and shares != old:
        yield Event("TrafficTurned", f"{_names(shares)} now {'answer' if len(shares) > 1 else 'answers'}")
