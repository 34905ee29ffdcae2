"""How long a sweep of short trials takes beside what is ideal, and what it costs the API server.

Runs on the embedded cluster, in a namespace of its own, where each trial sleeps for some time and prints its score.
That each trial has told its own score once, and that the best are the best, is read from the journal in the bucket.
What the operator has written is counted in the API server's audit log, and what all components have in its metrics.
Run it by `make sweep`, with options as these:

  make sweep OPTIONS="--trials 200"                  beside which beginning and end are short; 105 s is the goal
  make sweep OPTIONS="--trials 200 --seconds 0.1"    what a trial costs that does next to nothing
  make sweep OPTIONS="--execution PodPerTrial"       the same trials in pods of their own
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
    """Run one sweep; a row of the table, and what the operator wrote as a line."""
    spec = {"algorithm": {"type": algorithm, "seed": 7}, "execution": chosen.execution}
    manifest = sleeping(f"bench-{algorithm}", chosen.trials, chosen.parallel, chosen.seconds, **spec)
    ideal = chosen.trials * chosen.seconds / chosen.parallel
    on.delete("sw", manifest["metadata"]["name"])
    before, counted, since = objects(on), all_writes(on), datetime.now(UTC)
    came = run(on, manifest)
    check(came, chosen.trials)
    time.sleep(AFTERWARDS)
    written, everybodys = write_requests(audit, since), all_writes(on) - counted
    each, events = everybodys.total() / chosen.trials, everybodys["events"] / chosen.trials
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
        "all components' writes a trial, Events among them": f"{each:.1f}, {events:.1f}",
        "objects made": ", ".join(f"{n} {kind}" for kind, n in sorted(made.items())),
        "succeeded, repeated": f"{came.status['trials']['succeeded']}, {came.repeated}",
    }


def main() -> None:
    """Run each sweep, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of each sweep (default 40)")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial sleeps (default 1)")
    parser.add_argument("--parallel", type=int, default=2, help="parallelTrials (default 2)")
    parser.add_argument("--algorithms", default="random,tpe", help="by commas (default random,tpe)")
    parser.add_argument("--execution", default="Pool", choices=("Pool", "PodPerTrial"), help="where trials run")
    chosen = parser.parse_args()
    with installed() as (on, audit):
        told = here(on)
        rows = [measured(on, audit, chosen, algorithm) for algorithm in chosen.algorithms.split(",")]
    print(f"\n{told}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
