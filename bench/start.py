"""Time that commands take from their start to their end: wall clock and CPU, median of ten after one to warm up.

`python bench/start.py "ultramarine --help" "kubectl get pods"`; each argument is one command line.
"""

from __future__ import annotations

import os
import resource
import shlex
import statistics
import subprocess
import sys
import time

from serving import processor
from sights import table

RUNS = 10


def main(commands: list[str]) -> None:
    """Run each command, and print the table."""
    rows = []
    for command in commands:
        samples = [sample(shlex.split(command)) for _ in range(RUNS + 1)][1:]
        wall, used = (statistics.median(values) for values in zip(*samples, strict=True))
        rows.append({"command": f"`{command}`", "wall clock": f"{wall:.2f} s", "CPU": f"{used:.2f} s"})
    print(f"\n{processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    print(table(rows))


def sample(argv: list[str]) -> tuple[float, float]:
    """Run a command; return the seconds of its wall clock and of its CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
