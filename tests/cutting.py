"""A TCP proxy on loopback that passes a number of bytes and then no more, or cuts connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

_CHUNK = 64 * 1024


class CuttingProxy:
    """Passes bytes between clients and a server. `passed` counts those of the chosen direction.

    After `limit` bytes nothing passes until `resume`; with `cut`, open connections end there instead.
    """

    def __init__(self, server: str, limit: int = 1 << 62, upward: bool = True, cut: bool = False) -> None:
        target = urlsplit(server)
        self._target = (target.hostname or "", target.port or 0)
        self._limit, self._upward, self._cut = limit, upward, cut
        self.passed = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def resume(self) -> None:
        """Pass everything from now on, and count from 0."""
        with self._lock:
            self._limit, self.passed = 1 << 62, 0
        self._open.set()

    @property
    def is_stalled(self) -> bool:
        """True if the limit is reached."""
        return self.passed >= self._limit

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for source, sink, upward in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._carry, args=(source, sink, upward), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if upward == self._upward and not self._may_pass(len(data)):
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, size: int) -> bool:
        """Count bytes; at the limit wait for `resume`, or return False once for each connection that is to be cut."""
        with self._lock:
            self.passed += size
            stalled = self.passed >= self._limit
            if stalled and self._cut:
                self.passed = 0
                return False
        if stalled:
            self._open.wait()
        return True
