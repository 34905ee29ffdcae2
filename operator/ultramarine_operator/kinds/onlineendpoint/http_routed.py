"""With Gateways of the people's own: the same order of changes as with ours, told by routes and their statuses.

Requests are shared where they come by a Gateway. Inside the cluster the endpoint's Service leads past it, to the
deployment with the largest share, as it does without a gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import ClassVar

from ultramarine_contract.meta import GRPC_ROUTE, HTTP_ROUTE, Manifest
from ultramarine_contract.routes import EndpointRoutes

from ...shared.plan import GatewayApi
from .addresses import pods_service
from .direct import Direct
from .gateway_api import Verdict, grpc_route, http_route, model_in, verdicts
from .judge import Judged
from .manifests import PORT, Endpoint
from .routed import LATER, Routed
from .steps import Shares, Step


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
