"""ssh for git: one key and the known hosts of a Secret, and nothing of what the machine has of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncssh
from dulwich.client import SSHVendor

from ultramarine_trainer.data.credentials import KNOWN_HOSTS, PRIVATE_KEY, Credentials, SourceError

T = TypeVar("T")


class Ssh(SSHVendor):
    """Runs git's command on a server whose host key is known."""

    def __init__(self, credentials: Credentials, patience: float) -> None:
        """`patience` is for how many seconds a server may say nothing."""
        self._credentials, self._patience = credentials, patience

    def run_command(  # type: ignore[override]  # a process here, and a command on a connection there
        self, host: str, command: bytes, username: str | None = None, port: int | None = None, **_: Any
    ) -> _Command:
        """Start the command. Raises SourceError, and OSError if the server does not answer."""
        key, known_hosts = self._key(), self._credentials.get(KNOWN_HOSTS)
        if not known_hosts:
            raise self._credentials.missing(KNOWN_HOSTS)
        try:
            asyncssh.import_known_hosts(known_hosts + "\n")
        except ValueError as error:
            message = f"{KNOWN_HOSTS} of Secret {self._credentials.secret} has a line that names no host key"
            scan = "store what ssh-keyscan prints for the host"
            raise SourceError("GitCredentialsInvalid", f"{message}; {scan}") from error
        visit = _Visit(known_hosts)
        loop = _Loop(self._patience)

        async def connect() -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                host,
                port or 22,
                username=username,
                client_keys=[key],
                known_hosts=known_hosts.encode() + b"\n",
                client_factory=lambda: visit,
                preferred_auth=["publickey"],
                config=None,
                agent_path=None,
                login_timeout=self._patience,
            )

        async def start(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[bytes]:
            return await connection.create_process(command.decode(), encoding=None)

        try:
            connection = loop.run(connect())
            process = loop.run(start(connection))
        except asyncssh.HostKeyNotVerifiable as error:
            loop.close()
            raise self._stranger(visit, host, port or 22, str(error)) from error
        except asyncssh.PermissionDenied as error:
            loop.close()
            message = (
                f"{host} refused {PRIVATE_KEY} of Secret {self._credentials.secret} for user {username}; "
                "add its public key there, with the right to read the repository"
            )
            raise SourceError("GitCredentialsRefused", message) from error
        except asyncssh.Error as error:
            loop.close()
            raise ConnectionError(error.reason or type(error).__name__) from error
        except OSError:
            loop.close()
            raise
        return _Command(loop, connection, process)

    def _key(self) -> asyncssh.SSHKey:
        text = self._credentials.get(PRIVATE_KEY)
        if not text:
            raise self._credentials.missing(PRIVATE_KEY)
        try:
            return asyncssh.import_private_key(text + "\n")
        except asyncssh.KeyImportError as error:
            message = (
                f"{PRIVATE_KEY} of Secret {self._credentials.secret} cannot be read: {error}; "
                "store a whole private key without a passphrase, as ssh-keygen -N '' makes it"
            )
            raise SourceError("GitCredentialsInvalid", message) from error

    def _stranger(self, visit: _Visit, host: str, port: int, reason: str) -> SourceError:
        """Return what to raise for a server whose host key is not the one that is known."""
        secret = self._credentials.secret
        if visit.has_known:
            message = (
                f"{host} has another host key ({visit.shown or reason}) than {KNOWN_HOSTS} of Secret {secret}: "
                "its key was changed, or it is another server; ask its administrator, and replace the line"
            )
            return SourceError("GitHostKeyChanged", message)
        scan = f"ssh-keyscan {host}" if port == 22 else f"ssh-keyscan -p {port} {host}"
        shown = f", whose key is {visit.shown}" if visit.shown else ""
        message = (
            f"{KNOWN_HOSTS} of Secret {secret} does not have host {host}{shown}; "
            f"compare that with its administrator's word, and add what {scan} prints"
        )
        return SourceError("GitHostKeyUnknown", message)


class _Visit(asyncssh.SSHClient):
    """Remembers what a server has shown that is not known."""

    def __init__(self, known_hosts: str) -> None:
        self._known_hosts = known_hosts.encode() + b"\n"
        self.shown, self.has_known = "", False

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Trust no key that is not in known_hosts."""
        self.shown = f"{key.algorithm.decode()} {key.get_fingerprint()}"
        self.has_known = any(asyncssh.match_known_hosts(self._known_hosts, host, addr, port)[:2])
        return False


class _Loop:
    """An event loop in a thread, for callers that wait."""

    def __init__(self, patience: float) -> None:
        self._loop, self._patience = asyncio.new_event_loop(), patience
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result. Raises TimeoutError, an OSError, when the patience is over."""

        async def bounded() -> T:
            try:
                return await asyncio.wait_for(work, self._patience)
            except TimeoutError as error:
                raise TimeoutError(f"no word for {self._patience:g} s") from error

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


class _Command:
    """A command on the server, in the words that dulwich has for a process."""

    def __init__(
        self, loop: _Loop, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]
    ) -> None:
        self._loop, self._connection, self._process = loop, connection, process

    def read(self, size: int) -> bytes:
        """Return that many bytes, or fewer at the end."""

        async def exactly() -> bytes:
            try:
                return await self._process.stdout.readexactly(size)
            except asyncio.IncompleteReadError as error:
                return error.partial

        return self._loop.run(exactly())

    def write(self, data: bytes) -> int:
        async def send() -> int:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
            return len(data)

        return self._loop.run(send())

    @property
    def stderr(self) -> _Command:
        return self

    def readlines(self) -> list[bytes]:
        """Return what the server said besides, once the command has ended."""
        return self._loop.run(self._process.stderr.read()).splitlines(keepends=True)

    def can_read(self) -> bool:
        return False  # an empty repository has nothing to negotiate about

    def close(self, timeout: float | None = None) -> None:
        async def end() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        self._loop.run(end())
        self._loop.close()
