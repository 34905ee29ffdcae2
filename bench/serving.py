"""Ultramarine's server against those that a user would choose instead: throughput, latency, start-up, memory.

Two models of the breast-cancer set, each served by one server at a time. The server has one core for itself, the load
generator another. Each server is checked for correct answers before its measurement, and every answer during it. Run
it by `make serving`; the first time it makes a virtualenv for each server in the cache folder.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import incumbents
from incumbents import SERVED, SERVERS, Place, Server
from load import Outcome, Target, attack, generator, says
from pinned import HOST, cpu_seconds, free_port, memory, pinned
from served.fit import MODELS
from sights import table
from unit.serving_process import ROWS

ROW_COUNTS = (1, 64)
CONNECTIONS = (1, 8, 64)
OPEN_RATE = 100  # requests per second
STARTS = 7  # of each server with each model; the last one is measured further
CHECKED_ROWS = 16  # one by one, before the timing
START_SECONDS = 120.0
MIB = 2**20


class NotServing(Exception):
    """Server that did not start, or gave a wrong answer before the measurement."""


@dataclass
class Result:
    """Measurements of one server with one model; outcomes by rows and connections, 0 for the open loop."""

    server: Server
    starts: list[float] = field(default_factory=list)  # seconds to the first right answer
    memory: float = 0.0  # bytes
    outcomes: dict[tuple[int, int], Outcome] = field(default_factory=dict)
    cpu: dict[tuple[int, int], float] = field(default_factory=dict)  # seconds for each answer, of the same cells

    @property
    def start_seconds(self) -> float:
        """Return the median of all starts."""
        return statistics.median(self.starts)


def ask(place: Place, path: str, document: object, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send one request on a new connection; return code and body."""
    connection = http.client.HTTPConnection(HOST, place.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def first_answer(server: Server, place: Place, running: subprocess.Popen[bytes], right: list[float]) -> None:
    """Send requests until the first correct answer. Raises NotServing if none comes."""
    headers = {"api-key": incumbents.KEY} if server.ours else {}
    question, check_answer = server.dialect.question(ROWS[:1]), says(server.dialect.labels, right)
    until, last = time.monotonic() + START_SECONDS, "nothing"
    while time.monotonic() < until and running.poll() is None:
        try:
            code, body = ask(place, server.dialect.path, question, headers)
            if code == 200 and check_answer(body):
                return
            last = f"{code} {body[:200]!r}"
        except (OSError, http.client.HTTPException):
            pass  # It does not listen yet.
        time.sleep(0.002)
    log = (place.folder / "server.log").read_text(errors="replace")[-2000:]
    raise NotServing(f"no right answer, its last one was {last}; exit code {running.poll()}\n{log}")


@contextmanager
def started(
    result: Result, place: Place, argv: list[str], environment: dict[str, str], core: int, labels: list[float]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, record the time to its first correct answer, and end it after the block."""
    began = time.monotonic()
    with pinned(argv, environment, core, place.folder / "server.log") as running:
        first_answer(result.server, place, running, labels[:1])
        result.starts.append(time.monotonic() - began)
        yield running


def check(server: Server, place: Place, labels: list[float]) -> None:
    """Send single rows and many at once. Raises NotServing at the first wrong answer."""
    headers = {"api-key": incumbents.KEY} if server.ours else {}
    for start, end in [*((row, row + 1) for row in range(CHECKED_ROWS)), (0, ROW_COUNTS[-1])]:
        question = server.dialect.question(ROWS[start:end])
        code, body = ask(place, server.dialect.path, question, headers)
        if code != 200 or not says(server.dialect.labels, labels[start:end])(body):
            raise NotServing(f"rows {start} to {end} were answered with {code} {body[:200]!r}")


def measure(server: Server, model: str, core: int, seconds: float, warm_up: float) -> Result:
    """Start one server with one model, check it, and measure it in every way."""
    result = Result(server)
    labels = incumbents.expected(model, ROW_COUNTS[-1])
    with tempfile.TemporaryDirectory() as name:
        place = Place(incumbents.python_of(server), Path(name), free_port())
        environment = incumbents.lay_out(server, model, place.folder)
        argv = server.argv(place)
        for _ in range(STARTS - 1):
            with started(result, place, argv, environment, core, labels):
                pass
        with started(result, place, argv, environment, core, labels) as running:
            check(server, place, labels)
            for rows in ROW_COUNTS:
                body = place.folder / f"{rows}.json"
                body.write_text(json.dumps(server.dialect.question(ROWS[:rows]), separators=(",", ":")))
                headers = (f"api-key: {incumbents.KEY}",) if server.ours else ()
                target = Target(f"http://{HOST}:{place.port}{server.dialect.path}", body, headers)
                check_answer = says(server.dialect.labels, labels[:rows])
                attack(target, CONNECTIONS[1], 0, warm_up, check_answer)
                for connections in CONNECTIONS:
                    used = cpu_seconds(running.pid)
                    outcome = result.outcomes[rows, connections] = attack(target, connections, 0, seconds, check_answer)
                    result.cpu[rows, connections] = (cpu_seconds(running.pid) - used) / max(1, outcome.total)
                if rows == 1:
                    result.outcomes[rows, 0] = attack(target, 0, OPEN_RATE, seconds, check_answer)
            result.memory = memory(running.pid)
    return result


def ceiling(core: int, seconds: float) -> list[dict[str, str]]:
    """Measure the limit of the load generator, against a server that does nearly nothing."""
    rows = []
    dialect = SERVERS["ours"].dialect
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        argv = [sys.executable, str(SERVED / "trivial.py"), str(port)]
        with pinned(argv, dict(os.environ), core, folder / "server.log"):
            time.sleep(2)
            for count in ROW_COUNTS:
                body = folder / f"{count}.json"
                body.write_text(json.dumps(dialect.question(ROWS[:count]), separators=(",", ":")))
                target = Target(f"http://{HOST}:{port}/", body)
                outcomes = [attack(target, n, 0, seconds, says(dialect.labels, [0.0])) for n in CONNECTIONS]
                cells = {
                    f"{n} connection{'s' * (n > 1)}": f"{outcome.rate:,.0f}"
                    for n, outcome in zip(CONNECTIONS, outcomes, strict=True)
                }
                rows.append({"trivial server, requests/s": f"{count} row{'s' * (count > 1)}"} | cells)
    return rows


def _cells() -> list[tuple[str, tuple[int, int]]]:
    closed = [(rows, number) for rows in ROW_COUNTS for number in CONNECTIONS]
    return [(f"{rows} row{'s' * (rows > 1)} x {number}", (rows, number)) for rows, number in closed]


def throughput(results: list[Result]) -> str:
    """Return the table of start-up, memory, requests per second, the server's CPU time per request, and failures."""
    rows = []
    for result in results:
        failed = sum(outcome.failures.total() for outcome in result.outcomes.values())
        total = sum(outcome.total for outcome in result.outcomes.values())
        row = {"server": result.server.title, "start-up": f"{result.start_seconds:.2f} s"}
        row["memory"] = f"{result.memory / MIB:.0f} MiB"
        row |= {title: f"{result.outcomes[cell].rate:,.0f}" for title, cell in _cells()}
        spent = [f"{result.cpu[rows, CONNECTIONS[-1]] * 1000:.2f}" for rows in ROW_COUNTS]
        row[f"CPU ms each, 1 / 64 rows x {CONNECTIONS[-1]}"] = " / ".join(spent)
        rows.append(row | {"failed": f"{failed:,} of {total:,}"})
    return table(rows)


def latency(results: list[Result]) -> str:
    """Return the table of median and 99th percentile of each cell in milliseconds, and of the open loop."""
    rows = []
    cells = [*_cells(), (f"1 row, {OPEN_RATE}/s open", (1, 0))]
    for result in results:
        row = {"server, p50 / p99 in ms": result.server.title}
        for title, cell in cells:
            outcome = result.outcomes[cell]
            row[title] = " / ".join(_milliseconds(outcome.percentile(share)) for share in (0.5, 0.99))
        rows.append(row)
    return table(rows)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f}" if seconds < 0.01 else f"{seconds * 1000:,.0f}"


def verdict(results: list[Result]) -> list[str]:
    """Compare Ultramarine's server with the bare one and the best packaged one, at 1 row and the most connections."""
    cell = (1, CONNECTIONS[-1])
    bare = [result for result in results if result.server is SERVERS["bare"]]
    packaged = max(
        (result for result in results if result.server.packaged),
        key=lambda result: result.outcomes[cell].rate,
        default=None,
    )
    lines = []
    for ours in (result for result in results if result.server.ours):
        rate = ours.outcomes[cell].rate
        words = [f"{rate / other.outcomes[cell].rate:.2f} times the bare one's throughput" for other in bare]
        words += [f"{ours.start_seconds / other.start_seconds:.2f} times its start-up" for other in bare]
        if packaged:
            words.append(
                f"{rate / packaged.outcomes[cell].rate:.1f} times {packaged.server.title}, the best packaged one"
            )
        lines.append(f"{ours.server.title} (1 row x {cell[1]}): " + ", ".join([*words, f"{ours.memory / MIB:.0f} MiB"]))
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=",".join(SERVERS), help="names, separated by commas (default: all)")
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas (default: both)")
    parser.add_argument("--seconds", type=float, default=4, help="for each cell of the tables (default 4)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before the cells of a server (default 1)")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or not shutil.which("taskset"):
        raise SystemExit("two cores and the program taskset are needed: one for the server, one for the generator")
    servers = [SERVERS[name] for name in chosen.servers.split(",")]
    for server in servers:
        incumbents.python_of(server)
    generator()
    os.sched_setaffinity(0, {cores[1]})
    now = datetime.datetime.now(datetime.UTC)
    print(f"\n{now:%Y-%m-%d %H:%M} UTC, {processor()}, {len(cores)} cores, Linux {platform.release()}, ", end="")
    print(f"Python {platform.python_version()}, {chosen.seconds:g} s a cell, load {os.getloadavg()[0]:.1f} before")
    print(", ".join(dict.fromkeys(incumbents.versions(server) for server in servers if not server.ours)))
    print("\n" + table(ceiling(cores[0], chosen.seconds)), flush=True)
    for model in chosen.models.split(","):
        results = []
        for server in servers:
            print(f"  {model}: {server.title}", file=sys.stderr, flush=True)
            try:
                results.append(measure(server, model, cores[0], chosen.seconds, chosen.warm_up))
            except NotServing as trouble:
                print(f"\n{server.title} is left out of {model}: {trouble}", flush=True)
        if results:
            print(f"\n### {model}\n\n{throughput(results)}\n\n{latency(results)}\n")
            print("\n".join(verdict(results)), flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} afterwards")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


if __name__ == "__main__":
    main()
