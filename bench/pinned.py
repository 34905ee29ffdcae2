"""Server on a core of its own: all of its processes, with their memory and CPU time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a free port whose next two are free too, for servers that need more than one."""
    for first in range(18400, 18700, 3):
        with suppress(OSError):
            for port in range(first, first + 3):
                socket.create_server((HOST, port)).close()
            return first
    raise SystemExit("no port between 18400 and 18700 is free; end what listens there")


@contextmanager
def pinned(argv: list[str], environment: dict[str, str], core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on one core until the block ends, then end all of its processes."""
    with log.open("wb") as file:
        words = ["taskset", "-c", str(core), *argv]
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, cwd=log.parent)
    try:
        yield process
    finally:
        others = _tree(process.pid)[1:]
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def memory(root: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(root: int) -> float:
    """Return the CPU time of a process and its descendants so far, user and system."""
    fields = [_stat(Path(f"/proc/{pid}/stat")) for pid in _tree(root)]
    return sum(int(stat[11]) + int(stat[12]) for stat in fields) / os.sysconf("SC_CLK_TCK")


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            children.setdefault(int(_stat(stat)[1]), []).append(int(stat.parent.name))
    pids = [root]
    for pid in pids:
        pids += children.get(pid, [])
    return pids


def _stat(path: Path) -> list[str]:
    # The program's name stands in brackets and may hold anything; the fields after it are counted from the state.
    return path.read_text().rpartition(") ")[2].split()
