"""A word in time about a disk that fills up: Kubernetes evicts pods when less than a tenth of it is left."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

_LEVELS = (85, 90, 95)  # percent in use
_LOOK_SECONDS = 15.0


class DiskWatch:
    """Looks at the disk that holds `folder` while a command runs, and says once for each level how full it is."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        look: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
        seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._folder, self._say, self._look, self._seconds = folder, say, look, seconds
        self._level = 0
        self._ending = threading.Event()
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._ending.set()

    def _run(self) -> None:
        while True:
            try:
                total, used, free = self._look(self._folder)
            except OSError:
                return
            percent = 100 * used // max(total, 1)
            reached = max((level for level in _LEVELS if percent >= level), default=0)
            if reached > self._level:
                self._say(
                    f"the node's disk is {percent} % full, {free} bytes are left; Kubernetes evicts pods when it is "
                    "full: write less, stream inputs, or reserve resources.requests.ephemeral-storage"
                )
            self._level = reached
            if self._ending.wait(self._seconds):
                return


def cpu_seconds(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPU seconds that the container has used; 0 if the kernel does not tell."""
    # Where the container sees all groups of its node, its own is below the root.
    own = re.search(r"^0::/(.*)$", _text(process), re.MULTILINE)
    for folder in (root / own[1] if own else root, root):
        if match := re.search(r"usage_usec (\d+)", _text(folder / "cpu.stat")):
            return int(match[1]) / 1e6
    text = _text(root / "cpuacct" / "cpuacct.usage").strip()
    return int(text) / 1e9 if text.isdecimal() else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
