"""Without a gateway: the Service leads to the pods of one deployment, and is turned to another when that is ready."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ultramarine_contract.routes import RouteState

from ....shared.conditions import Condition
from ..deployment.health import Judged
from ..deployment.manifests import Endpoint
from .manifests import gateways_work, service
from .step import SOON, Shares, Step, told


@dataclass(frozen=True)
class Direct:
    """An endpoint whose Service, as seen, is turned to the deployment `turned`, of those that are `living`.

    `shares` are those that are to be, as far as that goes without a gateway. `by_tls` is whether the Service is one for
    TLS.
    """

    endpoint: Endpoint
    turned: str | int | None
    living: frozenset[str]
    shares: Shares
    by_tls: bool = False

    @property
    def target(self) -> str:
        """The deployment that shall answer: of several, the one that shall answer most."""
        return max(self.shares.items(), key=lambda share: share[1])[0]

    @property
    def current(self) -> str | None:
        """The deployment that answers."""
        # Without the Service the status still knows who answered; its pods are as good as they were.
        answered = max(told(self.endpoint).items(), key=lambda share: share[1], default=(None, 0))[0]
        current = self.turned if isinstance(self.turned, str) else answered
        return current if current in self.living else None

    @property
    def counts(self) -> bool:
        """Whether somebody tells what became of the requests."""
        return False

    @property
    def proxies(self) -> tuple[RouteState, ...]:
        """There is nobody who counts requests."""
        return ()

    def confirms(self, shares: Shares) -> bool:
        """Nobody tells how requests are shared."""
        return False

    def may_ask(self, name: str) -> bool:
        """Whether requests may still go to a deployment."""
        return name == self.current

    def keeps(self, name: str) -> bool:
        """Whether a deployment must not lose pods yet."""
        return name == self.current != self.target

    def towards(self, shares: Shares, *, in_need: bool, compared: str = "") -> Direct:
        """The same on the way to other shares; without a gateway there is nothing to spare, and nobody to compare."""
        return replace(self, shares=shares)

    def step(self, judged: dict[str, Judged]) -> Step:
        """Turned at once where nothing answers yet; later only to pods that are ready, all of them, as wanted.

        If who answers has no ready pod, the largest share that has one answers instead.
        """
        current, target = self.current, self.target
        if work := gateways_work(self.endpoint):
            return self._held(work)
        live = target if current is None or judged[target].state == "Ready" else current
        if live in judged and not judged[live].ready:
            ready = [name for name in self.shares if name in judged and judged[name].ready]
            live = max(ready, key=lambda name: self.shares[name], default=live)
        blocked = self._blocked(live)
        secure = judged[live].tls if live in judged else self.by_tls
        return Step(
            shares={live: 100},
            apply=(service(self.endpoint, live, secure=secure),),
            # What the Service leaves behind goes only after the Service was seen elsewhere.
            needed=frozenset({self.turned}) if isinstance(self.turned, str) else None,
            settled=live == target and not blocked,
            blocked=blocked,
            condition=Condition("RoutesReady", False, "NoGateway", blocked) if blocked else None,
            after=SOON if current not in (None, live) else None,
            secure=secure,
        )

    def _held(self, work: str) -> Step:
        """Nothing is changed: to send requests to pods all the same would let in whoever comes, or by plain HTTP."""
        blocked = f"{work} needs the gateway, and {self.remedy}, or take it out; until then nothing is changed"
        return Step(
            shares={self.current: 100} if self.current else {},
            apply=(),
            needed=None,
            settled=False,
            answers=False,
            blocked=blocked,
            condition=Condition("RoutesReady", False, "NoGateway", blocked),
            held=True,
            secure=self.endpoint.spec.tls is not None,
        )

    @property
    def remedy(self) -> str:
        """That there is no gateway, and what brings one."""
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
