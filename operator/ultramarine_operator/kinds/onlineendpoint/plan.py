"""The plan of an OnlineEndpoint: the objects that must exist, and the status, given what was observed.

Each change follows one order: new pods are ready, then requests go to them, then the old pods are deleted. A step
begins only after the step before was observed, so that no request meets a missing pod.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ultramarine.resources.onlineendpoint import OnlineEndpointSpec
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import (
    ANNOTATION_KEYS,
    DEPLOYMENT,
    GRPC_ROUTE,
    HORIZONTAL_POD_AUTOSCALER,
    KEYS_OF_AUTHOR,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Manifest,
    Ref,
    child_metadata,
    controller_uid,
)

from ...shared import pods
from ...shared.conditions import parse_timestamp
from ...shared.plan import Event, GenerateSecret, Obj, Plan, Seen
from ...shared.questions import AskGateway, GatewayFacts, Question
from ...shared.statuses import dumped
from .deployment import autoscale
from .deployment.container import has_container
from .deployment.health import KEYS_MISSING, SETTLED, DeploymentHealth, assess, leaving, unchanged
from .deployment.manifests import has_tls, needs_proof
from .deployment.own_code import check_entry, superfluous_scripts
from .endpoint import (
    ANNOTATION_ENVIRONMENT,
    LABEL_GATEWAY_ONLY,
    Endpoint,
    deployment_name,
    gateway_only,
    pods_secret,
    proof_secret,
)
from .rollout.decide import decide
from .routing.direct import DirectRouting
from .routing.gateway import GatewayRouting
from .routing.gateway_api import GatewayApiRouting
from .routing.manifests import (
    is_secure,
    network_policy,
    pods_service_name,
    policy_name,
    routes_in,
    routes_name,
    service_target,
)
from .routing.step import SOON, RoutingStep
from .signatures.warning import check_signatures, is_needed
from .status import events_for, new_status

MAX_LEAVING = 64  # Environments in the status
_AUTHOR_TIME = timedelta(seconds=30)  # for which an author who announces keys may take to create them
Own = dict[tuple[str, str], Manifest]  # the endpoint's live children by kind and name


def questions(obj: Obj[OnlineEndpointSpec], seen: Seen) -> tuple[Question, ...]:
    """Ask the gateway of the namespace, if it has one, how it routes the endpoint."""
    if seen.platform.gateway_api is not None:
        return ()
    endpoint = Endpoint.of(obj)
    address = seen.platform.gateway_of(endpoint.namespace)
    spec = endpoint.spec
    has_gates = spec.rollout is not None and spec.rollout.gates is not None
    figures = has_gates or any(d.autoscale and d.autoscale.metric != "cpu" for d in spec.deployments)
    signatures = spec.rollout is not None or is_needed(endpoint, seen)
    return (AskGateway(address, endpoint.name, figures=figures, signatures=signatures),) if address else ()


def plan(obj: Obj[OnlineEndpointSpec], seen: Seen, now: datetime) -> Plan:
    """Plan the children and the status of an endpoint."""
    endpoint = Endpoint.of(obj)
    own = {(c["kind"], c["metadata"]["name"]): c for c in seen.children if controller_uid(c) == endpoint.uid}
    for deployment in endpoint.spec.deployments:
        check_entry(deployment)
    _check_containers(endpoint, own)
    asked = questions(endpoint, seen)
    scalings = autoscale.scalings(endpoint, own, seen.answers.get(asked[0]) if asked else None, now)
    endpoint = autoscale.scaled(endpoint, scalings)
    routing = _routing(endpoint, seen, own)

    def assessed(deployment: EndpointDeployment, *, keep: bool) -> DeploymentHealth:
        live = own.get(("Deployment", deployment_name(endpoint, deployment.name)))
        return assess(endpoint, deployment, seen, live, keep)

    candidate = endpoint.spec.rollout.candidate if endpoint.spec.rollout else ""
    before = {d.name: assessed(d, keep=False) for d in endpoint.spec.deployments} if candidate else {}
    decision = decide(endpoint, routing, before, seen, now)
    compared = decision.compared(endpoint.spec.rollout)
    routing = routing.towards(decision.shares, urgent=decision.urgent, compared=compared)
    again = [d for d in endpoint.spec.deployments if d.name not in before or routing.keeps(d.name)]
    health = {**before, **{d.name: assessed(d, keep=routing.keeps(d.name)) for d in again}}
    if decision.freezes:
        health[candidate] = unchanged(health[candidate])
    step = routing.step(health)
    answering = [health.get(name) or leaving(name, seen) for name in step.answering]
    signatures = check_signatures(endpoint, health, decision.shares, seen, routing.proxies)
    status = new_status(endpoint, health, answering, step, decision, scalings, signatures, now)
    if left := _leaving_environments(endpoint, own):
        status = status.model_copy(update={"leaving_environments": left})
    policy = _policy(endpoint, own) if not step.frozen else ()
    proven = isinstance(routing, GatewayRouting) and routing.proves(now)
    protected = _trusts_pods(seen, own, routing) and (not policy or _has_protection(endpoint, own, proven=proven))
    servers = [child for d in health.values() for child in d.apply] if protected and not step.frozen else []
    settled = {name: d.state in SETTLED for name, d in health.items()}
    scripts = superfluous_scripts((*own.values(), *seen.of("Pod")), settled, servers)
    environments = {made["metadata"]["name"]: made for d in health.values() for made in d.create}
    after = autoscale.next_pass(endpoint, step.after if protected else SOON)
    return Plan(
        dumped(status),
        apply=(*policy, *servers, *step.apply),
        create=tuple(environments.values()),
        delete=(
            *_superfluous(endpoint, own, step, routing),
            *_superfluous_policy(endpoint, own, health, seen),
            *scripts,
        ),
        effects=_keys(endpoint, seen, now, proven=proven),
        events=(*decision.events, *events_for(endpoint, status, health, answering, step)),
        after=min((delay for delay in (after, decision.after) if delay), default=None),
    )


def _leaving_environments(endpoint: Endpoint, own: Own) -> list[str]:
    """Return the Environments of Deployments that left the spec, whose new pods still need the archives."""
    staying = {deployment_name(endpoint, deployment.name) for deployment in endpoint.spec.deployments}
    leaving = (child for (kind, name), child in own.items() if kind == "Deployment" and name not in staying)
    names = {(child["metadata"].get("annotations") or {}).get(ANNOTATION_ENVIRONMENT) for child in leaving}
    return sorted(filter(None, names))[:MAX_LEAVING]


def _trusts_pods(seen: Seen, own: Own, routing: DirectRouting | GatewayRouting) -> bool:
    """True if pods with TLS may replace others, since every gateway pod has their certificate authority."""
    if not seen.platform.tls or not isinstance(routing, GatewayRouting) or routing.trusts:
        return True
    return all(has_tls(child["spec"]["template"]) for (kind, _), child in own.items() if kind == "Deployment")


def _has_protection(endpoint: Endpoint, own: Own, *, proven: bool) -> bool:
    """True if pods that answer the gateway alone have their network policy, and may replace other pods.

    Pods that leave tokens to the gateway replace others when the gateway authenticates.
    """
    if ("NetworkPolicy", policy_name(endpoint)) not in own:
        return False
    deployments = [child for (kind, _), child in own.items() if kind == "Deployment"]
    return (
        not proof_secret(endpoint) or proven or all(needs_proof(endpoint, d) or has_container(d) for d in deployments)
    )


def _check_containers(endpoint: Endpoint, own: Own) -> None:
    """Raise InvalidSpec if a deployment would become a container, or cease to be one, while it has pods.

    Gateway pods send both sorts other requests, so that one of the two would fail meanwhile.
    """
    for deployment in endpoint.spec.deployments:
        live = own.get(("Deployment", deployment_name(endpoint, deployment.name)))
        if live is not None and live["spec"].get("replicas") and has_container(live) != bool(deployment.container):
            before, after = ("a container", "a model") if deployment.container is None else ("a model", "a container")
            raise InvalidSpec(
                f"deployment {deployment.name} serves {before} and cannot become {after}. Add a deployment of another "
                f"name, shift the traffic to it, and remove {deployment.name}"
            )


def _policy(endpoint: Endpoint, own: Own) -> tuple[Manifest, ...]:
    """Return the network policy of pods that answer the gateway alone; none without such pods."""
    if not any(gateway_only(endpoint, deployment) for deployment in endpoint.spec.deployments):
        return ()
    live = any(kind == "Deployment" and has_container(child) for (kind, _), child in own.items())
    containers = live or any(deployment.container for deployment in endpoint.spec.deployments)
    return (network_policy(endpoint, containers=containers),)


def _routing(endpoint: Endpoint, seen: Seen, own: Own) -> DirectRouting | GatewayRouting:
    service = own.get(("Service", endpoint.name))
    target, by_tls = service_target(service), is_secure(service)
    prefix = deployment_name(endpoint, "")
    existing = frozenset(name.removeprefix(prefix) for kind, name in own if kind == "Deployment")
    shares = endpoint.spec.shares
    if (gateway := seen.platform.gateway_api) is not None:
        return GatewayApiRouting.observed(endpoint, DirectRouting(endpoint, target, existing, shares), gateway, own)
    asked = questions(endpoint, seen)
    if not asked:
        return DirectRouting(endpoint, target, existing, shares, by_tls)
    routes = routes_in(own.get(("ConfigMap", routes_name(endpoint))))
    return GatewayRouting(endpoint, target, by_tls, existing, routes, seen.answers.get(asked[0]), shares, False)


def _superfluous(
    endpoint: Endpoint, own: Own, step: RoutingStep, routing: DirectRouting | GatewayRouting
) -> tuple[Ref, ...]:
    """Return children of deployments that left the spec and get no requests, and children that routing does not use."""
    if step.needed is None:
        return ()
    names = {d.name for d in endpoint.spec.deployments} | step.needed
    budgets = {deployment_name(endpoint, d.name) for d in endpoint.spec.deployments if d.replicas > 1}
    services = {pods_service_name(endpoint, name) for name in names} if isinstance(routing, GatewayRouting) else set()
    autoscaled = {d.name for d in endpoint.spec.deployments if d.autoscale is not None and d.autoscale.metric == "cpu"}
    has_grpc = isinstance(routing, GatewayApiRouting) and routing.gateway.grpc
    keep = {
        DEPLOYMENT: {deployment_name(endpoint, name) for name in names},
        POD_DISRUPTION_BUDGET: budgets,
        HORIZONTAL_POD_AUTOSCALER: {deployment_name(endpoint, name) for name in autoscaled},
        SERVICE: {endpoint.name, *services},
        GRPC_ROUTE: {endpoint.name} if has_grpc else set(),
    }
    return tuple(
        Ref.to(resource, child)
        for resource, kept in keep.items()
        for (kind, name), child in own.items()
        if kind == resource.kind and name not in kept
    )


def _superfluous_policy(
    endpoint: Endpoint, own: Own, health: dict[str, DeploymentHealth], seen: Seen
) -> tuple[Ref, ...]:
    """Return the network policy when no pod answers the gateway alone any more."""
    policy = own.get(("NetworkPolicy", policy_name(endpoint)))
    if policy is None or _policy(endpoint, own) or any(d.state not in SETTLED for d in health.values()):
        return ()
    # A deployment that left the spec has no health here, and may still create such pods.
    templates = [child["spec"].get("template") or {} for (kind, _), child in own.items() if kind == "Deployment"]
    labels = [(made.get("metadata") or {}).get("labels") or {} for made in (*templates, *seen.of("Pod"))]
    return () if any(LABEL_GATEWAY_ONLY in own_labels for own_labels in labels) else (Ref.to(NETWORK_POLICY, policy),)


def _keys(endpoint: Endpoint, seen: Seen, now: datetime, *, proven: bool) -> tuple[GenerateSecret, ...]:
    """Generate the keys once, and again if pods or gateways report them missing, since the operator reads no Secret.

    An author who announces keys of their own gets time to create them: the operator makes them only if they are still
    missed after that, since a gateway misses them within milliseconds.
    With tokens the keys are those by which the gateway authenticates; `proven` means that they exist.
    """
    name, of_gateway = pods_secret(endpoint), bool(proof_secret(endpoint))
    if not name or (endpoint.spec.keys_secret_ref is not None and not of_gateway):
        return ()
    verdicts = (pods.crashing(pod) for pod in seen.of("Pod"))
    missing = any(verdict.reason == KEYS_MISSING for verdict in verdicts if verdict)
    for answer in seen.answers.values():
        # While a gateway pod has the old keys, new ones would lock out clients with old keys.
        if isinstance(answer, GatewayFacts):
            missing |= all(p.missing_secret == name and (of_gateway or not p.version) for p in answer.proxies)
    had_keys = endpoint.former.keys_secret == name
    own = endpoint.manifest["metadata"]
    announced = (own.get("annotations") or {}).get(ANNOTATION_KEYS) == KEYS_OF_AUTHOR
    if announced and not of_gateway:
        missing &= now - parse_timestamp(own["creationTimestamp"]) > _AUTHOR_TIME
    if (proven if of_gateway else had_keys or announced) and not missing:
        return ()
    metadata = child_metadata(endpoint.manifest, name)
    lost = f"Secret {name} was not found, so the operator made new keys. Give them to the clients: older ones are void"
    event = Event("KeysReplaced", lost, "Warning") if had_keys and not of_gateway else None
    shown_in = "" if of_gateway else "keysSecret"
    return (GenerateSecret(tuple(metadata.items()), ("primary", "secondary"), event, shown_in),)
