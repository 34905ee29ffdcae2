"""Health of each deployment, assessed from its Deployment and its pods, and the objects to apply for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ultramarine.resources.model import ModelVersionSpec
from ultramarine.resources.onlineendpoint_deployment import DeploymentStatus, EndpointDeployment
from ultramarine_contract.common import ENV_TASK
from ultramarine_contract.meta import Manifest
from ultramarine_contract.serving_records import ServingTask

from ....shared import pods, refusals
from ....shared.conditions import MAX_MESSAGE, find
from ....shared.environments import Awaited, Failed, Usable, name_of
from ....shared.plan import Seen
from ....shared.statuses import cut
from ..endpoint import (
    ANNOTATION_ENVIRONMENT,
    ANNOTATION_REVISION,
    ANNOTATION_VERSION,
    LABEL_DEPLOYMENT,
    PROMOTED,
    ROLLED_BACK,
    Endpoint,
    may_sleep,
    pods_secret,
    proof_secret,
)
from ..resolve import Resolved, Unresolved, resolve
from .container import container_deployment, why_unready
from .manifests import NO_ENVIRONMENT, PodEnvironment, disruption_budget, has_tls, pod_autoscaler, server_deployment
from .own_code import environment_of, in_own_environment, missing_script, own_image, script, why_loading
from .pools import pool_deployment, resolve_pool

KEYS_MISSING, SCORING_MISSING = "KeysMissing", "ScoringMissing"  # reasons that the server reports
SETTLED = ("Ready", "Stopped")  # states in which all pods follow the spec
# Reasons of the server that another start of the pod meets again.
FINAL = {
    *("ModelInvalid", "ModelUnsupported", "ModelCorrupt", "FormatUnknown", "DigestMismatch", "CodeExecutionRefused"),
    *("SignatureInvalid", "SignatureMismatch", "DependencyMissing", "TaskInvalid"),
}


@dataclass(frozen=True)
class DeploymentHealth:
    """State of one deployment, and the objects to apply for it."""

    name: str
    apply: tuple[Manifest, ...]
    ready: int
    replicas: int
    serves: str  # the versions that its ready pods serve
    state: str
    message: str
    version: str
    may_sleep: bool = False  # then requests wait while no pod is ready
    transient: bool = True  # the deployment may become ready without user action
    tls: bool = field(default=False, kw_only=True)  # its ready pods speak TLS, or will
    stalled: bool = field(default=False, kw_only=True)  # it becomes ready only by a user's change
    environment: str = field(default="", kw_only=True)  # name of the Environment of its pods
    next_environment: str = field(default="", kw_only=True)  # of the pods that will follow, if it is another one
    create: tuple[Manifest, ...] = field(default=(), kw_only=True)  # the shared Environment, if it does not exist

    @property
    def asleep(self) -> bool:
        """True if scaled to zero for lack of traffic."""
        return self.may_sleep and self.state == "Ready" and not self.replicas

    def status(self) -> DeploymentStatus:
        """Return the deployment's entry in the status."""
        texts = cut(DeploymentStatus, name=self.name, model_version=self.version, message=self.message[:MAX_MESSAGE])
        status = DeploymentStatus(**texts, ready_replicas=self.ready, state=self.state)
        environments = {"environment": self.environment, "next_environment": self.next_environment}
        return status.model_copy(update={field: name for field, name in environments.items() if name})


