"""The listener of one endpoint: port, TLS, authentication and access log. A change drains its connections."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from urllib.parse import urlencode

from ultramarine_contract.common import COMPARED_HEADER, COPY_HEADER, GATEWAY_HEADER
from ultramarine_contract.routes import GATEWAY_READY_PORT, EndpointRoutes

from ultramarine_gateway.config.bootstrap import KEY_SETS_CLUSTER
from ultramarine_gateway.config.replies import local_replies
from ultramarine_gateway.config.tokens import CLAIMS, token_filters
from ultramarine_gateway.xds.resources import (
    AUDIENCE_FILTER,
    FROM_AGENT,
    HOLD_FILTER,
    KEYS_FILTER,
    TOKENS_FILTER,
    TYPES,
    Document,
)

_HTTP = TYPES + "envoy.extensions.filters.http."
_NETWORK = TYPES + "envoy.extensions.filters.network."
_KEYS = (files("ultramarine_gateway.config") / "keys.lua").read_text()

# Clients must not set timeouts and retries by Envoy's headers, nor headers between the gateway and the servers.
_STRIP_HEADERS: Document = {
    "name": "no-wishes",
    "typed_config": {
        "@type": TYPES + "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [
            {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
            {"remove": COMPARED_HEADER},
            {"remove": COPY_HEADER},
            {"remove": GATEWAY_HEADER},
        ],
    },
}

IDLE_SECONDS = 120  # limit on a client's idle connection
KEY_SET_SECONDS = 60  # between two attempts to fetch a key set after a failure

# Shares of requests in the access log; metrics count all of them.
LOGGED_PERCENT = 1
LOGGED_ERRORS_PERCENT = 10
_LINE = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "level": "INFO",
    "logger": "envoy.access",
    "requestId": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%",
    "grpcStatus": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "bytesReceived": "%BYTES_RECEIVED%",
    "bytesSent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
    "upstreamMilliseconds": "%RESPONSE_DURATION%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "pod": "%UPSTREAM_HOST%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
}


def listener(routes: EndpointRoutes, host: str) -> Document:
    """Return the listener at the endpoint's port; routes and certificates are separate, so that they drain nothing."""
    chain: Document = {
        "filters": [_connection_limit(routes), _http(routes)],
        "transport_socket_connect_timeout": "10s",  # limit on a TLS handshake
    }
    if routes.tls_secret:
        chain["transport_socket"] = _tls(routes)
    return {
        "name": routes.endpoint,
        "stat_prefix": routes.endpoint,
        "address": _address(host, routes.port),
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": 1 << 20,
    }


