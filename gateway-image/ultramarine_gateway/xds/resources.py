"""xDS resources of one endpoint, each with a name and a version."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ultramarine_contract.routes import EndpointRoutes, RouteDeployment

Document = dict[str, Any]

TYPES = "type.googleapis.com/"
CLUSTER = TYPES + "envoy.config.cluster.v3.Cluster"
ASSIGNMENT = TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPES + "envoy.config.listener.v3.Listener"
ROUTES = TYPES + "envoy.config.route.v3.RouteConfiguration"
CERTIFICATE = TYPES + "envoy.extensions.transport_sockets.tls.v3.Secret"

# The source of a resource: the agent, by the one aggregated stream.
FROM_AGENT: Document = {"ads": {}, "resource_api_version": "V3"}

# Names of filters, which routes use to change a filter.
KEYS_FILTER = "keys"
TOKENS_FILTER = "tokens"
AUDIENCE_FILTER = "audience"
HOLD_FILTER = "hold"
# Entries of a route that holds requests: the cluster, and the longest wait.
CLUSTER_ENTRY, SECONDS_ENTRY = "cluster", "seconds"
ABSENCE_SECONDS = 5  # Retry-After of requests for which no pod is ready
LUA_PER_ROUTE = TYPES + "envoy.extensions.filters.http.lua.v3.LuaPerRoute"


@dataclass(frozen=True)
class Secrets:
    """Content of the Secrets of one endpoint: the SHA-256 of each key in hex, by entry; certificates and their key.

    With `proof` the gateway authenticates to pods.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    certificates: str = ""
    private_key: str = ""
    proof: str = ""


@dataclass(frozen=True)
class Resource:
    """One xDS resource: its type, its name, and its protobuf message in an `Any`, serialized."""

    type: str
    name: str
    value: bytes

    @cached_property
    def version(self) -> str:
        """The version of the content, so that it is sent once."""
        return hashlib.sha256(self.value).hexdigest()[:16]


@dataclass(frozen=True)
class EndpointConfig:
    """The resources that Envoy needs to route one endpoint, except the addresses of pods.

    `away` are the deployments whose share others get because they have no pod.
    """

    routes: EndpointRoutes
    listener: Resource
    configuration: Resource
    clusters: tuple[Resource, ...]
    certificate: Resource | None = None
    away: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.routes.endpoint

    @cached_property
    def pools(self) -> Mapping[str, tuple[str, str]]:
        """The Service and the name of its port behind each cluster that follows a Service."""
        return {
            cluster_name(self.name, deployment.name, protocol): (deployment.service, protocol)
            for deployment in self.routes.deployments
            for protocol in deployment.protocols
        } | {
            copies_name(self.name, deployment.name): (deployment.service, "http")
            for deployment in compared(self.routes.deployments)
        }

    @cached_property
    def routed_around(self) -> frozenset[str]:
        """The clusters that get no request without a pod: requests wait, or others answer them."""
        return frozenset(
            cluster_name(self.name, deployment.name, protocol)
            for deployment in self.routes.deployments
            if deployment.hold or deployment.name in self.away
            for protocol in deployment.protocols
        )

    @cached_property
    def resources(self) -> tuple[Resource, ...]:
        """All resources, in the order in which Envoy needs them."""
        return (*self.clusters, *filter(None, [self.certificate]), self.configuration, self.listener)

    def to_json(self) -> str:
        listed = [[r.type, r.name, base64.b64encode(r.value).decode()] for r in self.resources]
        return json.dumps([self.routes.to_json(), listed, sorted(self.away)])

    @classmethod
    def from_json(cls, text: str) -> EndpointConfig:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            routes, listed, away = json.loads(text)
            read = [Resource(type, name, base64.b64decode(value)) for type, name, value in listed]
            parts = {
                type: [resource for resource in read if resource.type == type]
                for type in (CLUSTER, CERTIFICATE, ROUTES, LISTENER)
            }
            (listener,), (configuration,) = parts[LISTENER], parts[ROUTES]
            certificate = parts[CERTIFICATE][0] if parts[CERTIFICATE] else None
            clusters = tuple(parts[CLUSTER])
            made = EndpointRoutes.from_json(routes)
            return cls(made, listener, configuration, clusters, certificate, frozenset(away))
        except TypeError as error:
            raise ValueError(f"not a rendered endpoint: {error}") from error


def cluster_name(endpoint: str, deployment: str, protocol: str) -> str:
    """Return the name of the cluster of one deployment and protocol; metrics take their labels from it."""
    return f"{endpoint}/{deployment}/{protocol}"


def copies_name(endpoint: str, deployment: str) -> str:
    """Return the name of the cluster for copies, with its own figures and connections."""
    return f"{endpoint}/{deployment}/http-copies"


def compared(deployments: Iterable[RouteDeployment]) -> list[RouteDeployment]:
    """Return the deployments that get copies whose answers are compared."""
    return [deployment for deployment in speaks(deployments, "http") if deployment.compare_percent]


def speaks(deployments: Iterable[RouteDeployment], protocol: str) -> list[RouteDeployment]:
    """Return the deployments that speak `protocol`."""
    return [deployment for deployment in deployments if protocol in deployment.protocols]


def seconds(value: float) -> str:
    """Return a duration as Envoy reads it."""
    return f"{value:.3f}s"
