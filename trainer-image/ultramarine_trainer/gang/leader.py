"""The sockets of a gang: the lines between its members and their coordinator, in index 0's trainer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import socket
import time
from pathlib import Path
from typing import Any

from ultramarine_contract.addresses import is_of_link
from ultramarine_contract.common import LARGEST
from ultramarine_contract.training_records import GangTask

from ultramarine_trainer.gang.muster import DONE, Message, Muster, Times
from ultramarine_trainer.gang.rsh import LINE_LIMIT, LOST

MESSAGE_LIMIT = LINE_LIMIT + 1024  # bytes: a command line with what is around it

_STRANGERS = 64  # connections that have not said yet who they are; any pod of the cluster can open one
_UNSENT_LIMIT = 1 << 20  # bytes for a member that does not read


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
        """Return the next message, or None if the connection is lost or was never a member's."""
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
        """Return the IP addresses of the peer and of this side. Raises ValueError if the peer is gone."""
        return _plain(self._writer.get_extra_info("peername")), _plain(self._writer.get_extra_info("sockname"))

    async def close(self, patience: float = 0.0) -> None:
        """End the connection; unsent data has a few seconds."""
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
        self._servers.append(await asyncio.start_server(self._welcome, sock=listener, limit=MESSAGE_LIMIT))
        if self._task.framework == "mpi":
            path.unlink(missing_ok=True)
            self._servers.append(await asyncio.start_unix_server(self._rsh, path, limit=MESSAGE_LIMIT))
            path.chmod(0o600)
        return int(listener.getsockname()[1])

    async def tick(self) -> None:
        """Let the muster do what is due, forever."""
        while True:
            self.muster.tick(time.monotonic())
            await asyncio.sleep(self._times.tick)

    async def close(self) -> None:
        """Say what there is still to say and hang up."""
        for server in self._servers:
            server.close()
        until = time.monotonic() + self._times.goodbye
        while self.muster.phase == DONE and self._links and time.monotonic() < until:
            await asyncio.sleep(self._times.tick / 10)  # They hang up when they have heard it.
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close(self._times.goodbye) for link in links))

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_of_link(writer.get_extra_info("sockname")[0]):
            writer.transport.abort()
            return
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
            for index in [index for index, member in self._links.items() if member is link]:
                self._lost(index)
            await link.close()

    async def _introduced(self, link: Link) -> int | None:
        """Wait for a hello and return whose it is; None for a stranger's."""
        if self._strangers >= _STRANGERS:
            return None
        self._strangers += 1
        try:
            # Heartbeats alone do not keep a node's place.
            async with asyncio.timeout(self._times.connect):
                hello = await link.receive()
        except TimeoutError:
            return None
        finally:
            self._strangers -= 1
        match hello:
            case {"kind": "hello", "identity": self._identity, "index": int(index), "last": int(last)}:
                if not (0 <= index < self._task.nodes and 0 <= last < LARGEST):
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
        indices = [
            index for index, address in nodes.items() if index and (address == host or self._name(index) == name)
        ]
        if not indices:
            hosts = ", ".join(address for index, address in nodes.items() if index) or "none"
            return {"error": f"host {host} is not another node of this job; known are {hosts}"}
        call, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[call] = indices[0], answer
        self._tell(indices[0], {"kind": "run", "call": call, "line": line})
        try:
            return {"code": await answer}
        finally:
            del self._calls[call]

    def _name(self, index: int) -> str:
        return f"{self._identity}-{index}"


def _plain(name: tuple[Any, ...] | None) -> str:
    """Return the IP address of a socket's name, an IPv4 one as such where IPv6 carries it."""
    if name is None:
        raise ValueError("the connection was lost before it was used")
    address = ipaddress.ip_address(str(name[0]).partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)
