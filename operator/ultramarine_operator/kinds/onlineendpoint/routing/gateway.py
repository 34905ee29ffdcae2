"""With a gateway: the order in which routes, Service and pods change, so that no request meets what is not there.

Pods ready, their addresses known to every gateway pod, then the weights; those confirmed by every gateway pod, then
routes without what leaves; those confirmed, then its pods go. Each step is taken when the one before was seen done.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import EndpointRoutes, RouteAuth, RouteDeployment, RouteState

from ....shared.conditions import Condition, parse_timestamp
from ....shared.questions import Answer, GatewayFacts
from ..deployment.health import SETTLED, Judged
from ..deployment.manifests import Endpoint, proof_secret
from .manifests import (
    endpoint_routes,
    first_port,
    gateway_service,
    is_port,
    next_port,
    pods_service,
    pods_service_name,
    reweighed,
    route_auth,
    route_deployment,
    routes_config_map,
    service,
)
from .step import SOON, Shares, Step, told

LATER = timedelta(seconds=5)  # when a gateway did not answer: it is asked again only then
STILL_KEYS = "; it asks for keys, not for tokens, until no pod asks for keys any more"
LEAVING = timedelta(seconds=75)  # the grace of a gateway pod that ends, as the chart has it
LOOK_AGAIN = timedelta(minutes=2)  # nobody rings when a gateway pod loses what it had


@dataclass(frozen=True)
class Routed:
    """An endpoint as seen: its routes, where its Service is turned to, who is `living`, what the gateway `answered`.

    `by_tls` is whether the Service is one for TLS. `target` are the shares that are to be; `in_need` says that they
    must not wait for what can be spared. `compared` names a deployment whose answers are compared with the others'.
    """

    endpoint: Endpoint
    turned: str | int | None
    by_tls: bool
    living: frozenset[str]
    routes: EndpointRoutes | None
    answered: Answer | None
    target: Shares
    in_need: bool
    compared: str = field(default="", kw_only=True)
    WELL: ClassVar[str] = "every gateway pod has the routes"

    @property
    def facts(self) -> GatewayFacts | None:
        return self.answered if isinstance(self.answered, GatewayFacts) else None

    @property
    def confirmed(self) -> bool:
        """Whether every gateway pod routes by the routes as seen."""
        facts, routes = self.facts, self.routes
        return facts is not None and routes is not None and {p.version for p in facts.proxies} == {routes.version}

    def proves(self, now: datetime) -> bool:
        """Whether every gateway pod proves itself to the pods, one that is being replaced too: it has left by now."""
        if not self.confirmed or self.routes is None or not self.routes.auth.proof_secret:
            return False
        return all(not proxy.since or now - parse_timestamp(proxy.since) > LEAVING for proxy in self.proxies)

    @property
    def trusts(self) -> bool:
        """True if every gateway pod knows the authority of pods that speak TLS."""
        return bool(self.proxies) and all(proxy.tls for proxy in self.proxies)

    @property
    def is_turned(self) -> bool:
        """Whether the Service leads to where the gateway has the endpoint."""
        routes = self.routes
        return routes is not None and (self.turned, self.by_tls) == (routes.port, bool(routes.tls_secret))

    @property
    def secure(self) -> bool:
        """Whether the Service leads, or shall lead, to TLS: as every gateway pod has it, else as it was."""
        if self.confirmed and self.routes is not None:
            return bool(self.routes.tls_secret)
        return self.endpoint.spec.tls is not None if self.turned is None else self.by_tls

    @property
    def weights(self) -> Shares:
        """The weights in the routes as seen."""
        return {d.name: d.weight for d in self.routes.deployments if d.weight} if self.routes else {}

    @property
    def shares(self) -> Shares:
        """Who answers, as far as that is known for sure."""
        if isinstance(self.turned, str):
            return {self.turned: 100}
        return self.weights if self.confirmed and self.is_turned else told(self.endpoint)

    @property
    def counts(self) -> bool:
        """Whether somebody tells what became of the requests."""
        return True

    @property
    def proxies(self) -> tuple[RouteState, ...]:
        """What each gateway pod says; nothing where one of them does not answer."""
        return self.facts.proxies if self.facts else ()

    @property
    def away(self) -> frozenset[str]:
        """The deployments to which no gateway pod leads requests now, because they have no pod and others have."""
        if not self.proxies or not self.confirmed:
            return frozenset()
        return frozenset.intersection(*(frozenset(proxy.away) for proxy in self.proxies)) & self.weights.keys()

    def confirms(self, shares: Shares) -> bool:
        """Whether every gateway pod shares the endpoint's requests so."""
        return self.confirmed and self.is_turned and self.weights == shares

    def may_ask(self, name: str) -> bool:
        """Whether a gateway pod may still lead requests to a deployment."""
        return name in self.shares or name in self.weights or self._is_forgotten

    @property
    def _is_forgotten(self) -> bool:
        """Whether the status was lost while a gateway pod may still route otherwise: by what, nobody knows."""
        return self.turned is not None and not self.confirmed and not self.shares

    def keeps(self, name: str) -> bool:
        """Whether a deployment must not lose pods yet: it may still have a larger share than it shall have."""
        may_have = max(self.shares.get(name, 0), self.weights.get(name, 0))
        return may_have > self.target.get(name, 0) or self._is_forgotten

    def towards(self, shares: Shares, *, in_need: bool, compared: str = "") -> Routed:
        """The same on the way to other shares."""
        return replace(self, target=shares, in_need=in_need, compared=compared)

    def step(self, judged: dict[str, Judged]) -> Step:
        """Say which routes there shall be, and where the Service leads."""
        weights, waits = self._next_weights(judged)
        wanted = self._wanted(weights, self._auth(judged), judged)
        done = self.confirmed and self.is_turned and wanted == self.routes
        reason, message = self._lost() if done else self._why_not(wanted)
        well = done and not message
        auth_as_asked = wanted.auth.mode == self.endpoint.spec.auth_mode
        as_asked = auth_as_asked and weights == self.target
        said = self.WELL + ("" if auth_as_asked else STILL_KEYS)
        return Step(
            shares=self.shares,
            apply=self._children(wanted),
            needed=frozenset(deployment.name for deployment in wanted.deployments) if done else None,
            settled=well and as_asked,
            waits=waits if well else message,
            answers=not (isinstance(self.answered, UltramarineError) and self.answered.reason == "NoGateway"),
            condition=Condition("RoutesReady", well, reason, message or said),
            port=wanted.port,
            after=self._sooner(
                wanted, judged, LATER if done and not well else self._after(done=done, soon=bool(waits))
            ),
            secure=self.secure,
            away=self.away if self.is_turned else frozenset(),
        )

    def _sooner(self, wanted: EndpointRoutes, judged: dict[str, Judged], after: timedelta | None) -> timedelta | None:
        """Look again soon while the gateway has not followed pods that came or went: no event tells of that."""
        weighted = {d.name for d in wanted.deployments if d.weight and d.name in judged}
        absent = {d.name for d in wanted.deployments if d.name in weighted and not d.hold and not judged[d.name].ready}
        expected = absent if weighted - absent else set()
        if not self.confirmed or self.away == expected:
            return after
        return LATER if after is None else min(after, LATER)

    def _current_weights(self) -> dict[str, int]:
        """The weights to start from: of what is there; what is gone leaves its share to the largest."""
        if isinstance(self.turned, str):
            before: Shares = {self.turned: 100}
        else:
            before = self.weights or told(self.endpoint)
        there = self.living | {deployment.name for deployment in self.endpoint.spec.deployments}
        kept = {name: share for name, share in before.items() if name in there}
        if kept:
            kept[max(kept, key=lambda name: kept[name])] += 100 - sum(kept.values())
        return kept

    def _next_weights(self, judged: dict[str, Judged]) -> tuple[dict[str, int], str]:
        """The weights that the routes shall have now; and what the rest waits for at the gateway, if it is there."""
        target, current = dict(self.target), self._current_weights()
        if not current or (self.turned is None and not self.shares):  # nobody answers yet: there is nothing to lose
            return target, ""
        # Whose share falls may be as ill as it wants: that is often why it falls.
        rising = [name for name, share in target.items() if share > current.get(name, 0)]
        if not all(judged[name].state == "Ready" or (self.in_need and judged[name].ready) for name in rising):
            return current, ""
        if current != target and not (self.is_turned and (self.confirmed or self.in_need)):
            return current, "the gateway has to confirm the routes before these change"
        unknown = [name for name in rising if judged[name].wanted and not self._is_known(name)]
        if unknown:
            return current, f"not every gateway pod has an address of {' and '.join(unknown)} yet"
        return target, ""

    def _is_known(self, name: str) -> bool:
        """Whether every gateway pod sends requests to pods of a deployment as soon as it may."""
        return all(proxy.ready is None or proxy.ready.get(name, 0) > 0 for proxy in self.proxies)

    def _auth(self, judged: dict[str, Judged]) -> RouteAuth:
        """Whom the gateway shall let in, and how it proves itself: as before, as long as some pod asks for that."""
        wanted, routes = route_auth(self.endpoint), self.routes
        if routes is None:
            return wanted
        as_before = {
            name for name in {*judged, *self.weights} if name not in judged or judged[name].state not in SETTLED
        }
        asks_keys = routes.auth.mode == "key" and not as_before.isdisjoint(self.weights)
        proof = wanted.proof_secret or (routes.auth.proof_secret if as_before else "")
        return replace(routes.auth if wanted.mode == "token" and asks_keys else wanted, proof_secret=proof)

    def _wanted(self, weights: Shares, auth: RouteAuth, judged: dict[str, Judged]) -> EndpointRoutes:
        spec = self.endpoint.spec
        deployments = [
            self._held(
                route_deployment(
                    self.endpoint,
                    d,
                    weights.get(d.name, 0),
                    spec.mirrors.get(d.name, 0),
                    # As many of the others' requests as it gets itself, while there are others.
                    weights.get(d.name, 0) % 100 if d.name == self.compared else 0,
                    tls=judged[d.name].tls,
                ),
                judged[d.name],
            )
            for d in spec.deployments
        ]
        return endpoint_routes(self.endpoint, self._port(), (*deployments, *self._leaving(weights)), auth)

    def _held(self, route: RouteDeployment, judged: Judged) -> RouteDeployment:
        """Requests to a deployment that slept wait until a pod is ready, even if it may not sleep any more.

        They do not wait for pods that fail, until one is ready: others answer them meanwhile, if there are any.
        """
        if judged.ready:
            return route
        known = self.routes.deployments if self.routes else ()
        before = next((deployment.hold for deployment in known if deployment.name == route.name), None)
        if judged.state == "Failing" or (before is False and judged.wanted):
            return replace(route, hold=False)
        return replace(route, hold=True) if before else route

    def _leaving(self, weights: Shares) -> tuple[RouteDeployment, ...]:
        """Deployments that the spec no longer has: they stay until every gateway pod gives them nothing."""
        staying = {deployment.name for deployment in self.endpoint.spec.deployments}
        known = self.routes.deployments if self.routes else ()
        names = {d.name for d in known if d.weight or not self.confirmed} | weights.keys()
        was = {d.name: d for d in known}
        return tuple(
            reweighed(was.get(name) or self._unrouted(name), weights.get(name, 0))
            for name in sorted((names - staying) & self.living)
        )

    def _unrouted(self, name: str) -> RouteDeployment:
        """A deployment that answers without the gateway until now."""
        return RouteDeployment(name, pods_service_name(self.endpoint, name))

    def _port(self) -> int:
        if self.routes is not None and is_port(self.routes.port):
            return next_port(self.endpoint, self.routes.port) if self._taken_by() else self.routes.port
        known = self.endpoint.status.get("gatewayPort")
        return known if isinstance(known, int) and is_port(known) else first_port(self.endpoint)

    def _taken_by(self) -> str:
        """The older endpoint that has the port in the routes as seen."""
        if self.facts is None or self.routes is None:
            return ""
        proxies = (proxy for proxy in self.facts.proxies if proxy.port == self.routes.port)
        return next((proxy.port_taken_by for proxy in proxies if proxy.port_taken_by), "")

    def _children(self, wanted: EndpointRoutes) -> tuple[Manifest, ...]:
        names = [deployment.name for deployment in wanted.deployments]
        children = [pods_service(self.endpoint, name) for name in names]
        children.append(routes_config_map(self.endpoint, wanted))
        if self.turned == wanted.port or (self.confirmed and wanted.port == (self.routes or wanted).port):
            children.append(gateway_service(self.endpoint, wanted.port, secure=self.secure))
        elif isinstance(self.turned, str):
            secure = any(deployment.tls for deployment in wanted.deployments if deployment.name == self.turned)
            children.append(service(self.endpoint, self.turned, secure=secure))
        return tuple(children)

    def _why_not(self, wanted: EndpointRoutes) -> tuple[str, str]:
        if isinstance(self.answered, UltramarineError):
            return self.answered.reason, self.answered.message
        if taken := self._taken_by():
            return "PortTaken", f"the gateway's port belongs to OnlineEndpoint {taken}; {wanted.port} is tried next"
        facts = self.facts
        if facts is not None and self.routes is not None:
            having = [proxy.version == self.routes.version for proxy in facts.proxies]
            for has, proxy in zip(having, facts.proxies, strict=True):
                if proxy.reason and not has:
                    return self._refusal(proxy)
            if not all(having):
                return "Updating", f"{sum(having)} of {len(having)} gateway pods have the newest routes"
        if self.confirmed and not self.is_turned:
            return "Updating", "the Service is being turned to the gateway"
        return "Updating", "new routes are on their way to the gateway"

    def _lost(self) -> tuple[str, str]:
        """What a gateway pod lacks that goes on with what it had: a Secret was deleted or has become unusable."""
        complaints = (self._refusal(proxy) for proxy in self.proxies if proxy.reason)
        if found := next(complaints, None):
            return found[0], f"{found[1]}; until then the gateway goes on with what it had"
        if why := next((proxy.no_key_set for proxy in self.proxies if proxy.no_key_set), ""):
            token = self.endpoint.spec.token
            return "NoKeySet", f"the key set at {token.jwks_uri if token else 'jwksUri'} cannot be had: {why}"
        return "Confirmed", ""

    def _refusal(self, proxy: RouteState) -> tuple[str, str]:
        if name := proxy.missing_secret:
            tls = self.endpoint.spec.tls
            needs = "tls.crt and tls.key" if tls and tls.secret_name == name else "the keys primary and secondary"
            remedy = "it is made anew" if name == proof_secret(self.endpoint) else f"create it with {needs}"
            return "SecretMissing", f"Secret {name} not found in {self.endpoint.namespace}; {remedy}"
        return "Refused", f"a gateway pod does not take the routes: {proxy.reason}"

    def _after(self, *, done: bool, soon: bool) -> timedelta | None:
        if isinstance(self.answered, UltramarineError):
            return LATER
        return SOON if soon or not done else LOOK_AGAIN
