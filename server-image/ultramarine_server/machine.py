"""Resources of the container: its CPU limit, and the memory of this process, as glibc counts it."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")
_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3  # of malloc.h
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def taken() -> int:
    """Return the bytes that are allocated; without glibc 2.33 the resident memory, which is less exact.

    These are the weights, graphs and arrays of libraries; Python's small objects are not included.
    """
    mallinfo2 = getattr(_LIBC, "mallinfo2", None)
    if mallinfo2 is None:
        return int(_STATM.read_text().split()[1]) * _PAGE
    mallinfo2.restype = _Mallinfo2
    counts = mallinfo2()
    return int(counts.uordblks + counts.hblkhd)


def return_large() -> None:
    """Return freed blocks of 128 KiB and more to the system at once, for the rest of the process's life.

    By default glibc keeps large blocks, so the memory that a load needs for a moment would stay allocated.
    """
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def give_back() -> None:
    """Return freed memory to the system, which takes a few milliseconds."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the container's CPU limit, rounded up, or the number of CPUs without a limit; cgroup v1 and v2."""
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
        return 0, 0  # No limit is visible.
