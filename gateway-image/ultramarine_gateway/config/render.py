"""Rendering of an endpoint's routes as xDS resources; documents become protobuf here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from google.protobuf import any_pb2, json_format
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.config.clusters import Address, assignment, clusters
from ultramarine_gateway.config.listeners import listener, readiness
from ultramarine_gateway.config.routes import route_configuration
from ultramarine_gateway.xds.resources import (
    ASSIGNMENT,
    CERTIFICATE,
    CLUSTER,
    LISTENER,
    ROUTES,
    Document,
    EndpointConfig,
    Resource,
    Secrets,
)

# Protobuf finds a message inside another by name after its module is imported.
for _module in (
    "config.cluster.v3.cluster_pb2",
    "config.endpoint.v3.endpoint_pb2",
    "config.listener.v3.listener_pb2",
    "config.route.v3.route_pb2",
    "extensions.access_loggers.stream.v3.stream_pb2",
    "extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "extensions.filters.http.jwt_authn.v3.config_pb2",
    "extensions.filters.http.lua.v3.lua_pb2",
    "extensions.filters.http.ratelimit.v3.rate_limit_pb2",
    "extensions.filters.http.rbac.v3.rbac_pb2",
    "extensions.filters.http.router.v3.router_pb2",
    "extensions.filters.http.upstream_codec.v3.upstream_codec_pb2",
    "extensions.filters.network.connection_limit.v3.connection_limit_pb2",
    "extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    "extensions.request_id.uuid.v3.uuid_pb2",
    "extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "extensions.transport_sockets.tls.v3.tls_pb2",
    "extensions.upstreams.http.v3.http_protocol_options_pb2",
):
    importlib.import_module(f"envoy.{_module}")


def render(
    routes: EndpointRoutes,
    secrets: Secrets,
    host: str,
    held: frozenset[str] = frozenset(),
    reader: str = "",
    absent: frozenset[str] = frozenset(),
    authority: str = "",
) -> EndpointConfig:
    """Return the configuration of an endpoint, given its routes and the content of its Secrets.

    Envoy listens at `host`. Requests to `held` deployments wait for a pod. Deployments that are `absent` have no pod,
    and get no request while others do. `reader` is the id of this gateway pod. Pods with TLS have a certificate of
    `authority`. Raises ValueError if Envoy does not know a field.
    """
    name = routes.endpoint
    weighted = {deployment.name for deployment in routes.deployments if deployment.weight}
    away = weighted & absent if weighted - absent else frozenset[str]()
    return EndpointConfig(
        routes,
        resource(LISTENER, name, listener(routes, host)),
        resource(ROUTES, name, route_configuration(routes, secrets, held, reader, absent)),
        tuple(resource(CLUSTER, document["name"], document) for document in clusters(routes, authority)),
        resource(CERTIFICATE, name, _certificate(routes, secrets)) if routes.tls_secret else None,
        frozenset(away),
    )


def render_assignment(cluster: str, pods: Iterable[Address]) -> Resource:
    """Return the resource with a cluster's addresses."""
    return resource(ASSIGNMENT, cluster, assignment(cluster, pods))


def render_readiness(host: str) -> Resource:
    """Return the listener that answers when Envoy has its configuration."""
    document = readiness(host)
    return resource(LISTENER, document["name"], document)


def resource(type: str, name: str, document: Document) -> Resource:
    """Return a document as an xDS resource. Raises ValueError for an unknown field."""
    packed = any_pb2.Any()
    try:
        json_format.ParseDict({"@type": type, **document}, packed)
    except json_format.ParseError as error:
        raise ValueError(f"Envoy does not know this field: {error}") from error
    return Resource(type, name, packed.SerializeToString(deterministic=True))


def _certificate(routes: EndpointRoutes, secrets: Secrets) -> Document:
    pair = {
        "certificate_chain": {"inline_string": secrets.certificates},
        "private_key": {"inline_string": secrets.private_key},
    }
    return {"name": routes.endpoint, "tls_certificate": pair}
