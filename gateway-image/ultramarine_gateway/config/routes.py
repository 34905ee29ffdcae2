"""The routes of one endpoint: first the pin header, then the weights, with timeouts and mirrors per deployment."""

from __future__ import annotations

from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER, GATEWAY_HEADER
from ultramarine_contract.routes import PIN_HEADER, EndpointRoutes, RouteDeployment

from ultramarine_gateway.config.replies import REPLIES
from ultramarine_gateway.config.tokens import token_settings
from ultramarine_gateway.xds.resources import (
    ABSENCE_SECONDS,
    AUDIENCE_FILTER,
    CLUSTER_ENTRY,
    HOLD_FILTER,
    KEYS_FILTER,
    LUA_PER_ROUTE,
    SECONDS_ENTRY,
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

# Paths that tell only whether the endpoint is up, for probes and load balancers, which have no key.
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
        AUDIENCE_FILTER: {"@type": _RBAC_PER_ROUTE},  # without rules, which disables it
    },
    "none": {},
}
_HOLD_PER_ROUTE = TYPES + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_PARTS = 1_000_000
# Limit on copied requests. gRPC does not declare the length of a message.
COPIED_BYTES = 256 * 1024
_SHORT: Document = {"name": "content-length", "range_match": {"start": 0, "end": COPIED_BYTES + 1}}

# Only requests that no pod has received are sent again, since a prediction may have effects.
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
    reader: str = "",
    absent: frozenset[str] = frozenset(),
) -> Document:
    """Return the routes of an endpoint, for any Host header.

    Requests to `held` deployments wait for a pod. Deployments that are `absent` get no request while another can take
    it. `reader` is the id by which this gateway pod reads answers from servers.
    """
    listed = _health(routes, absent)
    if {deployment.own for deployment in routes.deployments} != {True}:
        # Clients must not read the answers that servers keep for gateway pods.
        listed.append(_answer({"path": ANSWERS_PATH}, 404, f"{ANSWERS_PATH} is not open here"))
    for protocol in ("grpc", "http"):  # gRPC first: its match is the narrower one
        listed += _pinned(routes, protocol, held, absent)
    pins = {"prefix": "/", "headers": [{"name": PIN_HEADER, "present_match": True}]}
    unknown = f"no deployment of {routes.endpoint} has the name in {PIN_HEADER}, or it does not speak this protocol"
    listed.append(_answer(pins, 404, unknown))
    for protocol in ("grpc", "http"):
        listed += _weighted(routes, protocol, held, reader, absent)
    host: Document = {"name": routes.endpoint, "domains": ["*"], "routes": listed}
    if routes.auth.mode == "key":
        digests = dict(secrets.digests or {})
        host["typed_per_filter_config"] = {KEYS_FILTER: {"@type": LUA_PER_ROUTE, "filter_context": digests}}
    # Clusters are sent before routes, and removed after them.
    configuration: Document = {"name": routes.endpoint, "virtual_hosts": [host], "validate_clusters": False}
    if secrets.proof:
        configuration["request_headers_to_add"] = [_set(GATEWAY_HEADER, secrets.proof.replace("%", "%%"))]
    return configuration


def _pinned(routes: EndpointRoutes, protocol: str, held: frozenset[str], absent: frozenset[str]) -> list[Document]:
    listed = []
    for deployment in speaks(routes.deployments, protocol):
        named = {"headers": [{"name": PIN_HEADER, "string_match": {"exact": deployment.name}}]}
        match = _match(protocol) | named
        if deployment.name in absent:
            listed.append(_absent(match, routes, deployment))
        else:
            settings = _settings(routes, deployment, protocol, held)
            listed.append({"match": match, "route": _to(routes, deployment, protocol), **settings})
    return listed


def _taking(routes: EndpointRoutes, protocol: str, absent: frozenset[str]) -> list[RouteDeployment]:
    """Return the deployments that share the requests: those with a weight, and with pods if any has pods."""
    weighted = [deployment for deployment in speaks(routes.deployments, protocol) if deployment.weight]
    return [deployment for deployment in weighted if deployment.name not in absent] or weighted


