"""The gang: the trainers of one job start their commands together, and stop and start them together when one is lost.

Everybody is a member, and the trainer of index 0 is the coordinator besides. They speak JSON over TCP, one line each.
No clock is compared between two pods, and DNS is needed for one name: the coordinator's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ultramarine.shared.contract import GANG_PORT, GangTask

from ultramarine_trainer.rsh import LINE_LIMIT, LOST, SOCKET

T = TypeVar("T")
Message = dict[str, Any]

_STRANGERS = 64  # connections that have not said yet who they are; any pod of the cluster can open one
_UNSENT_LIMIT = 1 << 20  # bytes for a member that does not read
_LARGEST = 2**53  # a number that anybody's JSON can carry
_NAMED = 5  # nodes in one line of the log
_MESSAGE_LIMIT = LINE_LIMIT + 1024  # bytes: a command line with what is around it
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # as a shell says it

_GATHERING, _RUNNING, _FINISHING, _DONE = "gathering", "running", "finishing", "done"


@dataclass(frozen=True)
class Times:
    """How long everything takes, in seconds."""

    heartbeat: float = 2.0
    silence: float = 12.0  # after which a member, or the coordinator, is lost
    connect: float = 5.0
    retry: float = 1.0
    blame: float = 1.0  # from the first report of a failure to the judgement who caused it
    elastic_wait: float = 15.0  # without a newcomer, after which an elastic gang starts with fewer
    look: float = 5.0  # between two looks into the storage
    tell: float = 10.0  # between two lines that say whom we wait for
    goodbye: float = 2.0
    tick: float = 0.1


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


class Muster:
    """What the coordinator decides: who is there, when an epoch starts, and what ends it. No sockets and no clock.

    `tell(index, message)` passes a message on to a node that is connected.
    """

    def __init__(self, task: GangTask, times: Times, tell: Callable[[int, Message], None]) -> None:
        self._task, self._times, self._tell = task, times, tell
        self.phase = _GATHERING
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
        if self.phase in (_GATHERING, _DONE):
            self._tell(index, {"kind": "gather" if self.phase == _GATHERING else "done"})

    def left(self, index: int, now: float) -> None:
        """The connection to a node is lost. One that had succeeded is not needed any more."""
        self._connected.pop(index, None)
        self._ready.discard(index)
        self._quiet_since = now
        if self.phase == _RUNNING and index in self.running and index not in self._succeeded:
            self._break(f"node {index} was lost", now)

    def ready(self, index: int, now: float) -> None:
        """A node waits for an epoch to start."""
        self._ready.add(index)
        self._quiet_since = now
        self._missing_told = None
        if self.phase == _RUNNING and index not in self._succeeded:
            if index in self.running:
                self._break(f"node {index} has given up", now)
            elif not self._succeeded:  # else it is better to finish without it
                self._break(f"node {index} came back", now)

    def failed(self, index: int, number: int, code: int, now: float) -> None:
        """A node's command failed by itself; who is the cause is judged a little later."""
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
            self.phase = _FINISHING
            self._tell_all({"kind": "finished", "number": number})

    def conclude(self) -> None:
        """The result is stored: nobody has anything to do any more."""
        self.phase = _DONE
        self._tell_all({"kind": "done"})

    def tick(self, now: float) -> None:
        """Do what is due: judge, start, or say whom we wait for."""
        if self.phase == _RUNNING and self._failed and now >= self._judge_at:
            self._judge(now)
        if self.phase == _GATHERING:
            if self._may_start(now):
                self._start()
            else:
                self._tell_missing()

    def _is_current(self, index: int, number: int) -> bool:
        return self.phase == _RUNNING and number == self.number and index in self.running

    def _judge(self, now: float) -> None:
        # No failure of another node kills a process with SIGKILL: that one was out of memory.
        killed = (index for index, code in self._failed.items() if code in _KILLED)
        cause = next(killed, next(iter(self._failed)))
        self._tell(cause, {"kind": "cause", "number": self.number})
        self._break(f"node {cause} {_words(self._failed[cause])}", now)

    def _break(self, why: str, now: float) -> None:
        for index in self.running.keys() & self._connected.keys():
            self._tell(index, {"kind": "stop", "number": self.number, "why": why})
        self.phase, self.running, self._quiet_since = _GATHERING, {}, now
        self._missing_told = None

    def _may_start(self, now: float) -> bool:
        if len(self._ready) == self._task.nodes:
            return True
        # Who is connected is alive and will be ready: it is stopping its command, say.
        enough = 0 in self._ready and len(self._ready) >= self._task.min_nodes > 0
        return enough and self._ready == self._connected.keys() and now - self._quiet_since >= self._times.elastic_wait

    def _start(self) -> None:
        self.phase, self._succeeded, self._failed = _RUNNING, set(), {}
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


