"""Agreement of the operator and the gateway: where routes are written, what they are, and the gateway's reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, structs

from .common import UNREADABLE, Amount, Count, Document, Task, decode, read_known

# The operator writes routes into a ConfigMap for each endpoint, with this label, whose value is the endpoint's name,
# and one entry. The gateway tells at the port which version it routes by.
LABEL_ROUTES = "ultramarine.dev/routes"
ROUTES_ENTRY = "routes.json"
GATEWAY_PORT = 9902
GATEWAY_READY_PORT = 9901  # answers from when Envoy has all of its routes
# Ports on loopback of a gateway pod for clients behind a port-forward, which lead to the object storage and MLflow.
STORAGE_FORWARD_PORT = 7070
MLFLOW_FORWARD_PORT = 5000
GATEWAY_PODS = {"app.kubernetes.io/name": "ultramarine", "app.kubernetes.io/component": "gateway"}  # their labels
PIN_HEADER = "x-ultramarine-deployment"  # a request that carries it goes to the deployment that it names
KEY_SET_URI = r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?"
MAX_CAUSE = 500  # characters
PROTOCOLS = ("http", "grpc")  # also the names of a deployment's ports in its Service

# Names of Kubernetes; those of Secrets may be empty.
Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
SecretName = Annotated[str, Meta(pattern=r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)?\Z")]
Percent = Annotated[int, Meta(ge=0, le=100)]
# A whole number stays one, since the version of routes names their bytes.
Seconds = Annotated[int, Meta(ge=1, le=86_400)] | Annotated[float, Meta(ge=0.001, le=86_400)]
Bound = Annotated[int, Meta(ge=1, le=1_000_000)]


def rescaled(weights: Mapping[str, int], away: Collection[str]) -> dict[str, int]:
    """Return the percent of each deployment if those of `away` take no requests: the others share all of them.

    The shares keep their proportion. If no other deployment has a weight, the weights stay as they are.
    """
    rest = {name: weight for name, weight in weights.items() if weight and name not in away}
    total = sum(rest.values())
    if not total or len(rest) == len(weights):
        return {name: weight for name, weight in weights.items() if weight}
    parts = {name: divmod(weight * 100, total) for name, weight in rest.items()}
    short = 100 - sum(whole for whole, _ in parts.values())
    larger = sorted(parts, key=lambda name: (-parts[name][1], name))[:short]
    return {name: whole + (name in larger) for name, (whole, _) in parts.items()}


class RouteDeployment(Task, frozen=True):
    """Deployment of an endpoint, as the gateway routes to it: the ready pods of the Service `service`.

    `weight` is its percent of the requests. `mirror_percent` is the percent of the other deployments' requests of
    which it gets a copy. `timeout_seconds` is the time from a request's end to its answer's end. `protocols` are those
    that it speaks: HTTP/1.1 at the Service's port `http`, gRPC by HTTP/2 at the port `grpc`. With `hold`
    a request that comes while there is no pod waits for one, for `timeout_seconds` at most.

    With `tls` the pods speak TLS at both ports, by a certificate for the name of the namespace's servers.

    `compare_percent` is the percent of the other deployments' HTTP requests that it gets a copy of for a comparison of
    the answers. These copies are in no figures except `compared`, `agreed` and `unlike`.

    With `own` the pods run a container of the author's, with paths of its own. It checks no keys, and never gets any.
    `timeout_seconds` is then the time without data in an answer, of any length.

    With `v2` that container has the metadata of the Open Inference Protocol, of one model.

    `cause` says why no pod can start; while there is none, requests are refused with it.
    """

    name: Label
    service: Label
    weight: Percent = 0
    mirror_percent: Percent = 0
    timeout_seconds: Seconds = 60.0
    protocols: Annotated[tuple[Literal["http", "grpc"], ...], Meta(min_length=1)] = ("http",)
    hold: bool = False
    compare_percent: Percent = 0
    tls: bool = False
    own: bool = False
    v2: bool = False
    cause: Annotated[str, Meta(max_length=MAX_CAUSE)] = ""


class RouteAuth(Task, frozen=True):
    """Authentication: by a key of the Secret `keys_secret`, by a token of `issuer`, or none.

    The Secret has the entries `primary` and `secondary`, or one of them. A token is a JWT for one of `audiences`; if
    there are none, for any audience. It is checked with the JSON Web Key Set `jwks`, or the one at `jwks_uri`.
    The gateway authenticates to pods that answer gateways alone by the same entries of the Secret `proof_secret`.
    """

    mode: Literal["key", "token", "none"] = "key"
    keys_secret: SecretName = ""
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    jwks_uri: Annotated[str, Meta(pattern=rf"^({KEY_SET_URI})?\Z")] = ""
    proof_secret: SecretName = ""

    def check(self) -> None:
        """Raise ValueError, with the field and the remedy, if the mode lacks a field."""
        if self.mode == "key" and not self.keys_secret:
            raise ValueError("auth.keys_secret is missing. Name the Secret with the keys.")
        if self.mode == "token":
            if not self.issuer:
                raise ValueError("auth.issuer is missing. Name the issuer of the tokens.")
            if bool(self.jwks) == bool(self.jwks_uri):
                raise ValueError("auth needs jwks or jwks_uri. Set exactly one of the two.")


class RouteLimits(Task, frozen=True):
    """Limits of one gateway pod: requests in flight to each deployment, and clients' connections to the endpoint."""

    max_requests: Bound = 10_000
    max_connections: Bound = 10_000


