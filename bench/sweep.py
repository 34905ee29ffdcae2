"""Duration of a sweep of short trials compared with the ideal, and its cost to the API server.

Runs on the embedded cluster, in a namespace of its own, where each trial sleeps for some time and prints its score.
The journal in the bucket shows that each trial has reported its score once, and that the best are right.
The operator's writes are counted in the API server's audit log, and those of all components in its metrics.
Run it by `make sweep`, with options such as:

- OPTIONS="--trials 200": begin and end are short in comparison; the goal is 105 s
- OPTIONS="--trials 200 --seconds 0.1": cost of a trial that does nearly nothing
- OPTIONS="--execution PodPerTrial": the same trials, each in its own pod
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from conftest import Platform
from sights import table
from swept import all_writes, check, here, installed, objects, run, sleeping, write_requests

AFTERWARDS = 2.0  # seconds for what the last pods' ends still make the controllers write


def measured(on: Platform, audit: Path, chosen: argparse.Namespace, algorithm: str) -> dict[str, str]:
    """Run one sweep; return a row of the table, and print the operator's writes."""
    spec = {"algorithm": {"type": algorithm, "seed": 7}, "execution": chosen.execution}
    manifest = sleeping(f"bench-{algorithm}", chosen.trials, chosen.parallel, chosen.seconds, **spec)
    ideal = chosen.trials * chosen.seconds / chosen.parallel
    on.delete("sw", manifest["metadata"]["name"])
    before, counted, since = objects(on), all_writes(on), datetime.now(UTC)
    came = run(on, manifest)
    check(came, chosen.trials)
    time.sleep(AFTERWARDS)
    written, everybodys = write_requests(audit, since), all_writes(on) - counted
    per_trial, events = everybodys.total() / chosen.trials, everybodys["events"] / chosen.trials
    made = Counter(kind for uid, kind in objects(on).items() if uid not in before)
    on.delete("sw", manifest["metadata"]["name"])
    print(f"  {algorithm}, API writes:", ", ".join(f"{what} {n}" for what, n in sorted(written.items())), flush=True)
    sweep = f"{algorithm}, {chosen.trials} x {chosen.seconds:g} s, {chosen.parallel} at once"
    return {
        "sweep": sweep if chosen.execution == "Pool" else f"{sweep}, {chosen.execution}",
        "apply -> Succeeded": f"{came.took:.1f} s",
        "of the ideal": f"{came.took / ideal:.2f}" if ideal else "-",
        "first trial's start -> last one's end": f"{came.span:.1f} s",
        "lost by each trial": f"{(came.span - ideal) / chosen.trials * chosen.parallel * 1000:.0f} ms",
        "the operator's API writes": f"{written.total()} = {written.total() / chosen.trials:.2f} a trial",
        "all components' writes a trial, Events among them": f"{per_trial:.1f}, {events:.1f}",
        "objects made": ", ".join(f"{n} {kind}" for kind, n in sorted(made.items())),
        "succeeded, repeated": f"{came.status['trials']['succeeded']}, {came.repeated}",
    }


def main() -> None:
    """Run each sweep in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of each sweep (default 40)")
    parser.add_argument("--seconds", type=float, default=1.0, help="sleep of a trial (default 1)")
    parser.add_argument("--parallel", type=int, default=2, help="parallelTrials (default 2)")
    parser.add_argument("--algorithms", default="random,tpe", help="by commas (default random,tpe)")
    parser.add_argument("--execution", default="Pool", choices=("Pool", "PodPerTrial"), help="where trials run")
    chosen = parser.parse_args()
    with installed() as (on, audit):
        machine = here(on)
        rows = [measured(on, audit, chosen, algorithm) for algorithm in chosen.algorithms.split(",")]
    print(f"\n{machine}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
