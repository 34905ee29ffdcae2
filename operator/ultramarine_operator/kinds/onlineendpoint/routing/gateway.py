"""Routing by the gateway: the order in which routes, Service and pods change, so that no request fails.

First pods are ready and every gateway pod has their addresses, then the weights change. When every gateway pod has
confirmed the weights, the routes drop what leaves, and then its pods are deleted. Each step waits until the step before
it was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from msgspec import structs
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import MAX_CAUSE, EndpointRoutes, RouteAuth, RouteDeployment, RouteState

from ....shared.conditions import Condition, parse_timestamp
from ....shared.questions import Answer, GatewayFacts
from ..deployment.health import SETTLED, DeploymentHealth
from ..endpoint import Endpoint, Shares, proof_secret
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
from .step import SOON, RoutingStep

LATER = timedelta(seconds=5)  # until the next question to a gateway that did not answer
STILL_KEYS = "; it checks keys instead of tokens until no pod checks keys any more"
TERMINATION = timedelta(seconds=75)  # the chart's grace period of a gateway pod
LOOK_AGAIN = timedelta(minutes=2)  # no event tells that a gateway pod lost its routes

Health = Mapping[str, DeploymentHealth]  # by deployment


@dataclass(frozen=True)
class GatewayRouting:
    """An endpoint as observed: its routes, what its Service selects, its deployments, and the gateway's answer.

    `service_tls` means that the Service is for TLS. `target` are the shares to reach; with `urgent` they do not wait
    for all pods. `compared` names a deployment whose answers are compared with those of the others.
    """

    endpoint: Endpoint
    service_target: str | int | None
    service_tls: bool
    existing: frozenset[str]
    routes: EndpointRoutes | None
    answer: Answer | None
    target: Shares
    urgent: bool
    compared: str = field(default="", kw_only=True)
    CONFIRMED: ClassVar[str] = "every gateway pod has the routes"

    @property
    def facts(self) -> GatewayFacts | None:
        """The gateway's answer; None if it has not answered."""
        return self.answer if isinstance(self.answer, GatewayFacts) else None

    @property
    def confirmed(self) -> bool:
        """True if every gateway pod uses the routes as observed."""
        facts, routes = self.facts, self.routes
        return facts is not None and routes is not None and {p.version for p in facts.proxies} == {routes.version}

    def proves(self, now: datetime) -> bool:
        """True if every gateway pod authenticates to the pods, and any former gateway pod has terminated."""
        if not self.confirmed or self.routes is None or not self.routes.auth.proof_secret:
            return False
        return all(not proxy.since or now - parse_timestamp(proxy.since) > TERMINATION for proxy in self.proxies)

    @property
    def trusts(self) -> bool:
        """True if every gateway pod has the certificate authority of pods that speak TLS."""
        return bool(self.proxies) and all(proxy.tls for proxy in self.proxies)

    @property
    def service_follows(self) -> bool:
        """True if the Service leads to the endpoint's port at the gateway."""
        routes = self.routes
        return routes is not None and (self.service_target, self.service_tls) == (routes.port, bool(routes.tls_secret))

    @property
    def secure(self) -> bool:
        """True if the Service must be for TLS: as every gateway pod has confirmed, otherwise as before."""
        if self.confirmed and self.routes is not None:
            return bool(self.routes.tls_secret)
        return self.endpoint.spec.tls is not None if self.service_target is None else self.service_tls

    @property
    def weights(self) -> Shares:
        """The weights in the routes as observed."""
        return {d.name: d.weight for d in self.routes.deployments if d.weight} if self.routes else {}

    @property
    def shares(self) -> Shares:
        """The shares that answer, as far as they are certain."""
        if isinstance(self.service_target, str):
            return {self.service_target: 100}
        return self.weights if self.confirmed and self.service_follows else self.endpoint.former_traffic

    @property
    def has_figures(self) -> bool:
        """True if the results of requests are counted."""
        return True

    @property
    def proxies(self) -> tuple[RouteState, ...]:
        """The state of each gateway pod; empty unless all of them answer."""
        return self.facts.proxies if self.facts else ()

    @property
    def diverted(self) -> frozenset[str]:
        """Deployments that get no requests at any gateway pod now, because they have no pod and others have."""
        if not self.proxies or not self.confirmed:
            return frozenset()
        return frozenset.intersection(*(frozenset(proxy.away) for proxy in self.proxies)) & self.weights.keys()

    def confirms(self, shares: Shares) -> bool:
        """True if every gateway pod uses these shares."""
        return self.confirmed and self.service_follows and self.weights == shares

    def may_receive(self, name: str) -> bool:
        """True if a gateway pod may still send requests to a deployment."""
        return name in self.shares or name in self.weights or self._is_forgotten

    @property
    def _is_forgotten(self) -> bool:
        """True if the status was lost while gateway pods may use unknown routes."""
        return self.service_target is not None and not self.confirmed and not self.shares

    def keeps(self, name: str) -> bool:
        """True if a deployment must not lose pods yet, since its share may still exceed the target."""
        may_have = max(self.shares.get(name, 0), self.weights.get(name, 0))
        return may_have > self.target.get(name, 0) or self._is_forgotten

    def towards(self, shares: Shares, *, urgent: bool, compared: str = "") -> GatewayRouting:
        """Return the routing with another target."""
        return replace(self, target=shares, urgent=urgent, compared=compared)

    def step(self, health: Health) -> RoutingStep:
        """Return the next routes, and where the Service leads."""
        weights, waits = self._next_weights(health)
        planned = self._planned(weights, self._auth(health), health)
        done = self.confirmed and self.service_follows and planned == self.routes
        reason, message = self._missing() if done else self._unconfirmed(planned)
        healthy = done and not message
        has_auth = planned.auth.mode == self.endpoint.spec.auth_mode
        after = LATER if done and not healthy else self._after(done=done, soon=bool(waits))
        answers = not (isinstance(self.answer, UltramarineError) and self.answer.reason == "NoGateway")
        confirmation = self.CONFIRMED + ("" if has_auth else STILL_KEYS)
        return RoutingStep(
            shares=self.shares,
            apply=self._children(planned),
            needed=frozenset(deployment.name for deployment in planned.deployments) if done else None,
            settled=healthy and has_auth and weights == self.target,
            waits=waits if healthy else message,
            answers=answers,
            condition=Condition("RoutesReady", healthy, reason, message or confirmation),
            port=planned.port,
            after=self._sooner(planned, health, after),
            secure=self.secure,
            diverted=self.diverted if self.service_follows else frozenset(),
        )

    def _sooner(self, planned: EndpointRoutes, health: Health, after: timedelta | None) -> timedelta | None:
        """Look again soon while the gateway has not noticed pods that came or went; no event tells of that."""
        weighted = {d.name for d in planned.deployments if d.weight and d.name in health}
        absent = {d.name for d in planned.deployments if d.name in weighted and not d.hold and not health[d.name].ready}
        expected = absent if weighted - absent else set()
        if not self.confirmed or self.diverted == expected:
            return after
        return LATER if after is None else min(after, LATER)

    def _current_weights(self) -> dict[str, int]:
        """Return the weights of existing deployments; the largest also gets the shares of those that are gone."""
        if isinstance(self.service_target, str):
            before: Shares = {self.service_target: 100}
        else:
            before = self.weights or self.endpoint.former_traffic
        existing = self.existing | {deployment.name for deployment in self.endpoint.spec.deployments}
        kept = {name: share for name, share in before.items() if name in existing}
        if kept:
            kept[max(kept, key=lambda name: kept[name])] += 100 - sum(kept.values())
        return kept

    def _next_weights(self, health: Health) -> tuple[dict[str, int], str]:
        """Return the weights to write now, and what the remaining change waits for at the gateway."""
        target, current = dict(self.target), self._current_weights()
        if not current or (self.service_target is None and not self.shares):  # no deployment answers yet
            return target, ""
        # The health of a deployment with a falling share does not matter: it is often the cause.
        rising = [name for name, share in target.items() if share > current.get(name, 0)]
        if not all(health[name].state == "Ready" or (self.urgent and health[name].ready) for name in rising):
            return current, ""
        if current != target and not (self.service_follows and (self.confirmed or self.urgent)):
            return current, "the gateway has to confirm the routes before these change"
        unreachable = [name for name in rising if health[name].replicas and not self._has_address(name)]
        if unreachable:
            return current, f"not every gateway pod has an address of {' and '.join(unreachable)} yet"
        return target, ""

    def _has_address(self, name: str) -> bool:
        """True if every gateway pod has an address of a deployment, or does not report its addresses."""
        return all(proxy.ready is None or proxy.ready.get(name, 0) > 0 for proxy in self.proxies)

    def _auth(self, health: Health) -> RouteAuth:
        """Return how the gateway authenticates clients and itself: as before while any pod expects that."""
        auth, routes = route_auth(self.endpoint), self.routes
        if routes is None:
            return auth
        unsettled = {name for name in {*health, *self.weights} if name not in health or not _is_settled(health[name])}
        still_keys = routes.auth.mode == "key" and not unsettled.isdisjoint(self.weights)
        proof = auth.proof_secret or (routes.auth.proof_secret if unsettled else "")
        return structs.replace(routes.auth if auth.mode == "token" and still_keys else auth, proof_secret=proof)

    def _planned(self, weights: Shares, auth: RouteAuth, health: Health) -> EndpointRoutes:
        spec = self.endpoint.spec
        deployments = [
            self._held(
                route_deployment(
                    self.endpoint,
                    deployment,
                    weights.get(deployment.name, 0),
                    spec.mirrors.get(deployment.name, 0),
                    # The same share of the others' requests as its own, while others have a share.
                    weights.get(deployment.name, 0) % 100 if deployment.name == self.compared else 0,
                    tls=health[deployment.name].tls,
                ),
                health[deployment.name],
            )
            for deployment in spec.deployments
        ]
        return endpoint_routes(self.endpoint, self._port(), (*deployments, *self._leaving(weights)), auth)

    def _held(self, route: RouteDeployment, health: DeploymentHealth) -> RouteDeployment:
        """Hold requests to a deployment that was scaled to zero until a pod is ready, even if it may no longer sleep.

        Requests do not wait for pods that fail or cannot be made. Until a pod is ready, other deployments answer them,
        or the gateway with the cause.
        """
        if health.ready:
            return route
        routed = self.routes.deployments if self.routes else ()
        before = next((deployment.hold for deployment in routed if deployment.name == route.name), None)
        stuck = health.state == "Waiting" and not (health.may_sleep or health.transient)
        if health.state == "Failing" or stuck:
            return structs.replace(route, hold=False, cause=health.message[:MAX_CAUSE] if route.hold or before else "")
        if before is False and health.replicas:
            return structs.replace(route, hold=False)
        return structs.replace(route, hold=True) if before else route

    def _leaving(self, weights: Shares) -> tuple[RouteDeployment, ...]:
        """Return routes of deployments that left the spec; they stay until every gateway pod sends them nothing."""
        staying = {deployment.name for deployment in self.endpoint.spec.deployments}
        before = {d.name: d for d in (self.routes.deployments if self.routes else ())}
        names = {d.name for d in before.values() if d.weight or not self.confirmed} | weights.keys()
        return tuple(
            reweighed(before.get(name) or self._unrouted(name), weights.get(name, 0))
            for name in sorted((names - staying) & self.existing)
        )

    def _unrouted(self, name: str) -> RouteDeployment:
        """Return the route of a deployment that answers without the gateway until now."""
        return RouteDeployment(name, pods_service_name(self.endpoint, name))

    def _port(self) -> int:
        if self.routes is not None and is_port(self.routes.port):
            return next_port(self.endpoint, self.routes.port) if self._port_owner() else self.routes.port
        former = self.endpoint.former.gateway_port
        return former if is_port(former) else first_port(self.endpoint)

    def _port_owner(self) -> str:
        """Return the older endpoint that has the port of the routes; empty if the port is free."""
        if self.facts is None or self.routes is None:
            return ""
        proxies = (proxy for proxy in self.facts.proxies if proxy.port == self.routes.port)
        return next((proxy.port_taken_by for proxy in proxies if proxy.port_taken_by), "")

    def _children(self, planned: EndpointRoutes) -> tuple[Manifest, ...]:
        children = [pods_service(self.endpoint, deployment) for deployment in planned.deployments]
        children.append(routes_config_map(self.endpoint, planned))
        same_port = self.confirmed and planned.port == (self.routes or planned).port
        if self.service_target == planned.port or same_port:
            children.append(gateway_service(self.endpoint, planned.port, secure=self.secure))
        elif isinstance(self.service_target, str):
            secure = any(d.tls for d in planned.deployments if d.name == self.service_target)
            children.append(service(self.endpoint, self.service_target, secure=secure))
        return tuple(children)

    def _unconfirmed(self, planned: EndpointRoutes) -> tuple[str, str]:
        """Return why the planned routes are not in use yet, as a reason and a message."""
        if isinstance(self.answer, UltramarineError):
            return self.answer.reason, self.answer.message
        if owner := self._port_owner():
            return "PortTaken", f"the gateway's port belongs to OnlineEndpoint {owner}; {planned.port} is tried next"
        facts = self.facts
        if facts is not None and self.routes is not None:
            current = [proxy.version == self.routes.version for proxy in facts.proxies]
            for is_current, proxy in zip(current, facts.proxies, strict=True):
                if proxy.reason and not is_current:
                    return self._refusal(proxy)
            if any(current) and not all(current):
                return "Updating", f"{sum(current)} of {len(current)} gateway pods have the newest routes"
        # A new endpoint has one message for the whole way, since each message is a write.
        if self.confirmed and not self.service_follows and self.service_target is not None:
            return "Updating", "the Service is switching to the gateway"
        return "Updating", "new routes are on their way to the gateway"

    def _missing(self) -> tuple[str, str]:
        """Return what confirmed routes lack: a Secret that was deleted or cannot be used, or a key set."""
        refusals = (self._refusal(proxy) for proxy in self.proxies if proxy.reason)
        if refusal := next(refusals, None):
            return refusal[0], f"{refusal[1]}. Until then the gateway uses the former content"
        if why := next((proxy.no_key_set for proxy in self.proxies if proxy.no_key_set), ""):
            token = self.endpoint.spec.token
            return "NoKeySet", f"cannot fetch the key set at {token.jwks_uri if token else 'jwksUri'}: {why}"
        return "Confirmed", ""

    def _refusal(self, proxy: RouteState) -> tuple[str, str]:
        if name := proxy.missing_secret:
            tls = self.endpoint.spec.tls
            keys = "tls.crt and tls.key" if tls and tls.secret_name == name else "the keys primary and secondary"
            is_ours = name == proof_secret(self.endpoint)
            remedy = "The operator creates it again" if is_ours else f"Create it with {keys}"
            return "SecretMissing", f"Secret {name} not found in {self.endpoint.namespace}. {remedy}"
        return "Refused", f"a gateway pod refuses the routes: {proxy.reason}"

    def _after(self, *, done: bool, soon: bool) -> timedelta | None:
        if isinstance(self.answer, UltramarineError):
            return LATER
        return SOON if soon or not done else LOOK_AGAIN


def _is_settled(health: DeploymentHealth) -> bool:
    return health.state in SETTLED
