"""How many pods each deployment shall have, where its load decides that: told from the gateway's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil

from ultramarine.resources.onlineendpoint import Autoscale, EndpointDeployment
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import DeploymentFigures

from ....shared.conditions import LONG_AGO, Condition, find, parse_timestamp, timestamp
from ....shared.questions import Answer, GatewayFacts
from ..rollout.decision import PAUSED, PROGRESSING, PROMOTED, ROLLED_BACK, WAITING
from ..routing.step import told
from .manifests import Endpoint, deployment_name

PASS = timedelta(seconds=5)  # how often figures are looked at
ASLEEP_PASS = timedelta(seconds=2)  # the same, while a request has to wait for a first pod
TOLERANCE = 0.1  # of a pod, by which a load may be above what the pods are for
MOST = 1e9  # of any load: what a gateway tells may be anything
# Between two times when notes are begun anew, which is a write: a load that goes up and down costs two in this time.
PAUSE = timedelta(seconds=30)


@dataclass(frozen=True)
class Notes:
    """What is remembered between passes: how many pods were needed at most since some moment."""

    since: datetime
    most: int


@dataclass(frozen=True)
class Scaling:
    """How many pods a deployment shall have; `why_not` is a reason and a sentence where its load is not known."""

    replicas: int
    notes: Notes | None = None
    why_not: tuple[str, str] | None = None


def scalings(
    endpoint: Endpoint, own: Mapping[tuple[str, str], Manifest], answer: Answer | None, now: datetime
) -> dict[str, Scaling]:
    """Decide for each deployment that is autoscaled; `answer` is the gateway's, or None where there is none."""
    return {
        d.name: _scaling(endpoint, d, d.autoscale, own, answer, now)
        for d in endpoint.spec.deployments
        if d.autoscale is not None
    }


def scaled(endpoint: Endpoint, decided: Mapping[str, Scaling]) -> Endpoint:
    """The endpoint as if its author had asked for the number of pods that was decided."""
    deployments = [
        d.model_copy(update={"replicas": decided[d.name].replicas}) if d.name in decided else d
        for d in endpoint.spec.deployments
    ]
    return replace(endpoint, spec=endpoint.spec.model_copy(update={"deployments": deployments}))


def looked_at_again(endpoint: Endpoint, after: timedelta | None) -> timedelta | None:
    """When the next pass is due, if nobody rings before."""
    asked = [d for d in endpoint.spec.deployments if d.autoscale is not None and d.autoscale.metric != "cpu"]
    if not asked:
        return after
    again = PASS if all(d.replicas for d in asked) else ASLEEP_PASS
    return again if after is None else min(after, again)


def noted(scaling: Scaling | None) -> Manifest:
    """What the status of a deployment has of it."""
    if scaling is None or scaling.notes is None:
        return {}
    notes = {"since": timestamp(scaling.notes.since), "most": scaling.notes.most}
    return {"autoscale": {"replicas": scaling.replicas, **notes}}


def conditions(decided: Mapping[str, Scaling]) -> tuple[Condition, ...]:
    """Whether all that is autoscaled is scaled by its load; none where nothing is."""
    for name, scaling in decided.items():
        if scaling.why_not is not None:
            reason, sentence = scaling.why_not
            return (Condition("ScalingActive", False, reason, f"{name} keeps {scaling.replicas} pods: {sentence}"),)
    return (Condition("ScalingActive", True, "LoadKnown", ""),) if decided else ()


def _scaling(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    wish: Autoscale,
    own: Mapping[tuple[str, str], Manifest],
    answer: Answer | None,
    now: datetime,
) -> Scaling:
    name = deployment_name(endpoint, deployment.name)
    live = own.get(("Deployment", name))
    there = (live or {}).get("spec", {}).get("replicas")
    if answer is None or _must_be_awake(endpoint, deployment.name, live):
        wish = wish.model_copy(update={"min_replicas": max(1, wish.min_replicas)})
    current = _within(wish, there if isinstance(there, int) else wish.min_replicas)
    if wish.metric == "cpu":
        # The number of the live Deployment is the autoscaler's, and is written back as it is.
        return Scaling(current, why_not=_of_autoscaler(own.get(("HorizontalPodAutoscaler", name))))
    load = _load(endpoint, deployment.name, wish, answer)
    if isinstance(load, tuple):
        need = max(current, 1 if _waiting(deployment.name, answer) else 0)
    else:
        need = _within(wish, max(ceil(load / wish.target - TOLERANCE), 1 if load > 0 else 0))
    replicas, notes = decide(current, need, _notes(endpoint, deployment.name, now), wish, now)
    if _may_get_all_back(endpoint, deployment.name):
        replicas = max(current, replicas)
    return Scaling(replicas, notes, load if isinstance(load, tuple) else None)


