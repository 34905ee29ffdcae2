"""Virtualenvs for packages that conflict with the repository's dependencies; each is made once, in the cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from .paths import cache, lock


def python_with(name: str, *requirements: str) -> Path:
    """Return the Python of a virtualenv with exactly these requirements; make it if it is missing."""
    venv = cache() / "venvs" / f"{name}-{sha256(repr((sys.version, requirements)).encode()).hexdigest()[:8]}"
    python = venv / "bin" / "python"
    with lock(f"venv-{venv.name}", wait=True, busy=f"another process makes {venv}"):
        if not (venv / "ready").exists():
            print(f"  installing {' '.join(requirements)}", flush=True)
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--cache-dir", cache() / "pip"]
            subprocess.run([*pip, *requirements], check=True)
            (venv / "ready").touch()
    return python
