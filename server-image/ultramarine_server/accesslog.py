"""Access log: a line of JSON for each error, and for a sample of the other answers."""

from __future__ import annotations

import queue
import random
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from ultramarine_server.http.messages import Request, Response

MAX_LINES = 1000  # lines that wait to be written; further lines are dropped, so that no request waits for a slow reader


class AccessLog:
    """Log on standard output; `sampling` is the share of successful answers that it shows, without probes."""

    def __init__(self, sampling: float) -> None:
        self._sampling = sampling
        self._lines: queue.Queue[bytes] = queue.Queue(MAX_LINES)
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._writer.start()

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Write a line for an answer by HTTP, if the sample has it."""
        if self.shows(request.label, response.status):
            sizes = len(request.body), len(response.body)
            self.show(request.id, request.method, request.path, response.status, seconds, sizes)

    def shows(self, label: str, status: int) -> bool:
        """True if an answer belongs into the log; `label` is the route's in the metrics, and empty for probes."""
        return status >= 400 or (bool(label) and random.random() < self._sampling)

    def show(
        self, request_id: str, method: str, path: str, status: int, seconds: float, sizes: tuple[int, int]
    ) -> None:
        """Write a line; `sizes` are the bytes of request and answer."""
        line = {
            "event": "request",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "requestId": request_id,
            "method": method,
            "path": path[:200],
            "status": status,
            "seconds": round(seconds, 6),
            "bytesIn": sizes[0],
            "bytesOut": sizes[1],
        }
        if not self._lines.full():
            self._lines.put_nowait(orjson.dumps(line) + b"\n")

    def close(self, seconds: float = 1.0) -> None:
        """Write the waiting lines, within this time."""
        if not self._lines.full():
            self._lines.put_nowait(b"")
            self._writer.join(seconds)

    def _write(self) -> None:
        while line := self._lines.get():
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
