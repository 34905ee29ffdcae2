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
        threading.Thread(target=self._write, name="access-log", daemon=True).start()

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Show one answer, or not."""
        if response.status < 400 and (not request.label or random.random() >= self._sampling):
            return
        line = {
            "event": "request",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "requestId": request.id,
            "method": request.method,
            "path": request.path[:200],
            "status": response.status,
            "seconds": round(seconds, 6),
            "bytesIn": len(request.body),
            "bytesOut": len(response.body),
        }
        if not self._lines.full():
            self._lines.put_nowait(orjson.dumps(line) + b"\n")

    def _write(self) -> None:
        while True:
            sys.stdout.buffer.write(self._lines.get())
            sys.stdout.buffer.flush()
