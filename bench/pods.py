"""Resource use of this machine's pods, from the kernel: the benchmarks run on the node itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Resident bytes of a pod's processes, and the CPU seconds of these and of their ended children."""

    memory: int = 0
    cpu: float = 0.0


def usage(uids: Iterable[str]) -> dict[str, Usage]:
    """Return the current use of the pods with these uids; a pod without a process is left out."""
    asked, used = set(uids), dict[str, Usage]()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it has ended meanwhile
            groups = (folder / "cgroup").read_text()
            uid = next((uid for uid in asked if f"pod{uid}" in groups or f"pod{uid.replace('-', '_')}" in groups), "")
            if uid:
                times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                memory = int((folder / "statm").read_text().split()[1]) * PAGE
                before = used.get(uid, Usage())
                used[uid] = Usage(before.memory + memory, before.cpu + sum(map(int, times[11:15])) / TICK)
    return used


@dataclass
class Sampled:
    """Maximum memory and last known CPU time of pods, by uid."""

    memory: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def take(self, seen: dict[str, Usage]) -> None:
        """Record a sample."""
        for uid, used in seen.items():
            self.memory[uid] = max(self.memory.get(uid, 0), used.memory)
            self.cpu[uid] = max(self.cpu.get(uid, 0.0), used.cpu)


@contextmanager
def sampling(uids: Callable[[], Iterable[str]], every: float = 0.25) -> Iterator[Sampled]:
    """Sample pods until the end of the block; `uids` returns the pods of each sample."""
    sampled, ending = Sampled(), threading.Event()

    def look() -> None:
        while not ending.wait(every):
            sampled.take(usage(uids()))

    thread = threading.Thread(target=look, name="sampling", daemon=True)
    thread.start()
    try:
        yield sampled
    finally:
        ending.set()
        thread.join()
