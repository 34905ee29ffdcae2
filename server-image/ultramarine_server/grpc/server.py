"""gRPC listener, on the same event loop as HTTP's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import KeyRing
from ultramarine_server.errors import LoadError
from ultramarine_server.grpc.servicer import calls
from ultramarine_server.inference.service import Service

if TYPE_CHECKING:
    from ultramarine_server.collecting.captures import Captures

# A connection closes at this age and its client opens another, so that clients spread over all pods of an address.
# The age is less than the preStop sleep, so that SIGTERM cuts off no connection.
_CONNECTION_MILLISECONDS = 8000
_CALLS_OF_A_CONNECTION = 1000  # The client queues further calls.
# Pings detect a client that has vanished; the client may ping twice as often.
_PING_MILLISECONDS = 20_000


class GrpcServer:
    """Server of a service by gRPC; `limit` is the maximum size of a request in bytes."""

    def __init__(
        self, service: Service, keys: KeyRing | None, log: AccessLog, limit: int, captures: Captures | None = None
    ) -> None:
        self._calls = calls(service, keys, log, captures)
        self._options = (
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_age_ms", _CONNECTION_MILLISECONDS),
            ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
            ("grpc.keepalive_time_ms", _PING_MILLISECONDS),
            ("grpc.http2.min_ping_interval_without_data_ms", _PING_MILLISECONDS // 2),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 0),  # A port in use is an error, and not shared.
        )
        self._server: grpc.aio.Server | None = None

    async def start(self, hosts: Sequence[str], port: int, tls: Path | None = None) -> None:
        """Listen, with `tls` by the certificate in that folder. Raises LoadError if the port is not available."""
        self._server = grpc.aio.server(handlers=(self._calls,), options=self._options)
        try:
            for host in hosts:
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                if tls:
                    self._server.add_secure_port(address, _credentials(tls))
                else:
                    self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise LoadError(f"cannot listen on port {port} for gRPC: {error}", "PortTaken") from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Accept no new calls, and end the others after this time."""
        if self._server:
            await self._server.stop(seconds)


def _credentials(folder: Path) -> grpc.ServerCredentials:
    """Return credentials that use the folder's current certificate for each new connection."""
    from ultramarine_contract.tls import CERTIFICATE, KEY, identity

    seen = identity(folder)

    def loaded() -> grpc.ServerCertificateConfiguration:
        pair = (folder / KEY).read_bytes(), (folder / CERTIFICATE).read_bytes()
        return grpc.ssl_server_certificate_configuration([pair])

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        if (now := identity(folder)) == seen:
            return None
        seen = now
        return loaded()

    return grpc.dynamic_ssl_server_credentials(loaded(), renewed)  # type: ignore[arg-type]  # None: unchanged
