"""Decisions of a gang's coordinator: members, starts and ends. No sockets and no clock."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.training_records import GangTask

Message = dict[str, Any]

GATHERING, RUNNING, FINISHING, DONE = "gathering", "running", "finishing", "done"

_NAMED = 5  # nodes in one line of the log
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # as a shell says it


@dataclass(frozen=True)
class Times:
    """Limits and pauses of a gang, in seconds."""

    heartbeat: float = 2.0
    silence: float = 12.0  # after which a member, or the coordinator, is lost
    connect: float = 5.0
    retry: float = 1.0
    blame: float = 1.0  # from the first report of a failure to the decision about its cause.
    elastic_wait: float = 15.0  # without a newcomer, before an elastic gang starts with fewer.
    look: float = 5.0  # between two looks into the storage.
    tell: float = 10.0  # between two lines that say whom we wait for
    goodbye: float = 2.0
    tick: float = 0.1


class Muster:
    """Decisions of the coordinator: members, starts and ends of epochs. No sockets and no clock.

    `tell(index, message)` passes a message on to a node that is connected.
    """

    def __init__(self, task: GangTask, times: Times, tell: Callable[[int, Message], None]) -> None:
        self._task, self._times, self._tell = task, times, tell
        self.phase = GATHERING
        self.number = 0
        self.address = ""  # our own, as another node sees it
        self.running: dict[int, str] = {}  # the nodes of the epoch that runs, with their addresses, by rank
        self._highest = 0
        self._connected: dict[int, str] = {}
        self._ready: set[int] = set()
        self._succeeded: set[int] = set()
        self._failed: dict[int, int] = {}  # exit codes, in the order of the reports
        self._judge_at = 0.0
        self._quiet_since = 0.0
        self._missing_told: list[int] | None = None

    def came(self, index: int, address: str, last: int, now: float) -> None:
        """A node is connected; `last` is the newest epoch that it knows of."""
        self._connected[index] = address
        self._highest = max(self._highest, last)
        self._quiet_since = now
        if self.phase in (GATHERING, DONE):
            self._tell(index, {"kind": "gather" if self.phase == GATHERING else "done"})

    def left(self, index: int, now: float) -> None:
        """The connection to a node is lost. One that had succeeded is not needed any more."""
        self._connected.pop(index, None)
        self._ready.discard(index)
        self._quiet_since = now
        if self.phase == RUNNING and index in self.running and index not in self._succeeded:
            self._break(f"node {index} was lost", now)

    def ready(self, index: int, now: float) -> None:
        """A node waits for an epoch to start."""
        self._ready.add(index)
        self._quiet_since = now
        self._missing_told = None
        if self.phase == RUNNING and index not in self._succeeded:
            if index in self.running:
                self._break(f"node {index} has given up", now)
            elif not self._succeeded:  # otherwise it is better to finish without it
                self._break(f"node {index} came back", now)

    def failed(self, index: int, number: int, code: int, now: float) -> None:
        """Take the failure of a node's command; the cause is decided a little later."""
        if not self._is_current(index, number):
            self._tell(index, {"kind": "stop", "number": number, "why": "this epoch is over"})
            return
        if not self._failed:
            self._judge_at = now + self._times.blame
        self._failed.setdefault(index, code)
        if self._failed.keys() | self._succeeded >= self.running.keys():
            self._judge_at = now

    def succeeded(self, index: int, number: int) -> None:
        """A node's command ended with 0."""
        if not self._is_current(index, number):
            return
        self._succeeded.add(index)
        # With MPI the others only lend their processors; what they run ends with the command of rank 0.
        workers = {0} if self._task.framework == "mpi" else self.running.keys()
        if self._succeeded >= workers:
            self.phase = FINISHING
            self._tell_all({"kind": "finished", "number": number})

    def conclude(self) -> None:
        """Take the news that the result is stored: all nodes are done."""
        self.phase = DONE
        self._tell_all({"kind": "done"})

    def tick(self, now: float) -> None:
        """Do what is due: blame a node, start, or report the missing nodes."""
        if self.phase == RUNNING and self._failed and now >= self._judge_at:
            self._judge(now)
        if self.phase == GATHERING:
            if self._may_start(now):
                self._start()
            else:
                self._tell_missing()

    def _is_current(self, index: int, number: int) -> bool:
        return self.phase == RUNNING and number == self.number and index in self.running

    def _judge(self, now: float) -> None:
        # No failure of another node kills a process with SIGKILL: that one was out of memory.
        killed = (index for index, code in self._failed.items() if code in _KILLED)
        cause = next(killed, next(iter(self._failed)))
        self._tell(cause, {"kind": "cause", "number": self.number})
        self._break(f"node {cause} {in_words(self._failed[cause])}", now)

    def _break(self, why: str, now: float) -> None:
        for index in self.running.keys() & self._connected.keys():
            self._tell(index, {"kind": "stop", "number": self.number, "why": why})
        self.phase, self.running, self._quiet_since = GATHERING, {}, now
        self._missing_told = None

    def _may_start(self, now: float) -> bool:
        if len(self._ready) == self._task.nodes:
            return True
        # Who is connected is alive and will be ready: it is stopping its command, say.
        enough = 0 in self._ready and len(self._ready) >= self._task.min_nodes > 0
        return enough and self._ready == self._connected.keys() and now - self._quiet_since >= self._times.elastic_wait

    def _start(self) -> None:
        self.phase, self._succeeded, self._failed = RUNNING, set(), {}
        self.number = self._highest = self._highest + 1
        self.running = {index: self._connected[index] for index in sorted(self._ready)}
        self.running[0] = self.address or self.running[0]
        self._ready = set()
        hosts = list(self.running.values())
        for rank, index in enumerate(self.running):
            self._tell(index, {"kind": "start", "number": self.number, "rank": rank, "hosts": hosts})

    def _tell_missing(self) -> None:
        missing = sorted(set(range(self._task.nodes)) - self._ready)
        if missing != self._missing_told:
            self._missing_told = missing
            self._tell_all({"kind": "missing", "count": len(missing), "nodes": missing[:_NAMED]})

    def _tell_all(self, message: Message) -> None:
        for index in self._connected:
            self._tell(index, message)


def in_words(code: int) -> str:
    """Return the end of a command in words, from its exit code, which is negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"