def _weighted(
    routes: EndpointRoutes, protocol: str, held: frozenset[str], reader: str, absent: frozenset[str]
) -> list[Document]:
    """Return a route for each weight; Envoy draws one random number for all of them.

    Envoy's own weighted clusters share one timeout and one list of mirrors; here each deployment has its own. If a
    deployment is compared with another, a part of its requests has another route. Its header marks each request, and
    the server keeps only their answers. Only short requests go there: a slow reader of the copy would delay the
    request itself if it exceeds the buffers.
    """
    taking = _taking(routes, protocol, absent)
    if not taking:
        why = f"no deployment of {routes.endpoint} that has a weight speaks {protocol}"
        return [_answer(_match(protocol), 503 if protocol == "http" else 404, why)]
    other = next(iter(compared(routes.deployments)), None) if protocol == "http" else None
    whole, so_far, listed = sum(deployment.weight for deployment in taking) * 100, 0, []
    for deployment in taking:
        if deployment.cause and deployment.name in absent:
            so_far += deployment.weight * 100
            listed.append(_absent(_match(protocol) | _share(so_far, whole), routes, deployment))
            continue
        action, mirrors = _to(routes, deployment, protocol), _mirrors(routes, deployment, protocol)
        settings = _settings(routes, deployment, protocol, held)
        if other and other.name != deployment.name:
            match = _match(protocol) | _share(so_far + deployment.weight * other.compare_percent, whole)
            copied = action | {"request_mirror_policies": [*mirrors, _copy(routes, other)]}
            named = {"request_headers_to_add": [_named(reader)]}
            listed.append({"match": match | {"headers": [_SHORT]}, "route": copied, **settings, **named})
        so_far += deployment.weight * 100
        # After the compared route, with the whole share, since long requests use this route alone.
        match = _match(protocol) | _share(so_far, whole)
        if deployment.own and mirrors:
            # Streams are not copied, and have no length.
            listed.append({"match": match | {"headers": [_SHORT]}, "route": action | _mirrored(mirrors), **settings})
            mirrors = []
        listed.append({"match": match, "route": action | _mirrored(mirrors), **settings})
    return listed


def _share(so_far: int, whole: int) -> Document:
    """Return a match of this share of the requests; empty for all of them."""
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


def _named(reader: str) -> Document:
    """Return a header with a unique id of a request and its copy; clients may repeat an x-request-id."""
    return _set(COMPARED_HEADER, f"{reader} %UNIQUE_ID%")


def _set(header: str, value: str) -> Document:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _settings(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str, held: frozenset[str]) -> Document:
    """Return the settings of filters for the routes of a deployment, and the sentence for its timeout."""
    hold = _hold(routes, deployment, protocol) if deployment.name in held else {}
    settings = hold | token_settings(routes, deployment, protocol)
    late = _late(f"deployment {deployment.name} of {routes.endpoint}", deployment.timeout_seconds)
    return late | ({"typed_per_filter_config": settings} if settings else {})


def _late(server: str, limit: float) -> Document:
    """Return the metadata with the sentence for requests without an answer in time."""
    return {"metadata": {"filter_metadata": {REPLIES: {"late": f"{server} gave no answer within {limit:g} s"}}}}


def _hold(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str) -> Document:
    """Hold requests at the agent until the deployment has an address."""
    cluster = cluster_name(routes.endpoint, deployment.name, protocol)
    entries = {CLUSTER_ENTRY: cluster, SECONDS_ENTRY: f"{deployment.timeout_seconds:g}"}
    settings = {"@type": _HOLD_PER_ROUTE, "check_settings": {"context_extensions": entries}}
    return {HOLD_FILTER: settings}


def _health(routes: EndpointRoutes, absent: frozenset[str]) -> list[Document]:
    listed = []
    for protocol in ("grpc", "http"):
        # The paths of a container may mean anything.
        taking = [deployment for deployment in _taking(routes, protocol, absent) if not deployment.own]
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
            listed.append(route | _late(f"endpoint {routes.endpoint}", HEALTH_SECONDS) | _open_to_all(routes))
    return listed


def _open_to_all(routes: EndpointRoutes) -> Document:
    opened = _OPEN[routes.auth.mode]
    return {"typed_per_filter_config": opened} if opened else {}


def _match(protocol: str) -> Document:
    return {"prefix": "/", "grpc": {}} if protocol == "grpc" else {"prefix": "/"}


def _to(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str) -> Document:
    if deployment.own:
        return {
            "cluster": cluster_name(routes.endpoint, deployment.name, protocol),
            "timeout": "0s",
            "retry_policy": RETRY | {"per_try_idle_timeout": seconds(deployment.timeout_seconds)},
            # The client's idle timeout must be longer than the pod's, whose answer names the cause.
            "idle_timeout": seconds(max(deployment.timeout_seconds + 10, 300)),
            "upgrade_configs": [{"upgrade_type": "websocket"}],
        }
    return {
        "cluster": cluster_name(routes.endpoint, deployment.name, protocol),
        "timeout": seconds(deployment.timeout_seconds),
        # A request without data is not idle: the model computes, and the idle timeout must be longer.
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


def _absent(match: Document, routes: EndpointRoutes, deployment: RouteDeployment) -> Document:
    """Return the refusal of requests to a deployment without a ready pod, with the cause if it is known."""
    cause = f": {deployment.cause}" if deployment.cause else ""
    refusal = _answer(match, 503, f"deployment {deployment.name} of {routes.endpoint} has no ready pod{cause}")
    return refusal | {"response_headers_to_add": [_set("retry-after", str(ABSENCE_SECONDS))]}


def _answer(match: Document, status: int, why: str) -> Document:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": why}}}
