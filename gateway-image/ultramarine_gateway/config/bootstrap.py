"""Bootstrap configuration of Envoy: the agent's socket, the admin interface, and the statistics to keep."""

from __future__ import annotations

from collections.abc import Sequence

from ultramarine_gateway.config.forwards import Forward, forward_cluster, forward_listener
from ultramarine_gateway.xds.resources import FROM_AGENT, TYPES, Document

AGENT_SOCKET = "agent.sock"
ADMIN_SOCKET = "admin.sock"
KEY_SETS_SOCKET, KEY_SETS_CLUSTER = "keysets.sock", "key-sets"
_CLIENTS_LIMIT = 50_000  # connections of all endpoints together

# Envoy creates only these: the others would need most of the memory of a gateway with many endpoints.
_KEPT = (
    r"cluster\.[^.]+\.(upstream_rq_(total|completed|active|pending_active|time|timeout|retry|retry_success|retry_overflow|pending_overflow|[1-5]xx|401|429"
    r"|tx_reset|rx_reset)|upstream_cx_(active|connect_fail|connect_timeout|none_healthy|destroy_remote_with_active_rq)"
    r"|membership_(total|healthy)|outlier_detection\.ejections_active)",
    r"http\.[^.]+\.(downstream_rq_(total|active|time|[1-5]xx|rx_reset|timeout)|downstream_cx_(total|active)"
    r"|jwt_authn\.(allowed|denied)|lua\.errors)",
    r"listener\.[^.]+\.(downstream_cx_(total|active|overflow)|ssl\.(handshake|connection_error|certificate\..+))",
    r"listener_manager\.(lds\.update_rejected|total_listeners_(active|warming|draining))",
    r"cluster_manager\.(cds\.update_rejected|active_clusters|warming_clusters)",
    r"connection_limit\.[^.]+\.limited_connections",
    r"control_plane\.connected_state",
    r"server\.(live|state|uptime|memory_allocated|memory_heap_size|total_connections|concurrency)",
    r"overload\..*",
)
# `churn/blue/http` is the name of a cluster, `churn` of a listener: the parts become labels.
_LABELS = (
    ("endpoint", r"^cluster\.(([^/.]+)/)"),
    ("deployment", r"^cluster\.[^/.]+/(([^/.]+)[/.])"),
    ("protocol", r"^cluster\.[^/.]+/[^/.]+/(([^/.]+)\.)"),
    ("endpoint", r"^http\.(([^.]+)\.)"),
    ("endpoint", r"^listener\.(([^.]+)\.)"),
    ("endpoint", r"^connection_limit\.(([^.]+)\.)"),
    ("certificate", r"^listener\.[^.]+\.ssl\.certificate(\.([^.]+))\."),
    ("code", r"_rq(_([1-5]xx))$"),
)
_MILLISECONDS = [1, 2, 3, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 60000]


def fine_milliseconds() -> list[int]:
    """Return bounds from 1 ms to 60 s, each at most 25 % above the one before as whole milliseconds allow."""
    bounds = [1]
    while bounds[-1] < 60_000:
        bounds.append(min(60_000, max(bounds[-1] + 1, bounds[-1] * 5 // 4)))
    return bounds


def bootstrap(folder: str, forwards: Sequence[Forward] = ()) -> Document:
    """Return Envoy's configuration with these forwarded ports.

    Envoy and the agent use sockets in `folder` for the rest.
    """
    typed = {
        "@type": TYPES + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": _CLIENTS_LIMIT,
    }
    http2 = {
        "@type": TYPES + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    agent = {
        **_by_socket("agent", f"{folder}/{AGENT_SOCKET}"),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        # Each held request has its own stream to the agent, and the agent limits their number.
        "circuit_breakers": {
            "thresholds": [{"max_requests": _CLIENTS_LIMIT, "max_pending_requests": _CLIENTS_LIMIT}],
        },
    }
    servers = [forward_cluster(forward) for forward in forwards]
    # Envoy reconnects to a restarted agent within a second, and keeps its configuration meanwhile.
    retry = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    service = {"envoy_grpc": {"cluster_name": "agent", "retry_policy": retry}}
    return {
        "node": {"id": "gateway", "cluster": "ultramarine"},
        "admin": {"address": {"pipe": {"path": f"{folder}/{ADMIN_SOCKET}", "mode": 0o600}}},
        "static_resources": {
            "clusters": [agent, _by_socket(KEY_SETS_CLUSTER, f"{folder}/{KEY_SETS_SOCKET}"), *servers],
            "listeners": [forward_listener(forward) for forward in forwards],
        },
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]},
            "lds_config": FROM_AGENT,
            "cds_config": FROM_AGENT,
        },
        "stats_config": {
            "use_all_default_tags": False,
            "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in _LABELS],
            "stats_matcher": {"inclusion_list": {"patterns": [{"safe_regex": {"regex": regex}} for regex in _KEPT]}},
            # The first match applies. Deployments are compared by the times of their pods, which need fine bounds.
            "histogram_bucket_settings": [
                {"match": {"safe_regex": {"regex": r"cluster\..*upstream_rq_time"}}, "buckets": fine_milliseconds()},
                {"match": {"safe_regex": {"regex": ".*"}}, "buckets": _MILLISECONDS},
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": typed}
            ]
        },
        # The expression for health paths is larger than Envoy's default limit.
        "layered_runtime": {"layers": [{"name": "regex", "static_layer": {"re2.max_program_size.error_level": 500}}]},
    }


def _by_socket(name: str, path: str) -> Document:
    addresses = [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}]
    assignment = {"cluster_name": name, "endpoints": addresses}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}
