"""How many CPUs this container may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the container's CPU limit, rounded up, or the number of CPUs where there is none; cgroup v1 and v2."""
    available = len(os.sched_getaffinity(0))
    quota, period = _quota(cgroup)
    return min(available, max(1, math.ceil(quota / period))) if quota > 0 and period > 0 else available


def _quota(cgroup: Path) -> tuple[int, int]:
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
            return (0 if quota == "max" else int(quota)), int(period)
        v1 = cgroup / "cpu"
        return int((v1 / "cpu.cfs_quota_us").read_text()), int((v1 / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return 0, 0  # No limit can be seen.
