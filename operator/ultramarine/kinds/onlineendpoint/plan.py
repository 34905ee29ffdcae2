"""What should be, given an OnlineEndpoint and what was seen of it.

The order of every change: new pods ready, then requests sent to them, then the old pods deleted. Each step is taken
only when the one before was seen to be done, so no request meets a pod that is not there.
"""

from __future__ import annotations

from datetime import datetime

from ...shared import pods
from ...shared.meta import (
    DEPLOYMENT,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Manifest,
    Ref,
    child_metadata,
    controller_uid,
)
from ...shared.plan import AskGateway, GenerateSecret, Plan, Question, Seen
from .addresses import pods_service_name, routes_in, routes_name, turned_to
from .direct import Direct
from .judge import KEYS_MISSING, Judged, held, judge, leaving
from .manifests import Endpoint, deployment_name, keys_secret
from .rollout import course_of
from .routed import Routed
from .schema import EndpointDeployment
from .status import diary, gathered
from .steps import Step


def questions(endpoint: Endpoint, seen: Seen) -> tuple[Question, ...]:
    """Ask the gateway of the namespace, where there is one, how it routes the endpoint."""
    address = seen.platform.gateway_of(endpoint.namespace)
    return (AskGateway(address, endpoint.name),) if address else ()


def plan(endpoint: Endpoint, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `endpoint`, given only what was seen."""
    own = {(c["kind"], c["metadata"]["name"]): c for c in seen.children if controller_uid(c) == endpoint.uid}
    way = _way(endpoint, seen, own)

    def judged_as(deployment: EndpointDeployment, *, keep: bool) -> Judged:
        live = own.get(("Deployment", deployment_name(endpoint, deployment.name)))
        return judge(endpoint, deployment, seen, live, keep)

    rolled = endpoint.spec.rollout.candidate if endpoint.spec.rollout else ""
    candidate = next((judged_as(d, keep=False) for d in endpoint.spec.deployments if d.name == rolled), None)
    course = course_of(endpoint, way, candidate, seen, now)
    way = way.towards(course.shares, in_need=course.in_need)
    judged = {d.name: judged_as(d, keep=way.keeps(d.name)) for d in endpoint.spec.deployments}
    if course.holds:
        judged[rolled] = held(judged[rolled])
    step = way.step(judged)
    answering = [judged.get(name) or leaving(name, seen) for name in step.shares]
    status = gathered(endpoint, judged, answering, step, course, now)
    return Plan(
        status,
        apply=(*(manifest for each in judged.values() for manifest in each.apply), *step.apply),
        delete=_superfluous(endpoint, own, step, routed=isinstance(way, Routed)),
        effects=_keys(endpoint, seen),
        events=(*course.events, *diary(endpoint, status)),
        after=min((after for after in (step.after, course.after) if after), default=None),
    )


def _way(endpoint: Endpoint, seen: Seen, own: dict[tuple[str, str], Manifest]) -> Direct | Routed:
    """How requests come to the endpoint's pods."""
    turned = turned_to(own.get(("Service", endpoint.name)))
    prefix = deployment_name(endpoint, "")
    living = frozenset(name.removeprefix(prefix) for kind, name in own if kind == "Deployment")
    asked = questions(endpoint, seen)
    if not asked:
        return Direct(endpoint, turned, living, endpoint.spec.shares)
    routes = routes_in(own.get(("ConfigMap", routes_name(endpoint))))
    return Routed(endpoint, turned, living, routes, seen.answers.get(asked[0]), endpoint.spec.shares)


def _superfluous(
    endpoint: Endpoint, own: dict[tuple[str, str], Manifest], step: Step, *, routed: bool
) -> tuple[Ref, ...]:
    """Children of deployments that the spec no longer has and no request goes to, and what the way does not need."""
    if step.needed is None:
        return ()
    names = {d.name for d in endpoint.spec.deployments} | step.needed
    budgets = {deployment_name(endpoint, d.name) for d in endpoint.spec.deployments if d.replicas > 1}
    services = {pods_service_name(endpoint, name) for name in names} if routed else set()
    keep = {
        DEPLOYMENT: {deployment_name(endpoint, name) for name in names},
        POD_DISRUPTION_BUDGET: budgets,
        SERVICE: {endpoint.name, *services},
    }
    return tuple(
        Ref.to(resource, child)
        for resource, kept in keep.items()
        for (kind, name), child in own.items()
        if kind == resource.kind and name not in kept
    )


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
