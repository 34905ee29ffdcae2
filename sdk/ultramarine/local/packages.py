"""Virtual environment of a local run, made by uv and kept by the content of its requirements."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from ultramarine_contract.errors import InvalidSpec, UltramarineError

from ultramarine.resources.environment import EnvironmentReference
from ultramarine.storage.journal import cache_folder

from .material import Documents, Say

_COMPLETE = ".complete"  # in an environment that is whole
_FACTS = "import json, sys, sysconfig; print(json.dumps([sys.version, sysconfig.get_path('purelib')]))"


class EnvironmentFailed(UltramarineError):
    """The packages of a job cannot be installed."""

    reason = "EnvironmentFailed"


def python() -> str:
    """Return the Python that a command `python` means: that of PATH, otherwise this program's."""
    return shutil.which("python") or shutil.which("python3") or sys.executable


def environment(reference: EnvironmentReference, code: Path, documents: Documents, say: Say) -> Path:
    """Return the folder of the environment; a new one is installed. The packages of `python` stay visible in it.

    Raises UltramarineError.
    """
    requirements, folder = _requirements(reference, code, documents)
    program = python()
    asked = subprocess.run([program, "-c", _FACTS], capture_output=True, text=True)
    if asked.returncode:
        raise EnvironmentFailed(f"{program} does not run: {asked.stderr.strip()}. Install Python 3.")
    version, packages = json.loads(asked.stdout)
    key = json.dumps([requirements, version, packages, str(folder) if "-r" in requirements else ""])
    target = cache_folder() / "environments" / hashlib.sha256(key.encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:  # uv has a lock of its own in the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / _COMPLETE).exists():
            say(f"installing the environment into {target}")
            _install(program, packages, requirements, folder, target)
            (target / _COMPLETE).touch()
    return target


def _requirements(reference: EnvironmentReference, code: Path, documents: Documents) -> tuple[str, Path]:
    """Return the text of a requirements.txt, and the folder that its relative paths mean."""
    if reference.requirements is not None:
        return "\n".join(reference.requirements) + "\n", code
    if reference.requirements_from is not None:
        key = reference.requirements_from.config_map
        return documents.config_map("spec.environment", key.name).get(key.key, ""), code
    if reference.requirements_file is not None:
        path = code / reference.requirements_file
        if not path.is_file():
            raise InvalidSpec(f"spec.environment.requirementsFile: {path} does not exist. Correct the path.")
        return path.read_text(), path.parent
    lines = documents.environment("spec.environment", reference.name or "").get("requirements")
    if not lines:
        raise InvalidSpec(f"Environment {reference.name} has no inline requirements. A local run needs them; add them.")
    return "\n".join(lines) + "\n", code


def _install(program: str, packages: str, requirements: str, folder: Path, target: Path) -> None:
    file = target / "requirements.in"
    file.write_text(requirements)
    _uv("venv", "--quiet", "--allow-existing", "--python", program, str(target), folder=folder)
    site = next(target.glob("lib/python*/site-packages"))
    (site / "ultramarine-outer.pth").write_text(f"{packages}\n")  # behind the environment's own
    _uv("pip", "install", "--python", str(target / "bin" / "python"), "-r", str(file), folder=folder)


def _uv(*words: str, folder: Path) -> None:
    """Run uv, whose own output is for the user. Raises EnvironmentFailed."""
    ended = subprocess.run([_uv_program(), *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if ended.returncode:
        raise EnvironmentFailed("the environment cannot be installed, for the reason above. Correct the requirements.")


def _uv_program() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        if program := shutil.which("uv"):
            return program
    raise EnvironmentFailed("uv, which installs the environment, is not here. Run `pip install uv`.")
