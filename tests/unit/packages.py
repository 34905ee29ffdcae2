"""A package index on loopback with small packages, for tests of environments."""

from __future__ import annotations

import hashlib
import io
import ssl
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from venv import create

from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.storage import Storage
from ultramarine_environment.storing import pack


def wheel(name: str, version: str, needs: tuple[str, ...] = (), **files: bytes | str) -> tuple[str, bytes]:
    """Return file name and bytes of a wheel: a module `name` with VERSION, and more files by path."""
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents: dict[str, bytes | str] = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        **{f"{name}/{path}": content for path, content in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
    return f"{name}-{version}-py3-none-any.whl", packed.getvalue()


def source(name: str, version: str, setup: str) -> tuple[str, bytes]:
    """Return file name and bytes of a source distribution whose build backend is the program `setup`."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": setup,
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"{name}-{version}/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return f"{name}-{version}.tar.gz", packed.getvalue()


def stored_environment(storage: Storage, uri: str, folder: Path) -> EnvironmentArchive:
    """Store an environment at `uri` with a module `own` and a program `own-tool`; `folder` is free to use."""
    create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "own.py").write_text("import sys\n\nPREFIX = sys.prefix\n")
    (folder / "bin/own-tool").write_text("#!/bin/sh\necho own=1\n")
    (folder / "bin/own-tool").chmod(0o755)
    archive = folder.with_suffix(".tar.zst")
    pack(folder, archive)
    content = archive.read_bytes()
    storage.write(uri, content)
    return EnvironmentArchive(uri, f"sha256:{_sha256(content)}", len(content))


@contextmanager
def index(*files: tuple[str, bytes], authorization: str = "", certificate: Path | None = None) -> Iterator[str]:
    """Serve an index with these files, and yield its URL; with `authorization` only to that header.

    `certificate` is a folder as of certificates.py.
    """
    by_name = dict(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, name = self.path.strip("/").partition("/")
            if authorization and self.headers.get("Authorization") != authorization:
                self._answer(401, b"no")
            elif kind == "files" and name in by_name:
                self._answer(200, by_name[name])
            elif kind == "simple" and (links := [file for file in by_name if file.startswith(f"{name}-")]):
                page = "".join(f'<a href="/files/{file}#sha256={_sha256(by_name[file])}">{file}</a>' for file in links)
                self._answer(200, page.encode())
            else:
                self._answer(404, b"no")

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            if code == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
