"""Worker processes of a server: start, requests, and restart after a crash or a timeout.

A thread for each worker starts its process, waits for its end, and starts the next one. Requests take an idle worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from ultramarine_contract.common import INIT_SECONDS

from ultramarine_server import frames
from ultramarine_server.errors import LoadError, Problem

ENV_COUNT = "WORKER_COUNT"  # Azure's name
MAX_COUNT = 64
_PROGRAM = Path(__file__).resolve().parents[1] / "usercode" / "__main__.py"
_DUMP_SECONDS = 1.0  # time for the traces of all threads, after SIGABRT
_STEADY_SECONDS = 10.0  # A worker that lived longer is replaced at once.
_MAX_PAUSE_SECONDS = 30.0
_RETRY_SECONDS = 2  # for clients, while no worker runs


class Start(msgspec.Struct, frozen=True):
    """Start of a worker: its Python, its folder, and the first frame; `name` is that of the code in messages."""

    name: str
    python: Path
    folder: Path
    frame: Mapping[str, Any]
    variables: Mapping[str, str] = {}


def worker_count() -> int:
    """Return the number of workers by WORKER_COUNT, by default 1. Raises LoadError."""
    text = os.environ.get(ENV_COUNT, "1")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_COUNT:
        raise LoadError(f"{ENV_COUNT} is {text!r}. Set it to a number from 1 to {MAX_COUNT}.", "TaskInvalid")
    return int(text)


def python_of(environment: Path | None) -> Path:
    """Return the Python of an environment, or the server's without one. Raises LoadError if it is missing."""
    if environment is None:
        return Path(sys.executable)
    python = environment / "bin" / "python"
    if not python.exists():
        message = f"the environment in {environment} has no Python. See the log of the container that fetches it."
        raise LoadError(message, "EnvironmentMissing")
    return python


