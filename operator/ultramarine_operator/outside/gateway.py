"""Questions to the gateway pods of a namespace, over HTTP, or HTTPS with TLS: how they route an endpoint."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from ultramarine_contract.common import TLS_DIR
from ultramarine_contract.errors import GatewayError
from ultramarine_contract.routes import RouteState
from ultramarine_contract.tls import Connection

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
    return tuple(_ask(pod, number, endpoint, path, host if secure else "") for pod, number in pods)


def _ask(pod: str, port: int, endpoint: str, path: str, name: str) -> RouteState:
    connection = (
        Connection(pod, port, SECONDS, Path(TLS_DIR), name)
        if name
        else http.client.HTTPConnection(pod, port, timeout=SECONDS)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise GatewayError(f"the gateway pod at {pod} does not answer: {error!r}", "Unreachable") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise GatewayError(f"the gateway pod at {pod} answers {answer.status}", "Unreachable")
    try:
        endpoints: Any = json.loads(body)["endpoints"]
        return RouteState.of(endpoints.get(endpoint, {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GatewayError(f"the gateway pod at {pod} gives a malformed answer: {error!r}", "BadAnswer") from error
