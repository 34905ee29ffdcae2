"""Load generator Vegeta: built from the Go module proxy, closed and open loop, with every answer checked."""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from ultramarine_cluster import build
from ultramarine_cluster.paths import cache

MODULE = Path(__file__).resolve().parent / "vegeta"
PATIENCE_SECONDS = 30  # for one answer; then the request has failed


@dataclass(frozen=True)
class Target:
    """Request that is sent repeatedly: URL, headers and body."""

    url: str
    body: Path
    headers: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the target in Vegeta's format."""
        return "\n".join([f"POST {self.url}", "Content-Type: application/json", *self.headers, f"@{self.body}"])


@dataclass(frozen=True)
class Outcome:
    """Outcome of one attack: its duration, the seconds of each correct answer, and the failures."""

    seconds: float
    latencies: tuple[float, ...]
    failures: Counter[str]

    @property
    def total(self) -> int:
        return len(self.latencies) + self.failures.total()

    @property
    def rate(self) -> float:
        """Return correct answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency quantile of the correct answers; NaN if there are none."""
        latencies = self._sorted
        return latencies[min(len(latencies) - 1, math.ceil(share * len(latencies)) - 1)] if latencies else math.nan

    @cached_property
    def _sorted(self) -> list[float]:
        return sorted(self.latencies)


def generator() -> Path:
    """Return the path of Vegeta, compiled from the pinned module the first time."""
    made_of = sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    program = cache() / f"vegeta-{made_of}"
    if not program.exists():
        print("  building vegeta (a minute)", flush=True)
        part = program.with_suffix(f".part-{os.getpid()}")
        caches = {"GOMODCACHE": str(cache() / "go-mod"), "GOCACHE": str(cache() / "go-build"), "GOFLAGS": "-modcacherw"}
        words: list[str | Path] = [
            build.go_program(),
            "build",
            "-trimpath",
            "-o",
            part,
            "github.com/tsenart/vegeta/v12",
        ]
        environment = {**os.environ, **caches, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        subprocess.run(words, check=True, cwd=MODULE, env=environment)
        part.rename(program)  # atomically
    return program


def attack(target: Target, connections: int, rate: int, seconds: float, right: Callable[[bytes], bool]) -> Outcome:
    """Send requests for some seconds and check every answer.

    With rate 0 each connection sends its next request after an answer. Otherwise `rate` requests per second begin,
    however slow the answers are, on as many connections as necessary.
    """
    program = str(generator())
    results = target.body.with_suffix(".results")
    loop = ["-rate", str(rate)]
    if not rate:
        number = str(connections)
        loop += ["-workers", number, "-max-workers", number, "-connections", number, "-max-connections", number]
    words = [program, "attack", *loop, "-duration", f"{seconds}s", "-timeout", f"{PATIENCE_SECONDS}s"]
    # One Go thread for one core: more threads would only compete.
    environment = {**os.environ, "GOMAXPROCS": "1"}
    limit = seconds + 2 * PATIENCE_SECONDS
    with results.open("wb") as file:
        subprocess.run(words, input=target.text().encode(), stdout=file, check=True, env=environment, timeout=limit)
    table = subprocess.run([program, "encode", "--to", "csv", results], check=True, capture_output=True, text=True)
    results.unlink()
    return _outcome(table.stdout, right)


def _outcome(table: str, right: Callable[[bytes], bool]) -> Outcome:
    csv.field_size_limit(2**24)
    verdicts: dict[str, bool] = {}  # many servers give the same answer each time
    latencies, failures = [], Counter[str]()
    first, last = math.inf, 0
    for began, code, latency, _, _, error, body, *_ in csv.reader(table.splitlines()):
        first, last = min(first, int(began)), max(last, int(began) + int(latency))
        if code != "200":
            failures[error or code] += 1
            continue
        if body not in verdicts:
            verdicts[body] = right(base64.b64decode(body))
        if verdicts[body]:
            latencies.append(int(latency) / 1e9)
        else:
            failures["wrong answer"] += 1
    return Outcome((last - first) / 1e9, tuple(latencies), failures)


def says(labels: Callable[[object], list[float]], expected: list[float]) -> Callable[[bytes], bool]:
    """Return a check of answers: True for a JSON body with these labels."""

    def right(body: bytes) -> bool:
        try:
            return [float(label) for label in labels(json.loads(body))] == expected
        except (ValueError, KeyError, IndexError, TypeError):
            return False

    return right
