"""Native libraries that packages need and the image lacks, read from the ELF headers of their files."""

from __future__ import annotations

import os
import struct
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Iterable, Iterator  # noqa: UP035  of Python 3.9

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_OF_DRIVERS = ("libcuda.so", "libnvidia-", "libnvcuvid.so")  # come with a node's GPU
_PT_LOAD, _PT_DYNAMIC, _DT_NEEDED, _DT_STRTAB = 1, 2, 1, 5


def missing_libraries(site: Path, others: Iterable[str]) -> str:
    """Return a warning that names each package with libraries that neither packages nor image have; or nothing.

    `others` are folders with packages of the image.
    """
    folders = [site, *(Path(folder) for folder in others if folder.endswith("-packages"))]
    libraries = [path for folder in folders for path in _below(folder)]
    there = {path.name for path in libraries} | _of_image()
    missing = defaultdict(set)
    for path in libraries:
        if path.is_relative_to(site):
            for name in needed(path):
                if name not in there and not name.startswith(_OF_DRIVERS):
                    missing[path.relative_to(site).parts[0]].add(name)
    lacks = [f"{package} needs {', '.join(sorted(names))}" for package, names in sorted(missing.items())]
    if not lacks:
        return ""
    return f"the image lacks native libraries: {'; '.join(lacks[:5])}. Use an Environment whose spec.image has them"


def needed(path: Path) -> Iterator[str]:
    """Yield the libraries that a shared library of this machine's kind names; none for any other file."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            return
        offset, size, count = struct.unpack_from("<Q14xHH", head, 32)
        file.seek(offset)
        segments = [struct.unpack_from("<I4xQQ8xQ", file.read(size)) for _ in range(count)]
        loads = [(address, where) for type, where, address, _ in segments if type == _PT_LOAD]
        names, strings = [], 0
        for type, where, _, length in segments:
            if type == _PT_DYNAMIC:
                file.seek(where)
                for tag, value in struct.iter_unpack("<QQ", file.read(length - length % 16)):
                    names += [value] if tag == _DT_NEEDED else []
                    strings = value if tag == _DT_STRTAB else strings
        base = max((load for load in loads if load[0] <= strings), default=(0, 0))
        for name in names:
            file.seek(strings - base[0] + base[1] + name)
            yield file.read(256).partition(b"\0")[0].decode(errors="replace")


def _below(folder: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(folder):
        yield from (Path(directory, name) for name in names if ".so" in name)


def _of_image() -> set[str]:
    """Return the names in the folders where the loader looks, and the folders below them."""
    folders = [*_SYSTEM, sysconfig.get_config_var("LIBDIR") or "", *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    names: set[str] = set()
    for folder in filter(os.path.isdir, folders):
        with os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.is_dir() and "-linux-" in entry.name:
                    names.update(path.name for path in Path(entry.path).iterdir())
    return names
