"""Routing by Gateway API: HTTPRoute and GRPCRoute, what Gateways report of them, and the order of changes.

Gateways share the requests. Inside the cluster the endpoint's Service bypasses them: as without a gateway, it selects
the deployment with the largest share.
"""

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
from ..endpoint import GRPC_PORT, PORT, Endpoint, Shares
from .direct import DirectRouting
from .gateway import LATER, GatewayRouting, Health
from .manifests import pods_service
from .step import RoutingStep

ANNOTATION_MODEL = f"{GROUP}/route-model"  # the EndpointRoutes that a route was made of, for later passes
MAX_RULES = 16  # of a route in Gateway API


def http_route(
    endpoint: Endpoint, routes: EndpointRoutes, gateway: GatewayApi, absent: frozenset[str] = frozenset()
) -> Manifest:
    """Return the HTTPRoute; `absent` deployments get no share while another one can take it."""
    rules = [
        {"matches": [_pin(d)], "backendRefs": [_backend(d, PORT)], "timeouts": _timeout([d])} for d in _pinned(routes)
    ]
    shared = _sharing(routes)
    rules.append({**_shared(routes, PORT, absent), "timeouts": _timeout(shared)})
    return _route(HTTP_ROUTE, endpoint, routes, gateway, rules)


def grpc_route(
    endpoint: Endpoint, routes: EndpointRoutes, gateway: GatewayApi, absent: frozenset[str] = frozenset()
) -> Manifest:
    """Return the GRPCRoute, which has no timeouts in Gateway API; the pods have their own."""
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
    """Return the deployments that a header can name; a rule with a header precedes the one without."""
    return routes.deployments[: MAX_RULES - 1]


def _pin(deployment: RouteDeployment) -> Manifest:
    return {"headers": [{"name": PIN_HEADER, "value": deployment.name}]}


def _sharing(routes: EndpointRoutes) -> list[RouteDeployment]:
    return [deployment for deployment in routes.deployments if deployment.weight]


def _shared(routes: EndpointRoutes, port: int, absent: frozenset[str]) -> Manifest:
    """Return the rule that shares and copies requests."""
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
    """Return the timeout in whole seconds, since Gateway API has at most five digits and one timeout per rule."""
    return {"request": f"{ceil(max((d.timeout_seconds for d in deployments), default=0))}s"}


def model_in(route: Manifest | None) -> EndpointRoutes | None:
    """Read the routes that a live route was made of; None if they cannot be read."""
    try:
        return EndpointRoutes.from_json((route or {})["metadata"]["annotations"][ANNOTATION_MODEL])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class RouteReport:
    """Report of one Gateway on one route: confirmed in its newest form, or why not."""

    confirmed: bool
    reason: str = ""
    message: str = ""


def route_reports(
    endpoint: Endpoint, gateway: GatewayApi, http: Manifest | None, grpc: Manifest | None
) -> tuple[RouteReport, ...]:
    """Return the report of each Gateway on each live route; both routes must be made of the same EndpointRoutes."""
    routes = [(HTTP_ROUTE, http), *([(GRPC_ROUTE, grpc)] if gateway.grpc else [])]
    made_of = model_in(http)
    reports: list[RouteReport] = []
    for resource, route in routes:
        if route is None or made_of is None or model_in(route) != made_of:
            reports.append(RouteReport(False, "Updating", f"{resource.kind} {endpoint.name} is being written"))
        else:
            reports += [_report(resource, route, parent) for parent in gateway.parents]
    return tuple(reports)


def _report(resource: Resource, route: Manifest, parent: ParentRef) -> RouteReport:
    meta = route["metadata"]
    title = f"{resource.kind} {meta['name']}"
    owner = f"Gateway {parent.name} of namespace {parent.namespace or meta['namespace']}"
    statuses = [
        status for status in _parents(route) if _is_of(status.get("parentRef") or {}, parent, meta["namespace"])
    ]
    if not statuses:
        remedy = (
            f"Check that it and its controller exist, and that its listeners allow routes of namespace "
            f"{meta['namespace']}"
        )
        return RouteReport(False, "Updating", f"{owner} has not reported on {title} yet. {remedy}")
    for status in statuses:
        for type in ("Accepted", "ResolvedRefs"):
            condition = find(status, type) or {}
            if (condition.get("observedGeneration") or 0) < int(meta.get("generation") or 0):
                return RouteReport(False, "Updating", f"{owner} has not processed the newest {title} yet")
            if condition.get("status") != "True":
                why = f"{condition.get('reason')}: {condition.get('message')}"
                return RouteReport(False, "Refused", f"{owner} refuses {title}: {why}")
    return RouteReport(True)


