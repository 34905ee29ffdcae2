"""Request metrics for Prometheus, request ids and the goodbye to connections, around the whole application."""

from __future__ import annotations

import re
import time
import uuid

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Telemetry:
    """What one server process counts."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "ultramarine_server_requests", "Answers, by route and code.", ["route", "code"], registry=self._registry
        )
        self._seconds = Histogram(
            "ultramarine_server_request_seconds",
            "Time from the request's head to the answer's end.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        gauge = Gauge("ultramarine_server_in_flight", "Requests that are being answered.", registry=self._registry)
        gauge.set_function(lambda: self.in_flight)

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def count(self, route: str, code: int, seconds: float) -> None:
        """Take one answered request into account."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)


def _route(path: str) -> str:
    """Return a label with few values; nothing for probes and scrapes, which would drown the rest."""
    if path.startswith("/v2/health/") or path == "/metrics" or path.endswith("/ready"):
        return ""
    return "infer" if path.endswith("/infer") else "metadata"


class Observed:
    """The application, counted; every answer carries a request id and, while draining, asks to close the connection."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, code = time.perf_counter(), 500

        async def send_observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if self._telemetry.draining:
                    headers["connection"] = "close"
            await send(message)

        self._telemetry.in_flight += 1
        try:
            await self._app(scope, receive, send_observed)
        finally:
            self._telemetry.in_flight -= 1
            if route := _route(scope["path"]):
                self._telemetry.count(route, code, time.perf_counter() - started)
