"""Routing without a gateway: the Service selects the pods of one deployment, and later of another that is ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ultramarine_contract.routes import RouteState

from ....shared.conditions import Condition
from ..deployment.health import DeploymentHealth
from ..endpoint import Endpoint, Shares
from .manifests import gateway_features, service
from .step import SOON, RoutingStep


@dataclass(frozen=True)
class DirectRouting:
    """An endpoint whose live Service selects `service_target`, one of the `existing` deployments.

    `shares` is the target; only its largest share can be served. `service_tls` means that the Service is for TLS.
    """

    endpoint: Endpoint
    service_target: str | int | None
    existing: frozenset[str]
    shares: Shares
    service_tls: bool = False

    @property
    def target(self) -> str:
        """The deployment that must answer: the one with the largest share."""
        return max(self.shares.items(), key=lambda share: share[1])[0]

    @property
    def current(self) -> str | None:
        """The deployment that answers."""
        # Without the Service the status still names the deployment that answered.
        answered = max(self.endpoint.former_traffic.items(), key=lambda share: share[1], default=(None, 0))[0]
        current = self.service_target if isinstance(self.service_target, str) else answered
        return current if current in self.existing else None

    @property
    def has_figures(self) -> bool:
        """True if the results of requests are counted."""
        return False

    @property
    def proxies(self) -> tuple[RouteState, ...]:
        """The states of the gateway pods, of which there are none."""
        return ()

    def confirms(self, shares: Shares) -> bool:
        """True if the shares are confirmed, which only a gateway can do."""
        return False

    def may_receive(self, name: str) -> bool:
        """True if requests may still go to a deployment."""
        return name == self.current

    def keeps(self, name: str) -> bool:
        """True if a deployment must not lose pods yet."""
        return name == self.current != self.target

    def towards(self, shares: Shares, *, urgent: bool, compared: str = "") -> DirectRouting:
        """Return the routing with another target; the other arguments need a gateway."""
        return replace(self, shares=shares)

    def step(self, health: Mapping[str, DeploymentHealth]) -> RoutingStep:
        """Select the target at once if no deployment answers; later only when all of its pods are ready.

        If the answering deployment has no ready pod, the largest share with one answers instead.
        """
        current, target = self.current, self.target
        if features := gateway_features(self.endpoint):
            return self._frozen(features)
        live = target if current is None or health[target].state == "Ready" else current
        if live in health and not health[live].ready:
            ready = [name for name in self.shares if name in health and health[name].ready]
            live = max(ready, key=lambda name: self.shares[name], default=live)
        blocked = self._blocked(live)
        secure = health[live].tls if live in health else self.service_tls
        return RoutingStep(
            shares={live: 100},
            apply=(service(self.endpoint, live, secure=secure),),
            # The former deployment is deleted only after the live Service selects another one.
            needed=frozenset({self.service_target}) if isinstance(self.service_target, str) else None,
            settled=live == target and not blocked,
            blocked=blocked,
            condition=Condition("RoutesReady", False, "NoGateway", blocked) if blocked else None,
            after=SOON if current not in (None, live) else None,
            secure=secure,
        )

    def _frozen(self, features: str) -> RoutingStep:
        """Change nothing: requests would reach the pods without authentication or without TLS."""
        blocked = f"{features} needs the gateway, and {self.remedy}, or remove it; until then nothing is changed"
        return RoutingStep(
            shares={self.current: 100} if self.current else {},
            apply=(),
            needed=None,
            settled=False,
            answers=False,
            blocked=blocked,
            condition=Condition("RoutesReady", False, "NoGateway", blocked),
            frozen=True,
            secure=self.endpoint.spec.tls is not None,
        )

    @property
    def remedy(self) -> str:
        """The reason why no gateway exists, and the remedy."""
        return (
            f"namespace {self.endpoint.namespace} has none: install the chart with gateway.enabled and the "
            "namespace in `namespaces`"
        )

    def _blocked(self, live: str) -> str:
        if len(self.endpoint.spec.shares) == 1 and not self.endpoint.spec.mirrors:
            return ""
        return (
            f"traffic that is split or mirrored needs the gateway, and {self.remedy}, or give one deployment 100; "
            f"meanwhile {live} gets all requests"
        )
