"""The gateway of one namespace: it takes up routes as an Envoy with its agent does, and says so over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

from aiohttp import web
from ultramarine.kinds.onlineendpoint.addresses import routes_in, turned_to
from ultramarine.shared.conditions import is_true
from ultramarine.shared.meta import Manifest
from ultramarine.shared.routes import LABEL_ROUTES, EndpointRoutes, RouteState

Id = tuple[str, str]  # kind and name


@dataclass
class Gateway:
    """One gateway pod, which routes by what the API server has told of `objects`."""

    objects: Mapping[Id, Manifest]
    routes: dict[str, EndpointRoutes] = field(default_factory=dict)  # by endpoint
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
            and turned_to(self.objects.get(("Service", name))) == routes.port
        ]

    def _ready(self, service: str) -> int:
        """How many ready pods a Service selects."""
        chosen = self.objects.get(("Service", service), {}).get("spec", {}).get("selector")
        if not chosen:
            return 0
        pods: Iterable[Manifest] = (found for (kind, _), found in self.objects.items() if kind == "Pod")
        return sum(
            chosen.items() <= (pod["metadata"].get("labels") or {}).items()
            and is_true(pod.get("status") or {}, "Ready")
            for pod in pods
        )

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/routes":
            return web.Response(status=404)
        told = {
            name: asdict(RouteState(routes.version, ready={d.name: self._ready(d.service) for d in routes.deployments}))
            for name, routes in self.routes.items()
        }
        return web.json_response({"connected": True, "endpoints": told})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Gateway]:
        """Answer until the end of the block."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
