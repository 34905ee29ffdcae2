"""What should be, given an OnlineEndpoint and what was seen of it.

The order of every change: new pods ready, then the Service turned to them, then the old ones deleted. Each step is
taken only when the one before was seen to be done, so no request meets a pod that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ...shared import pods
from ...shared.conditions import MAX_MESSAGE, Condition, find, health, merge
from ...shared.meta import DEPLOYMENT, POD_DISRUPTION_BUDGET, Manifest, Ref, child_metadata, controller_uid
from ...shared.plan import Event, GenerateSecret, Plan, Seen
from .manifests import (
    ANNOTATION_VERSION,
    LABEL_DEPLOYMENT,
    Endpoint,
    deployment_name,
    disruption_budget,
    keys_secret,
    server_deployment,
    service,
)
from .resolve import Resolved, Unresolved, resolve
from .schema import EndpointDeployment

SOON = timedelta(seconds=1)
KEYS_MISSING = "KeysMissing"  # the server's own word


@dataclass(frozen=True)
class Judged:
    """One deployment: what to apply for it, and how it is."""

    name: str
    apply: tuple[Manifest, ...]
    ready: int
    wanted: int
    serves: str  # the version that its ready pods serve
    state: str
    message: str
    version: str

    def status(self) -> Manifest:
        return {
            "name": self.name,
            "modelVersion": self.version,
            "readyReplicas": self.ready,
            "state": self.state,
            "message": self.message[:MAX_MESSAGE],
        }


def plan(endpoint: Endpoint, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `endpoint`, given only what was seen."""
    own = [child for child in seen.children if child["kind"] == "Pod" or controller_uid(child) == endpoint.uid]
    deployments = {c["metadata"]["name"]: c for c in own if c["kind"] == "Deployment"}
    judged = {d.name: _judge(endpoint, d, seen, deployments) for d in endpoint.spec.deployments}
    current = _turned_to(own, endpoint)
    target = judged[endpoint.spec.live]
    # Turned at once where nothing answers yet; later only to pods that are ready, all of them.
    turn = current is None or (current not in judged and current not in _names(endpoint, deployments))
    live = target.name if turn or (target.ready >= target.wanted > 0 and target.state != "Updating") else current
    assert live is not None
    apply = [manifest for each in judged.values() for manifest in each.apply]
    apply.append(service(endpoint, live))
    status = _status(endpoint, judged, live, target, now)
    return Plan(
        status,
        apply=tuple(apply),
        delete=_superfluous(endpoint, own, judged, current),
        effects=_keys(endpoint, seen),
        events=_diary(endpoint, status),
        # The Service was turned away from a deployment: what it leaves behind may go now.
        after=SOON if current not in (None, live) else None,
    )


def _names(endpoint: Endpoint, deployments: dict[str, Manifest]) -> set[str]:
    """The deployments that have pods, whether the spec still has them or not."""
    return {name.removeprefix(f"{endpoint.name}-") for name in deployments}


def _turned_to(own: list[Manifest], endpoint: Endpoint) -> str | None:
    """The deployment that the Service, as seen, sends requests to."""
    for child in own:
        if child["kind"] == "Service" and child["metadata"]["name"] == endpoint.name:
            selected = (child.get("spec") or {}).get("selector") or {}
            return str(selected.get(LABEL_DEPLOYMENT) or "") or None
    return None


def _judge(endpoint: Endpoint, deployment: EndpointDeployment, seen: Seen, deployments: dict[str, Manifest]) -> Judged:
    live = deployments.get(deployment_name(endpoint, deployment.name))
    found = resolve(deployment.model, seen)
    own_pods = [
        p for p in seen.of("Pod") if (p["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT) == deployment.name
    ]
    ready = [pod for pod in own_pods if pods.is_ready(pod)]
    wanted = deployment.replicas
    budget = disruption_budget(endpoint, deployment)
    serves = " and ".join(sorted({_version_of(pod) for pod in ready}))
    if isinstance(found, Unresolved):
        # What serves already goes on serving: an alias that leads nowhere must not end it.
        message = f"{found.message}; meanwhile {serves} is served" if serves else found.message
        return Judged(deployment.name, (), len(ready), wanted, serves, "Waiting", message, _version_of(live))
    apply = server_deployment(endpoint, deployment, found.spec, seen.platform, live)
    state, message = _state(endpoint, deployment, found, live, own_pods, ready)
    manifests = (apply,) if budget is None else (apply, budget)
    return Judged(deployment.name, manifests, len(ready), wanted, serves, state, message, found.name)


def _version_of(labelled: Manifest | None) -> str:
    """The version that a Deployment wants or a pod serves."""
    annotations = (labelled or {"metadata": {}})["metadata"].get("annotations") or {}
    return str(annotations.get(ANNOTATION_VERSION) or "")


def _state(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    found: Resolved,
    live: Manifest | None,
    own: list[Manifest],
    ready: list[Manifest],
) -> tuple[str, str]:
    """How the deployment is: a word and a sentence."""
    if deployment.replicas == 0:
        return "Stopped", "spec.deployments[].replicas is 0; raise it to serve"
    if live is None:
        return "Updating", "its pods are being made"
    rolled = live.get("status") or {}
    current = (
        _version_of(live) == found.name
        and rolled.get("observedGeneration") == live["metadata"].get("generation")
        and (rolled.get("updatedReplicas") or 0) >= deployment.replicas
        and (rolled.get("replicas") or 0) == deployment.replicas
    )
    if current and len(ready) >= deployment.replicas:
        return "Ready", ""
    for pod in sorted((pod for pod in own if pod not in ready), key=pods.created, reverse=True):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        if (verdict := pods.crashing(pod)) is not None:
            if verdict.reason == KEYS_MISSING:
                secret = keys_secret(endpoint)
                needs = "create it with the keys primary and secondary"
                return "Failing", f"Secret {secret} not found in {endpoint.namespace}, or without keys; {needs}"
            return "Failing", f"{found.name}: {verdict.sentence}"
        if (trouble := pods.trouble(pod)) is not None:
            return "Failing", trouble.message
    return "Updating", f"{len(ready)} of {deployment.replicas} pods are ready, moving to {found.name}"


def _status(endpoint: Endpoint, judged: dict[str, Judged], live: str, target: Judged, now: datetime) -> Manifest:
    answering = judged.get(live)
    ready = sum(each.ready for each in judged.values())
    message = target.message or f"{target.serves} answers"
    if live != target.name and (answering is None or answering.ready):
        message = f"{live} answers until {target.name} is ready: {message}"
    good = target.state == "Ready" and live == target.name
    reason = {"Ready": "Serving"}.get(target.state, target.state) if live == target.name else "Switching"
    conditions = (
        Condition("Accepted", True, "Valid", ""),
        # A rolling update is no outage: as long as pods answer, the endpoint is ready.
        Condition("Ready", good or bool(answering and answering.ready), reason, message),
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
    if answering and answering.ready:
        status["modelVersion"] = answering.serves
    return status


def _superfluous(
    endpoint: Endpoint, own: list[Manifest], judged: dict[str, Judged], current: str | None
) -> tuple[Ref, ...]:
    """Deployments that the spec no longer has and the Service no longer uses, and budgets of single pods."""
    keep = {deployment_name(endpoint, name) for name in (*judged, *([current] if current else []))}
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
