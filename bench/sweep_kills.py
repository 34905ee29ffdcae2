"""Ten thousand trials that do nothing, while the operator is killed every half minute: losses and cost.

Trials print their parameter and end, so that only the platform is at work. Meanwhile the operator's pod is deleted by
force repeatedly, as if its node died, and the memory of operator and coordinator is sampled. Afterwards the journal
in the bucket must have every trial once, with its own value. Run it by `make sweep-kills`, which takes some minutes,
and an hour at most; OPTIONS="--coordinator" kills coordinator and operator in turn.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from conftest import Platform
from pods import sampling
from sights import table
from swept import Came, check, here, installed, run, sleeping, stored

NAME = "bench-kills"
OPERATOR = "app.kubernetes.io/component=operator"
COORDINATOR = f"ultramarine.dev/kind=Sweep,ultramarine.dev/name={NAME},ultramarine.dev/role=coordinator"
LOOK = 5.0  # seconds between two looks at status, journal and pods


@dataclass
class Meanwhile:
    """Kills and observations while the sweep ran."""

    pods: dict[str, set[str]] = field(default_factory=lambda: {OPERATOR: set(), COORDINATOR: set()})  # uids
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys((OPERATOR, COORDINATOR), 0))
    status: int = 0  # bytes, at most
    journal: tuple[int, int] = (0, 0)  # objects and bytes, at most

    def look(self, on: Platform) -> None:
        """Record the pods, and all sizes."""
        for selector, uids in self.pods.items():
            uids |= {pod["metadata"]["uid"] for pod in on.get("pod", "", "-l", selector)}
        status = on.status("sw", NAME)
        self.status = max(self.status, len(json.dumps(status, separators=(",", ":"))))
        if uri := (status.get("journal") or {}).get("uri"):
            with stored(on) as storage:
                files, size = storage.size(uri)
            self.journal = (max(self.journal[0], files), max(self.journal[1], size))
            done = status.get("trials") or {}
            print(f"  {status.get('progress')} trials, {done}, journal {files} objects, {size:,} bytes", flush=True)

    def kill(self, on: Platform, selector: str) -> None:
        """Delete the running pod by force."""
        for pod in on.get("pod", "", "-l", selector, "--field-selector=status.phase=Running"):
            on.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
            self.kills[selector] += 1

    def go_on(self, on: Platform, victims: list[str], every: float, ending: threading.Event) -> None:
        """Observe, and kill the victims in turn, until the end."""
        due, turn = time.monotonic() + every, 0
        while not ending.wait(LOOK):
            with suppress(AssertionError):  # kubectl has failed: what it asked for went meanwhile
                self.look(on)
                if time.monotonic() >= due:
                    self.kill(on, victims[turn % len(victims)])
                    due, turn = time.monotonic() + every, turn + 1


@contextmanager
def killing(on: Platform, victims: list[str], every: float) -> Iterator[Meanwhile]:
    """Kill at an interval in seconds until the end of the block."""
    meanwhile, ending = Meanwhile(), threading.Event()
    thread = threading.Thread(target=meanwhile.go_on, args=(on, victims, every, ending), daemon=True)
    thread.start()
    try:
        yield meanwhile
    finally:
        ending.set()
        thread.join()


def measured(on: Platform, chosen: argparse.Namespace) -> tuple[Came, Meanwhile, dict[str, int]]:
    """Run the sweep; return its outcome, the observations, and the maximum memory of both programs."""
    victims = [OPERATOR, COORDINATOR] if chosen.coordinator else [OPERATOR]
    manifest = sleeping(NAME, chosen.trials, chosen.parallel, activeDeadlineSeconds=chosen.minutes * 60)
    on.delete("sw", NAME)
    with (
        killing(on, victims, chosen.every) as meanwhile,
        sampling(lambda: set().union(*meanwhile.pods.values()), every=1) as sampled,
    ):
        came = run(on, manifest)
    meanwhile.look(on)
    most = {
        selector: max((sampled.memory.get(uid, 0) for uid in uids), default=0)
        for selector, uids in meanwhile.pods.items()
    }
    on.delete("sw", NAME)
    return came, meanwhile, most


def main() -> None:
    """Run the sweep, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="(default 10,000, the most that the API allows)")
    parser.add_argument("--parallel", type=int, default=4, help="parallelTrials (default 4)")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills (default 30)")
    parser.add_argument("--coordinator", action="store_true", help="kill the coordinator too, in turn")
    parser.add_argument("--minutes", type=int, default=55, help="after which the sweep fails (default 55)")
    chosen = parser.parse_args()
    with installed() as (on, _):
        machine = here(on)
        came, meanwhile, most = measured(on, chosen)
        check(came, chosen.trials)
    row = {
        "trials": f"{chosen.trials:,}, {chosen.parallel} at once",
        "apply -> Succeeded": f"{came.took:.0f} s = {chosen.trials / came.took:.0f} trials/s",
        "killed: operator, coordinator": f"{meanwhile.kills[OPERATOR]}, {meanwhile.kills[COORDINATOR]}",
        "succeeded": f"{came.status['trials']['succeeded']:,}",
        "run again": f"{came.repeated}",
        "operator's memory, most": f"{most[OPERATOR] / 2**20:.0f} MiB",
        "coordinator's memory, most": f"{most[COORDINATOR] / 2**20:.0f} MiB",
        "status": f"{meanwhile.status:,} bytes",
        "journal, most": f"{meanwhile.journal[0]} objects, {meanwhile.journal[1] / 1e6:.1f} MB",
    }
    print(f"\n{machine}\n\n{table([row])}")


if __name__ == "__main__":
    main()