def assess(
    endpoint: Endpoint, deployment: EndpointDeployment, seen: Seen, live: Manifest | None, keep: bool
) -> DeploymentHealth:
    """Assess a deployment of the spec; `live` is its Deployment, from which `keep` takes no pods away."""
    own, ready = _pods(seen, deployment.name)
    former_versions = _former_versions(endpoint, deployment.name, live)
    resolved = resolve(deployment.model, seen, former_versions) if deployment.model else None
    given = deployment
    if isinstance(resolved, Resolved):
        deployment = in_own_environment(given, resolved.environment)
    environment = environment_of(endpoint, deployment, seen)
    if isinstance(environment, Failed) and isinstance(resolved, Resolved) and deployment is not given:
        remedy = f"set environment on the deployment, or register {resolved.name} again with another requirements.txt"
        environment = replace(environment, remedy=remedy)
    name, former = environment.name if environment else "", _former_environment(endpoint, deployment.name, live)
    observed = DeploymentHealth(
        deployment.name,
        apply=(),
        ready=len(ready),
        replicas=deployment.replicas,
        serves=_versions(ready),
        state="Waiting",
        message="",
        version=_version_of(live),
        tls=any(map(has_tls, ready)) if ready else seen.platform.tls,
        environment=former or name,
        next_environment=name if former and former != name else "",
        create=(environment.create,) if isinstance(environment, Awaited) and environment.create else (),
    )
    target = _target(endpoint, deployment, seen, live, environment, resolved)
    floor = live if keep else None
    if isinstance(target, Unresolved):
        still = _still_served(endpoint, given, observed.version, seen, live)
        apply = (*still.before, _with_replicas(still.deployment, floor)) if still else ()
        return replace(
            observed,
            apply=apply,
            state="Failing" if target.failed and live is None else "Waiting",
            message=_why_waiting(target, observed.serves),
            may_sleep=bool(apply) and may_sleep(deployment),
            transient=target.transient,
            stalled=target.stalled,
        )
    planned = _with_replicas(target.deployment, floor)
    state, message = _state(endpoint, deployment, target.version, planned, live, own, ready)
    beside = (disruption_budget(endpoint, deployment), pod_autoscaler(endpoint, deployment))
    sleeps = may_sleep(deployment) and state != "Failing"
    return replace(
        observed,
        apply=(*target.before, planned, *(child for child in beside if child is not None)),
        serves=observed.serves if deployment.replicas or not sleeps else target.version,
        state=state,
        message="; ".join(part for part in (message, target.note) if part),
        version=target.version,
        may_sleep=sleeps,
        environment=name if state in SETTLED else former or name,
        next_environment="" if state in SETTLED else observed.next_environment,
        stalled=state == "Failing" and _is_stalled(planned, live, own),
    )


def _why_waiting(target: Unresolved, serves: str) -> str:
    """Return why no version can be served, and what happens to the version that is served already."""
    if not serves:
        return target.message
    message = f"{target.message}; meanwhile {serves} is served"
    remark = "A new pod of it starts only if its stored files still exist, and edits of the deployment wait"
    return f"{message}. {remark}" if target.gone else message


def _with_replicas(planned: Manifest, live: Manifest | None) -> Manifest:
    """Raise the replicas of a Deployment to those of the live one."""
    if live is not None:
        planned["spec"]["replicas"] = max(planned["spec"]["replicas"], int(live["spec"].get("replicas") or 0))
    return planned


@dataclass(frozen=True)
class _Target:
    """The Deployment that the spec asks for, and the objects that it needs `before`.

    A pool has no version, but a note on its models.
    """

    deployment: Manifest
    before: tuple[Manifest, ...] = ()
    version: str = ""
    note: str = ""


def _still_served(
    endpoint: Endpoint, deployment: EndpointDeployment, version: str, seen: Seen, live: Manifest | None
) -> _Target | None:
    """Return the Deployment of a version that no reference names any more; it scales on, so that it can wake."""
    if live is None or deployment.autoscale is None or deployment.model is None:
        return None
    environment = NO_ENVIRONMENT
    model, _, number = version.rpartition("-")
    resolved = resolve(f"{model}@{number}", seen)
    if isinstance(resolved, Unresolved):
        return None
    deployment = in_own_environment(deployment, resolved.environment)
    if deployment.environment is not None:
        source = deployment.scoring.source if deployment.scoring else None
        task, name = _task_of(live), name_of(deployment.environment, source=source)
        if task is None or name != _annotation(live, ANNOTATION_ENVIRONMENT):
            return None
        environment = PodEnvironment(name, task.environment, own_image(live))
    return _served(endpoint, deployment, resolved, resolved.spec, seen, live, environment)


