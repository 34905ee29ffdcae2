"""The real operator as a process that can be killed; a fork server has everything imported, so a start is quick.

Its clock runs faster than ours: back-offs, the Lease, resync intervals and time limits keep their proportions, and
ten minutes without an API server take two. Wall-clock time, which the objects carry, is left alone.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.loaders
import ultramarine_operator.__main__
from ultramarine_contract.storage import Storage
from ultramarine_operator.engine.queue import Queue
from ultramarine_operator.engine.reports import Reports

SPEED = 5.0
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass
class Zygote:
    """The fork server."""

    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        # The libraries read KUBECONFIG when they are imported; this one leads to the HOME of each operator.
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path), "KUBECONFIG": "~/.kube/config"}
        command = [sys.executable, str(Path(__file__))]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, environment: dict[str, str], folder: Path, constants: dict[str, Any], breaks: str) -> Operator:
        """Fork an operator with the settings of a folder, which gets its log too.

        `constants` are MODULE:NAME to a value, `breaks` names a function of mutations.py.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"environment": environment, "folder": str(folder), "constants": constants, "breaks": breaks}
        self.process.stdin.write(json.dumps(order) + "\n")
        return Operator(int(self.process.stdout.readline()))

    def end(self) -> None:
        """End the fork server; what it started goes its own way."""
        self.process.kill()
        self.process.wait()


@dataclass
class Operator:
    """A running `python -m ultramarine_operator`."""

    pid: int
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = os.pidfd_open(self.pid)

    @property
    def alive(self) -> bool:
        return not self._ends_within(0)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._send(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it has said good-bye."""
        self._send(signal.SIGTERM)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later: what a node that is out of memory or a suspended machine does."""
        signal.pidfd_send_signal(self.descriptor, signal.SIGSTOP)
        time.sleep(seconds)
        signal.pidfd_send_signal(self.descriptor, signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self.descriptor, number)
            if not self._ends_within(120):
                raise TimeoutError(f"process {self.pid} does not end by {number.name}")

    def _ends_within(self, seconds: float) -> bool:
        poll = select.poll()  # not select.select, which knows no descriptor above 1,023
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def _serve() -> None:
    """Import everything once; then fork an operator for each line on standard input, and answer with its pid."""
    read = botocore.loaders.JSONFileLoader.load_file
    known: dict[str, Any] = {}

    def load_file(self: Any, path: str) -> Any:  # boto3 parses a megabyte of JSON for each client
        return known[path] if path in known else known.setdefault(path, read(self, path))

    botocore.loaders.JSONFileLoader.load_file = load_file
    Storage("http://127.0.0.1:1")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _operate(json.loads(line))
        print(pid, flush=True)


def _operate(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a test run that was killed leaves none behind
    log = os.open(f"{order['folder']}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    code: object = 1
    try:
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = ["ultramarine", "--settings", f"{order['folder']}/settings.yaml"]
        _hurry()
        for place, value in order["constants"].items():
            module, _, name = place.partition(":")
            owner = importlib.import_module(module)
            assert hasattr(owner, name), f"{place} is no more; mend the tests"
            span = isinstance(getattr(owner, name), timedelta)
            setattr(owner, name, timedelta(seconds=value) if span else value)
        if order["breaks"]:
            getattr(importlib.import_module("mutations"), order["breaks"])()
        ultramarine_operator.__main__.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def _hurry() -> None:
    """Let the clock of the event loop, and of all who ask for time since the boot, run SPEED times as fast."""
    monotonic, gettime, wait = time.monotonic, time.clock_gettime, selectors.EpollSelector.select

    def select(self: selectors.EpollSelector, timeout: float | None = None) -> Any:
        return wait(self, timeout / SPEED if timeout is not None else None)

    time.monotonic = lambda: monotonic() * SPEED
    time.clock_gettime = lambda clock: gettime(clock) * (1 if clock == time.CLOCK_REALTIME else SPEED)
    selectors.EpollSelector.select = select  # type: ignore[method-assign]
    for function in (Queue.__init__, Reports.__init__):
        # They took the clock when they were imported: back-offs and the times of next passes were not hurried.
        assert function.__defaults__ == (monotonic,), f"{function.__qualname__} has other defaults; mend the tests"
        function.__defaults__ = (time.monotonic,)


if __name__ == "__main__":
    _serve()
