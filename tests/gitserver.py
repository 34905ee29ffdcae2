"""A git server: http or https, where /private.git asks for a password, and ssh, which asks for a key.

`python gitserver.py` serves what the Setup in GITSERVER says, as JSON, until it is killed. It prints the commit's id.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from dulwich import porcelain
from dulwich.server import DictBackend
from dulwich.web import HTTPGitApplication, WSGIRequestHandlerLogger, WSGIServerLogger, make_server

AUTHOR = b"Ada <ada@example.com>"
PRIVATE = "/private.git"


@dataclass(frozen=True)
class Setup:
    """Files, addresses and accounts of the server. Port 0 is any free one; without a certificate there is no TLS."""

    files: dict[str, str] = field(default_factory=lambda: {"train.py": "print(1)"})
    host: str = "127.0.0.1"
    http_port: int = 0
    ssh_port: int = 0
    username: str = ""  # any, if empty
    password: str = "s3cr3t-token"
    authorized_key: str = ""
    host_key: str = ""
    certificate: str = ""  # with its private key

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class GitServer:
    """The running servers, with a repository of one commit: /churn.git for all, /private.git for some."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.asked_with: list[str] = []  # the Authorization headers
        self.repository = porcelain.init(str(folder))
        for name, text in setup.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        porcelain.add(str(folder), [str(folder / name) for name in setup.files])
        self.commit = porcelain.commit(str(folder), message=b"work", author=AUTHOR, committer=AUTHOR).decode()
        self._loop = asyncio.new_event_loop()
        self._ssh: asyncssh.SSHAcceptor | None = None
        self._http = self._serve_http()
        self.http_port = int(self._http.server_port)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.ssh_port = (
            asyncio.run_coroutine_threadsafe(self._serve_ssh(), self._loop).result() if setup.host_key else 0
        )

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.repository.close()

    async def _hang_up(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            await self._ssh.wait_closed()
        # Ends what a connection still does, which would be left in the middle.
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _serve_http(self) -> Any:
        git = HTTPGitApplication(DictBackend(dict.fromkeys(("/churn.git", PRIVATE), self.repository)))

        def ask(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            given = str(environ.get("HTTP_AUTHORIZATION", ""))
            self.asked_with.append(given)
            user, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
            if not environ["PATH_INFO"].startswith(PRIVATE):
                return git(environ, start)  # type: ignore[no-any-return]
            if password != self.setup.password or (self.setup.username and user != self.setup.username):
                start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Length", "0")])
                return []
            return git(environ, start)  # type: ignore[no-any-return]

        server = make_server(self.setup.host, self.setup.http_port, ask, WSGIServerLogger, WSGIRequestHandlerLogger)
        if self.setup.certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(self.setup.certificate)
                file.flush()
                context.load_cert_chain(file.name)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        return server

    async def _serve_ssh(self) -> int:
        self._ssh = await asyncssh.listen(
            self.setup.host,
            self.setup.ssh_port,
            server_host_keys=[asyncssh.import_private_key(self.setup.host_key)],
            authorized_client_keys=asyncssh.import_authorized_keys(self.setup.authorized_key),
            process_factory=self._upload_pack,
            encoding=None,
        )
        return self._ssh.get_port()

    async def _upload_pack(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        program, path = shlex.split(process.command or "")
        if (program, path) != ("git-upload-pack", PRIVATE):
            process.stderr.write(f"ERROR: Repository {path} not found.\n".encode())
            process.exit(1)
            return
        # As a process, since dulwich's server waits for its input.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dulwich", "upload-pack", str(self.folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin
        assert child.stdout
        asking = asyncio.create_task(_copy(process.stdin, child.stdin))
        await _copy(child.stdout, process.stdout)
        asking.cancel()
        process.exit(await child.wait())


async def _copy(source: Any, target: Any) -> None:
    """Copy until the source ends."""
    while data := await source.read(65536):
        target.write(data)
        await target.drain()


def key_pair() -> tuple[str, str]:
    """A new private key, and its public key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), key.export_public_key().decode().strip()


def main() -> None:
    setup = Setup(**json.loads(os.environ["GITSERVER"]))
    server = GitServer(setup, Path(tempfile.mkdtemp()) / "churn")
    print(server.commit, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
