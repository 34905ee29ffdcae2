"""What should be, given an OnlineEndpoint and what was seen of it.

The order of every change: new pods ready, then the Service turned to them, then the old ones deleted. Each step is
taken only when the one before was seen to be done, so no request meets a pod that is not there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ...shared import pods
from ...shared.conditions import Condition, find, health, merge
from ...shared.meta import DEPLOYMENT, POD_DISRUPTION_BUDGET, Manifest, Ref, child_metadata, controller_uid
from ...shared.plan import Event, GenerateSecret, Plan, Seen
from .judge import KEYS_MISSING, Judged, judge, leaving
from .manifests import LABEL_DEPLOYMENT, Endpoint, deployment_name, keys_secret, service

SOON = timedelta(seconds=1)


def plan(endpoint: Endpoint, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `endpoint`, given only what was seen."""
    own = [child for child in seen.children if child["kind"] == "Pod" or controller_uid(child) == endpoint.uid]
    deployments = {c["metadata"]["name"]: c for c in own if c["kind"] == "Deployment"}
    turned_to = _turned_to(own, endpoint)
    # Without the Service the status still knows who answered; its pods are as good as they were.
    told = next(iter(endpoint.status.get("traffic") or {}), None)
    current = turned_to or told
    if current is not None and deployment_name(endpoint, current) not in deployments:
        current = None
    target = endpoint.spec.live
    judged = {
        d.name: judge(
            endpoint,
            d,
            seen,
            deployments.get(deployment_name(endpoint, d.name)),
            keep=d.name == current != target,
        )
        for d in endpoint.spec.deployments
    }
    # Turned at once where nothing answers yet; later only to pods that are ready, all of them, with what is wanted.
    live = target if current is None or judged[target].state == "Ready" else current
    answering = judged.get(live) or leaving(live, seen)
    apply = [manifest for each in judged.values() for manifest in each.apply]
    apply.append(service(endpoint, live))
    status = _status(endpoint, judged, answering, judged[target], now)
    return Plan(
        status,
        apply=tuple(apply),
        # What the Service leaves behind goes only after the Service was seen elsewhere.
        delete=_superfluous(endpoint, own, judged, turned_to) if turned_to is not None else (),
        effects=_keys(endpoint, seen),
        events=_diary(endpoint, status),
        after=SOON if current not in (None, live) else None,
    )


def _turned_to(own: list[Manifest], endpoint: Endpoint) -> str | None:
    """The deployment that the Service, as seen, sends requests to."""
    for child in own:
        if child["kind"] == "Service" and child["metadata"]["name"] == endpoint.name:
            selected = (child.get("spec") or {}).get("selector") or {}
            return str(selected.get(LABEL_DEPLOYMENT) or "") or None
    return None


def _status(
    endpoint: Endpoint, judged: dict[str, Judged], answering: Judged, target: Judged, now: datetime
) -> Manifest:
    live = answering.name
    ready = sum(each.ready for each in judged.values())
    message = target.message or f"{target.serves} answers"
    if live != target.name and answering.ready:
        message = f"{live} answers until {target.name} is ready: {message}"
    good = target.state == "Ready" and live == target.name
    reason = {"Ready": "Serving"}.get(target.state, target.state) if live == target.name else "Switching"
    conditions = (
        Condition("Accepted", True, "Valid", ""),
        # A rolling update is no outage: as long as pods answer, the endpoint is ready.
        Condition("Ready", good or answering.ready > 0, reason, message),
        *health(done=good, progress=message),
    )
    status: Manifest = {
        "observedGeneration": endpoint.generation,
        "url": f"http://{endpoint.name}.{endpoint.namespace}.svc",
        "traffic": {live: 100},
        "replicas": f"{ready}/{sum(each.wanted for each in judged.values())}",
        "deployments": [each.status() for each in judged.values()],
        "conditions": merge(endpoint.status.get("conditions") or [], conditions, endpoint.generation, now),
    }
    if secret := keys_secret(endpoint):
        status["keysSecret"] = secret
    if answering.ready:
        status["modelVersion"] = answering.serves
    return status


def _superfluous(endpoint: Endpoint, own: list[Manifest], judged: dict[str, Judged], current: str) -> tuple[Ref, ...]:
    """Deployments that the spec no longer has and the Service no longer uses, and budgets of single pods."""
    keep = {deployment_name(endpoint, name) for name in (*judged, current)}
    budgets = {deployment_name(endpoint, d.name) for d in endpoint.spec.deployments if d.replicas > 1}
    refs = [
        Ref.to(DEPLOYMENT, child)
        for child in own
        if child["kind"] == "Deployment" and child["metadata"]["name"] not in keep
    ]
    refs += [
        Ref.to(POD_DISRUPTION_BUDGET, child)
        for child in own
        if child["kind"] == "PodDisruptionBudget" and child["metadata"]["name"] not in budgets
    ]
    return tuple(refs)


def _keys(endpoint: Endpoint, seen: Seen) -> tuple[GenerateSecret, ...]:
    """Generate the keys once, and again only when a pod says that they are gone: nobody here may read Secrets."""
    name = keys_secret(endpoint)
    if not name or endpoint.spec.keys_secret_ref is not None:
        return ()
    verdicts = (pods.crashing(pod) for pod in seen.of("Pod"))
    missed = any(verdict.reason == KEYS_MISSING for verdict in verdicts if verdict)
    if endpoint.status.get("keysSecret") == name and not missed:
        return ()
    metadata = child_metadata(endpoint.manifest, name)
    return (GenerateSecret(tuple(metadata.items()), ("primary", "secondary")),)


def _diary(endpoint: Endpoint, new: Manifest) -> tuple[Event, ...]:
    """An event for each turn of the Ready condition, and for each deployment that starts to fail."""
    lines: list[Event] = []
    before, after = find(endpoint.status, "Ready") or {}, find(new, "Ready") or {}
    if after["status"] != before.get("status") and (before or after["status"] == "True"):
        word = "Ready" if after["status"] == "True" else "NotReady"
        lines.append(Event(word, after["message"], "Normal" if word == "Ready" else "Warning"))
    known = {d.get("name"): d for d in endpoint.status.get("deployments") or []}
    for deployment in new["deployments"]:
        old = known.get(deployment["name"], {})
        if deployment["state"] == "Failing" and old.get("state") != "Failing":
            lines.append(Event("DeploymentFailing", f"{deployment['name']}: {deployment['message']}", "Warning"))
        if deployment["state"] == "Waiting" and old.get("message") != deployment["message"]:
            lines.append(Event("Waiting", f"{deployment['name']}: {deployment['message']}"))
        if deployment["modelVersion"] and deployment["modelVersion"] != old.get("modelVersion"):
            lines.append(Event("VersionChosen", f"{deployment['name']} serves {deployment['modelVersion']}"))
    return tuple(lines)
