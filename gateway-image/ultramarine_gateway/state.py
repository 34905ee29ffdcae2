"""The observed namespace, and the configuration of Envoy that follows from it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from msgspec import structs
from ultramarine_contract.common import GATEWAY_HEADER
from ultramarine_contract.routes import LABEL_ROUTES, ROUTES_ENTRY, EndpointRoutes, RouteState

from ultramarine_gateway.config.clusters import Address, addresses
from ultramarine_gateway.config.render import render, render_assignment, render_readiness
from ultramarine_gateway.xds.conversation import Snapshot
from ultramarine_gateway.xds.resources import EndpointConfig, Resource, Secrets

LABEL_SERVICE = "kubernetes.io/service-name"
KEY_NAMES = ("primary", "secondary")


@dataclass
class Namespace:
    """The namespace as observed last; None for resources that were not listed yet."""

    config_maps: dict[str, Any] | None = None
    slices: dict[str, dict[str, Any]] | None = None  # by Service, then by name
    secrets: dict[str, Mapping[str, str] | None] = field(default_factory=dict)
    authority: str = ""  # PEM of the certificate authority of pods that speak TLS

    def list_config_maps(self, objects: list[Any]) -> None:
        self.config_maps = {config_map["metadata"]["name"]: config_map for config_map in objects}

    def change_config_map(self, kind: str, config_map: Any) -> None:
        if self.config_maps is not None:
            name = config_map["metadata"]["name"]
            self.config_maps.pop(name, None)
            if kind != "DELETED":
                self.config_maps[name] = config_map

    def list_slices(self, objects: list[Any]) -> None:
        self.slices = {}
        for endpoint_slice in objects:
            self.change_slice("ADDED", endpoint_slice)

    def change_slice(self, kind: str, endpoint_slice: Any) -> None:
        if self.slices is None:
            return
        meta = endpoint_slice["metadata"]
        service = (meta.get("labels") or {}).get(LABEL_SERVICE, "")
        of_service = self.slices.setdefault(service, {})
        of_service.pop(meta["name"], None)
        if kind != "DELETED":
            of_service[meta["name"]] = {field: endpoint_slice.get(field) for field in ("ports", "endpoints")}
        if not of_service:
            del self.slices[service]


class _PortTaken(ValueError):
    """Another endpoint has the port."""

    def __init__(self, port: int, holder: str) -> None:
        super().__init__(f"port {port} is taken by endpoint {holder}")
        self.port, self.holder = port, holder


class _SecretMissing(ValueError):
    """The Secret does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Secret {name} does not exist. Create it")
        self.name = name


class _SecretUnread(ValueError):
    """The agent has not read the Secret yet."""


