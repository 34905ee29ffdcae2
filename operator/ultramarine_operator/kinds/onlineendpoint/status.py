"""The words of an OnlineEndpoint's status, and the lines of its diary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ultramarine_contract.meta import Manifest

from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.plan import Event
from .deployment import autoscale
from .deployment.health import Judged
from .deployment.manifests import Endpoint, keys_secret
from .rollout.decision import Course
from .routing.step import Shares, Step
from .signatures.warning import CONDITION as SIGNATURE_CHANGED
from .signatures.warning import SignatureChange

LONGEST_VERSION = 253
SECRET_MISSING = "SecretMissing"  # the reason of RoutesReady that only a person can end


def gathered(
    endpoint: Endpoint,
    judged: dict[str, Judged],
    answering: list[Judged],
    step: Step,
    course: Course,
    scalings: Mapping[str, autoscale.Scaling],
    changed: SignatureChange,
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
    message = step.blocked or _message(target, unready, step) or _serving(answering, step)
    if answers and not step.blocked:
        if step.away:
            message = _diverted(step, judged)
        elif not as_asked:
            take = "take over" if len(course.shares) > 1 else "takes over"
            message = f"{_answer(step.answering)} until {_names(course.shares)} {take}: {message}"
        elif not good and (serving := _serving(answering, step)) != message:
            message = f"{serving}; {message}"
    reason = unready[0].state if unready else "Serving" if step.settled else "Switching"
    reason = "Diverted" if step.away and answers else reason
    ready = sum(each.ready for each in judged.values())
    conditions = (
        Condition("Accepted", True, "Valid", ""),
        # A rolling update is no outage: as long as pods answer, the endpoint is ready.
        Condition("Ready", good or answers, reason if as_asked or step.away else "Switching", message),
        *(condition for condition in (step.condition, course.condition, changed.condition) if condition),
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
        "traffic": dict(step.answering),
        "replicas": f"{ready}/{sum(each.wanted for each in judged.values())}",
        "deployments": [each.status() | autoscale.noted(scalings.get(each.name)) for each in judged.values()],
        "conditions": merge(endpoint.status.get("conditions") or [], conditions, endpoint.generation, now),
    }
    if secret := keys_secret(endpoint):
        status["keysSecret"] = secret
    if rollout := course.written():
        status["rollout"] = rollout
    if signatures := changed.written():
        status["signatures"] = signatures
    if step.port:
        status["gatewayPort"] = step.port
    if serves := _versions(answering):
        status["modelVersion"] = serves
    return status


def _message(target: list[Judged], unready: list[Judged], step: Step) -> str:
    """Say what the deployments of the target wait for; nothing if all of them are ready."""
    if unready:
        first = unready[0]
        more = f" and {len(unready) - 1} more" if len(unready) > 1 else ""
        return first.message if len(target) == 1 else f"{first.name}: {first.message}{more}"
    return step.waits


def _serving(answering: list[Judged], step: Step) -> str:
    """Name the deployments that answer, in words that hold no failure."""
    if len(answering) == 1:
        one = answering[0]
        if one.asleep:
            return f"{one.serves or one.name} sleeps: {one.message}"
        return f"{one.serves} answers" if one.serves else one.message or f"{one.name} answers"
    shares = (f"{each.name} ({step.answering[each.name]} %, {each.serves or each.message})" for each in answering)
    return f"{_listed(shares)} answer"


def _diverted(step: Step, judged: Mapping[str, Judged]) -> str:
    """Name the deployments without a pod, the reason, and those that answer their requests."""
    away = [judged[name] for name in sorted(step.away) if name in judged]
    reasons = "; ".join(
        f"{each.name} has no ready pod and gets none of its {step.shares[each.name]} %: {each.message}" for each in away
    )
    return f"{_answer(step.answering)} all requests; {reasons}"


def _answer(shares: Shares) -> str:
    return f"{_names(shares)} {'answer' if len(shares) > 1 else 'answers'}"


def _names(shares: Shares) -> str:
    return _listed(name if share == 100 else f"{name} ({share} %)" for name, share in shares.items())


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)


def _versions(answering: Iterable[Judged]) -> str:
    """The versions that answer, each once."""
    served = {version for each in answering if each.ready or each.asleep for version in each.serves.split(" and ")}
    return " and ".join(sorted(served - {""}))[:LONGEST_VERSION]


def diary(
    endpoint: Endpoint, new: Manifest, judged: Mapping[str, Judged], answering: list[Judged], step: Step
) -> tuple[Event, ...]:
    """An event for each turn of the Ready condition, of the traffic and of the inputs, and for what starts to fail."""
    lines: list[Event] = []
    before, after = find(endpoint.status, "Ready") or {}, find(new, "Ready") or {}
    if after["status"] == "True" and before.get("status") != "True":
        lines.append(Event("Ready", _serving(answering, step)))
    elif before.get("status") == "True" and after["status"] != "True":
        lines.append(Event("NotReady", after["message"], "Warning"))
    lines += _turned(endpoint, new, step)
    lines += _without_certificate(endpoint, new)
    told = (find(endpoint.status, SIGNATURE_CHANGED) or {}).get("message")
    if (differs := find(new, SIGNATURE_CHANGED)) and differs["message"] != told:
        lines.append(Event(SIGNATURE_CHANGED, differs["message"], "Warning"))
    known = {d.get("name"): d for d in endpoint.status.get("deployments") or []}
    for deployment in new["deployments"]:
        old = known.get(deployment["name"], {})
        if deployment["state"] == "Failing" and old.get("state") != "Failing":
            lines.append(Event("DeploymentFailing", f"{deployment['name']}: {deployment['message']}", "Warning"))
        if deployment["state"] == "Waiting" and old.get("message") != deployment["message"]:
            level = "Normal" if judged[deployment["name"]].passes else "Warning"
            lines.append(Event("Waiting", f"{deployment['name']}: {deployment['message']}", level))
        if deployment["modelVersion"] and deployment["modelVersion"] != old.get("modelVersion"):
            lines.append(Event("VersionChosen", f"{deployment['name']} is to serve {deployment['modelVersion']}"))
        count_before, count = (each.get("autoscale", {}).get("replicas") for each in (old, deployment))
        if count_before is not None and count is not None and count != count_before:
            lines.append(Event("Scaled", f"{deployment['name']} is scaled from {count_before} to {count} pods"))
    return tuple(lines)


def _without_certificate(endpoint: Endpoint, new: Manifest) -> Iterable[Event]:
    """An event if the Secret of the certificate is missing; of keys the pods tell, or they are being generated."""
    tls, routes = endpoint.spec.tls, find(new, "RoutesReady") or {}
    before = (find(endpoint.status, "RoutesReady") or {}).get("reason")
    if tls and routes.get("reason") == SECRET_MISSING != before and f"Secret {tls.secret_name} " in routes["message"]:
        yield Event(SECRET_MISSING, routes["message"], "Warning")


def _turned(endpoint: Endpoint, new: Manifest, step: Step) -> Iterable[Event]:
    """An event if others answer now than before, with the reason if it is that a deployment has no pod."""
    old, shares = endpoint.status.get("traffic") or {}, new["traffic"]
    if left := sorted(name for name in step.away if name in old or not old):
        message = f"{_listed(left)} has no ready pod: {_answer(shares)} its requests"
        yield Event("TrafficDiverted", message, "Warning")
    elif old and shares != old:
        yield Event("TrafficTurned", f"{_names(shares)} now {'answer' if len(shares) > 1 else 'answers'}")
