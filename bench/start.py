"""Time that commands take from their start to their end: wall clock and CPU, median of ten after one to warm up.

`python bench/start.py` compares `ultramarine` with kubectl and with commands that it installs from PyPI, each into a
virtualenv of the cache. Those that ask a server need the cluster of KUBECONFIG. Other command lines may be given as
arguments, each one as a whole. Run it with PYTHONPATH as in `make soak`.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from serving import processor
from sights import table
from ultramarine_cluster.venvs import python_with

RUNS = 10
OWN = (
    "ultramarine --help",
    "ultramarine submit --help",
    "ultramarine get -n ultramarine tj",
    "ultramarine validate examples/quickstart/training.yaml",
    "kubectl --help",
    "kubectl get -n ultramarine trainingjobs.ultramarine.dev",
)
FOREIGN = {
    "dstack==0.22.5": ("dstack --help",),
    "modal==1.6.4": ("modal --help",),
    "azure-cli==2.91.0": ("az --help", "az version"),
}


def main(lines: list[str]) -> None:
    """Run each command, and print the table."""
    rows = []
    for shown, argv in [(line, shlex.split(line)) for line in lines] or compared():
        samples = [sample(argv) for _ in range(RUNS + 1)][1:]
        wall, used = (statistics.median(values) for values in zip(*samples, strict=True))
        rows.append({"command": f"`{shown}`", "wall clock": f"{wall:.2f} s", "CPU": f"{used:.2f} s"})
    version = ".".join(map(str, sys.version_info[:3]))
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    print(f"\n{now}, {processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {version}\n")
    print(table(rows))


def compared() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the comparison, with the program of each."""
    own = Path(sys.executable).parent
    for line in OWN:
        name, *words = shlex.split(line)
        yield line, [shutil.which(name, path=f"{own}:{os.environ['PATH']}") or name, *words]
    for requirement, lines in FOREIGN.items():
        folder = python_with(requirement.partition("==")[0], requirement).parent
        for line in lines:
            name, *words = shlex.split(line)
            yield f"{line} ({requirement})", [str(folder / name), *words]


def sample(argv: list[str]) -> tuple[float, float]:
    """Run a command; return the seconds of its wall clock and of its CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
