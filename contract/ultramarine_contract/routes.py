"""What the operator and the gateway have agreed on: where routes are told, what they are, and what is told back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from .common import UNREADABLE, read_known

# Where the operator tells the gateway of its namespace what to route: a ConfigMap for each endpoint, with this label,
# whose value is the endpoint's name, and one entry. And where the gateway says which version it routes by.
LABEL_ROUTES = "ultramarine.dev/routes"
ROUTES_ENTRY = "routes.json"
GATEWAY_PORT = 9902
GATEWAY_READY_PORT = 9901  # answers when Envoy has all of its routes, and from then on as long as it lives
GATEWAY_PODS = {"app.kubernetes.io/name": "ultramarine", "app.kubernetes.io/component": "gateway"}  # their labels
PIN_HEADER = "x-ultramarine-deployment"  # a request that carries it goes to the deployment that it names
KEY_SET_URI = r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?"
PROTOCOLS = ("http", "grpc")  # also the names of a deployment's ports in its Service

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


def rescaled(weights: Mapping[str, int], away: Collection[str]) -> dict[str, int]:
    """Percent by deployment if those of `away` take no requests: the others share all of them, in proportion.

    If no other deployment has a weight, the weights stay as they are.
    """
    rest = {name: weight for name, weight in weights.items() if weight and name not in away}
    total = sum(rest.values())
    if not total or len(rest) == len(weights):
        return {name: weight for name, weight in weights.items() if weight}
    parts = {name: divmod(weight * 100, total) for name, weight in rest.items()}
    short = 100 - sum(whole for whole, _ in parts.values())
    larger = sorted(parts, key=lambda name: (-parts[name][1], name))[:short]
    return {name: whole + (name in larger) for name, (whole, _) in parts.items()}


@dataclass(frozen=True)
class RouteDeployment:
    """One deployment of an endpoint, as the gateway routes to it: the ready pods of the Service `service`.

    `weight` is its percent of the requests, `mirror_percent` that of the requests of others which it gets a copy of.
    `timeout_seconds` is the time from a request's end to its answer's end. `protocols` are those of PROTOCOLS that it
    speaks: HTTP/1.1 at the Service's port `http`, gRPC by HTTP/2 at the port `grpc`. With `hold`
    a request that comes while there is no pod waits for one, for `timeout_seconds` at most.

    With `tls` the pods speak TLS at both ports, by a certificate for the name of the namespace's servers.

    `compare_percent` is that of the others' requests by HTTP which it gets a copy of so that both answers are compared.
    These copies are in no figures but `compared`, `agreed` and `unlike`.
    """

    name: str
    service: str
    weight: int = 0
    mirror_percent: int = 0
    timeout_seconds: float = 60.0
    protocols: tuple[str, ...] = ("http",)
    hold: bool = False
    compare_percent: int = 0
    tls: bool = False

    def check(self) -> None:
        """Raise ValueError, with the field and the remedy, where a value cannot be."""
        _name(_LABEL, "the name of a deployment", self.name)
        _name(_LABEL, f"deployments[{self.name}].service", self.service)
        for what in ("weight", "mirror_percent", "compare_percent"):
            _number(f"deployments[{self.name}].{what}", getattr(self, what), 0, 100)
        _number(f"deployments[{self.name}].timeout_seconds", self.timeout_seconds, 0.001, 86_400)
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ValueError(f"deployments[{self.name}].protocols must be one or both of {', '.join(PROTOCOLS)}")
        for what in ("hold", "tls"):
            if not isinstance(getattr(self, what), bool):
                raise ValueError(f"deployments[{self.name}].{what} must be true or false")


@dataclass(frozen=True)
class RouteAuth:
    """Who may ask: whoever has a key of the Secret `keys_secret`, whoever has a token of `issuer`, or everybody.

    The Secret has the entries `primary` and `secondary`, or one of them. A token is a JWT for one of `audiences`, or
    for anybody where there are none; it is checked with the JSON Web Key Set `jwks`, or the one found at `jwks_uri`.
    To pods that answer the gateway alone it proves itself by the same entries of the Secret `proof_secret`.
    """

    mode: str = "key"  # key | token | none
    keys_secret: str = ""
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    jwks_uri: str = ""
    proof_secret: str = ""

    def check(self) -> None:
        """Raise ValueError, with the field and the remedy, where a value cannot be."""
        texts = (self.keys_secret, self.issuer, self.jwks, self.jwks_uri, self.proof_secret)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        if self.mode not in ("key", "token", "none"):
            raise ValueError("auth.mode must be key, token or none")
        if self.mode == "key":
            _name(_OBJECT, "auth.keys_secret", self.keys_secret)
        if self.mode == "token":
            if not self.issuer:
                raise ValueError("auth.issuer is missing: whose tokens open the endpoint?")
            if bool(self.jwks) == bool(self.jwks_uri):
                raise ValueError("auth needs jwks or jwks_uri, and not both")
            if self.jwks_uri and not re.fullmatch(KEY_SET_URI, self.jwks_uri):
                raise ValueError("auth.jwks_uri must be an http or https URL with a host name")
        if self.proof_secret:
            _name(_OBJECT, "auth.proof_secret", self.proof_secret)


@dataclass(frozen=True)
class RouteLimits:
    """What one gateway pod takes: requests in flight to each deployment, and clients' connections to the endpoint."""

    max_requests: int = 10_000
    max_connections: int = 10_000

    def check(self) -> None:
        """Raise ValueError, with the field and the remedy, where a value cannot be."""
        _number("limits.max_requests", self.max_requests, 1, 1_000_000)
        _number("limits.max_connections", self.max_connections, 1, 1_000_000)


