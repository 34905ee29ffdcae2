"""Running the command until all nodes have succeeded: together, and again whenever the gang has lost one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ultramarine_contract.common import EXIT_DO_NOT_RETRY
from ultramarine_contract.training_records import GangTask

from ultramarine_trainer.attempt.child import CommandNotFound, Signals, Stopped, Supervision, run_command
from ultramarine_trainer.data.checkpoints import Checkpoints
from ultramarine_trainer.gang.frameworks import Launch, launch, workers_wait
from ultramarine_trainer.gang.member import Epoch, Gang
from ultramarine_trainer.gang.muster import in_words

ALONE = Epoch(1, 0, ("127.0.0.1",))


class Failed(Exception):
    """End of the attempt, with exit code, reason and message; `of_command` is the command's code if it differs."""

    def __init__(self, code: int, reason: str, message: str, of_command: int = 0) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.of_command = code, reason, message, of_command


def stopped_by(signum: int, when: str) -> Failed:
    """Return the failure of an attempt that was ended from outside."""
    cause = "the pod was deleted, evicted, suspended or past its deadline"
    return Failed(128 + signum, "Stopped", f"{signal.Signals(signum).name} came {when}: {cause}")


@dataclass(frozen=True)
class Part:
    """Command of one node: its folder, its environment, and the receivers of its output."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    hear: Callable[[str, bool], None]
    tee: Callable[[bytes], None]
    say: Callable[[str], None]


@dataclass(frozen=True)
class Persistence:
    """Checkpoints of the command; `keeps` is true on the node whose checkpoints and outputs are the job's.

    `restore()` fills the folder of checkpoints. `deadline()` is when the last checkpoint must be stored (monotonic
    seconds).
    """

    checkpoints: Checkpoints | None
    restore: Callable[[], object]
    keeps: bool
    deadline: Callable[[], float]


@dataclass(frozen=True)
class Ending:
    """Ends of a run from outside: signals, and `stop` once the result is no longer needed.

    The command has `grace` seconds after SIGTERM. `concluded()` is true if the job's result is stored.
    """

    signals: Signals
    grace: float
    concluded: Callable[[], bool]
    stop: threading.Event


class Runner:
    """One node's part in the job; `gang` is set if the job has several nodes."""

    def __init__(self, task: GangTask, part: Part, gang: Gang | None, persistence: Persistence, ending: Ending) -> None:
        self._task, self._part, self._gang, self._persistence = task, part, gang, persistence
        self._signals, self._grace, self._stop = ending.signals, ending.grace, ending.stop
        self._concluded = ending.concluded
        self._stopped = 0  # the signal before the command's end; a later one changes nothing.
        self.ran = 0.0  # seconds of the last run of the command.
        self.worked = 0.0  # seconds of work that this node's result rests on

    def run(self) -> None:
        """Return when the command has succeeded on all nodes. Raises Failed, Stopped, and Concluded."""
        while not self._run_once():
            continue

    def _run_once(self) -> bool:
        epoch = self._gang.join(self._is_stopped, self._concluded) if self._gang else ALONE
        if epoch is None:
            if self._signals.received:
                raise Stopped(self._signals.received)
            raise _unwanted()
        if self._gang:
            self._part.say(f"start {epoch.number}: this is rank {epoch.rank} of {len(epoch.hosts)} nodes")
        self._persistence.restore()
        if self._stop.is_set():
            raise _unwanted()
        lends = self._gang and workers_wait(self._task, epoch)
        code = self._lend(self._gang, epoch) if self._gang and lends else self._run_command(epoch)
        if self._stopped:
            raise stopped_by(self._stopped, "while the command ran")
        if self._stop.is_set():
            raise _unwanted()
        if code == 0:
            return self._succeeded()
        if self._gang is None or self._gang.failed(code):
            raise failure_of(code)
        if self._signals.received:
            raise stopped_by(self._signals.received, "while the command ran")
        self._part.say(f"all nodes start again: {self._gang.why}")
        return False

    def _succeeded(self) -> bool:
        if self._gang is None:
            return True
        if self._gang.succeeded(self._is_stopped) and (
            self._persistence.keeps or self._gang.await_conclusion(self._is_stopped, self._concluded)
        ):
            return True
        if self._signals.received:
            raise stopped_by(self._signals.received, "while the other nodes finished")
        if self._stop.is_set():
            raise _unwanted()
        self._part.say(f"all nodes start again: {self._gang.why or 'node 0 was lost before its result was stored'}")
        return False

    def _run_command(self, epoch: Epoch) -> int:
        part = self._part
        launched = launch(self._task, epoch, part.command, part.environment)
        kept = self._persistence.checkpoints if self._persistence.keeps else None
        if kept:
            kept.start()
        started, code = time.monotonic(), -1
        try:
            code = self._run(launched)
        finally:
            ended = time.monotonic()
            self.ran = ended - started
            if kept:
                # A command whose result is not needed may be killed at any moment.
                kept.finish(code >= 0 or self._stop.is_set(), self._persistence.deadline, ended)
        self.worked = kept.productive_seconds(ended) if kept else ended - started
        return code

    def _lend(self, gang: Gang, epoch: Epoch) -> int:
        """Run what rank 0's mpirun sends, until it sends no more."""
        environment = launch(self._task, epoch, self._part.command, self._part.environment).environment
        while (line := gang.next_command(self._is_stopped)) is not None:
            code = self._run(Launch(("/bin/sh", "-c", line), environment))
            gang.command_ended(code)
        return 0

    def _run(self, launched: Launch) -> int:
        part = self._part
        broken = self._gang.broken if self._gang else threading.Event()
        supervision = Supervision(self._signals, part.hear, part.tee, self._grace, broken, self._stop)
        try:
            return run_command(launched, part.folder, supervision)
        except CommandNotFound as error:
            raise Failed(EXIT_DO_NOT_RETRY, "CommandNotFound", str(error)) from error
        finally:
            self._stopped = self._signals.received

    def _is_stopped(self) -> bool:
        return bool(self._signals.received) or self._stop.is_set()


def _unwanted() -> Failed:
    return Failed(EXIT_DO_NOT_RETRY, "Unwanted", "its result is no longer needed")


def failure_of(code: int) -> Failed:
    """The failure of an attempt whose command has ended with this code, negative for a signal."""
    hint = "; probably out of memory: raise spec.resources" if -code == signal.SIGKILL else ""
    exit_code = 128 - code if code < 0 else code
    return Failed(exit_code, "CommandFailed", f"command {in_words(code)}{hint}")
