"""Vegeta as the load generator: built from the Go module proxy, closed and open loop, every answer judged."""

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
PATIENCE_SECONDS = 30  # for one answer; whoever has none by then has failed


@dataclass(frozen=True)
class Target:
    """A request to be sent over and over: where to, its headers and its body."""

    url: str
    body: Path
    headers: tuple[str, ...] = ()

    def text(self) -> str:
        """The target in vegeta's own format."""
        return "\n".join([f"POST {self.url}", "Content-Type: application/json", *self.headers, f"@{self.body}"])


@dataclass(frozen=True)
class Outcome:
    """What became of the requests of one attack: seconds of the whole, of each right answer, and the failures."""

    seconds: float
    latencies: tuple[float, ...]
    failures: Counter[str]

    @property
    def total(self) -> int:
        return len(self.latencies) + self.failures.total()

    @property
    def rate(self) -> float:
        """Right answers in a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency that this share of the right answers kept within; NaN where there is none."""
        found = self._sorted
        return found[min(len(found) - 1, math.ceil(share * len(found)) - 1)] if found else math.nan

    @cached_property
    def _sorted(self) -> list[float]:
        return sorted(self.latencies)


def generator() -> Path:
    """The program, compiled from the pinned module the first time."""
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
        part.rename(program)  # whole or not at all
    return program


def attack(target: Target, connections: int, rate: int, seconds: float, right: Callable[[bytes], bool]) -> Outcome:
    """Send requests for some seconds, and judge every answer.

    With rate 0 each connection asks again as soon as it is answered; else so many requests a second are begun,
    however slow the answers are, on as many connections as that takes.
    """
    program = str(generator())
    results = target.body.with_suffix(".results")
    loop = ["-rate", str(rate)]
    if not rate:
        number = str(connections)
        loop += ["-workers", number, "-max-workers", number, "-connections", number, "-max-connections", number]
    words = [program, "attack", *loop, "-duration", f"{seconds}s", "-timeout", f"{PATIENCE_SECONDS}s"]
    # One thread of Go's for one core: more would only push each other away.
    environment = {**os.environ, "GOMAXPROCS": "1"}
    limit = seconds + 2 * PATIENCE_SECONDS
    with results.open("wb") as file:
        subprocess.run(words, input=target.text().encode(), stdout=file, check=True, env=environment, timeout=limit)
    table = subprocess.run([program, "encode", "--to", "csv", results], check=True, capture_output=True, text=True)
    results.unlink()
    return _outcome(table.stdout, right)


def _outcome(table: str, right: Callable[[bytes], bool]) -> Outcome:
    csv.field_size_limit(2**24)
    known: dict[str, bool] = {}  # many servers say the same words each time
    latencies, failures = [], Counter[str]()
    first, last = math.inf, 0
    for began, code, latency, _, _, error, body, *_ in csv.reader(table.splitlines()):
        first, last = min(first, int(began)), max(last, int(began) + int(latency))
        if code != "200":
            failures[error or code] += 1
            continue
        if body not in known:
            known[body] = right(base64.b64decode(body))
        if known[body]:
            latencies.append(int(latency) / 1e9)
        else:
            failures["wrong answer"] += 1
    return Outcome((last - first) / 1e9, tuple(latencies), failures)


def says(labels: Callable[[object], list[float]], wanted: list[float]) -> Callable[[bytes], bool]:
    """A judge of answers: whether a body is JSON with these labels."""

    def right(body: bytes) -> bool:
        try:
            return [float(label) for label in labels(json.loads(body))] == wanted
        except (ValueError, KeyError, IndexError, TypeError):
            return False

    return right
