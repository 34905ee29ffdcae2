"""Measured use of the container that this program runs in, from its control group, of version 2 or 1."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cpu_seconds(root: Path = ROOT) -> float:
    """Return the CPU seconds that the container has used; 0 if the kernel does not tell."""
    if found := re.search(r"usage_usec (\d+)", _text(root / "cpu.stat")):
        return int(found[1]) / 1e6
    return _number(root / "cpuacct" / "cpuacct.usage") / 1e9


def peak_memory(root: Path = ROOT) -> int:
    """Return the most memory in bytes that the container has used, file cache included; 0 before Linux 5.19."""
    return _number(root / "memory.peak") or _number(root / "memory" / "memory.max_usage_in_bytes")


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
