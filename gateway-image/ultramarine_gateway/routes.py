"""The routes of one endpoint: pin header first, then the weights; each deployment with its timeout and its mirrors."""

from __future__ import annotations

from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER, GATEWAY_HEADER
from ultramarine_contract.routes import PIN_HEADER, EndpointRoutes, RouteDeployment

from ultramarine_gateway.rendering import (
    AUDIENCE_FILTER,
    CLUSTER_SAID,
    HOLD_FILTER,
    KEYS_FILTER,
    LUA_PER_ROUTE,
    SECONDS_SAID,
    TOKENS_FILTER,
    TYPES,
    Document,
    Secrets,
    cluster_name,
    compared,
    copies_name,
    seconds,
    speaks,
)

# What tells whether somebody is there, and nothing else: asked by probes and balancers, which have no key.
HEALTH = (
    r"/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready"
    r"|/inference\.GRPCInferenceService/(ServerLive|ServerReady|ModelReady)"
)
HEALTH_SECONDS = 5.0
_JWT_PER_ROUTE = TYPES + "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
_RBAC_PER_ROUTE = TYPES + "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_OPEN: dict[str, Document] = {
    "key": {KEYS_FILTER: {"@type": LUA_PER_ROUTE, "disabled": True}},
    "token": {
        TOKENS_FILTER: {"@type": _JWT_PER_ROUTE, "disabled": True},
        AUDIENCE_FILTER: {"@type": _RBAC_PER_ROUTE},  # without rules, which is not at all
    },
    "none": {},
}
_HOLD_PER_ROUTE = TYPES + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_PARTS = 1_000_000
# What is copied so that answers are compared. By gRPC nobody says how long a message is.
COPIED_BYTES = 256 * 1024
_SHORT: Document = {"name": "content-length", "range_match": {"start": 0, "end": COPIED_BYTES + 1}}

# Only what no pod has seen yet is sent to another one: a prediction may have effects.
RETRY: Document = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "previous_hosts",
            "typed_config": {"@type": TYPES + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
}


def route_configuration(
    routes: EndpointRoutes,
    secrets: Secrets,
    held: frozenset[str] = frozenset(),
    word: str = "",
    absent: frozenset[str] = frozenset(),
) -> Document:
    """What Envoy does with a request to this endpoint, whatever its Host header says.

    Requests to deployments that are `held` wait until there is a pod. Those that are `absent` get no request while
    another one can take it. By `word` this gateway pod asks servers for the answers that it compares.
    """
    # Of what servers keep for gateway pods strangers learn nothing.
    listed = [*_health(routes, absent), _answer({"path": ANSWERS_PATH}, 404, f"{ANSWERS_PATH} is not open here")]
    for protocol in ("grpc", "http"):  # gRPC first: its match is the narrower one
        listed += _pinned(routes, protocol, held, absent)
    pins = {"prefix": "/", "headers": [{"name": PIN_HEADER, "present_match": True}]}
    unknown = f"no deployment of {routes.endpoint} has the name in {PIN_HEADER}, or it does not speak this protocol"
    listed.append(_answer(pins, 404, unknown))
    for protocol in ("grpc", "http"):
        listed += _weighted(routes, protocol, held, word, absent)
    host: Document = {"name": routes.endpoint, "domains": ["*"], "routes": listed}
    if routes.auth.mode == "key":
        digests = dict(secrets.digests or {})
        host["typed_per_filter_config"] = {KEYS_FILTER: {"@type": LUA_PER_ROUTE, "filter_context": digests}}
    # Clusters are told before routes, and taken away after them.
    told: Document = {"name": routes.endpoint, "virtual_hosts": [host], "validate_clusters": False}
    if secrets.proof:
        told["request_headers_to_add"] = [_set(GATEWAY_HEADER, secrets.proof.replace("%", "%%"))]
    return told


def _pinned(routes: EndpointRoutes, protocol: str, held: frozenset[str], absent: frozenset[str]) -> list[Document]:
    listed = []
    for deployment in speaks(routes.deployments, protocol):
        named = {"headers": [{"name": PIN_HEADER, "string_match": {"exact": deployment.name}}]}
        match = _match(protocol) | named
        if deployment.name in absent:
            listed.append(_answer(match, 503, f"deployment {deployment.name} of {routes.endpoint} has no ready pod"))
        else:
            hold = _hold(routes, deployment, protocol) if deployment.name in held else {}
            listed.append({"match": match, "route": _to(routes, deployment, protocol), **hold})
    return listed


def _taking(routes: EndpointRoutes, protocol: str, absent: frozenset[str]) -> list[RouteDeployment]:
    """The deployments that share the requests: those with a weight, and of them those with pods if any has some."""
    weighted = [deployment for deployment in speaks(routes.deployments, protocol) if deployment.weight]
    return [deployment for deployment in weighted if deployment.name not in absent] or weighted


