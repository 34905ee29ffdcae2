"""What should be, given an OnlineEndpoint and what was seen of it.

The order of every change: new pods ready, then requests sent to them, then the old pods deleted. Each step is taken
only when the one before was seen to be done, so no request meets a pod that is not there.
"""

from __future__ import annotations

from datetime import datetime

from ultramarine.resources.onlineendpoint import EndpointDeployment
from ultramarine_contract.meta import (
    DEPLOYMENT,
    GRPC_ROUTE,
    HORIZONTAL_POD_AUTOSCALER,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Manifest,
    Ref,
    child_metadata,
    controller_uid,
)

from ...shared import pods
from ...shared.plan import Event, GenerateSecret, Plan, Seen
from ...shared.questions import AskGateway, GatewayFacts, Question
from .deployment import autoscale
from .deployment.health import KEYS_MISSING, SETTLED, Judged, held, judge, leaving
from .deployment.manifests import (
    LABEL_GATEWAY_ONLY,
    Endpoint,
    asks_proof,
    deployment_name,
    gateway_only,
    has_tls,
    pods_secret,
    proof_secret,
)
from .rollout.decide import course_of
from .routing.direct import Direct
from .routing.gateway import Routed
from .routing.gateway_api import HttpRouted
from .routing.manifests import (
    is_secure,
    network_policy,
    pods_service_name,
    policy_name,
    routes_in,
    routes_name,
    turned_to,
)
from .routing.step import SOON, Step
from .signatures import warning as signature_change
from .status import diary, gathered


def questions(endpoint: Endpoint, seen: Seen) -> tuple[Question, ...]:
    """Ask our gateway of the namespace, where there is one, how it routes the endpoint."""
    if seen.platform.gateway_api is not None:
        return ()
    address = seen.platform.gateway_of(endpoint.namespace)
    spec = endpoint.spec
    gated = spec.rollout is not None and spec.rollout.gates is not None
    counts = gated or any(d.autoscale and d.autoscale.metric != "cpu" for d in spec.deployments)
    asks = spec.rollout is not None or signature_change.is_wanted(endpoint, seen)
    return (AskGateway(address, endpoint.name, figures=counts, signatures=asks),) if address else ()


