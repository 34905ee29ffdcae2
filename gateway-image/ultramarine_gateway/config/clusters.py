"""Envoy's clusters: connections to the pods of an endpoint, limits, outlier detection and addresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultramarine_contract.common import GATEWAY_HEADER
from ultramarine_contract.routes import EndpointRoutes, RouteDeployment
from ultramarine_contract.tls import server_name

from ultramarine_gateway.xds.resources import FROM_AGENT, TYPES, Document, cluster_name, compared, copies_name

Address = tuple[str, int]

# Linux repeats a lost SYN after 1 s and after 3 s. A starved pod also needs time for its part of the TLS handshake.
CONNECT_SECONDS = 4.0
# The platform's servers keep an idle connection for 75 s. Envoy must close it first, so that no request meets a closed
# one, which it could not repeat. Servers of authors close theirs after 5 s (uvicorn, Node) or 2 s (Gunicorn).
IDLE_SECONDS = 50.0
OWN_IDLE_SECONDS = 1.0
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Copies in flight to one deployment; further copies are not sent.
_COPIES = 16
_TLS_PARAMETERS = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def clusters(routes: EndpointRoutes, authority: str = "") -> tuple[Document, ...]:
    """Return a cluster for each protocol of each deployment; its addresses are separate resources.

    Pods that speak TLS need a certificate of `authority` for the name of the namespace's servers.
    """

    def pool(name: str, deployment: RouteDeployment, protocol: str, most: int) -> Document:
        alpn = "h2" if protocol == "grpc" else "http/1.1"
        secured = _by_tls(server_name("server", routes.namespace), authority, alpn) if deployment.tls else {}
        withheld = _withheld(routes.auth.mode) if deployment.own else ()
        # HTTP/2 announces the end of a connection, and a request after that is sent again.
        idle = OWN_IDLE_SECONDS if deployment.own and protocol == "http" else IDLE_SECONDS
        return _pool(name, protocol, most, withheld, idle) | secured

    pools = [
        pool(cluster_name(routes.endpoint, d.name, protocol), d, protocol, routes.limits.max_requests)
        for d in routes.deployments
        for protocol in d.protocols
    ]
    copies = [pool(copies_name(routes.endpoint, d.name), d, "http", _COPIES) for d in compared(routes.deployments)]
    return (*pools, *copies)


def _withheld(mode: str) -> tuple[str, ...]:
    """Return the headers that containers of authors do not get: the endpoint's keys, and the gateway's credential."""
    return (GATEWAY_HEADER, *(("authorization", "api-key") if mode == "key" else ()))


def _pool(name: str, protocol: str, most: int, withheld: tuple[str, ...], idle: float) -> Document:
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
        # The remaining pods take all requests; pods that are not ready are not among the addresses.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [thresholds]},
        # Error statuses do not count (a full queue is a 503); a pod that cannot be reached is left out for a while.
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
                "common_http_protocol_options": {"idle_timeout": f"{idle:.3f}s"},
                "explicit_http_config": spoken,
                **({"http_filters": _without(withheld)} if withheld else {}),
            }
        },
    }


def _without(headers: tuple[str, ...]) -> list[Document]:
    """Return the filters of a cluster that remove headers; in the cluster, they apply to copies of requests too."""
    mutations = {"request_mutations": [{"remove": header} for header in headers]}
    removal = {"@type": TYPES + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"}
    codec = {"@type": TYPES + "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
    return [
        {"name": "withhold", "typed_config": removal | {"mutations": mutations}},
        {"name": "codec", "typed_config": codec},
    ]


def _by_tls(name: str, authority: str, alpn: str) -> Document:
    """Return the TLS settings for pods with a certificate of `authority` for `name`."""
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    trusted = {"trusted_ca": {"inline_string": authority}, "match_typed_subject_alt_names": names}
    context = {
        "@type": TYPES + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": name,
        "common_tls_context": {"alpn_protocols": [alpn], "tls_params": _TLS_PARAMETERS, "validation_context": trusted},
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}


def addresses(slices: Iterable[Any], port: str, *, hold: bool = False) -> tuple[Address, ...]:
    """Return the sorted addresses at the port of that name: of ready pods, otherwise of terminating pods that serve.

    So a terminating pod gets no new request while another pod can take it, or if requests wait for one (`hold`): a
    terminating pod counts as serving until it has ended, though it accepts no more connections.
    """
    ready: set[Address] = set()
    serving: set[Address] = set()
    for endpoint_slice in slices:
        numbers = [p.get("port") for p in endpoint_slice.get("ports") or [] if p.get("name") == port]
        for endpoint in endpoint_slice.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            for address in (endpoint.get("addresses") or [])[:1]:  # all addresses are the same pod's
                for number in filter(None, numbers):
                    if conditions.get("ready") is not False and not conditions.get("terminating"):
                        ready.add((address, number))
                    elif conditions.get("serving") and not hold:
                        serving.add((address, number))
    return tuple(sorted(ready or serving))


def assignment(cluster: str, pods: Iterable[Address]) -> Document:
    """Return the resource with a cluster's addresses."""
    listed = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
        for address, port in pods
    ]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": listed}] if listed else []}
