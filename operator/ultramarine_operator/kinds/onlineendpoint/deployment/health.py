"""How each deployment of an endpoint is, judged from its Deployment and its pods."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ultramarine.resources.onlineendpoint import EndpointDeployment
from ultramarine_contract.common import ENV_TASK
from ultramarine_contract.meta import Manifest
from ultramarine_contract.serving_records import ServingTask

from ....shared import pods, waiting
from ....shared.conditions import MAX_MESSAGE, find
from ....shared.plan import Seen
from ..resolve import Unresolved, resolve
from .manifests import (
    ANNOTATION_REVISION,
    ANNOTATION_VERSION,
    LABEL_DEPLOYMENT,
    Endpoint,
    disruption_budget,
    has_tls,
    may_sleep,
    pod_autoscaler,
    pods_secret,
    proof_secret,
    server_deployment,
)
from .pools import pool_deployment, resolve_pool

KEYS_MISSING = "KeysMissing"  # the server's own word
ROLLOUT_ENDED = ("Promoted", "RolledBack")  # phases after which no pods are compared
SETTLED = ("Ready", "Stopped")  # states in which no pod is as it was before an edit


@dataclass(frozen=True)
class Judged:
    """One deployment: what to apply for it, and how it is."""

    name: str
    apply: tuple[Manifest, ...]
    ready: int
    wanted: int
    serves: str  # the versions that its ready pods serve
    state: str
    message: str
    version: str
    may_sleep: bool = False  # then requests wait while no pod is ready
    passes: bool = True  # what it waits for may come without a person
    tls: bool = field(default=False, kw_only=True)  # its ready pods speak TLS, or will

    @property
    def asleep(self) -> bool:
        """True if scaled to zero for lack of traffic."""
        return self.may_sleep and self.state == "Ready" and not self.wanted

    def status(self) -> Manifest:
        """The deployment's entry in the status."""
        return {
            "name": self.name,
            "modelVersion": self.version,
            "readyReplicas": self.ready,
            "state": self.state,
            "message": self.message[:MAX_MESSAGE],
        }


def judge(endpoint: Endpoint, deployment: EndpointDeployment, seen: Seen, live: Manifest | None, keep: bool) -> Judged:
    """Judge one deployment of the spec, whose Deployment is `live`; with `keep`, do not take pods away from it."""
    own, ready = _pods(seen, deployment.name)
    serves, tls = _versions(ready), any(map(has_tls, ready)) if ready else seen.platform.tls
    found = _wanted(endpoint, deployment, seen, live)
    if isinstance(found, Unresolved):
        # What serves already goes on serving: an alias that leads nowhere must not end it.
        message = f"{found.message}; meanwhile {serves} is served" if serves else found.message
        if serves and found.gone:
            message += ". A new pod of it starts only if its stored files still exist, and edits of the deployment wait"
        version, count = _version_of(live), deployment.replicas
        still = _still(endpoint, deployment, version, seen, live)
        apply: tuple[Manifest, ...] = (_keeping(still, live if keep else None),) if still else ()
        sleepy = bool(apply) and may_sleep(deployment)
        how = ("Waiting", message, version, sleepy, found.passes)
        return Judged(deployment.name, apply, len(ready), count, serves, *how, tls=tls)
    wanted = _keeping(found.deployment, live if keep else None)
    state, message = _state(endpoint, deployment, found.version, wanted, live, own, ready)
    message = "; ".join(part for part in (message, found.note) if part)
    beside = (disruption_budget(endpoint, deployment), pod_autoscaler(endpoint, deployment))
    apply = (*found.before, wanted, *(child for child in beside if child is not None))
    sleepy, count = may_sleep(deployment) and state != "Failing", deployment.replicas
    serves = serves if count or not sleepy else found.version
    return Judged(deployment.name, apply, len(ready), count, serves, state, message, found.version, sleepy, tls=tls)


def _keeping(wanted: Manifest, live: Manifest | None) -> Manifest:
    """A Deployment with no fewer pods than there are."""
    if live is not None:
        wanted["spec"]["replicas"] = max(wanted["spec"]["replicas"], int(live["spec"].get("replicas") or 0))
    return wanted


def _still(
    endpoint: Endpoint, deployment: EndpointDeployment, version: str, seen: Seen, live: Manifest | None
) -> Manifest | None:
    """What serves although its model leads nowhere now, scaled by its load: else who asks would not wake it."""
    if live is None or deployment.autoscale is None or deployment.model is None:
        return None
    model, _, number = version.rpartition("-")
    found = resolve(f"{model}@{number}", seen)
    if isinstance(found, Unresolved):
        return None
    return server_deployment(endpoint, deployment, found.spec, seen.platform, live)


@dataclass(frozen=True)
class _Wanted:
    """What a deployment of the spec comes to: its Deployment, what must be there before that, and its version.

    A pool has no version, but a note of the models that it has.
    """

    deployment: Manifest
    before: tuple[Manifest, ...] = ()
    version: str = ""
    note: str = ""


