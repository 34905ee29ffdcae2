"""Running the user's command: in its own process group, heard live, signals forwarded, orphans reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from ultramarine.shared.contract import ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION, ENV_TASK

from ultramarine_trainer.lines import LineCutter

_OURS = (ENV_TASK, ENV_STORAGE_ENDPOINT, ENV_STORAGE_REGION)
_LEFTOVER_SECONDS = 2.0  # for a pipe that a daemon which outlived the command still holds
_TIDY_SECONDS = 20.0  # after SIGTERM; a pod has 30 s in all


class CommandNotFound(Exception):
    """The command could not be started at all; the message says why."""


class Stopped(BaseException):
    """SIGTERM or SIGINT came while no command ran; a BaseException, so that nothing takes it for a fault."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Who a SIGTERM or SIGINT is for: the command while it runs, else this program, unless it is finishing its work."""

    def __init__(self) -> None:
        self.received = 0
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

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        if self._group:
            self._send(signum)
        elif not self._finishing:
            raise Stopped(signum)

    def _send(self, signum: int) -> None:
        try:
            os.killpg(self._group, signum)
        except ProcessLookupError:
            return  # It has just ended by itself.


def environment_for_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the user's code may see: all but the storage credentials and our own task."""
    kept = {name: value for name, value in environment.items() if name not in _OURS and not name.startswith("AWS_")}
    return {"PYTHONUNBUFFERED": "1"} | kept


def run_command(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    signals: Signals,
    hear: Callable[[str, bool], None],
) -> int:
    """Run `command` and return its exit code, negative for a signal; `hear(line, is_stdout)` gets its lines."""
    try:
        # The pipes are read with os.read, so what the command writes is passed on at once.
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except FileNotFoundError as error:
        raise CommandNotFound(f"command {command[0]!r} was not found in the image; check spec.command") from error
    except PermissionError as error:
        remedy = "start it through its interpreter, such as `python train.py` or `sh run.sh`"
        raise CommandNotFound(f"command {command[0]!r} is not executable; {remedy}") from error
    except (OSError, ValueError) as error:
        raise CommandNotFound(f"command {command[0]!r} cannot be started: {error}; check spec.command") from error
    signals.forward_to(process.pid)
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=_pass_through, args=(process.stdout.fileno(), 1, hear), daemon=True),
        threading.Thread(target=_pass_through, args=(process.stderr.fileno(), 2, hear), daemon=True),
    ]
    for reader in readers:
        reader.start()
    process.returncode = _wait_and_reap(process.pid)
    signals.finish()
    if signals.received:  # a shell is gone at once; what it started may still be tidying up
        _await_group(process.pid, _TIDY_SECONDS)
    _kill_leftovers(process.pid)
    for reader in readers:
        reader.join(_LEFTOVER_SECONDS)
    return process.returncode


def _pass_through(source: int, target: int, hear: Callable[[str, bool], None]) -> None:
    cutter = LineCutter()
    while chunk := os.read(source, 65536):
        _write_all(target, chunk)
        for line in cutter.feed(chunk):
            hear(line, target == 1)
    for line in cutter.close():
        hear(line, target == 1)


def _write_all(target: int, chunk: bytes) -> None:
    while chunk:
        try:
            chunk = chunk[os.write(target, chunk) :]
        except OSError:
            return  # Nobody reads our output any more; the command must not block or die of that.


def _wait_and_reap(pid: int) -> int:
    """Wait for `pid`, and meanwhile take in the orphans that a PID 1 inherits."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _await_group(group: int, seconds: float) -> None:
    """Wait until the last process of the group has ended, for so many seconds at most."""
    until = time.monotonic() + seconds
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
