"""Processes that outlive the launcher, known by their pid and start time, never by name alone."""

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

# Every process of a cluster carries this in its environment, so that one whose record was lost is found again;
# what runs in pods does not inherit it.
MARK = "ULTRAMARINE_CLUSTER"

_PF_KTHREAD = 0x00200000  # of include/linux/sched.h
_PATIENCE = 10.0  # seconds, with an exec that a disk holds up
_LOOKS = 50  # at an environment without a variable, before it is believed

# The shell records itself before it becomes the program: at no moment does the program run unrecorded.
_RECORD = 'read -r line < /proc/$$/stat; echo "$line" > "$0.new"; mv "$0.new" "$0"; exec "$@"'


@dataclass(frozen=True)
class Component:
    """One long-running process: how it starts, what it reads, and how to ask whether it is well."""

    name: str
    argv: tuple[str, ...]
    # Says "" when the component is well, or else why it is not.
    probe: Callable[[], str]
    # When one of these changes, the component is started anew.
    reads: tuple[Path, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    patience: float = 60.0

    def print(self) -> str:
        """Digits that change when the component would have to be started anew."""
        made_of = sha256(repr((self.argv, sorted(self.env.items()))).encode())
        for path in self.reads:
            made_of.update(path.read_bytes())
        return made_of.hexdigest()


@dataclass(frozen=True)
class Process:
    """A process as /proc tells of it; `started` (clock ticks since boot) tells it from a later one with its number."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _stat(self.pid) == self

    def since(self) -> float:
        """Seconds that it has been running."""
        return float(Path("/proc/uptime").read_text().split()[0]) - self.started / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def record(state: State, name: str) -> Path:
    """The file that tells which process the component is."""
    return state.run / f"{name}.stat"


def recorded(state: State, name: str) -> Process | None:
    """The component's process, or None where it does not run."""
    try:
        process = _parse(record(state, name).read_text())
    except (OSError, ValueError, IndexError):
        return None
    return process if process.alive() else None


def log(state: State, name: str) -> Path:
    """The file that the component writes its words to."""
    return state.logs / f"{name}.log"


def start(state: State, component: Component) -> str:
    """Make sure that the component runs as described: "started", "restarted" or "running"."""
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
    """Return when the component is well; fail with its log when it dies or does not get well in time."""
    began = time.monotonic()
    while (why := component.probe()) != "":
        took = time.monotonic() - began
        # Until the record is there, the shell has not come to write it.
        if record(state, component.name).exists() and recorded(state, component.name) is None:
            raise ClusterError(
                f"{component.name} ended right after its start",
                "read the log; if it tells of damaged data, `ultramarine-cluster down` and `up` make new ones",
                log=log(state, component.name),
            )
        if took > component.patience:
            raise ClusterError(
                f"{component.name} is not well after {took:.0f} s: {why}",
                "run `up` again, which starts anew what is unwell; `ultramarine-cluster logs` shows more",
                log=log(state, component.name),
            )
        time.sleep(0.05)


def heal(state: State, component: Component, patience: float = 10.0) -> str:
    """Like `start`, but a process that runs and does not answer for `patience` seconds is replaced."""
    said = start(state, component)
    if said != "running":
        return said
    until = time.monotonic() + patience
    while component.probe() != "":
        if time.monotonic() > until:
            process = recorded(state, component.name)
            if process is not None:
                stop(process, grace=2.0)
            start(state, component)
            return "restarted, for it did not answer"
        time.sleep(0.2)
    return said


def stop(process: Process, grace: float = 15.0) -> None:
    """End a process: ask, then insist; return when it is gone."""
    process.signal(signal.SIGTERM)
    if not gone([process], grace):
        process.signal(signal.SIGKILL)
        gone([process], 10.0)


def gone(processes: Iterable[Process], within: float) -> bool:
    """Wait until none of the processes is alive; say whether that came true in time."""
    until = time.monotonic() + within
    left = [process for process in processes if process.alive()]
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = [process for process in left if process.alive()]
    return not left


def marked(state: State) -> Iterator[Process]:
    """Every process that was started for this cluster, recorded or not: components, shims, plugins."""
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
    """The environment of a process; in the middle of an exec there is none for a moment, so it looks again."""
    looks, until = 0, time.monotonic() + _PATIENCE
    while not (found := (folder / "environ").read_bytes()) and looks < _LOOKS and time.monotonic() < until:
        values = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third field on, see proc(5)
        if values[0] in "ZX" or int(values[6]) & _PF_KTHREAD:
            break
        begin, end = values[47:49]
        looks += begin == end != "0"  # empty, or about to be filled in
        time.sleep(0.001)
    return found


def name_of(process: Process) -> str:
    """The name of the program that a process runs."""
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def by_pid(pid: int) -> Process | None:
    """The process that has this number now, unless it is only a zombie."""
    return _stat(pid)


def _stat(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        # A zombie holds nothing any more; its parent may never collect it.
        return None if text.rpartition(")")[2].split()[0] in "ZX" else _parse(text)
    except (OSError, ValueError, IndexError):
        return None


def _parse(line: str) -> Process:
    return Process(pid=int(line.split(" ", 1)[0]), started=int(line.rpartition(")")[2].split()[19]))


def _environment() -> dict[str, str]:
    # A proxy for the outside must not come between the parts; and nft or ip lie where cron's PATH does not look.
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return kept | {"PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"}


def _keep_small(path: Path, most: int = 20_000_000) -> None:
    """Put an old log aside when it has grown large."""
    if path.exists() and path.stat().st_size > most:
        path.replace(path.with_suffix(".log.old"))
