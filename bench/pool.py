"""Many small models behind one endpoint: first use, latency at random over all of them, memory of each, and a bound.

A pool's two processes run as in its pod, the server on core 0, against an S3 server on loopback. Half of the models
add a number, and half are logistic regressions of the breast-cancer set by skl2onnx. Each answer is checked to be
that model's own. Requests begin at a fixed rate, however slow the answers are. Run it by `make pool`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load import Outcome, Target, attack, generator
from pinned import memory
from serving import processor
from serving_pool import PoolServer, adder, pooling, stored
from sights import table
from ultramarine_contract.catalogue import CatalogueEntry
from unit.conftest import ObjectStore, serving_store
from unit.serving_process import LABELS, ROWS

RATE = 100  # requests a second
HELD = 100  # models for which the bound of the last run has room
ROW = 7  # of the set, which every regression is asked
MIB, KIB = 2**20, 2**10


def regression(number: int) -> bytes:
    """Return a logistic regression whose two labels, 2 * `number` and one more, identify it."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1 + number / 100)).fit(ROWS, LABELS + 2 * number)
    made = to_onnx(fitted, ROWS[:1].astype(np.float32), options={"zipmap": False})
    return bytes(made.SerializeToString())


def models(bucket: Path, count: int) -> list[CatalogueEntry]:
    """Make and store the models: a0, a1 and so on, which add, and as many regressions r0, r1."""
    adders = [stored(bucket, f"a{number}", adder(number)) for number in range(count // 2)]
    return adders + [stored(bucket, f"r{number}", regression(number)) for number in range(count - count // 2)]


def question(name: str) -> bytes:
    """Return the request for one row."""
    row = [0.5] if name.startswith("a") else ROWS[ROW].tolist()
    input = "x" if name.startswith("a") else "X"
    tensor = {"name": input, "datatype": "FP32", "shape": [1, len(row)], "data": row, "parameters": {}}
    return json.dumps({"inputs": [tensor]}).encode()


def right(body: bytes) -> bool:
    """True if an answer is that of the model that it names."""
    try:
        answer = json.loads(body)
        name, value = str(answer["model_name"]), float(answer["outputs"][0]["data"][0])
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    number = int(name[1:])
    return value == number + 0.5 if name.startswith("a") else value == 2 * number + LABELS[ROW]


@dataclass(frozen=True)
class Everyone(Target):
    """Requests to all models in random order."""

    names: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the targets in Vegeta's format, which takes them in order."""
        head = "Content-Type: application/json"
        targets = [f"POST {self.url}/v2/models/{name}/infer\n{head}\n@{self.body.parent / name}" for name in self.names]
        return "\n\n".join(targets)


def everyone(pool: PoolServer, entries: list[CatalogueEntry], folder: Path, requests: int) -> Everyone:
    """Return `requests` requests, each to a random model."""
    for entry in entries:
        (folder / entry.model).write_bytes(question(entry.model))
    chance = random.Random(7)
    names = tuple(chance.choice(entries).model for _ in range(requests))
    return Everyone(pool.server.url, folder / "all.json", names=names)


def first_use(pool: PoolServer, entries: list[CatalogueEntry]) -> list[float]:
    """Send each model one request in turn; return the seconds of each answer."""
    import http.client

    taken = []
    connection = http.client.HTTPConnection("127.0.0.1", pool.server.port, timeout=60)
    for entry in entries:
        body, began = question(entry.model), time.perf_counter()
        connection.request("POST", f"/v2/models/{entry.model}/infer", body, {"Content-Type": "application/json"})
        answer = connection.getresponse().read()
        taken.append(time.perf_counter() - began)
        if not right(answer):
            raise SystemExit(f"{entry.model} gave a wrong answer: {answer[:300]!r}")
    return taken


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f}" if seconds < 0.01 else f"{seconds * 1000:,.0f}"


def share(values: list[float], part: float) -> float:
    """Return a quantile of the values."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def row(title: str, percentile: Callable[[float], float], right: int, failed: int) -> dict[str, str]:
    shown = {f"p{part * 100:g}": f"{milliseconds(percentile(part))} ms" for part in (0.5, 0.99)}
    return {"requests": title, **shown, "right": f"{right:,}", "failed": f"{failed:,}"}


def attacked(title: str, outcome: Outcome) -> dict[str, str]:
    return row(title, outcome.percentile, len(outcome.latencies), outcome.failures.total())


def warm(store: ObjectStore, entries: list[CatalogueEntry], folder: Path, seconds: float) -> tuple[list[str], float]:
    """Load all models, then send random requests; return two tables, and the bytes that a model counts for."""
    half = len(entries) // 2
    with pooling(store, folder, entries) as pool:
        os.sched_setaffinity(pool.server.process.pid, {sorted(os.sched_getaffinity(0))[0]})
        pid, sizes, rows = pool.server.process.pid, [], []
        parts = [entries[:1], entries[1:half], entries[half : half + 1], entries[half + 1 :]]
        empty = memory(pid)
        taken: list[list[float]] = []
        for part in parts:
            taken.append(first_use(pool, part))
            sizes.append(memory(pid))
        once = taken[1] + taken[3]
        rows.append(row("first of a model, one after another", lambda part: share(once, part), len(once), 0))
        held = pool.metric("loaded_bytes") / len(entries)
        target = everyone(pool, entries, folder, int(RATE * seconds))
        attack(target, 0, RATE, 2, right)
        rows.append(attacked(f"warm, {RATE}/s at random", attack(target, 0, RATE, seconds, right)))
        growth = [(sizes[1] - sizes[0]) / (half - 1), (sizes[3] - sizes[2]) / (len(entries) - half - 1)]
        kept = {
            "server without a model": f"{empty / MIB:.0f} MiB",
            "with the first one": f"{sizes[0] / MIB:.0f} MiB",
            f"with {len(entries)}": f"{sizes[3] / MIB:.0f} MiB",
            "after the requests": f"{memory(pid) / MIB:.0f} MiB",
            "an adder": f"{growth[0] / KIB:.0f} KiB",
            "a regression": f"{growth[1] / KIB:.0f} KiB",
            "counted for each": f"{held / KIB:.0f} KiB",
            "the fetching container": f"{memory(pool.fetcher.pid) / MIB:.0f} MiB",
        }
    return [table(rows), table([kept])], held


def bounded(store: ObjectStore, entries: list[CatalogueEntry], folder: Path, bound: int, seconds: float) -> str:
    """Send random requests while not all models fit; return a table."""
    with pooling(store, folder, entries, pool_bytes=bound) as pool:
        os.sched_setaffinity(pool.server.process.pid, {sorted(os.sched_getaffinity(0))[0]})
        first_use(pool, entries)
        before = {name: pool.metric(name) for name in ("model_evictions_total", 'model_loads_total{result="ok"}')}
        target = everyone(pool, entries, folder, int(RATE * seconds))
        shown = attacked(f"{RATE}/s at random over {len(entries)}", attack(target, 0, RATE, seconds, right))
        evictions, loads = (pool.metric(name) - earlier for name, earlier in before.items())
        shown |= {
            "loaded at the end": f"{pool.metric('loaded_models'):.0f}",
            "loads": f"{loads:,.0f}",
            "evictions": f"{evictions:,.0f}",
            "memory": f"{memory(pool.server.process.pid) / MIB:.0f} MiB",
        }
    return table([shown])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300, help="number of models (default 300)")
    parser.add_argument("--seconds", type=float, default=30, help="of each run of requests (default 30)")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or not shutil.which("taskset"):
        raise SystemExit("two cores are needed: one for the server, one for the generator")
    generator()
    now = datetime.datetime.now(datetime.UTC)
    print(f"\n{now:%Y-%m-%d %H:%M} UTC, {processor()}, {len(cores)} cores, Linux {platform.release()}, ", end="")
    print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} before", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for below in ("buckets", "buckets/models", "warm", "bounded"):
            (folder / below).mkdir()
        with serving_store(folder / "buckets") as store:
            entries = models(folder / "buckets" / "models", chosen.models)
            tables, held = warm(store, entries, folder / "warm", chosen.seconds)
            print("\n" + "\n\n".join(tables), flush=True)
            bound = int(HELD * held)
            print(f"\nWith a bound of {bound / MIB:.1f} MiB, which holds {HELD} of them:\n")
            print(bounded(store, entries, folder / "bounded", bound, chosen.seconds))
    print(f"\nload {os.getloadavg()[0]:.1f} afterwards")


if __name__ == "__main__":
    main()