def _weighted(
    routes: EndpointRoutes, protocol: str, held: frozenset[str], word: str, absent: frozenset[str]
) -> list[Document]:
    """A route for each weight, which takes its share of what comes; Envoy draws one number for all of them.

    Envoy's own weighted clusters share one timeout and one list of mirrors, and here each deployment has its own.
    Of a deployment that another one is compared with, a part has a route of its own: its requests say that they are
    compared, all of them, and so the server keeps no other answers. Only short requests go there: who does not read
    his copy holds up what is longer than the buffers on its way, and with it the request itself.
    """
    taking = _taking(routes, protocol, absent)
    if not taking:
        why = f"no deployment of {routes.endpoint} that has a weight speaks {protocol}"
        return [_answer(_match(protocol), 503 if protocol == "http" else 404, why)]
    other = next(iter(compared(routes.deployments)), None) if protocol == "http" else None
    whole, so_far, listed = sum(deployment.weight for deployment in taking) * 100, 0, []
    for deployment in taking:
        action, mirrors = _to(routes, deployment, protocol), _mirrors(routes, deployment, protocol)
        hold = _hold(routes, deployment, protocol) if deployment.name in held else {}
        if other and other.name != deployment.name:
            match = _match(protocol) | _share(so_far + deployment.weight * other.compare_percent, whole)
            copied = action | {"request_mirror_policies": [*mirrors, _copy(routes, other)]}
            named = {"request_headers_to_add": [_named(word)]}
            listed.append({"match": match | {"headers": [_SHORT]}, "route": copied, **hold, **named})
        so_far += deployment.weight * 100
        # After the other one with the whole share, since long requests go by this one alone.
        match = _match(protocol) | _share(so_far, whole)
        listed.append({"match": match, "route": action | _mirrored(mirrors), **hold})
    return listed


def _share(so_far: int, whole: int) -> Document:
    """A match of so much of what comes; of all there is nothing to match."""
    share = {"numerator": round(so_far * _PARTS / whole), "denominator": "MILLION"}
    return {"runtime_fraction": {"default_value": share}} if so_far < whole else {}


def _mirrored(mirrors: list[Document]) -> Document:
    return {"request_mirror_policies": mirrors} if mirrors else {}


def _copy(routes: EndpointRoutes, deployment: RouteDeployment) -> Document:
    return {
        "cluster": copies_name(routes.endpoint, deployment.name),
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [{"append": _set(COPY_HEADER, "1")}],
    }


def _named(word: str) -> Document:
    """A name for a request and its copy that nobody else has; clients may send one x-request-id many times."""
    return _set(COMPARED_HEADER, f"{word} %UNIQUE_ID%")


def _set(header: str, value: str) -> Document:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _hold(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str) -> Document:
    """Ask the agent for leave, which it gives when it has an address of the deployment."""
    cluster = cluster_name(routes.endpoint, deployment.name, protocol)
    said = {CLUSTER_SAID: cluster, SECONDS_SAID: f"{deployment.timeout_seconds:g}"}
    asked = {"@type": _HOLD_PER_ROUTE, "check_settings": {"context_extensions": said}}
    return {"typed_per_filter_config": {HOLD_FILTER: asked}}


def _health(routes: EndpointRoutes, absent: frozenset[str]) -> list[Document]:
    listed = []
    for protocol in ("grpc", "http"):
        taking = _taking(routes, protocol, absent)
        if taking:
            shares = [
                {"name": cluster_name(routes.endpoint, deployment.name, protocol), "weight": deployment.weight}
                for deployment in taking
            ]
            match = {name: value for name, value in _match(protocol).items() if name != "prefix"}
            route = {
                "match": match | {"safe_regex": {"regex": HEALTH}},
                "route": {
                    "weighted_clusters": {"clusters": shares},
                    "timeout": seconds(HEALTH_SECONDS),
                    "retry_policy": RETRY,
                },
            }
            listed.append(route | _open_to_all(routes))
    return listed


def _open_to_all(routes: EndpointRoutes) -> Document:
    opened = _OPEN[routes.auth.mode]
    return {"typed_per_filter_config": opened} if opened else {}


def _match(protocol: str) -> Document:
    return {"prefix": "/", "grpc": {}} if protocol == "grpc" else {"prefix": "/"}


def _to(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str) -> Document:
    return {
        "cluster": cluster_name(routes.endpoint, deployment.name, protocol),
        "timeout": seconds(deployment.timeout_seconds),
        # While a model thinks nothing is sent, and the connection's idle time must not end the request first.
        "idle_timeout": seconds(max(deployment.timeout_seconds + 10, 300)),
        "retry_policy": RETRY,
    }


def _mirrors(routes: EndpointRoutes, answering: RouteDeployment, protocol: str) -> list[Document]:
    return [
        {
            "cluster": cluster_name(routes.endpoint, deployment.name, protocol),
            "runtime_fraction": {"default_value": {"numerator": deployment.mirror_percent}},
            "disable_shadow_host_suffix_append": True,
        }
        for deployment in speaks(routes.deployments, protocol)
        if deployment.mirror_percent and deployment.name != answering.name
    ]


def _answer(match: Document, status: int, why: str) -> Document:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": why}}}