def _wanted(
    endpoint: Endpoint, deployment: EndpointDeployment, seen: Seen, live: Manifest | None
) -> _Wanted | Unresolved:
    if deployment.pool is not None:
        pool = resolve_pool(endpoint, deployment.name, deployment.pool, seen)
        if isinstance(pool, Unresolved):
            return pool
        made = pool_deployment(endpoint, deployment, deployment.pool, seen.platform, live)
        return _Wanted(made, (pool.catalogue,), note=pool.note)
    found = resolve(deployment.model or "", seen, _has_served(endpoint, deployment.name, live))
    if isinstance(found, Unresolved):
        return found
    spec = found.spec
    if found.native is not None and _rolls_out(endpoint) and _loads(live, found.native.uri):
        # Pods that are replaced while they are compared would be judged by their start.
        spec = found.native
    return _Wanted(server_deployment(endpoint, deployment, spec, seen.platform, live), version=found.name)


def _has_served(endpoint: Endpoint, name: str, live: Manifest | None) -> set[str]:
    """The versions of which the deployment's status or its Deployment knows that they were there."""
    told = (each.get("modelVersion") for each in endpoint.status.get("deployments") or [] if each.get("name") == name)
    return {*map(str, told), _version_of(live)} - {""}


def _rolls_out(endpoint: Endpoint) -> bool:
    """True if a rollout goes on, or is about to begin."""
    known = endpoint.status.get("rollout")
    phase = known.get("phase") if isinstance(known, dict) else ""
    return endpoint.spec.rollout is not None and phase not in ROLLOUT_ENDED


def _loads(live: Manifest | None, uri: str) -> bool:
    """True if a Deployment's pods load the model at this place."""
    containers = (((live or {}).get("spec") or {}).get("template") or {}).get("spec", {}).get("containers") or []
    tasks = [v.get("value") for c in containers for v in c.get("env") or [] if v.get("name") == ENV_TASK]
    try:
        return any(ServingTask.from_json(str(task)).uri == uri for task in tasks)
    except (AttributeError, TypeError, ValueError):
        return False


def leaving(name: str, seen: Seen) -> Judged:
    """Judge a deployment that the spec no longer has, and that still answers."""
    _, ready = _pods(seen, name)
    return Judged(name, (), len(ready), 0, _versions(ready), "Leaving", "", "")


def held(judged: Judged) -> Judged:
    """A deployment whose pods stay as they are for now, whatever the spec says of them."""
    if judged.state == "Ready":
        return replace(judged, apply=())
    message = "its pods stay as they are until they get no requests"
    return replace(judged, apply=(), state="Waiting", message=message, passes=True)


def _pods(seen: Seen, name: str) -> tuple[list[Manifest], list[Manifest]]:
    """A deployment's pods, and the ready ones among them."""
    own = [pod for pod in seen.of("Pod") if (pod["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT) == name]
    return own, [pod for pod in own if pods.is_ready(pod)]


def _versions(ready: list[Manifest]) -> str:
    return " and ".join(sorted({_version_of(pod) for pod in ready} - {""}))


def _version_of(labelled: Manifest | None) -> str:
    """The version that a Deployment wants or a pod serves."""
    return _annotation(labelled, ANNOTATION_VERSION)


def _annotation(manifest: Manifest | None, name: str) -> str:
    annotations = (manifest or {"metadata": {}})["metadata"].get("annotations") or {}
    return str(annotations.get(name) or "")


def _state(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    version: str,
    wanted: Manifest,
    live: Manifest | None,
    own: list[Manifest],
    ready: list[Manifest],
) -> tuple[str, str]:
    """How the deployment is: a word and a sentence."""
    if deployment.replicas == 0 and not may_sleep(deployment):
        return "Stopped", "spec.deployments[].replicas is 0; raise it to serve"
    if live is None:
        return "Updating", "its pods are being made"
    rolled = live.get("status") or {}
    current = (
        _annotation(live, ANNOTATION_REVISION) == _annotation(wanted, ANNOTATION_REVISION)
        and live["spec"].get("replicas") == wanted["spec"]["replicas"]
        and rolled.get("observedGeneration") == live["metadata"].get("generation")
        and (rolled.get("updatedReplicas") or 0) >= deployment.replicas
        and (rolled.get("replicas") or 0) == wanted["spec"]["replicas"]
    )
    if current and len(ready) >= deployment.replicas:
        return (
            "Ready",
            "" if deployment.replicas else "no requests come, so no pod runs; the next request waits for one",
        )
    for pod in sorted((pod for pod in own if pod not in ready), key=pods.created, reverse=True):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        if (verdict := pods.crashing(pod)) is not None:
            if verdict.reason == KEYS_MISSING:
                needs = "it is made anew" if proof_secret(endpoint) else "create it with the keys primary and secondary"
                secret = f"Secret {pods_secret(endpoint)} not found in {endpoint.namespace}, or without keys"
                return "Failing", f"{secret}; {needs}"
            return "Failing", f"{version or 'the pool'}: {verdict.sentence}"
        if (trouble := pods.trouble(pod)) is not None:
            return "Failing", trouble.message
    if (refused := find(rolled, "ReplicaFailure")) is not None and refused.get("status") == "True":
        return "Failing", f"Kubernetes makes no pod: {waiting.refused(str(refused.get('message')))}"
    fresh = sum(_version_of(pod) == version for pod in ready) if version else len(ready)
    of = f" of {version}" if version else ""
    return "Updating", f"{fresh} of {deployment.replicas} pods{of} are ready"
