"""What the agent knows of its namespace, and what follows for Envoy. No I/O here."""

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

from ultramarine_gateway.conversation import Wanted
from ultramarine_gateway.render import render, render_assignment, render_readiness
from ultramarine_gateway.rendering import Rendered, Resource, Secrets
from ultramarine_gateway.slices import Address, addresses

LABEL_SERVICE = "kubernetes.io/service-name"
KEY_NAMES = ("primary", "secondary")


@dataclass
class Namespace:
    """What there is, as it was seen last; None stands for what was not seen yet."""

    config_maps: dict[str, Any] | None = None
    slices: dict[str, dict[str, Any]] | None = None  # by Service, then by name
    secrets: dict[str, Mapping[str, str] | None] = field(default_factory=dict)
    authority: str = ""  # whose certificates pods that speak TLS have, as PEM

    def list_config_maps(self, objects: list[Any]) -> None:
        self.config_maps = {found["metadata"]["name"]: found for found in objects}

    def tell_config_map(self, kind: str, found: Any) -> None:
        if self.config_maps is not None:
            self.config_maps.pop(found["metadata"]["name"], None)
            if kind != "DELETED":
                self.config_maps[found["metadata"]["name"]] = found

    def list_slices(self, objects: list[Any]) -> None:
        self.slices = {}
        for found in objects:
            self.tell_slice("ADDED", found)

    def tell_slice(self, kind: str, found: Any) -> None:
        if self.slices is None:
            return
        meta = found["metadata"]
        service = (meta.get("labels") or {}).get(LABEL_SERVICE, "")
        of_service = self.slices.setdefault(service, {})
        of_service.pop(meta["name"], None)
        if kind != "DELETED":
            of_service[meta["name"]] = {"ports": found.get("ports"), "endpoints": found.get("endpoints")}
        if not of_service:
            del self.slices[service]


class _PortTaken(ValueError):
    """Another endpoint has the port."""

    def __init__(self, port: int, holder: str) -> None:
        super().__init__(f"port {port} is taken by endpoint {holder}; another one is needed")
        self.port, self.holder = port, holder


