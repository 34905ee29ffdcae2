"""Running the user's command: in its own process group, heard live, signals forwarded, orphans reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ultramarine_contract.common import (
    ENV_CONTEXT,
    ENV_POD,
    ENV_STORAGE_CA,
    ENV_STORAGE_ENDPOINT,
    ENV_STORAGE_REGION,
    ENV_SWEEP,
    ENV_SWEEP_TOKEN,
    ENV_TASK,
    ENV_TRIAL,
    MLFLOW_ACCOUNT,
    MLFLOW_PREFIX,
)

from ultramarine_trainer.attempt.lines import LineCutter
from ultramarine_trainer.gang.frameworks import Launch

_STORAGE, _OF_SWEEPS = (
    (ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION, ENV_STORAGE_CA),
    (ENV_SWEEP, ENV_TRIAL, ENV_SWEEP_TOKEN),
)
_ACCOUNT = tuple(f"{MLFLOW_PREFIX}{name}" for name in MLFLOW_ACCOUNT)
_OURS = (ENV_TASK, ENV_CONTEXT, ENV_POD, *_STORAGE, *_OF_SWEEPS, *_ACCOUNT)
_LEFTOVER_SECONDS = 2.0  # for a pipe that a daemon of the command still holds.
_BREAK_SECONDS = 10.0  # from SIGTERM to SIGKILL for a command whose gang has lost a node
_STOP_SECONDS = 1.0  # the same for one that should end early
_LOOK_SECONDS = 0.2


class CommandNotFound(Exception):
    """The command could not be started at all; the message says why."""


class Stopped(BaseException):
    """SIGTERM or SIGINT came while no command ran; a BaseException, so that nothing takes it for a fault."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Receiver of SIGTERM and SIGINT: the command while it runs, otherwise this program until it finishes its work."""

    def __init__(self) -> None:
        self.received = 0
        self.received_at = 0.0  # monotonic seconds
        self._group = 0
        self._finishing = False

    def install(self) -> None:
        """Take the signals over. As PID 1 they would otherwise be ignored."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._handle)

    def forward_to(self, group: int) -> None:
        """Pass signals on to this process group from now on, and the one that has already come."""
        self._group = group
        if self.received:
            self._send(self.received)

    def finish(self) -> None:
        """Keep going from now on: the outputs of a finished command are worth the grace period."""
        self._group, self._finishing = 0, True

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """While the block runs a signal ends this program, also one that has come already. Raises Stopped.

        The block is to wait and nothing else: what is interrupted anywhere may leave a lock locked.
        """
        self._group, self._finishing = 0, False
        try:
            if self.received:
                raise Stopped(self.received)
            yield
        finally:
            self.finish()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self.received_at = signum, time.monotonic()
        if self._group:
            self._send(signum)
        elif not self._finishing:
            raise Stopped(signum)

    def _send(self, signum: int) -> None:
        _signal(self._group, signum)


def environment_for_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the user's code may see: all but the storage credentials and our own task."""
    kept = {name: value for name, value in environment.items() if name not in _OURS and not name.startswith("AWS_")}
    return {"PYTHONUNBUFFERED": "1"} | kept


