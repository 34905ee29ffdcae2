"""The pods behind an endpoint, as Envoy's clusters: pools of connections, what is borne, and who is left out."""

from __future__ import annotations

from ultramarine_contract.routes import EndpointRoutes, RouteDeployment
from ultramarine_contract.tls import server_name

from ultramarine_gateway.rendering import FROM_AGENT, TYPES, Document, cluster_name, compared, copies_name

CONNECT_SECONDS = 1.0
# The servers keep an idle connection for 75 s: whoever closes first must not be the one that a request is sent to.
IDLE_SECONDS = 50.0
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Copies in flight to one deployment. Where pods are slow to answer them, further ones are not sent.
_COPIES = 16
_TLS_PARAMETERS = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def clusters(routes: EndpointRoutes, authority: str = "") -> tuple[Document, ...]:
    """A cluster for each protocol of each deployment; its addresses are told apart, so that they leave it as it is.

    Pods that speak TLS have to prove the name of the namespace's servers to `authority`.
    """

    def pool(name: str, deployment: RouteDeployment, protocol: str, most: int) -> Document:
        alpn = "h2" if protocol == "grpc" else "http/1.1"
        secured = _by_tls(server_name("server", routes.namespace), authority, alpn) if deployment.tls else {}
        return _pool(name, protocol, most) | secured

    pools = [
        pool(cluster_name(routes.endpoint, each.name, protocol), each, protocol, routes.limits.max_requests)
        for each in routes.deployments
        for protocol in each.protocols
    ]
    copies = [pool(copies_name(routes.endpoint, d.name), d, "http", _COPIES) for d in compared(routes.deployments)]
    return (*pools, *copies)


def _pool(name: str, protocol: str, most: int) -> Document:
    http2 = {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}
    spoken = {"http2_protocol_options": http2} if protocol == "grpc" else {"http_protocol_options": {}}
    thresholds = {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "retry_budget": {"budget_percent": {"value": 25.0}, "min_retry_concurrency": 100},
    }
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": FROM_AGENT},
        "connect_timeout": f"{CONNECT_SECONDS:.3f}s",
        "lb_policy": "LEAST_REQUEST",
        # With some left out, the others take all: who is not ready is not in the file in the first place.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [thresholds]},
        # What a pod answers is its own affair (a full queue is a 503); one that cannot be reached is left out a while.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": TYPES + _HTTP_OPTIONS,
                "common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS:.3f}s"},
                "explicit_http_config": spoken,
            }
        },
    }


def _by_tls(name: str, authority: str, alpn: str) -> Document:
    """Speak TLS with whoever has a certificate of an authority for that name."""
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    trusted = {"trusted_ca": {"inline_string": authority}, "match_typed_subject_alt_names": names}
    context = {
        "@type": TYPES + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": name,
        "common_tls_context": {"alpn_protocols": [alpn], "tls_params": _TLS_PARAMETERS, "validation_context": trusted},
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}
