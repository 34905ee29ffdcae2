"""Questions to the gateway pods of a namespace, over HTTP, or HTTPS with TLS: how they route an endpoint."""

from __future__ import annotations

import json
import socket
from typing import Any

from ultramarine_contract.errors import GatewayError
from ultramarine_contract.routes import RouteState
from ultramarine_contract.transport import cause, inside
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError

SECONDS = 2.0  # to connect, and for each part of an answer
MAX_BYTES = 8 * 1024 * 1024  # of an answer, which comes from a tenant's namespace


def routes_of(address: str, endpoint: str, *, figures: bool = True, signatures: bool = False) -> tuple[RouteState, ...]:
    """Ask every pod behind HOST:PORT; with `signatures` also for the inputs of the endpoint's models.

    With https://HOST:PORT each pod must prove that name. Without `figures` the pods leave out their counters, for which
    Envoy searches all statistics. A pod without the endpoint has the empty RouteState. Raises GatewayError if a pod
    does not answer, or no pod exists.
    """
    secure = address.startswith("https://")
    host, _, port = address.removeprefix("https://").rpartition(":")
    try:
        addresses = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        # The name has addresses only while gateway pods are ready.
        raise GatewayError(f"no gateway pod is ready: {host} has no address ({error})", "NoGateway") from error
    pods = sorted({(str(at[0]), int(at[1])) for *_, at in addresses})
    path = (
        f"/routes?endpoint={endpoint}"
        + ("" if figures else "&figures=false")
        + ("&signatures=true" if signatures else "")
    )
    with inside(host) as http:
        connections = [http.connection_from_host(pod, number, "https" if secure else "http") for pod, number in pods]
        return tuple(_ask(pod, endpoint, path) for pod in connections)


def _ask(pod: HTTPConnectionPool, endpoint: str, path: str) -> RouteState:
    try:
        with pod.request("GET", path, timeout=SECONDS, preload_content=False) as answer:
            body = answer.read(MAX_BYTES)
    except HTTPError as error:
        raise GatewayError(f"the gateway pod at {pod.host} does not answer: {cause(error)}", "Unreachable") from error
    if answer.status != 200:
        raise GatewayError(f"the gateway pod at {pod.host} answers {answer.status}", "Unreachable")
    try:
        endpoints: Any = json.loads(body)["endpoints"]
        return RouteState.of(endpoints.get(endpoint, {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GatewayError(f"the gateway pod at {pod.host} gives a malformed answer: {error!r}", "BadAnswer") from error
