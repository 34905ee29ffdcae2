"""Autoscaling by the figures of the gateway: requests in flight, or requests a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil

from ultramarine.resources.onlineendpoint_deployment import Autoscale, AutoscaleStatus, EndpointDeployment
from ultramarine_contract.errors import UltramarineError, counted
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import DeploymentFigures

from ....shared.conditions import LONG_AGO, Condition, find, parse_timestamp, timestamp
from ....shared.questions import Answer, GatewayFacts
from ..endpoint import PAUSED, PROGRESSING, PROMOTED, ROLLED_BACK, WAITING, Endpoint, deployment_name

PASS = timedelta(seconds=5)
ASLEEP_PASS = timedelta(seconds=2)  # while scaled to zero, when requests wait
TOLERANCE = 0.1  # of a pod
MAX_LOAD = 1e9  # a gateway may report any number
MAX_REASON = 1024  # characters
# Minimum between two restarts of the notes: each is a write, and a load that swings would cause many.
PAUSE = timedelta(seconds=30)


@dataclass(frozen=True)
class Notes:
    """Memory between passes: the maximum number of pods that were needed since a moment."""

    since: datetime
    most: int


@dataclass(frozen=True)
class Scaling:
    """Number of pods of a deployment; `why_not` is a reason and a message if its load is unknown."""

    replicas: int
    notes: Notes | None = None
    why_not: tuple[str, str] | None = None


def scalings(
    endpoint: Endpoint, own: Mapping[tuple[str, str], Manifest], answer: Answer | None, now: datetime
) -> dict[str, Scaling]:
    """Decide for each deployment that scales; `answer` is the gateway's, None without a gateway."""
    return {
        d.name: _scaling(endpoint, d, d.autoscale, own, answer, now)
        for d in endpoint.spec.deployments
        if d.autoscale is not None
    }


def scaled(endpoint: Endpoint, decided: Mapping[str, Scaling]) -> Endpoint:
    """Return the endpoint with the decided numbers of pods in its spec."""
    deployments = [
        d.model_copy(update={"replicas": decided[d.name].replicas}) if d.name in decided else d
        for d in endpoint.spec.deployments
    ]
    return replace(endpoint, spec=endpoint.spec.model_copy(update={"deployments": deployments}))


def next_pass(endpoint: Endpoint, after: timedelta | None) -> timedelta | None:
    """Return when the next pass is due, at the latest `after`."""
    scaling = [d for d in endpoint.spec.deployments if d.autoscale is not None and d.autoscale.metric != "cpu"]
    if not scaling:
        return after
    again = PASS if all(d.replicas for d in scaling) else ASLEEP_PASS
    return again if after is None else min(after, again)


def entry(scaling: Scaling | None) -> AutoscaleStatus | None:
    """Return the entry in the status of a deployment; None for scaling by CPU."""
    if scaling is None or scaling.notes is None:
        return None
    notes = scaling.notes
    return AutoscaleStatus(replicas=scaling.replicas, since=timestamp(notes.since), most=notes.most)


def conditions(decided: Mapping[str, Scaling]) -> tuple[Condition, ...]:
    """Return the condition ScalingActive; none if no deployment scales."""
    for name, scaling in decided.items():
        if scaling.why_not is not None:
            reason, sentence = scaling.why_not
            message = f"{name} keeps {counted(scaling.replicas, 'pod')}: {sentence}"
            return (Condition("ScalingActive", False, reason, message),)
    return (Condition("ScalingActive", True, "LoadKnown", ""),) if decided else ()


def _scaling(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    autoscale: Autoscale,
    own: Mapping[tuple[str, str], Manifest],
    answer: Answer | None,
    now: datetime,
) -> Scaling:
    name = deployment_name(endpoint, deployment.name)
    live = own.get(("Deployment", name))
    replicas = (live or {}).get("spec", {}).get("replicas")
    if answer is None or _must_be_awake(endpoint, deployment.name, live):
        autoscale = autoscale.model_copy(update={"min_replicas": max(1, autoscale.min_replicas)})
    current = _within(autoscale, replicas if isinstance(replicas, int) else autoscale.min_replicas)
    if autoscale.metric == "cpu":
        # The autoscaler sets the number in the live Deployment; it is written back unchanged.
        return Scaling(current, why_not=_hpa_failure(own.get(("HorizontalPodAutoscaler", name))))
    load = _load(endpoint, deployment.name, autoscale, answer)
    if isinstance(load, tuple):
        need = max(current, 1 if _waiting(deployment.name, answer) else 0)
    else:
        need = _within(autoscale, max(ceil(load / autoscale.target - TOLERANCE), 1 if load > 0 else 0))
    replicas, notes = decide(current, need, _notes(endpoint, deployment.name, now), autoscale, now)
    if _may_take_over(endpoint, deployment.name):
        replicas = max(current, replicas)
    return Scaling(replicas, notes, load if isinstance(load, tuple) else None)