def _may_get_all_back(endpoint: Endpoint, name: str) -> bool:
    """Whether a deployment is one to which a rollout that fails gives all requests back, at once."""
    return _phase(endpoint) in (WAITING, PROGRESSING, PAUSED) and name in endpoint.spec.shares


def _phase(endpoint: Endpoint) -> str | None:
    """How far the rollout is that the spec asks for."""
    return (endpoint.status.get("rollout") or {}).get("phase") if endpoint.spec.rollout else None


def decide(current: int, need: int, notes: Notes | None, wish: Autoscale, now: datetime) -> tuple[int, Notes]:
    """How many pods there shall be, and what is noted: more at once, fewer when fewer were enough for a while.

    Notes change with the decision, when they show a larger need than before, and seldom besides: each is a write.
    """
    if notes is None or need > current:
        return max(need, current), Notes(now, need)
    wait, age, most = timedelta(seconds=wish.scale_down_after_seconds), now - notes.since, max(notes.most, need)
    if most < current and age >= wait:
        return most, Notes(now, need)
    if most >= current > need and age >= min(PAUSE, wait / 2):
        return current, Notes(now, need)
    return current, Notes(notes.since, min(most, current))


def _within(wish: Autoscale, count: int) -> int:
    return min(max(count, wish.min_replicas), wish.max_replicas)


def _load(endpoint: Endpoint, name: str, wish: Autoscale, answer: Answer | None) -> float | tuple[str, str]:
    """The load of a deployment at all gateway pods together, or why that is not known."""
    if answer is None:
        return "NoGateway", (
            f"metric: {wish.metric} needs the gateway, and namespace {endpoint.namespace} has none: install the chart "
            "with gateway.enabled and the namespace in `namespaces`, or choose metric: cpu"
        )
    if isinstance(answer, UltramarineError):
        return answer.reason, answer.message
    figures = [(proxy.figures or {}).get(name) for proxy in answer.proxies] if isinstance(answer, GatewayFacts) else []
    loads = [None if one is None else _of(one, wish) for one in figures]
    known = [load for load in loads if load is not None]
    if not known or len(known) < len(loads):
        return "NoFigures", "not every gateway pod has told the mean of some seconds yet"
    return min(sum(known), MOST)


def _of(figures: DeploymentFigures, wish: Autoscale) -> float | None:
    """The load of what waits is that of what is in flight; and what waits has to be answered, whatever the metric."""
    mean = figures.concurrency if wish.metric == "concurrency" else figures.rate
    return None if mean is None else mean + figures.waiting


def _waiting(name: str, answer: Answer | None) -> bool:
    """Whether a request waits for a first pod at a gateway pod."""
    proxies = answer.proxies if isinstance(answer, GatewayFacts) else ()
    return any(proxy.figures and name in proxy.figures and proxy.figures[name].waiting for proxy in proxies)


def _must_be_awake(endpoint: Endpoint, name: str, live: Manifest | None) -> bool:
    """Whether a deployment needs a pod though nobody asks: it has to prove that it can answer, or gets copies.

    It proves that before it gets a larger share of the requests, and before it sleeps: who never was ready would be
    called so.
    """
    status = (live or {}).get("status") or {}
    unproven = bool((live or {}).get("spec", {}).get("replicas")) and not status.get("availableReplicas")
    rises = endpoint.spec.shares.get(name, 0) > told(endpoint).get(name, 0)
    rollout = endpoint.spec.rollout
    ended = _phase(endpoint) in (PROMOTED, ROLLED_BACK, PAUSED)
    rolls = rollout is not None and rollout.candidate == name and not ended
    return rises or unproven or rolls or name in endpoint.spec.mirrors


def _notes(endpoint: Endpoint, name: str, now: datetime) -> Notes | None:
    """What the last pass has noted; whatever stands in the status, no moment to come and no count below 0."""
    entries: Iterable[Manifest] = endpoint.status.get("deployments") or []
    found = next((one.get("autoscale") for one in entries if one.get("name") == name), None)
    if not isinstance(found, dict):
        return None
    since, most = parse_timestamp(str(found.get("since"))), found.get("most")
    if since == LONG_AGO or type(most) is not int:
        return None
    return Notes(min(since, now), max(most, 0))


def _of_autoscaler(autoscaler: Manifest | None) -> tuple[str, str] | None:
    """What Kubernetes' own autoscaler lacks."""
    said = find((autoscaler or {}).get("status") or {}, "ScalingActive")
    if said is None or said.get("status") == "True":
        return None
    return str(said.get("reason") or "Unknown"), str(said.get("message") or "")
