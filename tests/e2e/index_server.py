"""A package index in a pod: the files of a folder, for one login.

It listens at two TLS ports with certificates of two authorities. Files whose names begin with extra are those of the
extra index.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES, CERTIFICATES = Path("/mnt/files"), Path("/mnt/certificates")
PORTS = {8443: "known", 8444: "unknown"}  # the authority of each


class Handler(BaseHTTPRequestHandler):
    """Answers for pages of packages and their files."""

    def do_GET(self) -> None:
        index, _, name = self.path.strip("/").partition("/")
        names = sorted(path.name for path in FILES.iterdir() if path.is_file())
        if self.headers.get("Authorization") != os.environ["AUTHORIZATION"]:
            self._answer(401, b"no")
        elif index == "files" and name in names:
            self._answer(200, (FILES / name).read_bytes())
        elif links := [
            file for file in names if file.startswith(f"{name}-") and (index == "extra") == (name == "extra")
        ]:
            digests = {file: hashlib.sha256((FILES / file).read_bytes()).hexdigest() for file in links}
            page = "".join(f'<a href="/files/{file}#sha256={digest}">{file}</a>' for file, digest in digests.items())
            self._answer(200, page.encode())
        else:
            self._answer(404, b"no")

    do_HEAD = do_GET

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main() -> None:
    """Serve both ports until the pod ends."""
    servers = []
    for port, authority in PORTS.items():
        server = ThreadingHTTPServer(("", port), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATES / f"{authority}.crt", CERTIFICATES / f"{authority}.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
    threading.Thread(target=servers[0].serve_forever, daemon=True).start()
    servers[1].serve_forever()


if __name__ == "__main__":
    main()
