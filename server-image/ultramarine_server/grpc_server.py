"""The gRPC listener beside HTTP's, on the same event loop; imported only where one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.errors import LoadError
from ultramarine_server.grpc_service import calls
from ultramarine_server.keys import KeyRing
from ultramarine_server.service import Service

if TYPE_CHECKING:
    from ultramarine_server.captures import Captures

# A connection says goodbye at this age and its client makes another, so that clients spread over all pods behind one
# address; and, since it is less than a leaving pod's preStop sleep, none is left for SIGTERM to cut off.
_CONNECTION_MILLISECONDS = 8000
_CALLS_OF_A_CONNECTION = 1000  # Others wait at the client.
# A client that has gone without a word is noticed by pings; its own may come twice as often.
_PING_MILLISECONDS = 20_000


class GrpcServer:
    """Answers by gRPC what the service knows; `limit` is the size of a request in bytes."""

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
            ("grpc.so_reuseport", 0),  # A port that somebody has is an error, not to be shared with them.
        )
        self._server: grpc.aio.Server | None = None

    async def start(self, hosts: Sequence[str], port: int, tls: Path | None = None) -> None:
        """Listen, with `tls` by the certificate in that folder. Raises LoadError when the port cannot be had."""
        self._server = grpc.aio.server(handlers=(self._calls,), options=self._options)
        try:
            for host in hosts:
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                if tls:
                    self._server.add_secure_port(address, _credentials(tls))
                else:
                    self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise LoadError(f"port {port} for gRPC cannot be had: {error}", "PortTaken") from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no new calls, and end those that are not through after so many seconds."""
        if self._server:
            await self._server.stop(seconds)


def _credentials(folder: Path) -> grpc.ServerCredentials:
    """Credentials by the certificate that is in the folder when a connection is made."""
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

    return grpc.dynamic_ssl_server_credentials(loaded(), renewed)  # type: ignore[arg-type]  # None: as it was
