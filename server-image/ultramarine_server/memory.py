"""How much memory the process has, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

_PAGE = resource.getpagesize()
_M_MMAP_THRESHOLD = -3  # of malloc.h
_STATM = Path("/proc/self/statm")


def resident() -> int:
    """The process' resident memory in bytes."""
    return int(_STATM.read_text().split()[1]) * _PAGE


def return_large() -> None:
    """Let memory of 128 KiB and more go back to the system as soon as it is freed, for as long as the process lives.

    By itself glibc keeps what is freed once it was large: what a load needs for a moment would count for ever.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def give_back() -> None:
    """Return what was freed to the system, so that what grows next is seen to grow; a few milliseconds."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