def _target(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    seen: Seen,
    live: Manifest | None,
    environment: Usable | Awaited | Failed | None,
    resolved: Resolved | Unresolved | None,
) -> _Target | Unresolved:
    if isinstance(environment, Failed):
        return Unresolved(environment.message, failed=True, stalled=True)
    if deployment.pool is not None:
        pool = resolve_pool(endpoint, deployment.name, deployment.pool, seen)
        if isinstance(pool, Unresolved):
            return pool
        made = pool_deployment(endpoint, deployment, deployment.pool, seen.platform, live)
        return _Target(made, (pool.catalogue,), note=pool.note)
    if deployment.container is not None and resolved is None:
        return _Target(container_deployment(endpoint, deployment, deployment.container, None, seen.platform, live))
    assert resolved is not None
    if isinstance(resolved, Unresolved):
        return resolved
    if isinstance(environment, Awaited):
        if environment.absent and _former_environment(endpoint, deployment.name, live) == environment.name:
            message = f"Environment {environment.name}, which its pods have, was deleted; apply it again"
            return Unresolved(message, gone=True)
        return Unresolved(environment.message, transient=True)
    spec = resolved.spec
    rolls_out = endpoint.spec.rollout is not None and endpoint.rollout_phase not in (PROMOTED, ROLLED_BACK)
    if resolved.native is not None and rolls_out and _loads(live, resolved.native.uri):
        # Replacing pods during a comparison would count their start against them.
        spec = resolved.native
    usable = NO_ENVIRONMENT
    if environment is not None:
        usable = PodEnvironment(environment.name, environment.archive, environment.image)
    return _served(endpoint, deployment, resolved, spec, seen, live, usable)


def _served(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    resolved: Resolved,
    spec: ModelVersionSpec,
    seen: Seen,
    live: Manifest | None,
    environment: PodEnvironment,
) -> _Target:
    """Return the Deployment that serves `spec`; code of the author's gets the model as registered, not compiled."""
    if (container := deployment.container) is not None:
        served = container_deployment(endpoint, deployment, container, resolved.registered, seen.platform, live)
        return _Target(served, version=resolved.name)
    spec = resolved.registered if deployment.scoring else spec
    made = server_deployment(endpoint, deployment, spec, seen.platform, live, environment)
    own = script(endpoint, deployment)
    return _Target(made, (own,) if own else (), version=resolved.name)


def _former_versions(endpoint: Endpoint, name: str, live: Manifest | None) -> set[str]:
    """Return the versions that the deployment's status and its Deployment record."""
    recorded = (former.model_version for former in endpoint.former.deployments if former.name == name)
    return {*recorded, _version_of(live)} - {""}


def _former_environment(endpoint: Endpoint, name: str, live: Manifest | None) -> str:
    """Return the Environment that pods of a deployment have had so far; empty without pods."""
    recorded = (former.environment for former in endpoint.former.deployments if former.name == name)
    return "" if live is None else next(recorded, "") or _annotation(live, ANNOTATION_ENVIRONMENT)


def _loads(live: Manifest | None, uri: str) -> bool:
    """True if the pods of a Deployment load the model at this URI."""
    task = _task_of(live)
    return task is not None and task.uri == uri


def _task_of(live: Manifest | None) -> ServingTask | None:
    """Return the task of the pods of a Deployment; None if it cannot be read."""
    containers = (((live or {}).get("spec") or {}).get("template") or {}).get("spec", {}).get("containers") or []
    tasks = [v.get("value") for c in containers for v in c.get("env") or [] if v.get("name") == ENV_TASK]
    try:
        return next((ServingTask.from_json(str(task)) for task in tasks), None)
    except ValueError:
        return None


def leaving(name: str, seen: Seen) -> DeploymentHealth:
    """Assess a deployment that left the spec and still answers."""
    _, ready = _pods(seen, name)
    return DeploymentHealth(name, (), len(ready), 0, _versions(ready), "Leaving", "", "")


def unchanged(health: DeploymentHealth) -> DeploymentHealth:
    """Return the deployment without changes to its pods, whatever its spec says."""
    if health.state == "Ready":
        return replace(health, apply=())
    message = "its pods stay as they are until they get no requests"
    return replace(health, apply=(), state="Waiting", message=message, transient=True, stalled=False)


