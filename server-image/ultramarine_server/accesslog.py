"""One line of JSON for a sample of the good answers, and for every other."""

from __future__ import annotations

import queue
import random
import sys
import threading
from datetime import UTC, datetime

import orjson

from ultramarine_server.messages import Request, Response

_WAITING = 1000  # lines; who reads the output more slowly than they come loses some, and holds up no request


class AccessLog:
    """Writes to standard output; `sampling` is the share of good answers that are shown, probes aside."""

    def __init__(self, sampling: float) -> None:
        self._sampling = sampling
        self._lines: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._writer.start()

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Show one answer by HTTP, or not."""
        if self.shows(request.label, response.status):
            sizes = len(request.body), len(response.body)
            self.show(request.id, request.method, request.path, response.status, seconds, sizes)

    def shows(self, label: str, status: int) -> bool:
        """Whether an answer is to be shown; `label` is that of the metrics, and nothing for probes."""
        return status >= 400 or (bool(label) and random.random() < self._sampling)

    def show(
        self, request_id: str, method: str, path: str, status: int, seconds: float, sizes: tuple[int, int]
    ) -> None:
        """Write one line; `sizes` are the bytes that came and went."""
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
        """Write what waits, if it can be written in that time."""
        if not self._lines.full():
            self._lines.put_nowait(b"")
            self._writer.join(seconds)

    def _write(self) -> None:
        while line := self._lines.get():
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