class Link:
    """One connection: JSON lines both ways, a heartbeat, and an end to one that is silent or talks nonsense."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, times: Times) -> None:
        self._reader, self._writer, self._times = reader, writer, times
        self._beats = asyncio.ensure_future(self._beat())

    def send(self, message: Message) -> None:
        """Send, without waiting; to a connection that is lost, nothing."""
        if self._writer.transport.get_write_buffer_size() > _UNSENT_LIMIT:
            self._writer.transport.abort()
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> Message | None:
        """Return the next message, or None when the connection is lost or was never one of ours."""
        try:
            while line := await self._line():
                message = json.loads(line)
                if not isinstance(message, dict):
                    return None
                if message:
                    return message
        except (OSError, TimeoutError, ValueError, RecursionError):
            return None
        return None

    async def _line(self) -> bytes:
        # Not wait_for: in Python 3.11 that forgets to be cancelled when a line comes at the same moment.
        async with asyncio.timeout(self._times.silence):
            return await self._reader.readline()

    def addresses(self) -> tuple[str, str]:
        """Return the IP addresses of the other side and of ours. Raises ValueError when the other side is gone."""
        return _plain(self._writer.get_extra_info("peername")), _plain(self._writer.get_extra_info("sockname"))

    async def close(self, patience: float = 0.0) -> None:
        """End the connection; what is not sent yet has so many seconds."""
        self._beats.cancel()
        self._writer.close()
        if patience:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(patience):
                    await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._times.heartbeat)
            self.send({})


class Coordinator:
    """The sockets around a Muster: one for the members and, for MPI, one in this pod for ultramarine-rsh."""

    def __init__(self, task: GangTask, identity: str, times: Times) -> None:
        self._task, self._identity, self._times = task, identity, times
        self.muster = Muster(task, times, self._tell)
        self._links: dict[int, Link] = {}
        self._strangers = 0
        self._servers: list[asyncio.AbstractServer] = []
        self._calls: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self._numbers = itertools.count(1)

    async def listen(self, port: int, path: Path) -> int:
        """Listen, and return the port. Raises OSError where it is taken."""
        try:
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
        except (OSError, ValueError):  # a node without IPv6
            listener = socket.create_server(("", port), backlog=512)
        self._servers.append(await asyncio.start_server(self._welcome, sock=listener, limit=_MESSAGE_LIMIT))
        if self._task.framework == "mpi":
            path.unlink(missing_ok=True)
            self._servers.append(await asyncio.start_unix_server(self._rsh, path, limit=_MESSAGE_LIMIT))
            path.chmod(0o600)
        return int(listener.getsockname()[1])

    async def tick(self) -> None:
        """Let the muster do what is due, for ever."""
        while True:
            self.muster.tick(time.monotonic())
            await asyncio.sleep(self._times.tick)

    async def close(self) -> None:
        """Say what there is still to say and hang up."""
        for server in self._servers:
            server.close()
        until = time.monotonic() + self._times.goodbye
        while self.muster.phase == _DONE and self._links and time.monotonic() < until:
            await asyncio.sleep(self._times.tick / 10)  # They hang up when they have heard it.
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close(self._times.goodbye) for link in links))

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer, self._times)
        try:
            index = await self._introduced(link)
            while index is not None and (message := await link.receive()) is not None:
                if self._links.get(index) is not link:
                    return
                self._heard(index, message)
        except ValueError:
            return
        finally:
            for index in [index for index, known in self._links.items() if known is link]:
                self._lost(index)
            await link.close()

    async def _introduced(self, link: Link) -> int | None:
        """Wait for a hello and return whose it is; None for a stranger's."""
        if self._strangers >= _STRANGERS:
            return None
        self._strangers += 1
        try:
            # Heartbeats alone keep nobody's place.
            async with asyncio.timeout(self._times.connect):
                hello = await link.receive()
        except TimeoutError:
            return None
        finally:
            self._strangers -= 1
        match hello:
            case {"kind": "hello", "identity": self._identity, "index": int(index), "last": int(last)}:
                if not (0 <= index < self._task.nodes and 0 <= last < _LARGEST):
                    return None
            case _:
                return None
        if old := self._links.get(index):  # the half-open connection of a pod that is gone
            self._lost(index)
            await old.close()
        self._links[index] = link
        peer, own = link.addresses()
        if not ipaddress.ip_address(own).is_loopback:
            self.muster.address = own
        link.send({"kind": "welcome", "identity": self._identity})
        self.muster.came(index, peer, last, time.monotonic())
        return index

    def _heard(self, index: int, message: Message) -> None:
        """Pass on what a member says. Raises ValueError for what no member says."""
        now = time.monotonic()
        match message:
            case {"kind": "ready"}:
                self._fail_calls(index)
                self.muster.ready(index, now)
            case {"kind": "failed", "number": int(number), "code": int(code)}:
                self.muster.failed(index, number, code, now)
            case {"kind": "succeeded", "number": int(number)}:
                self.muster.succeeded(index, number)
            case {"kind": "exit", "call": int(call), "code": int(code)}:
                owner, answer = self._calls.get(call, (-1, None))
                if answer and owner == index and not answer.done():
                    answer.set_result(code)
            case _:
                raise ValueError(f"unknown message {message}")

    def _tell(self, index: int, message: Message) -> None:
        if link := self._links.get(index):
            link.send(message)

    def _lost(self, index: int) -> None:
        del self._links[index]
        self._fail_calls(index)
        self.muster.left(index, time.monotonic())

    def _fail_calls(self, index: int) -> None:
        for owner, answer in self._calls.values():
            if owner == index and not answer.done():
                answer.set_result(LOST)

    async def _rsh(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Have one line run on the node that ultramarine-rsh names, and answer with its exit code."""
        with contextlib.suppress(OSError, ValueError):
            match json.loads(await reader.readline()):
                case {"host": str(host), "line": str(line)}:
                    answer = await self._run_on(host, line)
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
        writer.close()

    async def _run_on(self, host: str, line: str) -> Message:
        nodes = self.muster.running
        name = host.split(".")[0]
        found = [index for index, address in nodes.items() if index and (address == host or self._name(index) == name)]
        if not found:
            known = ", ".join(address for index, address in nodes.items() if index) or "none"
            return {"error": f"host {host} is no other node of this job; known are {known}"}
        call, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[call] = found[0], answer
        self._tell(found[0], {"kind": "run", "call": call, "line": line})
        try:
            return {"code": await answer}
        finally:
            del self._calls[call]

    def _name(self, index: int) -> str:
        return f"{self._identity}-{index}"


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

        Raises Concluded when the job is done already: the coordinator says so or, where there is none, `concluded`.
        """
        self._do(self._ask_to_start)
        # A coordinator that was started anew may be the only one that is left of a job that is done.
        look, tell = _Pace(self._times.look, at_once=self._index == 0), _Pace(self._times.tell)

        def idle() -> None:
            if (self._index == 0 or not self._connected) and look.due() and concluded():
                self._do(self._know_it_is_done)
            if self.broken.is_set():  # before we could take it
                self._do(self._ask_to_start)
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
            # A name that is not there, or is an old pod's, is no fault: it is looked up again each time.
            with contextlib.suppress(OSError, TimeoutError, UnicodeError):
                async with asyncio.timeout(self._times.connect):
                    streams = await asyncio.open_connection(host, self.port, limit=_MESSAGE_LIMIT)
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
                names = ", ".join(f"{self._identity}-{index}" for index in nodes) + (
                    ", ..." if count > len(nodes) else ""
                )
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
                    task.result()  # a fault of ours in the other thread surfaces here
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


def _plain(name: tuple[Any, ...] | None) -> str:
    """Return the IP address of a socket's name, an IPv4 one as such where IPv6 carries it."""
    if name is None:
        raise ValueError("the connection was lost before it was used")
    address = ipaddress.ip_address(str(name[0]).partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _words(code: int) -> str:
    if code >= 0:
        return f"failed with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"
