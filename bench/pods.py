"""What the pods of this machine use, told by the kernel: the benchmarks run on the node itself."""

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
    """Resident bytes of all processes of a pod, and the seconds of CPU that they and those that they outlived took."""

    memory: int = 0
    cpu: float = 0.0


def usage(uids: Iterable[str]) -> dict[str, Usage]:
    """What the pods with these uids use now; a pod without a process is left out."""
    wanted, found = set(uids), dict[str, Usage]()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it has ended meanwhile
            groups = (folder / "cgroup").read_text()
            uid = next((uid for uid in wanted if f"pod{uid}" in groups or f"pod{uid.replace('-', '_')}" in groups), "")
            if uid:
                times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                memory = int((folder / "statm").read_text().split()[1]) * PAGE
                before = found.get(uid, Usage())
                found[uid] = Usage(before.memory + memory, before.cpu + sum(map(int, times[11:15])) / TICK)
    return found


@dataclass
class Sampled:
    """The most memory that pods had, and the last of the CPU that was seen of each, by uid."""

    memory: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def take(self, seen: dict[str, Usage]) -> None:
        """Count in what was seen."""
        for uid, used in seen.items():
            self.memory[uid] = max(self.memory.get(uid, 0), used.memory)
            self.cpu[uid] = max(self.cpu.get(uid, 0.0), used.cpu)


@contextmanager
def sampling(uids: Callable[[], Iterable[str]], every: float = 0.25) -> Iterator[Sampled]:
    """Look at pods again and again until the end of the block; `uids` says which, each time."""
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
