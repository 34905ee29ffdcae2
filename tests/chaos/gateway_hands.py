"""The gateway of one namespace: it takes up routes as an Envoy with its agent does, and says so over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil

from aiohttp import web
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import LABEL_ROUTES, DeploymentFigures, EndpointRoutes, RouteDeployment, RouteState
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import routes_in, service_target
from ultramarine_operator.shared.conditions import is_true

Id = tuple[str, str]  # kind and name


@dataclass
class Gateway:
    """One gateway pod, which routes by what the API server has told of `objects`."""

    objects: Mapping[Id, Manifest]
    routes: dict[str, EndpointRoutes] = field(default_factory=dict)  # by endpoint
    loads: dict[str, float] = field(default_factory=dict)  # by Deployment: requests in flight, and requests a second
    port: int = 0

    def look(self) -> None:
        """Take up the routes as they are, as an agent does that was told of a change."""
        labelled = [found for (kind, _), found in self.objects.items() if kind == "ConfigMap"]
        names = [(found["metadata"].get("labels") or {}).get(LABEL_ROUTES) for found in labelled]
        read = {name: routes_in(found) for name, found in zip(names, labelled, strict=True) if name}
        self.routes = {name: routes for name, routes in read.items() if routes is not None}

    def sends_to(self, deployment: str) -> list[str]:
        """Which endpoints, whose Service leads here, send requests to the pods of the Deployment of that name."""
        return [
            name
            for name, routes in self.routes.items()
            for routed in routes.deployments
            if routed.weight
            and f"{name}-{routed.name}" == deployment
            and service_target(self.objects.get(("Service", name))) == routes.port
        ]

    def _ready(self, service: str) -> int:
        """Return the number of ready pods of a Service."""
        chosen = self.objects.get(("Service", service), {}).get("spec", {}).get("selector")
        if not chosen:
            return 0
        pods: Iterable[Manifest] = (found for (kind, _), found in self.objects.items() if kind == "Pod")
        return sum(
            chosen.items() <= (pod["metadata"].get("labels") or {}).items()
            and is_true(pod.get("status") or {}, "Ready")
            for pod in pods
        )

    def _away(self, routes: EndpointRoutes) -> tuple[str, ...]:
        """Return deployments that get no requests for lack of a pod, while others have pods."""
        weighted = [routed for routed in routes.deployments if routed.weight]
        absent = [routed.name for routed in weighted if not routed.hold and not self._ready(routed.service)]
        return tuple(sorted(absent)) if len(absent) < len(weighted) else ()

    def _figures(self, endpoint: str, routed: RouteDeployment) -> DeploymentFigures:
        """Return the metrics of a deployment: a request without a pod waits for one."""
        load = self.loads.get(f"{endpoint}-{routed.name}", 0.0)
        if routed.hold and not self._ready(routed.service):
            return DeploymentFigures(rate=0.0, concurrency=0.0, waiting=ceil(load))
        return DeploymentFigures(rate=load, concurrency=load)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/routes":
            return web.Response(status=404)
        told = {
            name: RouteState(
                routes.version,
                pod="gateway-0",
                ready={d.name: self._ready(d.service) for d in routes.deployments},
                figures={d.name: self._figures(name, d) for d in routes.deployments},
                away=self._away(routes),
            ).document()
            for name, routes in self.routes.items()
            if name == request.query.get("endpoint", name)
        }
        return web.json_response({"connected": True, "endpoints": told})

    @asynccontextmanager
    async def listening(self, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Gateway]:
        """Answer at an address until the end of the block; port 0 is any that is free."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, address, port)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
