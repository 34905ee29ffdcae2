"""The gang: the trainers of one job start their commands together, and stop and start them together when one is lost.

Everybody is a member, and the trainer of index 0 is the coordinator besides. They speak JSON over TCP, one line each.
No clock is compared between two pods, and DNS is needed for one name: the coordinator's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ultramarine_contract.common import GANG_PORT
from ultramarine_contract.errors import listed
from ultramarine_contract.training_records import GangTask

from ultramarine_trainer.gang.leader import MESSAGE_LIMIT, Coordinator, Link
from ultramarine_trainer.gang.muster import Message, Times
from ultramarine_trainer.gang.rsh import SOCKET

T = TypeVar("T")


@dataclass(frozen=True)
class Epoch:
    """One common run of all commands: its number, this node's rank in it, and the nodes' IP addresses by rank."""

    number: int
    rank: int
    hosts: tuple[str, ...]


class Concluded(Exception):
    """The job is done already: its result is stored, and there is nothing to run any more."""


class GangError(Exception):
    """The gang cannot be formed from here; the message says why, and what to do."""


class Gang:
    """This trainer's place in the gang. Its methods are for the main thread; a thread of its own does the talking."""

    def __init__(
        self,
        task: GangTask,
        index: int,
        identity: str,
        say: Callable[[str], None],
        *,
        port: int = GANG_PORT,
        path: Path = Path(SOCKET),
        times: Times | None = None,
    ) -> None:
        self._task, self._index, self._identity, self._say = task, index, identity, say
        self._times = times or Times()
        self.broken = threading.Event()  # the epoch has to be given up; `why` says in words for what
        self.why = ""
        # What follows is written by the gang's own thread only, and read by the main thread.
        self._epoch: Epoch | None = None
        self._joining = self._connected = self._gathering = self._done = False
        self._cause = self._finished = 0  # numbers of epochs
        self._missing = ""
        self._lines: deque[tuple[int, str]] = deque()
        self._call = 0
        self._link: Link | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gang", daemon=True)
        self._thread.start()
        self._tasks: list[Future[None]] = []
        self._coordinator: Coordinator | None = None
        if index == 0:
            self._coordinator = Coordinator(task, identity, self._times)
            try:
                port = self._await(self._coordinator.listen(port, path))
            except OSError as error:
                self.close()
                raise GangError(
                    f"cannot listen on port {port} or at {path}: {error}; leave both to the trainer"
                ) from error
            self._start(self._coordinator.tick())
        self.port = port
        self._start(self._keep_in_touch())

    def join(self, stopped: Callable[[], bool], concluded: Callable[[], bool]) -> Epoch | None:
        """Wait until all start together and return the epoch; None when `stopped`.

        Raises Concluded when the job is done already: the coordinator says so or, if there is none, `concluded`.
        """
        self._do(self._ask_to_start)
        # A coordinator that was started again may be the only one that is left of a job that is done.
        look, tell = _Pace(self._times.look, at_once=self._index == 0), _Pace(self._times.tell)

        def idle() -> None:
            if (self._index == 0 or not self._connected) and look.due() and concluded():
                self._do(self._know_it_is_done)
            if self.broken.is_set():
                self._do(self._ask_again)
            if tell.due():
                self._say(self._waiting())

        if not self._wait(lambda: self._done or (self._epoch and not self.broken.is_set()), stopped, idle):
            return None
        if self._done:
            raise Concluded
        return self._epoch

    def failed(self, code: int) -> bool:
        """Report that this node's command failed by itself; return whether it is the cause, or an echo of another's."""
        number = self._number()
        if self.broken.is_set():
            return False
        self._do(lambda: self._tell({"kind": "failed", "number": number, "code": code}))
        self._wait(lambda: self._cause == number or self.broken.is_set(), lambda: False)
        return self._cause == number

    def succeeded(self, stopped: Callable[[], bool]) -> bool:
        """Report that this node's command ended with 0, and wait until all did; False when the epoch broke instead."""
        number = self._number()
        self._do(lambda: self._tell({"kind": "succeeded", "number": number}))
        self._wait(lambda: self._finished == number or self._done or self.broken.is_set(), stopped)
        return self._finished == number or self._done

    def conclude(self) -> None:
        """For rank 0: tell everybody that the result is stored."""
        self._do(self._know_it_is_done)

    def await_conclusion(self, stopped: Callable[[], bool], concluded: Callable[[], bool]) -> bool:
        """For the others: wait until the result is stored; False when a new coordinator wants to run again."""
        look = _Pace(self._times.look)

        def idle() -> None:
            if not self._connected and look.due() and concluded():
                self._do(self._know_it_is_done)

        self._wait(lambda: self._done or self._gathering, stopped, idle)
        return self._done

    def next_command(self, stopped: Callable[[], bool]) -> str | None:
        """For MPI's other ranks: wait for a shell command line of rank 0's; None when there will be none in this epoch.

        `command_ended` takes its exit code.
        """
        number = self._number()
        self._wait(
            lambda: self._lines or self._finished == number or self._done or self.broken.is_set(),
            stopped,
        )
        if not self._lines or self.broken.is_set():
            return None
        self._call, line = self._lines.popleft()
        return line

    def command_ended(self, code: int) -> None:
        """Send the exit code of the line that `next_command` gave to whoever asked for it."""
        self._do(lambda: self._tell({"kind": "exit", "call": self._call, "code": code}))

    def close(self) -> None:
        """Say goodbye; after this the gang is of no use."""
        if self._loop.is_closed():
            return
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(3 * self._times.goodbye)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._times.goodbye)
        if not self._thread.is_alive():
            self._loop.close()

    async def _hang_up(self) -> None:
        if self._link:
            await self._link.close(self._times.goodbye)
        if self._coordinator:
            await self._coordinator.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _keep_in_touch(self) -> None:
        """Be connected to the coordinator, wherever it is now, until all is done."""
        host = "127.0.0.1" if self._index == 0 else self._task.leader
        while not self._done:
            # A name that is missing, or an old pod's, is looked up again each time.
            with contextlib.suppress(OSError, TimeoutError, UnicodeError):
                async with asyncio.timeout(self._times.connect):
                    streams = await asyncio.open_connection(host, self.port, limit=MESSAGE_LIMIT)
                link = Link(*streams, self._times)
                try:
                    await self._talk(link)
                finally:
                    await link.close()
            await asyncio.sleep(self._times.retry)

    async def _talk(self, link: Link) -> None:
        last = self._epoch.number if self._epoch else 0
        link.send({"kind": "hello", "identity": self._identity, "index": self._index, "last": last})
        if await link.receive() != {"kind": "welcome", "identity": self._identity}:
            return
        self._link, self._connected = link, True
        if self._joining:
            self._tell({"kind": "ready"})
        try:
            while not self._done and (message := await link.receive()) is not None:
                self._heard(message)
        except ValueError:
            return
        finally:
            self._link, self._connected, self._missing = None, False, ""
            if not self._done and self._finished != self._number():
                self._give_up("the connection to node 0 was lost")

    def _heard(self, message: Message) -> None:
        """Take in what the coordinator says. Raises ValueError for what it never says."""
        match message:
            case {"kind": "start", "number": int(number), "rank": int(rank), "hosts": [*hosts]}:
                self._lines.clear()
                self._joining = self._gathering = False
                self._epoch = Epoch(number, rank, tuple(str(host) for host in hosts))
                self.broken.clear()  # last: the main thread must not take the old epoch for a new one
            case {"kind": "stop", "number": int(number), "why": str(why)}:
                if number == self._number():
                    self._give_up(why)
            case {"kind": "cause", "number": int(number)}:
                self._cause = number
            case {"kind": "finished", "number": int(number)}:
                self._finished = number
            case {"kind": "gather"}:
                self._gathering = True
            case {"kind": "done"}:
                self._done = True
            case {"kind": "missing", "count": int(count), "nodes": [*nodes]}:
                names = listed((f"{self._identity}-{index}" for index in nodes), len(nodes), count=count)
                self._missing = f"waiting for {count} of {self._task.nodes} nodes: {names}"
            case {"kind": "run", "call": int(call), "line": str(line)}:
                self._lines.append((call, line))
            case _:
                raise ValueError(f"unknown message {message}")
        self._notify()

    def _tell(self, message: Message) -> None:
        if self._link:
            self._link.send(message)

    def _ask_to_start(self) -> None:
        if self._epoch and not self._joining:
            self._give_up("it is over")
        if not self._joining:
            self._joining = True
            self._tell({"kind": "ready"})

    def _ask_again(self) -> None:
        if self.broken.is_set():  # before the main thread could take it; otherwise it has just started
            self._ask_to_start()

    def _give_up(self, why: str) -> None:
        if self._epoch and not self.broken.is_set():
            self.why = why
            self.broken.set()
        self._notify()

    def _know_it_is_done(self) -> None:
        self._done = True
        if self._coordinator:
            self._coordinator.muster.conclude()

    def _number(self) -> int:
        return self._epoch.number if self._epoch else 0

    def _waiting(self) -> str:
        if not self._connected:
            return f"waiting for node 0 at {self._task.leader or 'this node'}, port {self.port}"
        return self._missing or "waiting for the other nodes"

    def _wait(
        self, reached: Callable[[], object], stopped: Callable[[], bool], idle: Callable[[], None] = lambda: None
    ) -> bool:
        """Wait until `reached`, and do `idle` meanwhile; False when `stopped` came first."""
        while not reached():
            if stopped():
                return False
            for task in self._tasks:
                if task.done():
                    task.result()  # a bug in the other thread surfaces here
            idle()
            with self._changed:
                self._changed.wait(self._times.tick)
        return True

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _do(self, step: Callable[[], T]) -> T:
        """Have the gang's thread do `step`."""

        async def do() -> T:
            return step()

        return self._await(do())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.run_coroutine_threadsafe(work, self._loop))


class _Pace:
    """Says now and then that it is time."""

    def __init__(self, seconds: float, at_once: bool = False) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + (0 if at_once else seconds)

    def due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        return True
