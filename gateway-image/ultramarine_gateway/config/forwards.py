"""Ports on loopback that lead to the object storage and MLflow, for clients behind a port-forward to the pod."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from ultramarine_gateway.xds.resources import TYPES, Document

# Bounds of one port: they keep its buffers below 128 MiB in all.
MAX_CONNECTIONS = 256
_BUFFER_BYTES = 128 * 1024
_IDLE = "3600s"  # a client may pause between the parts of an upload
_CONNECT = "10s"


class Forward(NamedTuple):
    """A port on loopback, and the server that gets its bytes. TLS stays between client and server."""

    port: int
    host: str
    server_port: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read PORT=URL. Raises ValueError for anything else."""
        port, _, url = text.partition("=")
        server = urlsplit(url)
        if server.scheme not in ("http", "https") or not server.hostname:
            raise ValueError(f"{text!r} is not PORT=URL, such as 7070=https://s3.example.com")
        return cls(int(port), server.hostname, server.port or (443 if server.scheme == "https" else 80))

    @property
    def name(self) -> str:
        """Name of the listener and the cluster, which no endpoint can have."""
        return f"-forward-{self.port}"


def forward_listener(forward: Forward) -> Document:
    """Return the listener of a port, on loopback alone: no other pod reaches it."""
    proxy = {
        "@type": TYPES + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": forward.name,
        "cluster": forward.name,
        "idle_timeout": _IDLE,
    }
    return {
        "name": forward.name,
        "stat_prefix": forward.name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": forward.port}},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
    }


def forward_cluster(forward: Forward) -> Document:
    """Return the cluster of a port; Envoy starts without waiting for the server's address."""
    address = {"socket_address": {"address": forward.host, "port_value": forward.server_port}}
    return {
        "name": forward.name,
        "type": "LOGICAL_DNS",
        "wait_for_warm_on_init": False,
        "dns_lookup_family": "ALL",
        "respect_dns_ttl": True,
        "connect_timeout": _CONNECT,
        "circuit_breakers": {"thresholds": [{"max_connections": MAX_CONNECTIONS}]},
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": forward.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
