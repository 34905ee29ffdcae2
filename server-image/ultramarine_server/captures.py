"""What is kept of requests for the data collector: drawn on the event loop, written down by a thread of its own."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ultramarine_server.collected import read_totals
from ultramarine_server.exchange import Capture, Redaction, reader_of
from ultramarine_server.messages import Request, Response
from ultramarine_server.service import Service
from ultramarine_server.spool import Spool

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LIMIT = 64 * 1024  # bytes of a request and its answer together, as they came and as they are written down
_LABELS = frozenset({"infer", "score", "grpc_infer", "grpc_stream"})
# Others were refused by their head alone, or their client has gone.
_STATUSES = frozenset({200, 400, 500, 503, 504})
_CAPTURES, _BYTES = 1000, 8 * 1024 * 1024
_BATCH = 64 * 1024  # bytes that are written at once
_PAUSE_SECONDS = 0.1
# After each one, so that the event loop never waits longer than one takes: a thread that only computes would let it
# wait for Python's switch interval, 5 ms.
_BREATH_SECONDS = 0.0001


class Captures:
    """Keeps a share of `rate` of the requests, and counts those that it could not keep; no request waits for it."""

    def __init__(self, rate: float, redaction: Redaction, folder: Path, spool: Spool | None = None) -> None:
        self._rate, self._redaction, self._folder = rate, redaction, folder
        self._spool = spool or Spool(folder)
        self._waiting: deque[Capture] = deque()
        self._came = self._went = 0  # bytes, counted by one thread each
        # By reason; one for the event loop's thread and one for the other, so that nothing has to be locked.
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self._thread.start()

    def wants(self, label: str, status: int) -> bool:
        """Draw whether an answer is kept; `label` is that of the metrics."""
        return label in _LABELS and status in _STATUSES and random.random() < self._rate

    def take_answer(self, service: Service, request: Request, response: Response, seconds: float) -> None:
        """Keep an answer by HTTP that was drawn, if there is room."""
        size, read = len(request.body) + len(response.body), reader_of(service, request, response)
        self.take(Capture(request.id, request.path, response.status, seconds, size, read))

    def take(self, capture: Capture) -> None:
        """Keep one that was drawn, if there is room."""
        if capture.size > LIMIT:
            self._refused["size"] += 1
        elif len(self._waiting) >= _CAPTURES or self._came - self._went + capture.size > _BYTES:
            self._refused["buffer"] += 1
        else:
            capture.time = time.time() - capture.seconds
            self._came += capture.size
            self._waiting.append(capture)

    def close(self, seconds: float = 10.0) -> None:
        """Pass on what was taken, if that can be done in that time."""
        self._closing.set()
        self._thread.join(seconds)

    def metrics(self) -> Iterable[Metric]:
        """What became of those that were drawn; what is stored the collector has counted."""
        from prometheus_client.core import CounterMetricFamily  # As in Telemetry: no start waits for it.

        totals = read_totals(self._folder)
        family = CounterMetricFamily(
            "ultramarine_server_captures",
            "Requests drawn for the data collector, by what became of them.",
            labels=["result", "reason"],
        )
        family.add_metric(["written", ""], totals.written)
        lost = {"unreadable": totals.unreadable}
        for reason in ("buffer", "size", "unreadable", "disk"):
            number = self._refused[reason] + self._lost[reason] + lost.get(reason, 0)
            family.add_metric(["dropped", reason], number)
        failed = "Times that the object storage did not take what the data collector wanted to store."
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
            if size >= _BATCH:
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
                print(f"ultramarine-server: captures cannot be kept in {self._folder}: {error}", flush=True)
            self._lost["disk"] += len(lines)

    def _line(self, capture: Capture) -> bytes:
        """Return the line of one, or nothing where it is not kept."""
        try:
            exchange = capture.read()
            asked, answered = self._redaction.text(exchange.inputs), self._redaction.text(exchange.outputs)
        except Exception as error:  # It was answered all the same; whatever this is, it must not end the thread.
            if not self._lost["unreadable"]:
                print(f"ultramarine-server: request {capture.id} cannot be kept: {type(error).__name__}", flush=True)
            self._lost["unreadable"] += 1
            return b""
        if len(asked or "") + len(answered or "") > LIMIT:
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