class RouteTokens(Task, frozen=True):
    """Tokens of OpenAI-style answers: the deployments whose answers are counted, and the limit of each key.

    A key may use `per_minute` tokens in each gateway pod; 0: any number. Without `counted` nothing is counted.
    """

    counted: tuple[Label, ...] = ()
    per_minute: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


class EndpointRoutes(Task, frozen=True):
    """Routes of one endpoint's requests: the operator writes them into the endpoint's ConfigMap.

    Each endpoint has a port of its own at the gateway, which ignores the Host header. The weights sum to 100, or all
    are 0. `tls_secret` is a Secret of type kubernetes.io/tls, or empty for plain HTTP/1.1 and HTTP/2.
    """

    NOUN = "the routes of an endpoint"

    endpoint: Label
    namespace: Label
    port: Annotated[int, Meta(ge=1024, le=65535)]
    deployments: tuple[RouteDeployment, ...] = ()
    auth: RouteAuth = RouteAuth()
    limits: RouteLimits = RouteLimits()
    tls_secret: SecretName = ""
    tokens: RouteTokens = RouteTokens()

    @property
    def version(self) -> str:
        """Digest of the whole content; the gateway returns it once Envoy routes by it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        document = self.document()
        names = ("hold", "compare_percent", "tls", "own", "v2", "cause")
        optional = [(route, name) for route in document["deployments"] for name in names]
        for holder, name in (*optional, (document["auth"], "proof_secret")):
            if not holder[name]:  # so that older routes keep their version, and older gateways understand them
                del holder[name]
        if not self.tokens.counted:
            del document["tokens"]
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, data: bytes | str) -> EndpointRoutes:
        """Read what `to_json` wrote. Raises ValueError for anything else, and for an unknown field."""
        routes = decode(cls, data, cls.NOUN)
        if routes.port in (GATEWAY_PORT, GATEWAY_READY_PORT, STORAGE_FORWARD_PORT, MLFLOW_FORWARD_PORT):
            raise ValueError(f"port {routes.port} is the gateway's own. Choose another.")
        names = [deployment.name for deployment in routes.deployments]
        if len(set(names)) < len(names):
            raise ValueError("two deployments have the same name. Rename one of them.")
        if sum(deployment.weight for deployment in routes.deployments) not in (0, 100):
            raise ValueError("the weights of the deployments must sum to 100, or all be 0")
        routes.auth.check()
        return routes


class DeploymentFigures(Document, frozen=True):
    """Figures of a deployment in one gateway pod since its Envoy started; copies and health checks are requests too.

    `requests` are answers, with those of the gateway itself (504, 503 without a pod). `errors` are answers
    with 5xx; an error of gRPC in a pod's answer is not one. `absent` are the errors that the gateway gave
    because there was no pod. `client_errors` are the pods' answers with 4xx, without 401 and 429, which do not concern
    the model. An older gateway does not count them: None. `active` are in flight, or wait for a connection
    to a pod. `latency` has the number of pods' answers within growing bounds in milliseconds. It is up to 5 s
    older than the rest, and without the gateway's own answers.

    `waiting` are requests that wait for a first pod, and are in no other number. `rate`, of requests that came each
    second, and `concurrency`, of those in flight, are means over some ten seconds, for readers that ask more often.

    `compared` are copies of others' requests with both answers known since the agent started, `agreed` those of
    them with the same answer. `unlike` are those of the others that could not be compared: an error here,
    or outputs of other names or types.
    """

    requests: Count = 0
    errors: Count = 0
    active: Count = 0
    latency: tuple[tuple[Amount, Count], ...] = ()
    waiting: Count = 0
    rate: Amount | None = None
    concurrency: Amount | None = None
    compared: Count = 0
    agreed: Count = 0
    unlike: Count = 0
    absent: Count = 0
    client_errors: Count | None = 0


class RouteState(Document, frozen=True):
    """State of one endpoint in one gateway pod, as GET /routes at GATEWAY_PORT has it: {"endpoints": {NAME: this}}.

    GET /routes?endpoint=NAME has that endpoint alone, and its `figures`, by deployment; none if Envoy gives
    none, or with &figures=false. `pod` is the name of the gateway pod.

    `version` is that of the EndpointRoutes that its Envoy routes by, or empty without any. `reason` says
    why newer ones, or these with newer Secrets, are not in use. Envoy goes on with what it had, so a reason may be
    given beside the newest `version`. If another endpoint has their port, `port_taken_by` names that endpoint
    and `port` the port; `missing_secret` names a Secret that does not exist. `ready` counts the addresses that
    its Envoy has of each deployment, in the protocol with the fewest. A deployment gets a larger weight only when
    every gateway pod has some; a pod that leaves `ready` out does not count. `away` names the
    deployments with a weight that get no requests now because they have no address, while others have. `signatures`
    are the inputs of each deployment's model, if GET /routes asks with &signatures=true: `name`, `version` and
    `inputs`, as a pod's model metadata has them. `since` is when its Envoy began to route so (RFC 3339). `no_key_set`
    says why the newest key set of the issuer could not be fetched.
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
        """Make a state of a parsed document. Raises ValueError if a field has another type."""
        try:
            state = read_known(cls, document)
            uncounted = [
                name for name, figures in (document.get("figures") or {}).items() if "client_errors" not in figures
            ]
        except UNREADABLE as error:
            raise ValueError(f"not the state of routes: {error}") from error
        if state.figures and uncounted:
            old = {name: structs.replace(state.figures[name], client_errors=None) for name in uncounted}
            state = structs.replace(state, figures=state.figures | old)
        return state
