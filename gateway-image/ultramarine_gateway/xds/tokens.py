"""Tokens used by each key: counters for metrics, and a bucket that fills steadily for each limited key."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from ultramarine_contract.routes import EndpointRoutes

MAX_KEYS = 200  # of an endpoint in the metrics; further subjects of JWTs count as `others`
MAX_BUCKETS = 10_000  # of an endpoint; those not used for longest are full again
_OK, _OVER_LIMIT = 1, 2


@dataclass
class _Bucket:
    """Tokens that a key may use as of `since`; below 0 after an answer that used more."""

    level: float
    since: float

    def fill(self, per_minute: int, now: float) -> None:
        self.level, self.since = min(per_minute, self.level + (now - self.since) * per_minute / 60), now


class TokenUsage(Collector):
    """Tokens of all endpoints since the agent started. `routes` returns the routes of an endpoint that Envoy uses."""

    def __init__(self, routes: Callable[[str], EndpointRoutes | None]) -> None:
        self._routes = routes
        self._counts: dict[str, Counter[tuple[str, str, str]]] = {}  # by endpoint
        self._buckets: dict[str, OrderedDict[str, _Bucket]] = {}  # by endpoint
        self._names: dict[str, set[str]] = {}

    def add(self, endpoint: str, deployment: str, key: str, direction: str, tokens: int) -> None:
        """Count tokens of an answer, and take them from the key's bucket."""
        per_minute = self._per_minute(endpoint)
        if per_minute:
            self._bucket(endpoint, key, per_minute).level -= tokens
        self._counts.setdefault(endpoint, Counter())[deployment, self._name(endpoint, key), direction] += tokens

    def left(self, endpoint: str, key: str) -> tuple[int, float, int]:
        """Return the limit of a key, the tokens that it may use now, and the seconds until it may use some.

        A limit of 0 means that the key has none.
        """
        per_minute = self._per_minute(endpoint)
        if not per_minute:
            return 0, 0.0, 0
        level = self._bucket(endpoint, key, per_minute).level
        return per_minute, level, 0 if level >= 1 else math.ceil((1 - level) * 60 / per_minute)

    def keep(self, endpoints: Collection[str]) -> None:
        """Forget the counters and buckets of all other endpoints."""
        for name in (self._counts.keys() | self._buckets.keys()) - set(endpoints):
            for kept in (self._counts, self._buckets, self._names):
                kept.pop(name, None)

    def collect(self) -> Iterator[Metric]:
        """Yield the counters at a scrape."""
        labels = ["endpoint", "deployment", "key", "direction"]
        family = CounterMetricFamily("ultramarine_gateway_tokens", "Tokens of OpenAI-style answers.", labels=labels)
        for endpoint, counts in sorted(self._counts.items()):
            for of, count in sorted(counts.items()):
                family.add_metric([endpoint, *of], count)
        yield family

    def _per_minute(self, endpoint: str) -> int:
        routes = self._routes(endpoint)
        return routes.tokens.per_minute if routes else 0

    def _bucket(self, endpoint: str, key: str, per_minute: int) -> _Bucket:
        now, buckets = time.monotonic(), self._buckets.setdefault(endpoint, OrderedDict())
        bucket = buckets.setdefault(key, _Bucket(per_minute, now))
        buckets.move_to_end(key)
        if len(buckets) > MAX_BUCKETS:
            buckets.popitem(last=False)
        bucket.fill(per_minute, now)
        return bucket

    def _name(self, endpoint: str, key: str) -> str:
        """Return the label of a key: its name, or the beginning of the SHA-256 of a JWT's subject."""
        routes = self._routes(endpoint)
        name = hashlib.sha256(key.encode()).hexdigest()[:12] if routes and routes.auth.mode == "token" else key
        names = self._names.setdefault(endpoint, set())
        if name not in names and len(names) >= MAX_KEYS:
            return "others"
        names.add(name)
        return name


class TokenService(rls_pb2_grpc.RateLimitServiceServicer):  # type: ignore[misc]
    """Envoy's rate limit service: it answers before a request, and counts the tokens of its answer."""

    def __init__(self, usage: TokenUsage) -> None:
        self._usage = usage

    async def ShouldRateLimit(self, request: Any, context: Any) -> Any:
        response = rls_pb2.RateLimitResponse(overall_code=_OK)
        for descriptor in request.descriptors:
            entries = {entry.key: entry.value for entry in descriptor.entries}
            endpoint, key, direction = entries["endpoint"], entries["key"], entries.get("direction")
            if direction:
                self._usage.add(endpoint, entries["deployment"], key, direction, descriptor.hits_addend.value)
                continue
            limit, left, seconds = self._usage.left(endpoint, key)
            if limit:
                _set(response, "x-ratelimit-limit-tokens", str(limit))
                _set(response, "x-ratelimit-remaining-tokens", str(max(0, int(left))))
            if seconds:
                response.overall_code = _OVER_LIMIT
                _set(response, "retry-after", str(seconds))
                response.raw_body = _refusal(limit, seconds)
        return response


def _set(response: Any, name: str, value: str) -> None:
    response.response_headers_to_add.add(key=name, value=value)


def _refusal(limit: int, seconds: int) -> bytes:
    """Return the body of a refusal, as clients of OpenAI's API read it."""
    message = f"this key has used its {limit} tokens a minute. Try again in {seconds} s."
    error = {"message": message, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    return json.dumps({"error": error}).encode()