class _SecretMissing(ValueError):
    """There is no Secret of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Secret {name} does not exist; create it")
        self.name = name


class Desk:
    """Where what was seen becomes what is wanted: the newest good routes of each endpoint, and why not newer ones."""

    def __init__(self, namespace: str, host: str, accepted: Mapping[str, Rendered], word: str = "") -> None:
        self.seen = Namespace()
        self.problems: dict[str, RouteState] = {}
        self.accepted: dict[str, Rendered] = dict(accepted)
        self._namespace, self._host, self._word = namespace, host, word
        self.refused: dict[str, tuple[Rendered, str, float]] = {}  # with when it was
        self._remembered: dict[str, tuple[object, Rendered]] = {}
        self.assigned: dict[str, tuple[tuple[Address, ...], Resource]] = {}  # by cluster, as it is wanted
        self._leaving: set[str] = set()  # clusters that lose their last address when Envoy holds their requests
        self._readiness = render_readiness(host)
        self.wanted = Wanted({}, {}, whole=False)

    def secrets_asked(self) -> set[str]:
        """The names of the Secrets that the endpoints refer to."""
        names: set[str] = set()
        for found in (self.seen.config_maps or {}).values():
            try:
                routes = _read(found)
            except ValueError:
                continue
            asked = (routes.tls_secret, routes.auth.keys_secret, routes.auth.proof_secret)
            names |= {name for name in asked if name}
        return names

    def credentials(self, routes: EndpointRoutes) -> list[dict[str, str]]:
        """Headers of which one opens the endpoint's pods, by what its Secrets have now, as far as they can be read."""
        auth = routes.auth
        named = {"api-key": auth.keys_secret if auth.mode == "key" else "", GATEWAY_HEADER: auth.proof_secret}
        try:
            found = [(header, _keys(self.seen.secrets.get(name) or {})) for header, name in named.items()]
        except ValueError:
            return []
        return [{header: key} for header, keys in found for key in keys.values()]

    def refuse(self, endpoint: Rendered, why: str, now: float) -> None:
        """Envoy does not take this: what it took last goes on."""
        self.refused[endpoint.name] = (endpoint, why, now)

    def leads(self, cluster: str) -> Resource | None:
        """The addresses of a cluster with which Envoy may send requests there; nothing where there are none."""
        found, one = self.assigned.get(cluster, ((), None))
        return one if found and cluster not in self._leaving else None

    def accept(self, endpoint: Rendered) -> None:
        """Envoy routes by this."""
        self.accepted[endpoint.name] = endpoint

    def decide(self, known_addresses: Mapping[str, Resource]) -> None:
        """Work out `wanted` and `problems` anew; `known_addresses` stand in for slices that were not seen yet."""
        whole = self.seen.config_maps is not None and self.seen.slices is not None
        maps = self.seen.config_maps
        endpoints = dict(self.accepted) if maps is None else self._endpoints(maps)
        assignments = {}
        for endpoint in endpoints.values():
            around = endpoint.routed_around
            for cluster, (service, port) in endpoint.pools.items():
                if self.seen.slices is not None:
                    # Envoy has to send requests elsewhere, or hold them, before it has no pod to send them to.
                    keep = cluster in around and self.accepted.get(endpoint.name) != endpoint
                    assignments[cluster] = self._assignment(cluster, service, port, keep=keep)
                elif cluster in known_addresses:
                    assignments[cluster] = known_addresses[cluster]
        self.assigned = {name: made for name, made in self.assigned.items() if name in assignments}
        self._leaving &= self.assigned.keys()
        self.wanted = Wanted(endpoints, assignments, whole, self._readiness)

    def _endpoints(self, config_maps: Mapping[str, Any]) -> dict[str, Rendered]:
        by_name: dict[str, list[Any]] = {}
        for found in config_maps.values():
            by_name.setdefault(found["metadata"]["labels"][LABEL_ROUTES], []).append(found)
        self.accepted = {name: one for name, one in self.accepted.items() if name in by_name}
        # Who listens at a port already keeps it; else the first by name.
        ports = {one.routes.port: name for name, one in self.accepted.items()}
        self._remembered = {name: made for name, made in self._remembered.items() if name in by_name}
        self.refused = {name: refused for name, refused in self.refused.items() if name in by_name}
        self.problems = {}
        endpoints: dict[str, Rendered] = {}
        for name, found in sorted(by_name.items()):
            try:
                if len(found) > 1:
                    raise ValueError(
                        f"{len(found)} ConfigMaps have the label {LABEL_ROUTES}: {name}; delete all but one"
                    )
                candidate = self._candidate(name, found[0])
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
        return endpoints

    def _candidate(self, name: str, found: Any) -> Rendered:
        text = (found.get("data") or {}).get(ROUTES_ENTRY)
        if text is None:
            raise ValueError(f"ConfigMap {found['metadata']['name']} has no entry {ROUTES_ENTRY}")
        routes = _parsed(text)
        if (routes.endpoint, routes.namespace) != (name, self._namespace):
            raise ValueError(f"the routes are those of {routes.namespace}/{routes.endpoint}, not of {name} here")
        authority = self.seen.authority if any(deployment.tls for deployment in routes.deployments) else ""
        if not authority and any(deployment.tls for deployment in routes.deployments):
            raise ValueError("its pods speak TLS, and the gateway pod has no authority; upgrade the release")
        secrets = self._secrets(routes)
        held, absent = self._without_pods(routes, hold=True), self._without_pods(routes, hold=False)
        if self.seen.slices is None:  # After a restart of the agent, what Envoy does now is as good as can be known.
            absent = self.accepted[name].away if name in self.accepted else frozenset()
        made_of = (text, secrets, held, absent, authority)
        remembered = self._remembered.get(name)
        if remembered is None or remembered[0] != made_of:
            rendered = render(routes, secrets, self._host, held, self._word, absent, authority)
            remembered = self._remembered[name] = (made_of, rendered)
        return remembered[1]

    def _without_pods(self, routes: EndpointRoutes, *, hold: bool) -> frozenset[str]:
        """The deployments without an address, of those that hold requests meanwhile or of the others."""
        known = self.seen.slices or {}
        return frozenset(
            deployment.name
            for deployment in routes.deployments
            if deployment.hold == hold
            and not all(addresses(known.get(deployment.service, {}).values(), port) for port in deployment.protocols)
        )

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
            raise ValueError(f"Secret {name} was not read yet; wait, or see why in the log of the gateway's agent")
        return data

    def _assignment(self, cluster: str, service: str, port: str, *, keep: bool) -> Resource:
        found = addresses((self.seen.slices or {}).get(service, {}).values(), port)
        made = self.assigned.get(cluster)
        self._leaving.discard(cluster)
        if made is not None and keep and not found:
            self._leaving.add(cluster)
            return made[1]
        if made is None or made[0] != found:
            made = self.assigned[cluster] = (found, render_assignment(cluster, found))
        return made[1]


def _read(found: Any) -> EndpointRoutes:
    return _parsed((found.get("data") or {}).get(ROUTES_ENTRY, ""))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> EndpointRoutes:
    return EndpointRoutes.from_json(text)


def _keys(data: Mapping[str, str]) -> dict[str, str]:
    """The keys in a Secret, by entry."""
    found = {name: _decoded(data.get(name, "")).decode(errors="surrogateescape").strip() for name in KEY_NAMES}
    return {name: key for name, key in found.items() if key}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError(f"a Secret's entry is no base64: {error}") from error