class _Process:
    """Running worker process."""

    def __init__(self, start: Start) -> None:
        self.timed_out = False
        self._connection, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [str(start.python), "-u", str(_PROGRAM), str(other.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=start.folder,
                env=_variables(start),
                pass_fds=(other.fileno(),),
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, header: Mapping[str, Any], body: bytes, seconds: float) -> tuple[dict[str, Any], bytearray]:
        """Return the answer. Raises TimeoutError, OSError and Closed; the process is of no use after that."""
        self._connection.settimeout(seconds or None)
        frames.send(self._connection, header, body)
        return frames.receive(self._connection, time.monotonic() + seconds if seconds else float("inf"))

    def wait(self) -> int:
        code = self._process.wait()
        # Its children may have the other end, so the reader would wait forever.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        return code

    def kill(self, *, dump: bool = False) -> None:
        """End the process and its children; `dump` writes what its threads are doing into the log."""
        if dump:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.kill(self._process.pid, signal.SIGABRT)
                self._process.wait(_DUMP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._connection.close()


class Workers:
    """Workers of one model or script. `facts` is the first worker's description of it."""

    def __init__(self, start: Start, count: int, seconds: float, start_seconds: float = INIT_SECONDS) -> None:
        """Start the workers, and wait for all. Raises LoadError if the user's code fails.

        A request may take `seconds`, or any time if that is 0. A worker may take `start_seconds` to become ready.
        """
        self._state = _State(start, seconds, start_seconds)
        self.facts: dict[str, Any] = {}
        self._close = weakref.finalize(self, _close, self._state)
        for _ in range(count):
            threading.Thread(target=_keep, args=(self._state,), name="worker", daemon=True).start()
        with self._state.changed:
            while len(self._state.running) < count and self._state.failure is None:
                self._state.changed.wait()
            failure = self._state.failure
        if failure is not None:
            self.close()
            raise failure
        self.facts = self._state.facts
        self._state.started = True

    def close(self) -> None:
        """End all workers."""
        self._close()

    @property
    def alive(self) -> bool:
        """True if a worker runs."""
        return bool(self._state.running)

    def ask(self, header: Mapping[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytearray]:
        """Return an answer of an idle worker. Raises TimeoutError, and Problem 502 and 503."""
        state = self._state
        process = state.take()
        try:
            answer = process.ask(header, body, state.seconds)
        except TimeoutError:
            process.timed_out = True
            process.kill(dump=True)
            _log(f"{state.start.name} gave no answer within {state.seconds:g} s; its process was ended")
            raise
        except (OSError, frames.Closed) as error:
            process.kill()
            message = f"the process of {state.start.name} {_ending(process.wait())} while it answered this request"
            raise Problem(502, f"{message}; the pod's log may have the reason") from error
        except BaseException:
            process.kill()
            raise
        state.give(process)
        return answer

    def metrics(self) -> Iterable[Metric]:
        """Yield the metrics, for `Telemetry.others`."""
        family = CounterMetricFamily(
            "ultramarine_server_worker_ends", "Worker processes that ended, by reason.", labels=["reason"]
        )
        for reason, number in self._state.ended.items():
            family.add_metric([reason], number)
        yield family
        yield GaugeMetricFamily("ultramarine_server_workers", "Running worker processes.", len(self._state.running))


class _State:
    """State that the threads share; they do not hold the Workers, which end when no request needs them."""

    def __init__(self, start: Start, seconds: float, start_seconds: float) -> None:
        self.start, self.seconds, self.start_seconds = start, seconds, start_seconds
        self.changed = threading.Condition()
        self.running: set[_Process] = set()
        self.starting: set[_Process] = set()
        self.idle: list[_Process] = []
        self.facts: dict[str, Any] = {}
        self.failure: LoadError | None = None
        self.started = self.closed = False
        self.ended = {"timeout": 0, "crash": 0}

    def take(self) -> _Process:
        with self.changed:
            while True:
                while self.idle:
                    process = self.idle.pop()
                    if process in self.running and process.runs:
                        return process
                if not self.running:
                    message = f"the process of {self.start.name} is starting again"
                    if self.failure is not None:
                        message += f", and failed before: {self.failure.message}"
                    raise Problem(503, f"{message}; try again later", _RETRY_SECONDS)
                self.changed.wait()

    def give(self, process: _Process) -> None:
        with self.changed:
            if process in self.running:
                self.idle.append(process)
                self.changed.notify()


def _keep(state: _State) -> None:
    """Keep a worker running until the state is closed; the first failure ends the attempt."""
    pause = 0.0
    while not state.closed:
        began = time.monotonic()
        try:
            process = _started(state)
        except LoadError as error:
            with state.changed:
                state.failure = error
                state.changed.notify_all()
                if not state.started:
                    return
            _log(f"{error.reason}: {error.message}")
        else:
            code = process.wait()
            with state.changed:
                state.running.discard(process)
                state.changed.notify_all()
            process.kill()  # children that are left
            process.close()
            if state.closed:
                return
            state.ended["timeout" if process.timed_out else "crash"] += 1
            ending = "was too slow" if process.timed_out else _ending(code)
            _log(f"the process of {state.start.name} {ending}, and starts again")
        pause = 0.0 if time.monotonic() - began > _STEADY_SECONDS else min(max(2 * pause, 0.5), _MAX_PAUSE_SECONDS)
        time.sleep(pause)


def _started(state: _State) -> _Process:
    """Start a process and wait for the user's code. Raises LoadError."""
    start = state.start
    try:
        process = _Process(start)
    except OSError as error:
        message = f"cannot start {start.python}: {error}. Build the environment on the platform's image."
        raise LoadError(message, "EnvironmentMissing") from error
    with state.changed:
        state.starting.add(process)
    try:
        answer, _ = process.ask(start.frame, b"", state.start_seconds)
        if "ready" not in answer:
            raise LoadError(str(answer.get("message", "")), str(answer.get("reason", "ScoringFailed")))
        with state.changed:
            if state.closed:
                raise LoadError("the server ends", "Closed")
            state.facts, state.failure = answer["ready"], None
            state.running.add(process)
            state.idle.append(process)
            state.changed.notify_all()
        return process
    except TimeoutError as error:
        process.kill(dump=True)
        message = f"{start.name} has not become ready within {state.start_seconds:g} s. Load less at the start, or find"
        raise LoadError(f"{message} what it waits for by the traces in the pod's log.", "ScoringFailed") from error
    except (OSError, frames.Closed) as error:
        process.kill()
        message = f"the process of {start.name} {_ending(process.wait())} while it started"
        raise LoadError(f"{message}. The pod's log may have the reason.", "ScoringFailed") from error
    except LoadError:
        process.kill()
        raise
    finally:
        with state.changed:
            state.starting.discard(process)


def _close(state: _State) -> None:
    with state.changed:
        state.closed = True
        processes = [*state.running, *state.starting]
        state.changed.notify_all()
    for process in processes:
        process.kill()


def _variables(start: Start) -> dict[str, str]:
    variables = {**os.environ, **start.variables}
    if start.python.parent.parent != Path(sys.prefix):
        variables["VIRTUAL_ENV"] = str(start.python.parent.parent)
        variables["PATH"] = f"{start.python.parent}:{variables.get('PATH', '')}"
    return variables


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name
    hint = "; it may have needed more memory than the container has" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _log(message: str) -> None:
    print(orjson.dumps({"event": "worker", "message": message}).decode(), flush=True)
