"""Processes that a server forks which has imported their libraries: to import them again takes most of a short life."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing import connection, forkserver
from pathlib import Path
from threading import Lock

_context = multiprocessing.get_context("forkserver")
_preloaded: set[str] = set()


def preload(*modules: str) -> None:
    """Have the server import these modules, unless it runs already; then each process imports them itself."""
    _preloaded.update(modules)
    _context.set_forkserver_preload(sorted(_preloaded))


class Fork:
    """`python -c PROGRAM ARGUMENTS`, forked, with the names of `subprocess.Popen`; it ends without `atexit`.

    What it prints is appended to `stdout` and, unless `stderr` is another file, so are its errors.
    """

    def __init__(
        self, program: str, *arguments: str, env: Mapping[str, str], stdout: Path, stderr: Path | None = None
    ) -> None:
        files = (str(stdout), str(stderr or stdout))
        _ensure_server()
        # Daemonic: what a failed fixture leaves does not outlive the tests.
        self._process = _context.Process(target=_run, args=(program, arguments, dict(env), files), daemon=True)
        self._process.start()
        self._lock = Lock()  # the exit code can be read once

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None as long as it runs."""
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code."""
        connection.wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def _ensure_server() -> None:
    """Start the server with the path of the tests, by which it finds the modules."""
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def _run(program: str, arguments: tuple[str, ...], environment: dict[str, str], files: tuple[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for target, file in enumerate(files, 1):
        stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(stream, target)
        os.close(stream)
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
