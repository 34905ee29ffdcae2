"""Peak memory of a program of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The kernel's ru_maxrss begins with that of the process which started the program; VmHWM is the program's own.
_REPORT = "\nimport pathlib; print('peak', pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"


def peak_memory(program: str, *words: str | Path, cwd: Path, variables: dict[str, str]) -> int:
    """Run a Python program to its end, and return the bytes of memory that it held at most."""
    command = [sys.executable, "-c", program + _REPORT, *map(str, words)]
    environment = {**variables, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout.rsplit("peak ", 1)[1]) * 1024