def _parents(route: Manifest) -> Iterable[Manifest]:
    return (route.get("status") or {}).get("parents") or []


def _is_of(reference: Manifest, parent: ParentRef, namespace: str) -> bool:
    """True if a status belongs to the parent."""
    owner = (reference.get("name"), reference.get("namespace") or namespace)
    part = (reference.get("sectionName") or "", reference.get("port") or 0)
    return (owner, part) == (
        (parent.name, parent.namespace or namespace),
        (parent.section_name, parent.port),
    )


@dataclass(frozen=True)
class GatewayApiRouting(GatewayRouting):
    """An endpoint as observed: its live routes, and the Gateways' reports.

    `beside` is the routing of its Service. `absent` are the deployments without a ready pod.
    """

    gateway: GatewayApi
    beside: DirectRouting
    reports: tuple[RouteReport, ...]
    absent: frozenset[str] = field(default=frozenset(), kw_only=True)
    CONFIRMED: ClassVar[str] = "every Gateway has accepted the routes"

    @classmethod
    def observed(
        cls, endpoint: Endpoint, beside: DirectRouting, gateway: GatewayApi, own: dict[tuple[str, str], Manifest]
    ) -> GatewayApiRouting:
        """Read the routing from the endpoint's children."""
        http, grpc = (own.get((resource.kind, endpoint.name)) for resource in (HTTP_ROUTE, GRPC_ROUTE))
        reports = route_reports(endpoint, gateway, http, grpc)
        routes = model_in(http)
        return cls(endpoint, None, False, beside.existing, routes, None, beside.shares, False, gateway, beside, reports)

    @property
    def confirmed(self) -> bool:
        """True if every Gateway has accepted the live routes; its proxies may follow a little later."""
        return all(report.confirmed for report in self.reports)

    @property
    def service_follows(self) -> bool:
        """True, since clients reach the Gateway without the Service."""
        return True

    @property
    def has_figures(self) -> bool:
        """False, since Gateway API does not report figures."""
        return False

    def may_receive(self, name: str) -> bool:
        """True if a Gateway or the Service may still send requests to a deployment."""
        return super().may_receive(name) or self.beside.may_receive(name)

    def towards(self, shares: Shares, *, urgent: bool, compared: str = "") -> GatewayApiRouting:
        """Return the routing with another target; answers are not compared."""
        beside = self.beside.towards(shares, urgent=urgent)
        return replace(self, target=shares, urgent=urgent, beside=beside)

    def keeps(self, name: str) -> bool:
        """True if a deployment must not lose pods yet, because of the routes or the Service."""
        return super().keeps(name) or self.beside.keeps(name)

    @property
    def diverted(self) -> frozenset[str]:
        """Deployments that the routes leave out, because they have no pod and others have."""
        weighted = self.weights.keys()
        return self.absent & weighted if weighted - self.absent else frozenset()

    def step(self, health: Health) -> RoutingStep:
        """Return the next routes, and where the Service leads beside them."""
        beside = self.beside.step(health)
        if beside.frozen:
            return beside
        absent = frozenset(name for name, deployment in health.items() if not deployment.ready)
        step = super(GatewayApiRouting, replace(self, absent=absent)).step(health)
        is_unknown = step.needed is None or beside.needed is None
        return replace(
            step,
            apply=(*step.apply, *beside.apply),
            needed=None if is_unknown else (step.needed or frozenset()) | (beside.needed or frozenset()),
            port=0,
            url=self.gateway.url_of(self.endpoint.namespace, self.endpoint.name),
            after=step.after or beside.after,
        )

    def _port(self) -> int:
        return PORT  # of the pods: the Gateway selects endpoints by host name

    def _children(self, planned: EndpointRoutes) -> tuple[Manifest, ...]:
        services = [pods_service(self.endpoint, deployment) for deployment in planned.deployments]
        routes = [http_route(self.endpoint, planned, self.gateway, self.absent)]
        if self.gateway.grpc:
            routes.append(grpc_route(self.endpoint, planned, self.gateway, self.absent))
        return (*services, *routes)

    def _unconfirmed(self, planned: EndpointRoutes) -> tuple[str, str]:
        pending = [report for report in self.reports if not report.confirmed]
        if not pending:
            return "Updating", "new routes are on their way to the Gateway"
        first = next((report for report in pending if report.reason == "Refused"), pending[0])
        return first.reason, first.message

    def _after(self, *, done: bool, soon: bool) -> timedelta | None:
        return None if done and not soon else LATER  # a change of a route's status starts a pass
