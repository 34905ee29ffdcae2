"""From an endpoint's routes to the resources that Envoy is told; the only place where documents become protobuf."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from google.protobuf import any_pb2, json_format
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.clusters import clusters
from ultramarine_gateway.listeners import listener, readiness
from ultramarine_gateway.rendering import (
    ASSIGNMENT,
    CERTIFICATE,
    CLUSTER,
    LISTENER,
    ROUTES,
    Document,
    Rendered,
    Resource,
    Secrets,
)
from ultramarine_gateway.routes import route_configuration
from ultramarine_gateway.slices import Address, assignment

# A message inside another is found by its name, once its module is there.
for _module in (
    "config.cluster.v3.cluster_pb2",
    "config.endpoint.v3.endpoint_pb2",
    "config.listener.v3.listener_pb2",
    "config.route.v3.route_pb2",
    "extensions.access_loggers.stream.v3.stream_pb2",
    "extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "extensions.filters.http.jwt_authn.v3.config_pb2",
    "extensions.filters.http.lua.v3.lua_pb2",
    "extensions.filters.http.rbac.v3.rbac_pb2",
    "extensions.filters.http.router.v3.router_pb2",
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
    word: str = "",
    absent: frozenset[str] = frozenset(),
    authority: str = "",
) -> Rendered:
    """What Envoy needs to route this endpoint, given its routes and what its Secrets say; it listens at `host`.

    Requests to deployments that are `held` wait until there is a pod. Those that are `absent` have no pod either, and
    get no request while others do. `word` is that of this gateway pod. Pods that speak TLS are known by
    `authority`.
    Raises ValueError where Envoy has no word for what is asked.
    """
    name = routes.endpoint
    weighted = {deployment.name for deployment in routes.deployments if deployment.weight}
    away = weighted & absent if weighted - absent else frozenset[str]()
    return Rendered(
        routes,
        resource(LISTENER, name, listener(routes, host)),
        resource(ROUTES, name, route_configuration(routes, secrets, held, word, absent)),
        tuple(resource(CLUSTER, document["name"], document) for document in clusters(routes, authority)),
        resource(CERTIFICATE, name, _certificate(routes, secrets)) if routes.tls_secret else None,
        frozenset(away),
    )


def render_assignment(cluster: str, found: Iterable[Address]) -> Resource:
    """What Envoy is told of a cluster's addresses."""
    return resource(ASSIGNMENT, cluster, assignment(cluster, found))


def render_readiness(host: str) -> Resource:
    """The listener that says that Envoy has all that it shall have."""
    document = readiness(host)
    return resource(LISTENER, document["name"], document)


def resource(type: str, name: str, document: Document) -> Resource:
    """One document as Envoy is told it. Raises ValueError for a field that there is not."""
    packed = any_pb2.Any()
    try:
        json_format.ParseDict({"@type": type, **document}, packed)
    except json_format.ParseError as error:
        raise ValueError(f"Envoy has no word for this: {error}") from error
    return Resource(type, name, packed.SerializeToString(deterministic=True))


def _certificate(routes: EndpointRoutes, secrets: Secrets) -> Document:
    pair = {
        "certificate_chain": {"inline_string": secrets.certificates},
        "private_key": {"inline_string": secrets.private_key},
    }
    return {"name": routes.endpoint, "tls_certificate": pair}
