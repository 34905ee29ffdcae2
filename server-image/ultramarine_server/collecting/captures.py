"""Captures of requests for the data collector: sampled on the event loop, and written by a thread."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import orjson
from prometheus_client.core import CounterMetricFamily, Metric

from ultramarine_server.collecting.exchange import Capture, reader_of
from ultramarine_server.collecting.spool import Spool, read_totals
from ultramarine_server.http.messages import Request, Response
from ultramarine_server.inference.service import Service

MAX_CAPTURE = 64 * 1024  # bytes of a request with its answer, as received and as written
_LABELS = frozenset({"infer", "score", "grpc_infer", "grpc_stream"})
# Other statuses mean that the head was refused, or that the client has gone.
_STATUSES = frozenset({200, 400, 500, 502, 503, 504})
_MAX_CAPTURES, _MAX_BYTES = 1000, 8 * 1024 * 1024
_BATCH_BYTES = 64 * 1024  # bytes that are written at once
_PAUSE_SECONDS = 0.1
# Pause after each capture, so that the event loop waits for a single capture at most. Without the pause it would wait
# for Python's switch interval, 5 ms.
_BREATH_SECONDS = 0.0001


class Redacting(Protocol):
    """Writer of a side of an exchange as JSON, without redacted values."""

    def text(self, part: Any) -> str | None: ...


class Captures:
    """Sample of requests at a rate, with counts of those that were dropped; no request waits for it."""

    def __init__(self, rate: float, redaction: Redacting, folder: Path, spool: Spool | None = None) -> None:
        self._rate, self._redaction, self._folder = rate, redaction, folder
        self._spool = spool or Spool(folder)
        self._waiting: deque[Capture] = deque()
        self._came = self._went = 0  # bytes; each thread writes its own count
        # By reason; each thread has a counter, so that no lock is needed.
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self._thread.start()

    def wants(self, label: str, status: int) -> bool:
        """True if the sample has this answer; `label` is the route's in the metrics."""
        return label in _LABELS and status in _STATUSES and self.draws()

    def draws(self) -> bool:
        """Draw a request: True if the sample has it."""
        return random.random() < self._rate

    def refuse(self, reason: str) -> None:
        """Count a sampled request that is dropped."""
        self._refused[reason] += 1

    def take_answer(self, service: Service, request: Request, response: Response, seconds: float) -> None:
        """Keep a sampled answer by HTTP, if the buffer has room."""
        size, read = len(request.body) + len(response.body), reader_of(service, request, response)
        self.take(Capture(request.id, request.path, response.status, seconds, size, read))

    def take(self, capture: Capture) -> None:
        """Keep a sampled capture, if the buffer has room."""
        if capture.size > MAX_CAPTURE:
            self._refused["size"] += 1
        elif len(self._waiting) >= _MAX_CAPTURES or self._came - self._went + capture.size > _MAX_BYTES:
            self._refused["buffer"] += 1
        else:
            capture.time = time.time() - capture.seconds
            self._came += capture.size
            self._waiting.append(capture)

    def close(self, seconds: float = 10.0) -> None:
        """Write all captures, within this time."""
        self._closing.set()
        self._thread.join(seconds)

    def losses(self) -> dict[str, int]:
        """Return the numbers of dropped requests, by reason."""
        return dict(self._refused + self._lost)

    def metrics(self) -> Iterable[Metric]:
        """Yield the metrics of captures; the collector has counted the stored captures."""
        totals = read_totals(self._folder)
        family = CounterMetricFamily(
            "ultramarine_server_captures",
            "Requests sampled for the data collector, by result.",
            labels=["result", "reason"],
        )
        family.add_metric(["written", ""], totals.written)
        lost = {"unreadable": totals.unreadable}
        for reason in ("buffer", "size", "unreadable", "disk"):
            number = self._refused[reason] + self._lost[reason] + lost.get(reason, 0)
            family.add_metric(["dropped", reason], number)
        failed = "Failed writes of the data collector to the object storage."
        return [family, CounterMetricFamily("ultramarine_server_captures_failed_writes", failed, totals.failed_writes)]

    def _run(self) -> None:
        while not self._closing.wait(_PAUSE_SECONDS):
            self._write(_BREATH_SECONDS)
        self._write(0, last=True)

    def _write(self, breath: float, *, last: bool = False) -> None:
        lines: list[bytes] = []
        size = 0
        while self._waiting:
            capture = self._waiting.popleft()
            if line := self._line(capture):
                lines.append(line)
                size += len(line)
            self._went += capture.size
            if breath:
                time.sleep(breath)
            if size >= _BATCH_BYTES:
                self._pass(lines)
                lines, size = [], 0
        self._pass(lines, last=last)

    def _pass(self, lines: list[bytes], *, last: bool = False) -> None:
        try:
            if lines:
                self._lost["disk"] += self._spool.add(lines)
            self._lost["disk"] += self._spool.turn(now=last)
        except OSError as error:
            if not self._lost["disk"]:
                print(f"ultramarine-server: cannot write captures to {self._folder}: {error}", flush=True)
            self._lost["disk"] += len(lines)

    def _line(self, capture: Capture) -> bytes:
        """Return the line of a capture; empty if it is dropped."""
        try:
            exchange = capture.read()
            asked, answered = self._redaction.text(exchange.inputs), self._redaction.text(exchange.outputs)
        except Exception as error:  # The request is answered, and no exception may end the thread.
            if not self._lost["unreadable"]:
                print(f"ultramarine-server: cannot keep request {capture.id}: {type(error).__name__}", flush=True)
            self._lost["unreadable"] += 1
            return b""
        if len(asked or "") + len(answered or "") > MAX_CAPTURE:
            self._lost["size"] += 1
            return b""
        line = {
            "time": int(capture.time * 1_000_000),
            "request_id": capture.id,
            "inference_id": exchange.id,
            "path": capture.path[:1000],
            "status": capture.status,
            "duration_ms": round(capture.seconds * 1000, 3),
            "request": asked,
            "response": answered,
        }
        return orjson.dumps(line) + b"\n"