def _pods(seen: Seen, name: str) -> tuple[list[Manifest], list[Manifest]]:
    """Return the pods of a deployment, and the ready ones among them."""
    own = [pod for pod in seen.of("Pod") if (pod["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT) == name]
    return own, [pod for pod in own if pods.is_ready(pod)]


def _versions(ready: list[Manifest]) -> str:
    return " and ".join(sorted({_version_of(pod) for pod in ready} - {""}))


def _version_of(labelled: Manifest | None) -> str:
    """Return the version of a Deployment or a pod."""
    return _annotation(labelled, ANNOTATION_VERSION)


def _annotation(manifest: Manifest | None, name: str) -> str:
    annotations = (manifest or {"metadata": {}})["metadata"].get("annotations") or {}
    return str(annotations.get(name) or "")


def _state(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    version: str,
    planned: Manifest,
    live: Manifest | None,
    own: list[Manifest],
    ready: list[Manifest],
) -> tuple[str, str]:
    """Return the state of the deployment and a message."""
    if deployment.replicas == 0 and not may_sleep(deployment):
        return "Stopped", "spec.deployments[].replicas is 0; raise it to serve"
    if live is None:
        return "Updating", "its pods are being made"
    rolled = live.get("status") or {}
    current = (
        _is_current(planned, live)
        and live["spec"].get("replicas") == planned["spec"]["replicas"]
        and (rolled.get("updatedReplicas") or 0) >= deployment.replicas
        and (rolled.get("replicas") or 0) == planned["spec"]["replicas"]
    )
    if current and len(ready) >= deployment.replicas:
        asleep = "no requests come, so no pod runs; the next request waits for one"
        return "Ready", "" if deployment.replicas else asleep
    staying = (pod for pod in own if pod not in ready and not pod["metadata"].get("deletionTimestamp"))
    unready = sorted(staying, key=pods.created, reverse=True)
    for pod in unready:
        if (state := _trouble(endpoint, deployment, version, pod)) is not None:
            return state
    if (refused := find(rolled, "ReplicaFailure")) is not None and refused.get("status") == "True":
        why = refusals.refused(str(refused.get("message")), "deployments[].podTemplate")
        return "Failing", f"Kubernetes refuses the pods: {why}"
    fresh = sum(_version_of(pod) == version for pod in ready) if version else len(ready)
    of = f" of {version}" if version else ""
    loading = next(filter(None, (why_loading(pod, deployment) for pod in unready)), "")
    more = len(ready) - deployment.replicas
    surplus = f", {more} more {'is' if more == 1 else 'are'} leaving" if more > 0 else ""
    message = f"{min(fresh, deployment.replicas)} of {deployment.replicas} pods{of} are ready{surplus}"
    return "Updating", f"{message}{f'; {loading}' if loading else ''}"


def _trouble(endpoint: Endpoint, deployment: EndpointDeployment, version: str, pod: Manifest) -> tuple[str, str] | None:
    """Return the state of the deployment and a message for a pod in trouble; None if the pod is only starting."""
    if deployment.container is not None and (state := why_unready(pod, deployment.container)) is not None:
        return state
    verdict = pods.crashing(pod)
    if verdict is None:
        trouble = pods.trouble(pod)
        return None if trouble is None else ("Failing", trouble.message)
    if verdict.reason == KEYS_MISSING:
        create = "Create it with the keys primary and secondary"
        remedy = "The operator creates it again" if proof_secret(endpoint) else create
        secret = f"Secret {pods_secret(endpoint)} not found in {endpoint.namespace}, or without keys"
        return "Failing", f"{secret}. {remedy}"
    if verdict.reason == SCORING_MISSING and (missing := missing_script(endpoint, deployment)):
        return "Failing", missing
    content = version or ("the pool" if deployment.pool is not None else "the container")
    return "Failing", f"{content}: {verdict.sentence}"


def _is_current(planned: Manifest, live: Manifest) -> bool:
    """True if Kubernetes has observed a Deployment with the planned pods."""
    observed = (live.get("status") or {}).get("observedGeneration")
    is_same = _annotation(live, ANNOTATION_REVISION) == _annotation(planned, ANNOTATION_REVISION)
    return is_same and observed == live["metadata"].get("generation")


def _is_stalled(planned: Manifest, live: Manifest | None, own: list[Manifest]) -> bool:
    """True if the planned pods fail for a cause that stays, or for so long that Kubernetes has given up waiting."""
    if live is None or not _is_current(planned, live):
        return False
    rolled = live.get("status") or {}
    if (find(rolled, "Progressing") or {}).get("reason") == "ProgressDeadlineExceeded":
        return True
    newest = max(own, key=pods.created, default=None)  # earlier ones may be of another revision
    verdict = pods.crashing(newest) if newest is not None and rolled.get("updatedReplicas") else None
    return verdict is not None and verdict.reason in FINAL
