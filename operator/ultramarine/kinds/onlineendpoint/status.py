"""The words of an OnlineEndpoint's status, and the lines of its diary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.meta import Manifest
from ...shared.plan import Event
from . import autoscale
from .course import Course
from .judge import Judged
from .manifests import Endpoint, keys_secret
from .steps import Shares, Step

LONGEST_VERSION = 253


def gathered(
    endpoint: Endpoint,
    judged: dict[str, Judged],
    answering: list[Judged],
    step: Step,
    course: Course,
    scalings: Mapping[str, autoscale.Scaling],
    now: datetime,
) -> Manifest:
    """The status: who answers, of those who shall, and what the rest waits for."""
    target = [judged[name] for name in course.shares]
    unready = [each for each in target if each.state != "Ready"]
    as_asked = not step.shares or step.shares == course.shares
    # Requests wait for a pod that wakes; but before the first one was ready there was nothing to wake.
    was_ready = is_true(endpoint.status, "Ready")
    answers = (
        step.answers and bool(answering) and all(each.ready or (was_ready and each.may_sleep) for each in answering)
    )
    good = not unready and step.settled
    message = step.blocked or _message(target, unready, answering, step)
    if not as_asked and answers and not step.blocked:
        message = f"{_names(step.shares)} answers until {_names(course.shares)} is ready: {message}"
    reason = unready[0].state if unready else "Serving" if step.settled else "Switching"
    ready = sum(each.ready for each in judged.values())
    conditions = (
        Condition("Accepted", True, "Valid", ""),
        # A rolling update is no outage: as long as pods answer, the endpoint is ready.
        Condition("Ready", good or answers, reason if as_asked else "Switching", message),
        *(condition for condition in (step.condition, course.condition) if condition),
        *autoscale.conditions(scalings),
        *health(
            done=good and not course.goes_on,
            failed=step.blocked or course.stops,
            progress=course.goes_on if good else message,
        ),
    )
    status: Manifest = {
        "observedGeneration": endpoint.generation,
        "url": step.url or f"{'https' if step.secure else 'http'}://{endpoint.name}.{endpoint.namespace}.svc",
        "traffic": dict(step.shares),
        "replicas": f"{ready}/{sum(each.wanted for each in judged.values())}",
        "deployments": [each.status() | autoscale.noted(scalings.get(each.name)) for each in judged.values()],
        "conditions": merge(endpoint.status.get("conditions") or [], conditions, endpoint.generation, now),
    }
    if secret := keys_secret(endpoint):
        status["keysSecret"] = secret
    if rollout := course.written():
        status["rollout"] = rollout
    if step.port:
        status["gatewayPort"] = step.port
    if serves := _versions(answering):
        status["modelVersion"] = serves
    return status


def _message(target: list[Judged], unready: list[Judged], answering: list[Judged], step: Step) -> str:
    if unready:
        first = unready[0]
        return first.message if len(target) == 1 else f"{first.name}: {first.message}"
    if step.waits:
        return step.waits
    if len(answering) == 1 and answering[0].asleep:
        return f"{answering[0].serves or answering[0].name} sleeps: {answering[0].message}"
    if len(answering) < 2:
        return target[0].message or f"{_versions(answering) or target[0].serves} answers"
    shares = (f"{each.name} ({step.shares[each.name]} %, {each.serves or each.message})" for each in answering)
    return f"{' and '.join(shares)} answer"


def _names(shares: Shares) -> str:
    return " and ".join(name if share == 100 else f"{name} ({share} %)" for name, share in shares.items())


def _versions(answering: Iterable[Judged]) -> str:
    """The versions that answer, each once."""
    served = {version for each in answering if each.ready or each.asleep for version in each.serves.split(" and ")}
    return " and ".join(sorted(served - {""}))[:LONGEST_VERSION]


def diary(endpoint: Endpoint, new: Manifest) -> tuple[Event, ...]:
    """An event for each turn of the Ready condition, and for each deployment that starts to fail."""
    lines: list[Event] = []
    before, after = find(endpoint.status, "Ready") or {}, find(new, "Ready") or {}
    if after["status"] != before.get("status") and (before or after["status"] == "True"):
        word = "Ready" if after["status"] == "True" else "NotReady"
        lines.append(Event(word, after["message"], "Normal" if word == "Ready" else "Warning"))
    old_shares, shares = endpoint.status.get("traffic") or {}, new["traffic"]
    if old_shares and shares != old_shares:
        lines.append(Event("TrafficTurned", f"{_names(shares)} now answers"))
    known = {d.get("name"): d for d in endpoint.status.get("deployments") or []}
    for deployment in new["deployments"]:
        old = known.get(deployment["name"], {})
        if deployment["state"] == "Failing" and old.get("state") != "Failing":
            lines.append(Event("DeploymentFailing", f"{deployment['name']}: {deployment['message']}", "Warning"))
        if deployment["state"] == "Waiting" and old.get("message") != deployment["message"]:
            lines.append(Event("Waiting", f"{deployment['name']}: {deployment['message']}"))
        if deployment["modelVersion"] and deployment["modelVersion"] != old.get("modelVersion"):
            lines.append(Event("VersionChosen", f"{deployment['name']} serves {deployment['modelVersion']}"))
        before, count = (each.get("autoscale", {}).get("replicas") for each in (old, deployment))
        if before is not None and count is not None and count != before:
            lines.append(Event("Scaled", f"{deployment['name']} shall have {count} pods instead of {before}"))
    return tuple(lines)
