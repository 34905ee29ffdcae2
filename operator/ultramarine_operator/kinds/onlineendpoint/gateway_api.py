"""An endpoint's routes as HTTPRoute and GRPCRoute of Gateway API, and what the Gateways say of them. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from ultramarine_contract.meta import GROUP, GRPC_ROUTE, HTTP_ROUTE, Manifest, Resource, child_metadata
from ultramarine_contract.routes import PIN_HEADER, EndpointRoutes, RouteDeployment, rescaled

from ...shared.conditions import find
from ...shared.plan import GatewayApi, ParentRef
from .manifests import GRPC_PORT, PORT, Endpoint

ANNOTATION_MODEL = f"{GROUP}/route-model"  # the EndpointRoutes that a route was made of: what a later pass goes by
MOST_RULES = 16  # that Gateway API allows in a route


def http_route(
    endpoint: Endpoint, routes: EndpointRoutes, gateway: GatewayApi, absent: frozenset[str] = frozenset()
) -> Manifest:
    """The endpoint's routes for HTTP; `absent` deployments get no share while another one can take it."""
    rules = [
        {"matches": [_pin(d)], "backendRefs": [_backend(d, PORT)], "timeouts": _timeout([d])} for d in _pinned(routes)
    ]
    shared = _sharing(routes)
    rules.append({**_shared(routes, PORT, absent), "timeouts": _timeout(shared)})
    return _route(HTTP_ROUTE, endpoint, routes, gateway, rules)


def grpc_route(
    endpoint: Endpoint, routes: EndpointRoutes, gateway: GatewayApi, absent: frozenset[str] = frozenset()
) -> Manifest:
    """The endpoint's routes for gRPC, which have no timeouts in Gateway API: the pods have their own."""
    rules = [{"matches": [_pin(d)], "backendRefs": [_backend(d, GRPC_PORT)]} for d in _pinned(routes)]
    return _route(GRPC_ROUTE, endpoint, routes, gateway, [*rules, _shared(routes, GRPC_PORT, absent)])


def _route(
    resource: Resource, endpoint: Endpoint, routes: EndpointRoutes, gateway: GatewayApi, rules: list[Manifest]
) -> Manifest:
    metadata = child_metadata(endpoint.manifest, endpoint.name)
    metadata["annotations"] = {ANNOTATION_MODEL: routes.to_json()}
    host = gateway.host_of(endpoint.namespace, endpoint.name, grpc=resource == GRPC_ROUTE)
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": {"parentRefs": [_reference(p) for p in gateway.parents], "hostnames": [host], "rules": rules},
    }


def _reference(parent: ParentRef) -> Manifest:
    optional = {"namespace": parent.namespace, "sectionName": parent.section_name, "port": parent.port}
    return {"name": parent.name, **{name: value for name, value in optional.items() if value}}


def _pinned(routes: EndpointRoutes) -> tuple[RouteDeployment, ...]:
    """Those that can be asked by name; a header makes a rule more specific than the one without."""
    return routes.deployments[: MOST_RULES - 1]


def _pin(deployment: RouteDeployment) -> Manifest:
    return {"headers": [{"name": PIN_HEADER, "value": deployment.name}]}


def _sharing(routes: EndpointRoutes) -> list[RouteDeployment]:
    return [deployment for deployment in routes.deployments if deployment.weight]


def _shared(routes: EndpointRoutes, port: int, absent: frozenset[str]) -> Manifest:
    """The rule by which requests are shared and copied."""
    weights = rescaled({deployment.name: deployment.weight for deployment in routes.deployments}, absent)
    sharing = [(deployment, weights.get(deployment.name, 0)) for deployment in _sharing(routes)]
    rule: Manifest = {"backendRefs": [{**_backend(d, port), "weight": weight} for d, weight in sharing]}
    copies = [
        {"backendRef": _backend(d, port), "percent": d.mirror_percent} for d in routes.deployments if d.mirror_percent
    ]
    if copies:
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": copy} for copy in copies]
    return rule


def _backend(deployment: RouteDeployment, port: int) -> Manifest:
    return {"name": deployment.service, "port": port}


def _timeout(deployments: list[RouteDeployment]) -> Manifest:
    """In whole seconds, since Gateway API has no more than five digits; a rule has one for all of its backends."""
    return {"request": f"{ceil(max((d.timeout_seconds for d in deployments), default=0))}s"}


def model_in(route: Manifest | None) -> EndpointRoutes | None:
    """What a route, as seen, was made of, or nothing where it says none that can be read."""
    try:
        return EndpointRoutes.from_json((route or {})["metadata"]["annotations"][ANNOTATION_MODEL])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Verdict:
    """What one Gateway says of one route: confirmed as it is now, or why not."""

    confirmed: bool
    reason: str = ""
    message: str = ""


def verdicts(
    endpoint: Endpoint, gateway: GatewayApi, http: Manifest | None, grpc: Manifest | None
) -> tuple[Verdict, ...]:
    """What every Gateway says of every route of the endpoint, as seen; both have to be made of the same."""
    routes = [(HTTP_ROUTE, http), *([(GRPC_ROUTE, grpc)] if gateway.grpc else [])]
    made_of = model_in(http)
    found: list[Verdict] = []
    for resource, route in routes:
        if route is None or made_of is None or model_in(route) != made_of:
            found.append(Verdict(False, "Updating", f"{resource.kind} {endpoint.name} is being written"))
        else:
            found += [_verdict(resource, route, parent) for parent in gateway.parents]
    return tuple(found)


def _verdict(resource: Resource, route: Manifest, parent: ParentRef) -> Verdict:
    meta = route["metadata"]
    named = f"{resource.kind} {meta['name']}"
    who = f"Gateway {parent.name} of namespace {parent.namespace or meta['namespace']}"
    told = [found for found in _parents(route) if _is_of(found.get("parentRef") or {}, parent, meta["namespace"])]
    if not told:
        allowed = (
            f"are it and its controller there, and do its listeners allow routes of namespace {meta['namespace']}?"
        )
        return Verdict(False, "Updating", f"{who} says nothing of {named} yet: {allowed}")
    for status in told:
        for type in ("Accepted", "ResolvedRefs"):
            condition = find(status, type) or {}
            if (condition.get("observedGeneration") or 0) < int(meta.get("generation") or 0):
                return Verdict(False, "Updating", f"{who} has not looked at the newest {named} yet")
            if condition.get("status") != "True":
                why = f"{condition.get('reason')}: {condition.get('message')}"
                return Verdict(False, "Refused", f"{who} does not take {named}: {why}")
    return Verdict(True)


def _parents(route: Manifest) -> Iterable[Manifest]:
    return (route.get("status") or {}).get("parents") or []


def _is_of(reference: Manifest, parent: ParentRef, namespace: str) -> bool:
    """Whether a status speaks for the parent."""
    said = (reference.get("name"), reference.get("namespace") or namespace)
    part = (reference.get("sectionName") or "", reference.get("port") or 0)
    return (said, part) == (
        (parent.name, parent.namespace or namespace),
        (parent.section_name, parent.port),
    )
