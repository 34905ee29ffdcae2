"""Processes that outlive the launcher, identified by pid and start time, never by name alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from .errors import ClusterError
from .paths import State, write

# A variable in the environment of every process of a cluster, by which a process without a record is found. Pods do not
# inherit it.
MARK = "ULTRAMARINE_CLUSTER"

_PF_KTHREAD = 0x00200000  # of include/linux/sched.h
_PATIENCE = 10.0  # seconds, for an exec that a slow disk delays
_READS = 50  # reads of an empty environment before it is accepted

# The shell records itself before it becomes the program, so that the program never runs unrecorded.
_RECORD = 'read -r line < /proc/$$/stat; echo "$line" > "$0.new"; mv "$0.new" "$0"; exec "$@"'


@dataclass(frozen=True)
class Component:
    """A long-running process: its command, its files and its health probe."""

    name: str
    argv: tuple[str, ...]
    # Returns "" if the component is healthy, otherwise the reason.
    probe: Callable[[], str]
    # The component is restarted if one of these files changes.
    reads: tuple[Path, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    patience: float = 60.0

    def print(self) -> str:
        """Return a digest that changes if the component has to be restarted."""
        made_of = sha256(repr((self.argv, sorted(self.env.items()))).encode())
        for path in self.reads:
            made_of.update(path.read_bytes())
        return made_of.hexdigest()


@dataclass(frozen=True)
class Process:
    """A process of /proc; `started` (clock ticks since boot) distinguishes it from a later process with its pid."""

    pid: int
    started: int

    def alive(self) -> bool:
        """True if this process still runs."""
        return _stat(self.pid) == self

    def since(self) -> float:
        """Return the seconds since its start."""
        return float(Path("/proc/uptime").read_text().split()[0]) - self.started / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def record(state: State, name: str) -> Path:
    """Return the file that records the component's process."""
    return state.run / f"{name}.stat"


def recorded(state: State, name: str) -> Process | None:
    """Return the component's process; None if it does not run."""
    try:
        process = _parse(record(state, name).read_text())
    except (OSError, ValueError, IndexError):
        return None
    return process if process.alive() else None


def log(state: State, name: str) -> Path:
    """Return the component's log."""
    return state.logs / f"{name}.log"


def start(state: State, component: Component) -> str:
    """Run the component as described; return "started", "restarted" or "running"."""
    running = recorded(state, component.name)
    fingerprint = state.run / f"{component.name}.print"
    if running is not None:
        if fingerprint.exists() and fingerprint.read_text() == component.print():
            return "running"
        stop(running)
    write(fingerprint, component.print())
    record(state, component.name).unlink(missing_ok=True)
    _keep_small(log(state, component.name))
    with log(state, component.name).open("ab") as out:
        subprocess.Popen(
            ["/bin/sh", "-c", _RECORD, str(record(state, component.name)), *component.argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
            env=_environment() | component.env | {MARK: str(state.root)},
        )
    return "started" if running is None else "restarted"


def wait(state: State, component: Component) -> None:
    """Wait until the component is healthy; fail with its log if it dies or takes too long."""
    began = time.monotonic()
    while (why := component.probe()) != "":
        took = time.monotonic() - began
        # Without a record, the shell has not started yet.
        if record(state, component.name).exists() and recorded(state, component.name) is None:
            raise ClusterError(
                f"{component.name} ended right after its start",
                "Read the log. If data are damaged, run `ultramarine-cluster down` and `up`.",
                log=log(state, component.name),
            )
        if took > component.patience:
            raise ClusterError(
                f"{component.name} is not healthy after {took:.0f} s: {why}",
                "Run `up` again, which restarts unhealthy components; `ultramarine-cluster logs` shows more.",
                log=log(state, component.name),
            )
        time.sleep(0.05)


def heal(state: State, component: Component, patience: float = 10.0) -> str:
    """Start the component, and replace a process that does not answer for `patience` seconds."""
    outcome = start(state, component)
    if outcome != "running":
        return outcome
    until = time.monotonic() + patience
    while component.probe() != "":
        if time.monotonic() > until:
            process = recorded(state, component.name)
            if process is not None:
                stop(process, grace=2.0)
            start(state, component)
            return "restarted, because it did not answer"
        time.sleep(0.2)
    return outcome


def stop(process: Process, grace: float = 15.0) -> None:
    """End a process by SIGTERM, then by SIGKILL; return when it is gone."""
    process.signal(signal.SIGTERM)
    if not gone([process], grace):
        process.signal(signal.SIGKILL)
        gone([process], 10.0)


def gone(processes: Iterable[Process], within: float) -> bool:
    """Wait until all processes have ended; return False if time runs out."""
    until = time.monotonic() + within
    left = [process for process in processes if process.alive()]
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = [process for process in left if process.alive()]
    return not left


def marked(state: State) -> Iterator[Process]:
    """Yield the processes of this cluster, recorded or not: components, shims, plugins."""
    needle = f"{MARK}={state.root}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = _environment_of(folder)
        except OSError:
            continue
        if needle in environment.split(b"\0") and (process := _stat(int(folder.name))) is not None:
            yield process


def _environment_of(folder: Path) -> bytes:
    """Return the environment of a process; during an exec it is empty for a moment, so it is read again."""
    reads, until = 0, time.monotonic() + _PATIENCE
    while not (content := (folder / "environ").read_bytes()) and reads < _READS and time.monotonic() < until:
        values = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third field on, see proc(5)
        if values[0] in "ZX" or int(values[6]) & _PF_KTHREAD:
            break
        begin, end = values[47:49]
        reads += begin == end != "0"  # empty, or about to be filled in
        time.sleep(0.001)
    return content


def name_of(process: Process) -> str:
    """Return the name of a process's program."""
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def by_pid(pid: int) -> Process | None:
    """Return the process with this pid; None if there is none, or a zombie."""
    return _stat(pid)


def _stat(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        # A zombie holds no resources; its parent may never collect it.
        return None if text.rpartition(")")[2].split()[0] in "ZX" else _parse(text)
    except (OSError, ValueError, IndexError):
        return None


def _parse(line: str) -> Process:
    return Process(pid=int(line.split(" ", 1)[0]), started=int(line.rpartition(")")[2].split()[19]))


def _environment() -> dict[str, str]:
    # A proxy must not handle requests between components; and cron's PATH lacks the folders of nft and ip.
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return kept | {"PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"}


def _keep_small(path: Path, most: int = 20_000_000) -> None:
    """Rename a log that has grown large."""
    if path.exists() and path.stat().st_size > most:
        path.replace(path.with_suffix(".log.old"))
