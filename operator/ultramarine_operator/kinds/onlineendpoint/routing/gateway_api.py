"""An endpoint's routes as HTTPRoute and GRPCRoute of Gateway API, and what the Gateways say of them. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import ceil
from typing import ClassVar

from ultramarine_contract.meta import GROUP, GRPC_ROUTE, HTTP_ROUTE, Manifest, Resource, child_metadata
from ultramarine_contract.routes import PIN_HEADER, EndpointRoutes, RouteDeployment, rescaled

from ....shared.conditions import find
from ....shared.plan import GatewayApi, ParentRef
from ..deployment.health import Judged
from ..deployment.manifests import GRPC_PORT, PORT, Endpoint
from .direct import Direct
from .gateway import LATER, Routed
from .manifests import pods_service
from .step import Shares, Step

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


@dataclass(frozen=True)
class HttpRouted(Routed):
    """An endpoint as seen: the routes that were written, and what the Gateways say; `beside` is its Service's way.

    `absent` are the deployments without a ready pod.
    """

    gateway: GatewayApi
    beside: Direct
    verdicts: tuple[Verdict, ...]
    absent: frozenset[str] = field(default=frozenset(), kw_only=True)
    WELL: ClassVar[str] = "every Gateway has accepted the routes"

    @classmethod
    def seen(
        cls, endpoint: Endpoint, beside: Direct, gateway: GatewayApi, own: dict[tuple[str, str], Manifest]
    ) -> HttpRouted:
        """Read it off the children of the endpoint."""
        http, grpc = (own.get((resource.kind, endpoint.name)) for resource in (HTTP_ROUTE, GRPC_ROUTE))
        said = verdicts(endpoint, gateway, http, grpc)
        routes = model_in(http)
        return cls(endpoint, None, False, beside.living, routes, None, beside.shares, False, gateway, beside, said)

    @property
    def confirmed(self) -> bool:
        """Whether every Gateway has accepted the routes as seen. It says no more: its proxies may be a bit behind."""
        return all(verdict.confirmed for verdict in self.verdicts)

    @property
    def is_turned(self) -> bool:
        """Nothing has to be turned: clients go to the Gateway by themselves."""
        return True

    @property
    def counts(self) -> bool:
        """Gateways of the people's own tell nothing of the requests."""
        return False

    def may_ask(self, name: str) -> bool:
        """Whether a Gateway or the Service may still lead requests to a deployment."""
        return super().may_ask(name) or self.beside.may_ask(name)

    def towards(self, shares: Shares, *, in_need: bool, compared: str = "") -> HttpRouted:
        """The same on the way to other shares; nobody here compares answers."""
        beside = self.beside.towards(shares, in_need=in_need)
        return replace(self, target=shares, in_need=in_need, beside=beside)

    def keeps(self, name: str) -> bool:
        """Whether a deployment must not lose pods yet, for the sake of the routes or of the Service."""
        return super().keeps(name) or self.beside.keeps(name)

    @property
    def away(self) -> frozenset[str]:
        """The deployments that the routes leave out, because they have no pod and others have."""
        weighted = self.weights.keys()
        return self.absent & weighted if weighted - self.absent else frozenset()

    def step(self, judged: dict[str, Judged]) -> Step:
        """Say which routes there shall be, and where the Service leads beside them."""
        beside = self.beside.step(judged)
        if beside.held:
            return beside
        absent = frozenset(name for name, each in judged.items() if not each.ready)
        step = super(HttpRouted, replace(self, absent=absent)).step(judged)
        nobody_knows = step.needed is None or beside.needed is None
        return replace(
            step,
            apply=(*step.apply, *beside.apply),
            needed=None if nobody_knows else (step.needed or frozenset()) | (beside.needed or frozenset()),
            port=0,
            url=self.gateway.url_of(self.endpoint.namespace, self.endpoint.name),
            after=step.after or beside.after,
        )

    def _port(self) -> int:
        return PORT  # of the pods: at the Gateway the host name tells endpoints apart

    def _children(self, wanted: EndpointRoutes) -> tuple[Manifest, ...]:
        services = [pods_service(self.endpoint, deployment.name) for deployment in wanted.deployments]
        routes = [http_route(self.endpoint, wanted, self.gateway, self.absent)]
        if self.gateway.grpc:
            routes.append(grpc_route(self.endpoint, wanted, self.gateway, self.absent))
        return (*services, *routes)

    def _why_not(self, wanted: EndpointRoutes) -> tuple[str, str]:
        open_ones = [verdict for verdict in self.verdicts if not verdict.confirmed]
        if not open_ones:
            return "Updating", "new routes are on their way to the Gateway"
        first = next((verdict for verdict in open_ones if verdict.reason == "Refused"), open_ones[0])
        return first.reason, first.message

    def _after(self, *, done: bool, soon: bool) -> timedelta | None:
        return None if done and not soon else LATER  # a change of a route's status rings
