"""Requests to an endpoint whose connections hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ultramarine.serving.route import EndpointError, Route


class Server:
    """A server that takes connections and answers none but the last of `hanging` + 1."""

    def __init__(self, hanging: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.hanging, self.kept = hanging, list[socket.socket]()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.kept.append(connection)
            if len(self.kept) > self.hanging:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def close(self) -> None:
        """End all connections."""
        for connection in [self.listener, *self.kept]:
            connection.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose first connections hang, as many as the parameter says."""
    server = Server(request.param)
    yield server
    server.close()


def asked(server: Server, **options: Any) -> Any:
    """Ask the server for a signature inside a cluster, as an endpoint whose own timeout is a second."""
    client: Any = SimpleNamespace(cluster=SimpleNamespace(access=SimpleNamespace(context="in-cluster")))
    host, port = server.listener.getsockname()
    manifest = {
        "spec": {"deployments": [{"name": "blue", "requestSettings": {"timeoutSeconds": 1}}]},
        "status": {"url": f"http://{host}:{port}"},
    }
    return Route(client, "churn", print).send("GET", "/v2/models/churn", None, {}, manifest, **options)


@pytest.mark.parametrize("server", [2], indirect=True)
def test_a_connection_that_hangs_is_left_for_another(server: Server) -> None:
    """A tunnel may lead to a pod that has just gone, and then nobody answers."""
    assert asked(server, repeat=True, seconds=0.3).body == b"{}"
    assert len(server.kept) == 3


@pytest.mark.parametrize("server", [2], indirect=True)
def test_a_request_that_may_not_be_sent_twice_is_not(server: Server) -> None:
    """The remedy for a request without rows is not to send fewer."""
    with pytest.raises(EndpointError, match=r"does not answer within its timeout\. `ultramarine endpoints logs churn`"):
        asked(server, repeat=False, seconds=0.3)
    assert len(server.kept) == 1
