"""From the EndpointSlices of a Service to the addresses that take requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultramarine_gateway.rendering import Document

Address = tuple[str, int]


def addresses(slices: Iterable[Any], port: str) -> tuple[Address, ...]:
    """The addresses at the port of that name, in order: of the ready pods, or else of those that serve still.

    A pod that was told to stop is not ready, so it gets nothing new while any other can take it.
    """
    ready: set[Address] = set()
    serving: set[Address] = set()
    for found in slices:
        numbers = [one.get("port") for one in found.get("ports") or [] if one.get("name") == port]
        for endpoint in found.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            for address in (endpoint.get("addresses") or [])[:1]:  # all of them are the same pod
                for number in filter(None, numbers):
                    if conditions.get("ready") is not False and not conditions.get("terminating"):
                        ready.add((address, number))
                    elif conditions.get("serving"):
                        serving.add((address, number))
    return tuple(sorted(ready or serving))


def assignment(cluster: str, found: Iterable[Address]) -> Document:
    """What Envoy reads of a cluster's addresses."""
    listed = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
        for address, port in found
    ]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": listed}] if listed else []}
