"""Measured use of the container that this program runs in, from its control group."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cpu_seconds(root: Path = ROOT) -> float:
    """Return the CPU seconds that the container has used; 0 if the kernel does not tell (cgroup v1)."""
    try:
        words = dict(line.split() for line in (root / "cpu.stat").read_text().splitlines())
        return int(words["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return 0.0


def peak_memory(root: Path = ROOT) -> int:
    """Return the most memory in bytes that the container has used, file cache included; 0 before Linux 5.19."""
    try:
        return int((root / "memory.peak").read_text())
    except (OSError, ValueError):
        return 0