def readiness(host: str) -> Document:
    """Return the listener for the readiness probe of Envoy's container; it is sent last and outlives the agent."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    http = {
        "@type": _NETWORK + "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "-ready",
        "route_config": {"virtual_hosts": [{"name": "ready", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": _HTTP + "router.v3.Router"}}],
    }
    return {
        "name": "-ready",  # no endpoint can have this name
        "stat_prefix": "-ready",
        "address": _address(host, GATEWAY_READY_PORT),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port, "ipv4_compat": host == "::"}}


def _connection_limit(routes: EndpointRoutes) -> Document:
    return {
        "name": "connections",
        "typed_config": {
            "@type": _NETWORK + "connection_limit.v3.ConnectionLimit",
            "stat_prefix": routes.endpoint,
            "max_connections": routes.limits.max_connections,
        },
    }


def _http(routes: EndpointRoutes) -> Document:
    router = {"name": "router", "typed_config": {"@type": _HTTP + "router.v3.Router", "suppress_envoy_headers": True}}
    return {
        "name": "http",
        "typed_config": {
            "@type": _NETWORK + "http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": routes.endpoint,
            "codec_type": "AUTO",
            "rds": {"route_config_name": routes.endpoint, "config_source": FROM_AGENT},
            "http_filters": [*_admission(routes), *token_filters(routes), *_holding(routes), router],
            "use_remote_address": True,
            "early_header_mutation_extensions": [_STRIP_HEADERS],
            "normalize_path": True,
            "request_headers_timeout": "10s",
            # Also for a connection without a request.
            "common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"},
            "http2_protocol_options": {
                "max_concurrent_streams": 1000,
                "initial_stream_window_size": 1 << 20,
                "initial_connection_window_size": 16 << 20,
            },
            # A client's id is kept, so that the client can find its request in the log.
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_id_extension": {
                "typed_config": {
                    "@type": TYPES + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                    "pack_trace_reason": False,
                }
            },
            "server_header_transformation": "PASS_THROUGH",
            "local_reply_config": local_replies(routes),
            "access_log": [_access_log(routes)],
        },
    }


def _admission(routes: EndpointRoutes) -> list[Document]:
    if routes.auth.mode == "key":
        typed = {"@type": _HTTP + "lua.v3.Lua", "default_source_code": {"inline_string": _KEYS}}
        return [{"name": KEYS_FILTER, "typed_config": typed}]
    if routes.auth.mode == "token":
        provider: Document = {
            "issuer": routes.auth.issuer,
            "audiences": list(routes.auth.audiences),
            "forward": True,
            "require_expiration": True,
            # Only in this header: a token in a URL ends up in logs.
            "from_headers": [{"name": "Authorization", "value_prefix": scheme} for scheme in ("Bearer ", "bearer ")],
            "payload_in_metadata": CLAIMS,
        }
        if routes.auth.jwks:
            provider["local_jwks"] = {"inline_string": routes.auth.jwks}
        else:
            query = urlencode({"uri": routes.auth.jwks_uri})
            uri = {"uri": f"http://agent/?{query}", "cluster": KEY_SETS_CLUSTER, "timeout": "5s"}
            provider["remote_jwks"] = {
                "http_uri": uri,
                "cache_duration": "300s",
                "async_fetch": {"fast_listener": True, "failed_refetch_duration": f"{KEY_SET_SECONDS}s"},
            }
        checked = {
            "@type": _HTTP + "jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        }
        return [{"name": TOKENS_FILTER, "typed_config": checked}, *_audience(routes.auth.audiences)]
    return []


def _audience(audiences: Sequence[str]) -> list[Document]:
    """Require an exact audience: the token filter ignores the scheme and a trailing slash."""
    if not audiences:
        return []
    texts = [{"string_match": {"exact": audience}} for audience in audiences]
    matches = [*texts, *({"list_match": {"one_of": text}} for text in texts)]
    claim = {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": CLAIMS}, {"key": "aud"}]}
    matching = {"or_ids": {"ids": [{"metadata": {**claim, "value": match}} for match in matches]}}
    rules = {"action": "ALLOW", "policies": {"audience": {"permissions": [{"any": True}], "principals": [matching]}}}
    return [{"name": AUDIENCE_FILTER, "typed_config": {"@type": _HTTP + "rbac.v3.RBAC", "rules": rules}}]


def _holding(routes: EndpointRoutes) -> list[Document]:
    """Return the filter that holds requests, for routes that enable it; it comes after authentication."""
    if not any(deployment.hold for deployment in routes.deployments):
        return []
    typed = {
        "@type": _HTTP + "ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        # The agent answers when a pod is ready, or after the route's limit.
        "grpc_service": {"envoy_grpc": {"cluster_name": "agent"}, "timeout": "90000s"},
        # Without an agent requests go on, and fail for lack of a pod.
        "failure_mode_allow": True,
        "allowed_headers": {"patterns": [{"exact": ":path"}]},  # the agent needs no keys
    }
    return [{"name": HOLD_FILTER, "typed_config": typed, "disabled": True}]


def _tls(routes: EndpointRoutes) -> Document:
    certificate = {"name": routes.endpoint, "sds_config": FROM_AGENT}
    return {
        "name": "tls",
        "typed_config": {
            "@type": TYPES + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [certificate],
            },
        },
    }


def _access_log(routes: EndpointRoutes) -> Document:
    def part(percent: int) -> Document:
        sample = {"runtime_key": f"logged.{percent}", "percent_sampled": {"numerator": percent}}
        return {"runtime_filter": sample | {"use_independent_randomness": True}}

    wrong = {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "logged.code"}}}
    errors = {"and_filter": {"filters": [{"status_code_filter": wrong}, part(LOGGED_ERRORS_PERCENT)]}}
    return {
        "name": "stdout",
        "filter": {"or_filter": {"filters": [errors, part(LOGGED_PERCENT)]}},
        "typed_config": {
            "@type": TYPES + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": {**_LINE, "endpoint": routes.endpoint}},
        },
    }
