"""How long a sweep of short trials takes beside what is ideal, and what it costs the API server.

Runs on the embedded cluster, in a namespace of its own, where each trial sleeps for some time and prints its score.
What the operator has written is counted in the API server's audit log. Run it by `make sweep`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conftest import Platform, restricted
from ultramarine_cluster import cluster, target
from ultramarine_cluster.paths import REPOSITORY

NAMESPACE = "ultramarine-sweeps"
AUDIT = Path("logs") / "audit.jsonl"
WRITES = ("create", "update", "patch", "delete", "deletecollection")


def installed() -> tuple[Platform, Path]:
    """The chart in a namespace of this benchmark, and the API server's audit log."""
    running = cluster.up()
    to = target.embedded(running)
    restricted(to, NAMESPACE)
    to.run("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", str(REPOSITORY / "crds"))
    target.install(to, NAMESPACE, "crds.install=false", "gateway.enabled=false")
    return Platform(to, NAMESPACE), running.state.root / AUDIT


def sweep(name: str, trials: int, seconds: float, parallel: int, algorithm: str) -> dict[str, Any]:
    """A sweep whose trials sleep, and print how far their parameter is from 3."""
    command = ["sh", "-c", f"sleep {seconds:g}; echo loss=$(params.x)"]
    return {
        "kind": "Sweep",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "loss", "goal": "minimize"},
            "algorithm": {"type": algorithm, "seed": 7},
            "searchSpace": {"x": {"uniform": {"min": 0, "max": 10}}},
            "limits": {"maxTrials": trials, "parallelTrials": parallel},
            "trialTemplate": {"spec": {"command": command, "resources": {"requests": {"cpu": "100m"}}}},
        },
    }


def write_requests(audit: Path, since: datetime) -> Counter[str]:
    """The operator's successful writes in this namespace since then, by verb and resource; Leases are left out."""
    found: Counter[str] = Counter()
    with audit.open() as log:
        for event in map(json.loads, filter(lambda line: line.endswith("\n"), log)):
            what = event.get("objectRef", {})
            code = event.get("responseStatus", {}).get("code", 500)
            if what.get("namespace") != NAMESPACE or what.get("resource") == "leases" or code >= 300:
                continue
            if event["verb"] in WRITES and datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since:
                found["/".join(filter(None, (f"{event['verb']} {what['resource']}", what.get("subresource"))))] += 1
    return found


def main() -> None:
    """Run each sweep, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of each sweep (default 40)")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial sleeps (default 1)")
    parser.add_argument("--parallel", type=int, default=2, help="parallelTrials (default 2)")
    parser.add_argument("--algorithms", default="random,tpe", help="by commas (default random,tpe)")
    chosen = parser.parse_args()
    on, audit = installed()
    ideal = chosen.trials * chosen.seconds / chosen.parallel
    print(f"\n{machine.platform()}, {os.cpu_count()} cores, Python {machine.python_version()}; ideal {ideal:.1f} s\n")
    print("| sweep | apply -> Succeeded | of the ideal | the operator's API writes | Jobs, pods | succeeded |")
    print("|---|---|---|---|---|---|")
    for algorithm in chosen.algorithms.split(","):
        name = f"bench-{algorithm}"
        on.delete("sw", name)
        since, began = datetime.now(UTC), time.monotonic()
        on.apply(sweep(name, chosen.trials, chosen.seconds, chosen.parallel, algorithm))
        status = on.wait("sw", name, lambda s: s.get("state") in ("Succeeded", "Failed"), seconds=3600)
        took = time.monotonic() - began
        assert status["state"] == "Succeeded", status
        time.sleep(2)  # for what the last pods' ends still make the controllers write
        written = write_requests(audit, since)
        jobs, pods = (len(on.get(kind, "", "-l", f"ultramarine.dev/name={name}")) for kind in ("job", "pod"))
        print(
            f"| {algorithm}, {chosen.trials} x {chosen.seconds:g} s, {chosen.parallel} at once | {took:.1f} s | "
            f"{took / ideal:.2f} | {written.total()} | {jobs}, {pods} | {status['trials']['succeeded']} |",
            flush=True,
        )
        on.delete("sw", name)
    on.target.run("delete", "namespace", NAMESPACE, "--wait=false")


if __name__ == "__main__":
    main()