def _may_take_over(endpoint: Endpoint, name: str) -> bool:
    """True if a failed rollout would send all requests back to this deployment at once."""
    return endpoint.rollout_phase in (WAITING, PROGRESSING, PAUSED) and name in endpoint.spec.shares


def decide(current: int, need: int, notes: Notes | None, autoscale: Autoscale, now: datetime) -> tuple[int, Notes]:
    """Return the number of pods and the new notes: scale up at once, scale down after fewer were enough for a while.

    Notes change with the decision, when the need grows, and rarely besides, since each change is a write.
    """
    if notes is None or need > current:
        return max(need, current), Notes(now, need)
    wait, age, most = timedelta(seconds=autoscale.scale_down_after_seconds), now - notes.since, max(notes.most, need)
    if most < current and age >= wait:
        return most, Notes(now, need)
    if most >= current > need and age >= min(PAUSE, wait / 2):
        return current, Notes(now, need)
    return current, Notes(notes.since, min(most, current))


def _within(autoscale: Autoscale, count: int) -> int:
    return min(max(count, autoscale.min_replicas), autoscale.max_replicas)


def _load(endpoint: Endpoint, name: str, autoscale: Autoscale, answer: Answer | None) -> float | tuple[str, str]:
    """Return the load of a deployment summed over all gateway pods, or why it is unknown."""
    if answer is None:
        return "NoGateway", (
            f"metric: {autoscale.metric} needs the gateway, and namespace {endpoint.namespace} has none: install the "
            "chart with gateway.enabled and the namespace in `namespaces`, or choose metric: cpu"
        )
    if isinstance(answer, UltramarineError):
        return answer.reason, answer.message
    figures = [(proxy.figures or {}).get(name) for proxy in answer.proxies] if isinstance(answer, GatewayFacts) else []
    loads = [None if figure is None else _load_in(figure, autoscale) for figure in figures]
    reported = [load for load in loads if load is not None]
    if not reported or len(reported) < len(loads):
        return "NoFigures", "not every gateway pod has reported its figures yet"
    return min(sum(reported), MAX_LOAD)


def _load_in(figures: DeploymentFigures, autoscale: Autoscale) -> float | None:
    """Return the load at one gateway pod; waiting requests count for any metric, since they need an answer."""
    mean = figures.concurrency if autoscale.metric == "concurrency" else figures.rate
    return None if mean is None else mean + figures.waiting


def _waiting(name: str, answer: Answer | None) -> bool:
    """True if a request waits for the first pod of a deployment."""
    proxies = answer.proxies if isinstance(answer, GatewayFacts) else ()
    return any(proxy.figures and name in proxy.figures and proxy.figures[name].waiting for proxy in proxies)


def _must_be_awake(endpoint: Endpoint, name: str, live: Manifest | None) -> bool:
    """True if a deployment needs a pod without traffic: to prove that it can answer, or because it gets copies.

    The proof comes before it gets a larger share of the requests, and before it scales to zero.
    """
    status = (live or {}).get("status") or {}
    unproven = bool((live or {}).get("spec", {}).get("replicas")) and not status.get("availableReplicas")
    rises = endpoint.spec.shares.get(name, 0) > endpoint.former_traffic.get(name, 0)
    rollout = endpoint.spec.rollout
    ended = endpoint.rollout_phase in (PROMOTED, ROLLED_BACK, PAUSED)
    rolls = rollout is not None and rollout.candidate == name and not ended
    return rises or unproven or rolls or name in endpoint.spec.mirrors


def _notes(endpoint: Endpoint, name: str, now: datetime) -> Notes | None:
    """Return the notes of the last pass; None if none exist or their time cannot be read."""
    notes = next((d.autoscale for d in endpoint.former.deployments if d.name == name), None)
    since = parse_timestamp(notes.since) if notes is not None else LONG_AGO
    if notes is None or since == LONG_AGO or "most" not in notes.model_fields_set:
        return None
    return Notes(min(since, now), notes.most)


def _hpa_failure(autoscaler: Manifest | None) -> tuple[str, str] | None:
    """Return the reason and message of a HorizontalPodAutoscaler that does not scale."""
    condition = find((autoscaler or {}).get("status") or {}, "ScalingActive")
    if condition is None or condition.get("status") == "True":
        return None
    return str(condition.get("reason") or "Unknown")[:MAX_REASON], str(condition.get("message") or "")