def plan(endpoint: Endpoint, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `endpoint`, given only what was seen."""
    own = {(c["kind"], c["metadata"]["name"]): c for c in seen.children if controller_uid(c) == endpoint.uid}
    asked = questions(endpoint, seen)
    scalings = autoscale.scalings(endpoint, own, seen.answers.get(asked[0]) if asked else None, now)
    endpoint = autoscale.scaled(endpoint, scalings)
    way = _way(endpoint, seen, own)

    def judged_as(deployment: EndpointDeployment, *, keep: bool) -> Judged:
        live = own.get(("Deployment", deployment_name(endpoint, deployment.name)))
        return judge(endpoint, deployment, seen, live, keep)

    rolled = endpoint.spec.rollout.candidate if endpoint.spec.rollout else ""
    before = {d.name: judged_as(d, keep=False) for d in endpoint.spec.deployments} if rolled else {}
    course = course_of(endpoint, way, before, seen, now)
    compared = course.compared(endpoint.spec.rollout)
    way = way.towards(course.shares, in_need=course.in_need, compared=compared)
    kept = [d for d in endpoint.spec.deployments if d.name not in before or way.keeps(d.name)]
    judged = {**before, **{d.name: judged_as(d, keep=way.keeps(d.name)) for d in kept}}
    if course.holds:
        judged[rolled] = held(judged[rolled])
    step = way.step(judged)
    answering = [judged.get(name) or leaving(name, seen) for name in step.answering]
    changed = signature_change.compared(endpoint, judged, course.shares, seen, way.proxies)
    status = gathered(endpoint, judged, answering, step, course, scalings, changed, now)
    guard = (network_policy(endpoint),) if gateway_only(endpoint) and not step.held else ()
    # Pods that answer the gateway alone are made when the policy is there, and replace others when it proves itself.
    proven = isinstance(way, Routed) and way.proves(now)
    follow = all(asks_proof(endpoint, each) for (kind, _), each in own.items() if kind == "Deployment")
    guarded = not guard or (("NetworkPolicy", policy_name(endpoint)) in own and (proven or follow))
    # Pods that take TLS alone replace others when every gateway pod knows their authority.
    by_tls = all(has_tls(each["spec"]["template"]) for (kind, _), each in own.items() if kind == "Deployment")
    if seen.platform.tls and isinstance(way, Routed) and not (by_tls or way.trusts):
        guarded = False
    servers = [manifest for each in judged.values() for manifest in each.apply] if guarded and not step.held else []
    gone = _superfluous(endpoint, own, step, way)
    after = autoscale.looked_at_again(endpoint, step.after if guarded else SOON)
    return Plan(
        status,
        apply=(*guard, *servers, *step.apply),
        delete=(*gone, *_needless_policy(endpoint, own, judged, seen)),
        effects=_keys(endpoint, seen, proven=proven),
        events=(*course.events, *diary(endpoint, status, judged, answering, step)),
        after=min((each for each in (after, course.after) if each), default=None),
    )


def _way(endpoint: Endpoint, seen: Seen, own: dict[tuple[str, str], Manifest]) -> Direct | Routed:
    """How requests come to the endpoint's pods."""
    service = own.get(("Service", endpoint.name))
    turned, by_tls = turned_to(service), is_secure(service)
    prefix = deployment_name(endpoint, "")
    living = frozenset(name.removeprefix(prefix) for kind, name in own if kind == "Deployment")
    if (gateway := seen.platform.gateway_api) is not None:
        return HttpRouted.seen(endpoint, Direct(endpoint, turned, living, endpoint.spec.shares), gateway, own)
    asked = questions(endpoint, seen)
    if not asked:
        return Direct(endpoint, turned, living, endpoint.spec.shares, by_tls)
    routes = routes_in(own.get(("ConfigMap", routes_name(endpoint))))
    return Routed(endpoint, turned, by_tls, living, routes, seen.answers.get(asked[0]), endpoint.spec.shares, False)


def _superfluous(
    endpoint: Endpoint, own: dict[tuple[str, str], Manifest], step: Step, way: Direct | Routed
) -> tuple[Ref, ...]:
    """Children of deployments that the spec no longer has and no request goes to, and what the way does not need."""
    if step.needed is None:
        return ()
    names = {d.name for d in endpoint.spec.deployments} | step.needed
    budgets = {deployment_name(endpoint, d.name) for d in endpoint.spec.deployments if d.replicas > 1}
    services = {pods_service_name(endpoint, name) for name in names} if isinstance(way, Routed) else set()
    autoscaled = {d.name for d in endpoint.spec.deployments if d.autoscale is not None and d.autoscale.metric == "cpu"}
    keep = {
        DEPLOYMENT: {deployment_name(endpoint, name) for name in names},
        POD_DISRUPTION_BUDGET: budgets,
        HORIZONTAL_POD_AUTOSCALER: {deployment_name(endpoint, name) for name in autoscaled},
        SERVICE: {endpoint.name, *services},
        GRPC_ROUTE: {endpoint.name} if isinstance(way, HttpRouted) and way.gateway.grpc else set(),
    }
    return tuple(
        Ref.to(resource, child)
        for resource, kept in keep.items()
        for (kind, name), child in own.items()
        if kind == resource.kind and name not in kept
    )


def _needless_policy(
    endpoint: Endpoint, own: dict[tuple[str, str], Manifest], judged: dict[str, Judged], seen: Seen
) -> tuple[Ref, ...]:
    """The policy of pods that answer the gateway alone, when there is none of them any more."""
    policy = own.get(("NetworkPolicy", policy_name(endpoint)))
    if policy is None or gateway_only(endpoint) or any(each.state not in SETTLED for each in judged.values()):
        return ()
    # A deployment that leaves the spec is not judged, and may yet make such pods.
    makers = [each["spec"].get("template") or {} for (kind, _), each in own.items() if kind == "Deployment"]
    made = [each.get("metadata") or {} for each in (*makers, *seen.of("Pod"))]
    if any(LABEL_GATEWAY_ONLY in (metadata.get("labels") or {}) for metadata in made):
        return ()
    return (Ref.to(NETWORK_POLICY, policy),)


def _keys(endpoint: Endpoint, seen: Seen, *, proven: bool) -> tuple[GenerateSecret, ...]:
    """Generate the keys once, and again only when somebody misses them who cannot go on: nobody here reads Secrets.

    With tokens it is what the gateway proves itself by, which is there when it is `proven`.
    """
    name, of_gateway = pods_secret(endpoint), bool(proof_secret(endpoint))
    if not name or (endpoint.spec.keys_secret_ref is not None and not of_gateway):
        return ()
    verdicts = (pods.crashing(pod) for pod in seen.of("Pod"))
    missed = any(verdict.reason == KEYS_MISSING for verdict in verdicts if verdict)
    for told in seen.answers.values():
        # As long as one gateway pod knows the old keys, new ones would lock out who has those.
        if isinstance(told, GatewayFacts):
            missing = [proxy.missing_secret == name and (of_gateway or not proxy.version) for proxy in told.proxies]
            missed |= all(missing)
    if (proven if of_gateway else endpoint.status.get("keysSecret") == name) and not missed:
        return ()
    metadata = child_metadata(endpoint.manifest, name)
    if of_gateway:
        return (GenerateSecret(tuple(metadata.items()), ("primary", "secondary"), None),)
    lost = f"Secret {name} was gone and new keys were made: give them to the clients, whose old keys are void"
    event = Event("KeysReplaced", lost, "Warning") if endpoint.status.get("keysSecret") == name else None
    return (GenerateSecret(tuple(metadata.items()), ("primary", "secondary"), event),)
