"""Ports of loopback for the programs that tests start."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

_FIRST, _EACH, _WORKERS = 10_000, 1_250, 8  # below those of clusters, and of outgoing connections
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_numbers = itertools.count(os.getpid() * 1009)


def free_port() -> int:
    """Return a free port, which no other worker of this run gets."""
    while True:
        port = _FIRST + _worker * _EACH + next(_numbers) % _EACH
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