@dataclass(frozen=True)
class EndpointRoutes:
    """How the gateway routes the requests of one endpoint: the operator writes it into the endpoint's ConfigMap.

    Each endpoint has a port of its own at the gateway, so the Host header says nothing. The weights sum to 100, or all
    are 0. `tls_secret` is a Secret of type kubernetes.io/tls, or empty for plain HTTP/1.1 and HTTP/2.
    """

    endpoint: str
    namespace: str
    port: int
    deployments: tuple[RouteDeployment, ...] = ()
    auth: RouteAuth = RouteAuth()
    limits: RouteLimits = RouteLimits()
    tls_secret: str = ""

    @property
    def version(self) -> str:
        """Names the whole content; the gateway tells it back when Envoy routes by it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        document = asdict(self)
        news = [(one, name) for one in document["deployments"] for name in ("hold", "compare_percent", "tls")]
        for holder, name in (*news, (document["auth"], "proof_secret")):
            if not holder[name]:  # so that older routes keep their version, and older gateways understand them
                del holder[name]
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EndpointRoutes:
        """Read what `to_json` wrote. Raises ValueError for anything else, and for a field that is not known here."""
        try:
            document = json.loads(text)
            made = [
                RouteDeployment(**{**one, "protocols": _texts(one.get("protocols", ["http"]))})
                for one in document.get("deployments", [])
            ]
            auth = document.get("auth", {})
            parts = {
                "deployments": tuple(made),
                "auth": RouteAuth(**{**auth, "audiences": _texts(auth.get("audiences", []))}),
                "limits": RouteLimits(**document.get("limits", {})),
            }
            routes = cls(**{**document, **parts})
            routes._check()
        except UNREADABLE as error:
            raise ValueError(f"no routes: {error}") from error
        return routes

    def _check(self) -> None:
        _name(_LABEL, "endpoint", self.endpoint)
        _name(_LABEL, "namespace", self.namespace)
        _number("port", self.port, 1024, 65535)
        if self.port in (GATEWAY_PORT, GATEWAY_READY_PORT):
            raise ValueError(f"port must not be {self.port}, which is the gateway's own")
        for deployment in self.deployments:
            deployment.check()
        names = [deployment.name for deployment in self.deployments]
        if len(set(names)) < len(names):
            raise ValueError("two deployments have the same name")
        if sum(deployment.weight for deployment in self.deployments) not in (0, 100):
            raise ValueError("the weights of the deployments must sum to 100, or all be 0")
        self.auth.check()
        self.limits.check()
        if self.tls_secret:
            _name(_OBJECT, "tls_secret", self.tls_secret)


@dataclass(frozen=True)
class DeploymentFigures:
    """What one gateway pod has counted of a deployment since its Envoy started; copies and health are requests too.

    `requests` are answers, those that the gateway gave for it too (504, 503 without a pod), and `errors` those of them
    that are 5xx; what gRPC calls an error is none where a pod says it. `absent` are the errors that the gateway gave
    because there was no pod. `client_errors` are the pods' answers with 4xx, without 401 and 429, which say nothing of
    a model; None from a gateway that does not count them. `active` are in flight, or wait for a connection
    to a pod. `latency` says how many pods' answers took up to so many milliseconds, for growing bounds; it is up to 5 s
    older than the rest, and the gateway's own answers are not in it.

    `waiting` are requests that wait for a first pod, and are in no other number. `rate`, of requests that came each
    second, and `concurrency`, of those in flight, are means over some ten seconds, for who asks more often than that.

    `compared` are copies of others' requests of which both answers are known since the agent started, `agreed` those of
    them that were answered alike. `unlike` are those of the others of which nothing could be compared: an error here,
    or outputs of other names or types.
    """

    requests: int = 0
    errors: int = 0
    active: int = 0
    latency: tuple[tuple[float, int], ...] = ()
    waiting: int = 0
    rate: float | None = None
    concurrency: float | None = None
    compared: int = 0
    agreed: int = 0
    unlike: int = 0
    absent: int = 0
    client_errors: int | None = 0

    @classmethod
    def of(cls, document: Any) -> DeploymentFigures:
        """Make one of a parsed document. Raises one of UNREADABLE, or ValueError, where a field is not of its type."""
        figures = read_known(cls, document)
        if "client_errors" not in document:
            figures = replace(figures, client_errors=None)
        latency = tuple((bound, count) for bound, count in figures.latency)
        counts = [figures.requests, figures.errors, figures.active, figures.waiting, *(count for _, count in latency)]
        counts += [figures.compared, figures.agreed, figures.unlike, figures.absent, figures.client_errors or 0]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise TypeError("a count is something else")
        numbers = [*(bound for bound, _ in latency), figures.rate or 0, figures.concurrency or 0]
        if not all(type(number) in (int, float) and isfinite(number) and number >= 0 for number in numbers):
            raise TypeError("a number is something else")
        return replace(figures, latency=latency)


@dataclass(frozen=True)
class RouteState:
    """How one gateway pod routes one endpoint, as GET /routes tells it at GATEWAY_PORT: {"endpoints": {NAME: this}}.

    GET /routes?endpoint=NAME tells that endpoint alone, and `figures` with it, by deployment; none where Envoy says
    none, or with &figures=false. `pod` is the name of the gateway pod.

    `version` is that of the EndpointRoutes by which its Envoy routes now, or empty while there are none. `reason` says
    why newer ones, or these with newer Secrets, are not in use: what Envoy had goes on, so it may be there although the
    `version` is the newest. Where it is because another endpoint has their port, `port_taken_by` names that endpoint
    and `port` the port; where a Secret does not exist, `missing_secret` names that. `ready` counts the addresses that
    its Envoy has of each deployment, in the protocol of which it has fewest: the operator gives a deployment a larger
    weight only when every gateway pod has some. A pod that leaves `ready` out is not asked for it. `away` names the
    deployments with a weight that get no requests now because they have no address, while others have. `signatures`
    say by deployment what its model takes, if GET /routes asks with &signatures=true: `name`, `version` and `inputs`,
    as a pod's model metadata has them. `since` is when its Envoy began to route so (RFC 3339). `no_key_set` says why
    the newest key set of the issuer could not be fetched.
    With `tls` the gateway pod knows the authority of pods that speak TLS.
    """

    version: str = ""
    reason: str = ""
    port: int = 0
    port_taken_by: str = ""
    ready: dict[str, int] | None = None
    missing_secret: str = ""
    pod: str = ""
    figures: dict[str, DeploymentFigures] | None = None
    away: tuple[str, ...] = ()
    signatures: dict[str, Any] | None = None
    no_key_set: str = ""
    since: str = ""
    tls: bool = False

    @classmethod
    def of(cls, document: Any) -> RouteState:
        """Make one of a parsed document. Raises ValueError where a field is not of its type."""
        try:
            state = read_known(cls, document)
            if state.figures is not None:
                figures = {name: DeploymentFigures.of(one) for name, one in state.figures.items()}
                state = replace(state, figures=figures)
            state = replace(state, away=_texts(list(state.away)))
            dict(state.signatures or {})
            texts = (
                state.version,
                state.reason,
                state.port_taken_by,
                state.missing_secret,
                state.no_key_set,
                state.since,
                state.pod,
                *(state.ready or {}),
            )
            texts += tuple(state.figures or {})
            numbers = (state.port, *(state.ready or {}).values())
        except UNREADABLE as error:
            raise ValueError(f"not the state of routes: {error!r}") from error
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise ValueError("not the state of routes: a field is of another type")
        return state


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a list of texts is something else")
    return tuple(values)


def _name(pattern: re.Pattern[str], what: str, value: Any) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{what} must be a name of Kubernetes, not {value!r}")


def _number(what: str, value: Any, least: float, most: float) -> None:
    # NaN is in no range, and True is no number.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{what} must be a number from {least:g} to {most:g}, not {value!r}")
    if isinstance(least, int) and not isinstance(value, int):
        raise ValueError(f"{what} must be a whole number, not {value!r}")
