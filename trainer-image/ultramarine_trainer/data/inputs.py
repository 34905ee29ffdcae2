"""Fetching an input: not more than the disk holds, and with a line now and then that says how far it is."""

from __future__ import annotations

import html
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ultramarine_contract.common import MANIFEST_NAME, STREAM_PORT, ArtifactManifest, FileEntry
from ultramarine_contract.errors import StorageError, counted
from ultramarine_contract.storage import Progress, Storage
from ultramarine_contract.training_records import InputRecord

_TELL_SECONDS = 10.0
# Reasons of a storage whose artifact is not whole, or is not the one of the digest.
CHANGED = ("DigestMismatch", "ObjectNotFound", "InputNotFound", "ManifestInvalid", "InvalidKey")


def fetch_folder(
    storage: Storage, name: str, uri: str, folder: Path, say: Callable[[str], None], digest: str = ""
) -> InputRecord:
    """Fetch what `uri` means into `folder`, and return its digest and size. Raises StorageError, as for a full disk.

    With a `digest` any other content raises StorageError DataChanged, which names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _unchanged(digest):
        size, free = storage.size(uri), shutil.disk_usage(folder).free
    if size.bytes > free:
        raise StorageError(
            f"{uri} has {size.bytes} bytes in {counted(size.files, 'file')}, and the node's disk has {free} bytes "
            "left; name less of it, or run on a node with more room",
            "DiskFull",
        )
    started = reported = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _TELL_SECONDS:
            reported = time.monotonic()
            say(f"input {name}: {done} of {total} bytes ({100 * done // max(total, 1)} %)")

    files = _verified(storage, uri, digest, folder, progress) if digest else storage.download(uri, folder, progress)
    seconds = time.monotonic() - started
    say(f"input {name}: {counted(len(files), 'file')}, {size.bytes} bytes from {uri} in {seconds:.1f} s")
    return InputRecord(ArtifactManifest(tuple(files)).digest, sum(file.bytes for file in files), len(files))


def _verified(storage: Storage, uri: str, digest: str, folder: Path, progress: Progress) -> list[FileEntry]:
    """Fetch an artifact or an object with this digest; the list of its files is not among them."""
    with _unchanged(digest):
        if uri.endswith("/") and not storage.exists(f"{uri}{MANIFEST_NAME}"):
            return _part(storage, uri, digest, folder, progress)
        files = storage.fetch_artifact(uri, digest, folder, progress).files
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    return list(files)


def _part(storage: Storage, uri: str, digest: str, folder: Path, progress: Progress) -> list[FileEntry]:
    """Fetch a folder of an artifact, such as a partition; it has no list of files, and its digest is over them."""
    files = storage.download(uri, folder, progress)
    if (got := ArtifactManifest(tuple(files)).digest) != digest:
        raise StorageError(f"the files of {uri} have the digest {got}, and not {digest}", "DigestMismatch")
    return files


@contextmanager
def _unchanged(digest: str) -> Iterator[None]:
    """Raise StorageError DataChanged if the storage no longer has the content of a digest."""
    try:
        yield
    except StorageError as error:
        if not digest or error.reason not in CHANGED:
            raise
        message = f"the data has changed since its version was made: {error.message}"
        raise StorageError(message, "DataChanged") from error


class StreamServer:
    """Serves each input at /NAME/PATH, with ranges, and a page of links at /NAME/, as fsspec reads it.

    The files are those that there were at the start; their content is read when it is asked for.
    """

    def __init__(
        self, storage: Storage, inputs: dict[str, dict[str, tuple[str, int]]], port: int = STREAM_PORT
    ) -> None:
        """Take the inputs' files by name and path, as URI and bytes. Raises OSError where the port is taken."""
        files = {f"{name}/{path}": file for name, paths in inputs.items() for path, file in paths.items()}
        self._server = _Server(storage, files, port)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="streams", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, storage: Storage, files: dict[str, tuple[str, int]], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.storage, self.files = storage, files  # by path: the URI, and the size in bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is the command's."""

    def _answer(self, with_body: bool) -> None:
        path = re.sub("/+", "/", unquote(urlsplit(self.path).path)).lstrip("/")  # the input's URL ends in a slash
        if path in self.server.files:
            self._send_file(*self.server.files[path], with_body)
        elif links := [file.removeprefix(path) for file in self.server.files if path and file.startswith(path)]:
            page = "".join(f'<a href="{quote(link)}">{html.escape(link)}</a>\n' for link in links).encode()
            self._begin(200, len(page), "text/html; charset=utf-8")
            self._send(page if with_body else b"")
        else:
            self._refuse(404, f"there is no {path}")

    def _send_file(self, uri: str, size: int, with_body: bool) -> None:
        if not with_body:
            self._begin(200, size)
            return
        try:
            part = self.server.storage.open(uri, self.headers.get("Range", ""))
        except StorageError as error:
            self._refuse(416 if error.reason == "InvalidRange" else 502, error.message)
            return
        self._begin(206 if part.range else 200, part.size, content_range=part.range)
        try:
            for chunk in part.chunks:
                self._send(chunk)
        except (StorageError, OSError):
            self.close_connection = True  # too short a body is what tells the reader

    def _refuse(self, code: int, message: str) -> None:
        text = f"{message}\n".encode()
        self._begin(code, len(text), "text/plain; charset=utf-8")
        if self.command != "HEAD":
            self._send(text)

    def _begin(self, code: int, size: int, type: str = "application/octet-stream", content_range: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Type", type)
        self.send_header("Content-Length", str(size))
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
