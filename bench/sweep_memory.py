"""Memory of a sweep's coordinator by the number of its trials, and at the end.

The coordinator is the real program, against an S3 server on loopback; its workers are threads here that run nothing:
each asks for a trial, tells points and an end by the workers' own protocol, and asks again. Run it by
`make sweep-memory`, which takes some minutes and needs no cluster; OPTIONS=--help.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pinned import free_port, memory
from sights import table
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_contract.sweep_records import SweepTask
from ultramarine_trainer.trials.connection import Connection, Unreachable
from unit.conftest import serving_store

TOKEN, MIB = "the-token", 2**20
LOOK = 0.05  # seconds between two looks at the memory
PATIENCE = 20.0  # seconds without an answer
PROGRAM = REPOSITORY / "trainer-image/ultramarine-sweep"

# As `ultramarine-sweep`, except for the places, which are those of a pod.
COORDINATOR = """
import os, sys
from functools import partial
from pathlib import Path
from ultramarine_sweep import __main__
from ultramarine_sweep.service import sweep
base = Path(sys.argv[1])
places = sweep.Places(base / "log", base / "token", int(sys.argv[2]))
__main__.run = partial(sweep.run, places=places)
__main__.main()
"""


@dataclass
class Fleet:
    """Workers that take the trials of a coordinator at `url`; `done` counts ended ones."""

    url: str
    points: int
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, name: str) -> None:
        """Take trials until none is left."""
        connection, finished = Connection(self.url, TOKEN, 30), None
        until = time.monotonic() + PATIENCE
        while True:
            try:
                answer = connection.post("/lease", {"worker": name, "finished": finished})
            except Unreachable:
                assert time.monotonic() < until, "there is no coordinator"
                time.sleep(0.1)
                continue
            until = time.monotonic() + PATIENCE
            if finished is not None:
                finished = None
                with self._lock:
                    self.done += 1
            if answer.get("done"):
                return
            if trial := answer.get("trial"):
                finished = self._run(connection, name, trial)

    def _run(self, connection: Connection, name: str, trial: dict[str, Any]) -> dict[str, Any]:
        """Report the values of a trial, which approach the worth of its parameters."""
        worth = sum(float(value) for value in trial["params"].values() if not isinstance(value, str))
        own = {"trial": trial["number"], "attempt": trial["attempt"]}
        steps = range(self.points)
        points = [{"name": "loss", "step": step, "value": worth + 1 / (step + 1)} for step in steps]
        if len(points) > 1:
            connection.post("/report", {"worker": name, **own, "points": points[:-1]})
        last = points[-1]["value"]
        return own | {"outcome": "Succeeded", "seconds": 0.001, "metrics": {"loss": last}, "points": points[-1:]}


def space(parameters: int) -> dict[str, Any]:
    """Return `parameters` parameters, of which each third is a choice."""
    uniform, choice = {"uniform": {"min": 0, "max": 10}}, {"choice": ["adam", "sgd", "lion"]}
    return {f"parameter{n}": choice if n % 3 == 2 else uniform for n in range(parameters)}


def measured(chosen: argparse.Namespace, base: Path, marks: list[int]) -> dict[str, str]:
    """Run one sweep; return the coordinator's memory by number of ended trials, and the maximum of all processes."""
    (base / "buckets" / "sweeps").mkdir(parents=True)
    objective = {"metric": "loss", "goal": "minimize"}
    task = SweepTask(
        "bench/memory",
        "uid",
        "s3://sweeps/bench/",
        (objective,),
        space(chosen.parameters),
        {"type": chosen.algorithm, "seed": 7},
        {"type": chosen.stopping} if chosen.stopping else None,
        max_trials=chosen.trials,
    )
    port, seen, most, alone = free_port(), dict[int, int](), 0, 0
    fleet = Fleet(f"http://127.0.0.1:{port}", chosen.points)
    with serving_store(base / "buckets") as store, ThreadPoolExecutor(chosen.parallel) as threads:
        environment = {
            "ULTRAMARINE_STORAGE_ENDPOINT": store.endpoint,
            "ULTRAMARINE_SWEEP": task.to_json(),
            "ULTRAMARINE_SWEEP_TOKEN": TOKEN,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        # With the settings of the program, which stand in its first line.
        environment |= dict(word.split("=") for word in PROGRAM.read_text().splitlines()[0].split() if "=" in word)
        program = [sys.executable, "-c", COORDINATOR, str(base), str(port)]
        process = subprocess.Popen(program, env=os.environ | store.credentials | environment)
        workers = [threads.submit(fleet.work, f"w{n}") for n in range(chosen.parallel)]
        while process.poll() is None:
            try:
                now, together = resident(process.pid), memory(process.pid)
            except OSError:  # one of its processes has ended meanwhile
                continue
            most, alone = max(most, together), max(alone, now)
            for mark in marks:
                if fleet.done >= mark:
                    seen.setdefault(mark, now)
            time.sleep(LOOK)
        for worker in workers:
            worker.result()
        assert process.returncode == 0, f"the coordinator has ended with {process.returncode}"
    row = {"algorithm": chosen.algorithm, "values of each": str(chosen.points), "parameters": str(chosen.parameters)}
    row |= {f"{mark:,} trials": mib(seen[mark]) for mark in marks}
    return row | {"coordinator, most": mib(alone), "with its other processes, most": mib(most)}


def resident(pid: int) -> int:
    """Return the resident bytes of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def main() -> None:
    """Run the sweep, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="(default 10,000, the most that the API allows)")
    parser.add_argument("--parallel", type=int, default=4, help="parallelTrials (default 4)")
    parser.add_argument("--algorithm", default="random", help="(default random)")
    parser.add_argument("--stopping", default="", help="earlyTermination.type (default none)")
    parser.add_argument("--points", type=int, default=1, help="values that each trial reports (default 1)")
    parser.add_argument("--parameters", type=int, default=1, help="(default 1)")
    chosen = parser.parse_args()
    marks = [1, *(chosen.trials * part // 20 for part in (2, 5, 10, 15, 20))]
    with tempfile.TemporaryDirectory() as base:
        row = measured(chosen, Path(base), marks)
    print(f"\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f} afterwards\n\n{table([row])}")


if __name__ == "__main__":
    main()