def activated(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables with which a command finds the programs of a virtual environment before all others."""
    kept = {name: value for name, value in variables.items() if name != "PYTHONHOME"}
    path = os.pathsep.join(filter(None, (str(folder / "bin"), kept.get("PATH", os.defpath))))
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(folder)}


@dataclass(frozen=True)
class Supervision:
    """Receivers of a command's output, and the causes that end it early.

    `hear` gets each line, and true for one of stdout; `tee` gets all bytes. The command has `grace` seconds from
    the pod's SIGTERM to SIGKILL. `broken` is set if the command must start again in the same pod. `stop` is set if its
    sweep has ended it; `asked` is set once the command got a signal for that.
    """

    signals: Signals
    hear: Callable[[str, bool], None]
    tee: Callable[[bytes], None]
    grace: float
    broken: threading.Event
    stop: threading.Event
    asked: threading.Event = field(default_factory=threading.Event)


def run_command(
    launch: Launch,
    folder: Path,
    supervision: Supervision,
) -> int:
    """Run a command, with its companion beside it, and return its exit code, negative for a signal."""
    companions = [_start(launch.companion, folder, launch.environment)] if launch.companion else []
    try:
        process = _start(launch.command, folder, launch.environment)
    except CommandNotFound:
        for companion in companions:
            _kill_leftovers(companion.pid)
        raise
    signals = supervision.signals
    signals.forward_to(process.pid)
    readers = [_reader(process, supervision.hear, supervision.tee)]
    readers += [_reader(companion, lambda _line, _is_stdout: None, supervision.tee) for companion in companions]
    ended = threading.Event()
    threading.Thread(target=_end_in_time, args=(process.pid, supervision, ended), daemon=True).start()
    process.returncode = _wait_and_reap(process.pid)
    signals.finish()
    if signals.received:  # a shell is gone at once; what it started may still be tidying up
        _await_group(process.pid, signals.received_at + supervision.grace)
    ended.set()
    for group in (process.pid, *(companion.pid for companion in companions)):
        _kill_leftovers(group)
    for threads in readers:
        for thread in threads:
            thread.join(_LEFTOVER_SECONDS)
    return process.returncode


def _start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        # The pipes are read with os.read, so what the command writes is passed on at once.
        return subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except FileNotFoundError as error:
        remedy = "check spec.command, or add the program to the image"
        raise CommandNotFound(
            f"command {command[0]!r} was not found: the image has no such program; {remedy}"
        ) from error
    except PermissionError as error:
        remedy = "start it through its interpreter, such as `python train.py` or `sh run.sh`"
        raise CommandNotFound(f"command {command[0]!r} is not executable; {remedy}") from error
    except (OSError, ValueError) as error:
        raise CommandNotFound(f"command {command[0]!r} cannot be started: {error}; check spec.command") from error


def _end_in_time(group: int, supervision: Supervision, ended: threading.Event) -> None:
    """End a command that is given up, and kill one that does not end within its grace period."""
    signals, asked_at, patience = supervision.signals, 0.0, _BREAK_SECONDS
    while not ended.wait(_LOOK_SECONDS):
        now = time.monotonic()
        if supervision.stop.is_set():
            patience = _STOP_SECONDS
        if (supervision.broken.is_set() or supervision.stop.is_set()) and not asked_at and not signals.received:
            asked_at = now
            supervision.asked.set()
            _signal(group, signal.SIGTERM)
        is_late = signals.received and now >= signals.received_at + supervision.grace
        if is_late or (asked_at and now >= asked_at + patience):
            _signal(group, signal.SIGKILL)
            return


def _signal(group: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # It has just ended by itself.
        os.killpg(group, signum)


def _reader(
    process: subprocess.Popen[bytes], hear: Callable[[str, bool], None], tee: Callable[[bytes], None]
) -> list[threading.Thread]:
    assert process.stdout is not None
    assert process.stderr is not None
    threads = [
        threading.Thread(target=_pass_through, args=(stream.fileno(), target, hear, tee), daemon=True)
        for stream, target in ((process.stdout, 1), (process.stderr, 2))
    ]
    for thread in threads:
        thread.start()
    return threads


def _pass_through(source: int, target: int, hear: Callable[[str, bool], None], tee: Callable[[bytes], None]) -> None:
    cutter = LineCutter()
    while chunk := os.read(source, 65536):
        _write_all(target, chunk)
        tee(chunk)
        for line in cutter.feed(chunk):
            hear(line, target == 1)
    for line in cutter.close():
        hear(line, target == 1)


def _write_all(target: int, chunk: bytes) -> None:
    while chunk:
        try:
            chunk = chunk[os.write(target, chunk) :]
        except OSError:
            return  # The output has no reader any more; the command must neither block nor die of that.


def _wait_and_reap(pid: int) -> int:
    """Wait for `pid`, and meanwhile take in the orphans that a PID 1 inherits."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _await_group(group: int, until: float) -> None:
    """Wait until the last process of the group has ended, or until then (monotonic seconds)."""
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # as PID 1 we inherit the orphans, and a dead one counts until it is taken in
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def _kill_leftovers(group: int) -> None:
    """End what the command left running, so that outputs do not change while they are stored."""
    try:
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)  # all of the container but ourselves
        else:
            os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # Nothing is left, or only what another user owns.