class DesiredState:
    """The newest valid routes of each endpoint, and the reasons why newer ones are not used."""

    def __init__(self, namespace: str, host: str, accepted: Mapping[str, EndpointConfig], reader: str = "") -> None:
        self.seen = Namespace()
        self.problems: dict[str, RouteState] = {}
        self.accepted: dict[str, EndpointConfig] = dict(accepted)
        self._namespace, self._host, self._reader = namespace, host, reader
        self.refused: dict[str, tuple[EndpointConfig, str, float]] = {}  # with the reason and the time
        self._remembered: dict[str, tuple[object, EndpointConfig]] = {}
        self.assigned: dict[str, tuple[tuple[Address, ...], Resource]] = {}  # by cluster
        self._leaving: set[str] = set()  # clusters that keep their last address until Envoy routes around them
        self._pending = False  # True while an endpoint without routes waits for the content of its Secrets
        self._readiness = render_readiness(host)
        self.snapshot = Snapshot({}, {}, complete=False)

    def needed_secrets(self) -> set[str]:
        """Return the names of the Secrets to which the endpoints refer."""
        names: set[str] = set()
        for config_map in (self.seen.config_maps or {}).values():
            try:
                routes = _read(config_map)
            except ValueError:
                continue
            named = (routes.tls_secret, routes.auth.keys_secret, routes.auth.proof_secret)
            names |= {name for name in named if name}
        return names

    def credentials(self, routes: EndpointRoutes) -> list[dict[str, str]]:
        """Return headers of which one authenticates to the endpoint's pods, by the current content of its Secrets."""
        auth = routes.auth
        named = {"api-key": auth.keys_secret if auth.mode == "key" else "", GATEWAY_HEADER: auth.proof_secret}
        try:
            keys_of = [(header, _keys(self.seen.secrets.get(name) or {})) for header, name in named.items()]
        except ValueError:
            return []
        return [{header: key} for header, keys in keys_of for key in keys.values()]

    def refuse(self, endpoint: EndpointConfig, why: str, now: float) -> None:
        """Record a refusal by Envoy, which goes on with the configuration before."""
        self.refused[endpoint.name] = (endpoint, why, now)

    def addresses_of(self, cluster: str) -> Resource | None:
        """Return the addresses with which Envoy can send requests to a cluster; None if it has none."""
        pods, assignment = self.assigned.get(cluster, ((), None))
        return assignment if pods and cluster not in self._leaving else None

    def accept(self, endpoint: EndpointConfig) -> None:
        """Record that Envoy uses this."""
        self.accepted[endpoint.name] = endpoint

    def decide(self, kept_addresses: Mapping[str, Resource]) -> None:
        """Compute `snapshot` and `problems`; `kept_addresses` replace slices that were not listed yet."""
        complete = self.seen.config_maps is not None and self.seen.slices is not None
        maps = self.seen.config_maps
        endpoints = dict(self.accepted) if maps is None else self._endpoints(maps)
        assignments = {}
        for endpoint in endpoints.values():
            around = endpoint.routed_around
            holding = {deployment.service for deployment in endpoint.routes.deployments if deployment.hold}
            for cluster, (service, port) in endpoint.pools.items():
                if self.seen.slices is not None:
                    # Envoy must route around a cluster or hold its requests before the cluster loses its last pod.
                    keep = cluster in around and self.accepted.get(endpoint.name) != endpoint
                    pods = self._pods(service, port, hold=service in holding)
                    assignments[cluster] = self._assignment(cluster, pods, keep=keep)
                elif cluster in kept_addresses:
                    assignments[cluster] = kept_addresses[cluster]
        self.assigned = {name: made for name, made in self.assigned.items() if name in assignments}
        self._leaving &= self.assigned.keys()
        self.snapshot = Snapshot(endpoints, assignments, complete, self._pending, self._readiness)

    def _endpoints(self, config_maps: Mapping[str, Any]) -> dict[str, EndpointConfig]:
        by_name: dict[str, list[Any]] = {}
        for config_map in config_maps.values():
            by_name.setdefault(config_map["metadata"]["labels"][LABEL_ROUTES], []).append(config_map)
        self.accepted = {name: config for name, config in self.accepted.items() if name in by_name}
        # An endpoint keeps the port at which it listens; otherwise the first by name gets it.
        ports = {config.routes.port: name for name, config in self.accepted.items()}
        self._remembered = {name: made for name, made in self._remembered.items() if name in by_name}
        self.refused = {name: refused for name, refused in self.refused.items() if name in by_name}
        self.problems, self._pending = {}, False
        endpoints: dict[str, EndpointConfig] = {}
        for name, own in sorted(by_name.items()):
            try:
                if len(own) > 1:
                    raise ValueError(f"{len(own)} ConfigMaps have the label {LABEL_ROUTES}: {name}; delete all but one")
                candidate = self._candidate(name, own[0])
                holder = ports.setdefault(candidate.routes.port, name)
                if holder != name:
                    raise _PortTaken(candidate.routes.port, holder)
                refused, why, _ = self.refused.get(name, (None, "", 0.0))
                if refused == candidate:
                    raise ValueError(f"Envoy refuses this: {why}")
                endpoints[name] = candidate
            except ValueError as error:
                self.problems[name] = RouteState(reason=str(error))
                if isinstance(error, _PortTaken):
                    taken = structs.replace(self.problems[name], port=error.port, port_taken_by=error.holder)
                    self.problems[name] = taken
                if isinstance(error, _SecretMissing):
                    self.problems[name] = structs.replace(self.problems[name], missing_secret=error.name)
                if name in self.accepted:
                    endpoints[name] = self.accepted[name]
                elif isinstance(error, _SecretUnread):
                    self._pending = True
        return endpoints

    def _candidate(self, name: str, config_map: Any) -> EndpointConfig:
        text = (config_map.get("data") or {}).get(ROUTES_ENTRY)
        if text is None:
            raise ValueError(f"ConfigMap {config_map['metadata']['name']} has no entry {ROUTES_ENTRY}")
        routes = _parsed(text)
        if (routes.endpoint, routes.namespace) != (name, self._namespace):
            raise ValueError(f"the routes are those of {routes.namespace}/{routes.endpoint}, not of {name} here")
        authority = self.seen.authority if any(deployment.tls for deployment in routes.deployments) else ""
        if not authority and any(deployment.tls for deployment in routes.deployments):
            raise ValueError("its pods speak TLS, and the gateway pod has no authority; upgrade the release")
        secrets = self._secrets(routes)
        held, absent = self._without_pods(routes, hold=True), self._without_pods(routes, hold=False)
        if self.seen.slices is None:  # After a restart of the agent only Envoy's configuration tells it.
            absent = self.accepted[name].away if name in self.accepted else frozenset()
        made_of = (text, secrets, held, absent, authority)
        remembered = self._remembered.get(name)
        if remembered is None or remembered[0] != made_of:
            rendered = render(routes, secrets, self._host, held, self._reader, absent, authority)
            remembered = self._remembered[name] = (made_of, rendered)
        return remembered[1]

    def _without_pods(self, routes: EndpointRoutes, *, hold: bool) -> frozenset[str]:
        """Return the deployments without an address, among those that hold requests or among the others."""
        return frozenset(
            deployment.name
            for deployment in routes.deployments
            if deployment.hold == hold
            and not all(self._pods(deployment.service, port, hold=hold) for port in deployment.protocols)
        )

    def _pods(self, service: str, port: str, *, hold: bool) -> tuple[Address, ...]:
        return addresses((self.seen.slices or {}).get(service, {}).values(), port, hold=hold)

    def _secrets(self, routes: EndpointRoutes) -> Secrets:
        digests: dict[str, str] = {}
        certificates = private_key = ""
        if routes.auth.mode == "key":
            keys = self._keys_of(routes.auth.keys_secret)
            digests = {
                name: hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest() for name, key in keys.items()
            }
        proof = " ".join(self._keys_of(routes.auth.proof_secret).values()) if routes.auth.proof_secret else ""
        if routes.tls_secret:
            data = self._secret(routes.tls_secret)
            certificates, private_key = (_decoded(data.get(name, "")).decode() for name in ("tls.crt", "tls.key"))
            if not certificates or not private_key:
                raise ValueError(f"Secret {routes.tls_secret} needs tls.crt and tls.key")
        return Secrets(digests, certificates, private_key, proof)

    def _keys_of(self, name: str) -> Mapping[str, str]:
        keys = _keys(self._secret(name))
        if not keys:
            raise ValueError(f"Secret {name} has no key: it needs primary, secondary or both")
        return keys

    def _secret(self, name: str) -> Mapping[str, str]:
        data = self.seen.secrets.get(name)
        if data is None:
            if name in self.seen.secrets:
                raise _SecretMissing(name)
            raise _SecretUnread(f"Secret {name} was not read yet. Wait, or see the log of the gateway's agent")
        return data

    def _assignment(self, cluster: str, pods: tuple[Address, ...], *, keep: bool) -> Resource:
        made = self.assigned.get(cluster)
        self._leaving.discard(cluster)
        if made is not None and keep and not pods:
            self._leaving.add(cluster)
            return made[1]
        if made is None or made[0] != pods:
            made = self.assigned[cluster] = (pods, render_assignment(cluster, pods))
        return made[1]


def _read(config_map: Any) -> EndpointRoutes:
    return _parsed((config_map.get("data") or {}).get(ROUTES_ENTRY, ""))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> EndpointRoutes:
    return EndpointRoutes.from_json(text)


def _keys(data: Mapping[str, str]) -> dict[str, str]:
    """Return the keys in a Secret, by entry."""
    keys = {name: _decoded(data.get(name, "")).decode(errors="surrogateescape").strip() for name in KEY_NAMES}
    return {name: key for name, key in keys.items() if key}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError(f"an entry of a Secret is not base64: {error}") from error
