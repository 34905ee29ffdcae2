"""How the gateway pods of a namespace route an endpoint, asked of each of them over HTTP, or HTTPS where TLS is on."""

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
LIMIT = 8 * 1024 * 1024  # bytes of an answer; who answers is in a namespace of somebody's


def routes_of(address: str, endpoint: str, *, figures: bool = True, signatures: bool = False) -> tuple[RouteState, ...]:
    """Ask every pod that the name in HOST:PORT stands for; with `signatures` also what the endpoint's models take.

    In https://HOST:PORT each of them has to prove that name.

    Without `figures` they leave out what was counted, and spare their Envoys the look through all statistics. A pod
    that knows nothing of the endpoint has the empty RouteState. Raises GatewayError if one does not answer, or none is
    there.
    """
    secure = address.startswith("https://")
    host, _, port = address.removeprefix("https://").rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        # Its name has addresses only while gateway pods are ready.
        raise GatewayError(f"no gateway pod is ready: {host} has no address ({error})", "NoGateway") from error
    pods = sorted({(str(at[0]), int(at[1])) for *_, at in found})
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
        body = answer.read(LIMIT)
    except (OSError, http.client.HTTPException) as error:
        raise GatewayError(f"the gateway pod at {pod} does not answer: {error!r}", "Unreachable") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise GatewayError(f"the gateway pod at {pod} answers {answer.status}", "Unreachable")
    try:
        known: Any = json.loads(body)["endpoints"]
        return RouteState.of(known.get(endpoint, {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GatewayError(f"the gateway pod at {pod} answers in no words of ours: {error!r}", "BadAnswer") from error
