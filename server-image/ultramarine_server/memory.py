"""How much memory the process has, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

_PAGE = resource.getpagesize()
_STATM = Path("/proc/self/statm")


def resident() -> int:
    """The process' resident memory in bytes."""
    return int(_STATM.read_text().split()[1]) * _PAGE


def give_back() -> None:
    """Return what was freed to the system, so that what grows next is seen to grow; a few milliseconds."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
