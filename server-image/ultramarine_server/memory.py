"""How much memory the process has taken, and giving back what it no longer needs; all of it glibc's."""

from __future__ import annotations

import ctypes
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
    """The bytes that were allocated and not freed; without glibc 2.33 the resident memory, which is less exact.

    Python's own small objects are not among them: these are the libraries' weights, graphs and arrays.
    """
    mallinfo2 = getattr(_LIBC, "mallinfo2", None)
    if mallinfo2 is None:
        return int(_STATM.read_text().split()[1]) * _PAGE
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def return_large() -> None:
    """Let memory of 128 KiB and more go back to the system as soon as it is freed, for as long as the process lives.

    By itself glibc keeps what is freed once it was large: what a load needs for a moment would stay.
    """
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def give_back() -> None:
    """Return what was freed to the system; a few milliseconds."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
