"""A PostgreSQL of the tests: Debian's package, one server for a session, on a socket and a port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "postgres"  # of the package: the server refuses to run as root


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    folder: Path
    host: str

    @property
    def address(self) -> str:
        """Its address, as a Secret has it."""
        return f"postgresql://{USER}:secret@{self.host}:{self.port}/{USER}"

    def run(self, sql: str) -> str:
        """Run statements, and return what psql prints."""
        command = ["psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qtAc", sql, self.address]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def postgres(host: str = "127.0.0.1") -> Iterator[Postgres]:
    """Start a server in a folder of its own, at an address of this machine, and stop it at the end."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="ultramarine-postgres-") as base:
        folder = Path(base)
        user = pwd.getpwnam(USER)
        password = folder / "password"
        password.write_text("secret\n")
        for path in (folder, password):
            os.chown(path, user.pw_uid, user.pw_gid)
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        data = folder / "data"
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": folder, "check": True}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run([programs / "initdb", "-D", data, "-U", USER, *words], **as_user, **quiet)
        with (data / "pg_hba.conf").open("a") as clients:
            clients.write("host all all all scram-sha-256\n")
        options = f"-p {port} -c listen_addresses={host} -k {folder} -c fsync=off"
        log = folder / "log"
        subprocess.run([programs / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start"], **as_user, **quiet)
        try:
            yield Postgres(port, folder, host)
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **as_user, **quiet)


def _programs() -> Path:
    """Return the folder of the server's programs, after the installation of the package if it is missing."""
    if not (found := _installed()):
        # Without a server of its own, which Debian would start.
        Path("/etc/postgresql-common").mkdir(exist_ok=True)
        Path("/etc/postgresql-common/createcluster.conf").write_text("create_main_cluster = false\n")
        assert shutil.which("apt-get"), "the tests of imports need PostgreSQL; install its server and psql"
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
            subprocess.run(["apt-get", "-q", *words], env=environment, check=True, capture_output=True)
        found = _installed()
    return found[-1]


def _installed() -> list[Path]:
    return sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
