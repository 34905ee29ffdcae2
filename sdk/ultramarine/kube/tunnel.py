"""Port forwarding from this process to a pod, through the API server by WebSocket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlencode, urlsplit

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import POD
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from .client import Cluster, unreachable
from .errors import error_of

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1  # channels of a forwarded port
_CHUNK = 64 * 1024
_SECONDS = 15  # to open a connection


class TunnelClosed(UltramarineError):
    """The pod does not accept connections at the port, or has ended."""

    reason = "TunnelClosed"


def open_port(cluster: Cluster, pod: str, port: int) -> ClientConnection:
    """Open one connection to a port of a pod. Raises NotFound, Forbidden or NoAccess."""
    address = urlsplit(cluster.access.server)
    scheme = "wss" if address.scheme == "https" else "ws"
    path = POD.path(cluster.namespace, pod, "portforward")
    uri = f"{scheme}://{address.netloc}{address.path}{path}?{urlencode({'ports': port})}"
    headers = cluster.authorization()
    try:
        return connect(
            uri,
            ssl=cluster.ssl if scheme == "wss" else None,
            server_hostname=cluster.access.server_name or None if scheme == "wss" else None,
            additional_headers=headers,
            subprotocols=[_PROTOCOL],  # type: ignore[list-item]
            compression=None,
            max_size=None,
            open_timeout=_SECONDS,
            proxy=cluster.access.proxy or True,
        )
    except InvalidStatus as error:
        body = bytes(error.response.body or b"")
        raise error_of(error.response.status_code, body, f"pod {cluster.namespace}/{pod}", cluster.access) from None
    except (OSError, WebSocketException) as error:
        raise unreachable(cluster.access, error) from None


class Tunnel:
    """A port of this machine's loopback that leads to a port of a pod while the context is open.

    Each connection has its own WebSocket. `as_proxy` answers an HTTP client's CONNECT, whatever address it names. If
    the pod is gone, `find` gives another one.
    """

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        port: int,
        as_proxy: bool = False,
        local_port: int = 0,
        find: Callable[[], str] | None = None,
    ) -> None:
        self.cluster, self.pod, self.port, self.as_proxy, self.find = cluster, pod, port, as_proxy, find
        self.problem: UltramarineError | None = None
        self._listener = socket.create_server(("127.0.0.1", local_port))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def local_port(self) -> int:
        """Port of this machine."""
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        """Host and port of this machine."""
        return f"127.0.0.1:{self.local_port}"

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; open connections go on until either side ends them."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, connection: socket.socket) -> None:
        with connection:
            try:
                remote = self._open()
            except UltramarineError as error:
                self.problem = error
                return
            self.problem = None
            if self.as_proxy and not _connected(connection):
                return
            with remote:
                upward = threading.Thread(target=self._send, args=(connection, remote), daemon=True)
                upward.start()
                self._receive(remote, connection)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _open(self) -> ClientConnection:
        try:
            return open_port(self.cluster, self.pod, self.port)
        except UltramarineError:
            if self.find is None:
                raise
            self.pod = self.find()
            return open_port(self.cluster, self.pod, self.port)

    def _send(self, connection: socket.socket, remote: ClientConnection) -> None:
        with suppress(OSError, ConnectionClosed):
            while data := connection.recv(_CHUNK):
                remote.send(bytes([_DATA]) + data)
        with suppress(Exception):
            remote.close()

    def _receive(self, remote: ClientConnection, connection: socket.socket) -> None:
        """Pass on what the pod sends. The first message of each channel names the port."""
        begun: set[int] = set()
        with suppress(OSError, ConnectionClosed):
            for message in remote:
                frame = message.encode() if isinstance(message, str) else message
                if not frame:
                    continue
                channel, data = frame[0], frame[1:]
                if channel not in begun:
                    begun.add(channel)
                elif channel == _DATA:
                    connection.sendall(data)
                elif channel == _ERROR and data:
                    words = data.decode(errors="replace").strip()
                    self.problem = TunnelClosed(f"pod {self.pod} does not accept port {self.port}: {words}")


def _connected(connection: socket.socket) -> bool:
    """Read a request CONNECT and agree to it; False if the client left."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) > 8192:
            return False
        head += byte
    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return True
