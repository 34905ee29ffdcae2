"""A server as an author may have: health, server-sent events and WebSockets, with the standard library alone.

MODE makes it fail: `silent` never listens, `loopback` listens at 127.0.0.1 alone, `sick` answers 500 to probes, `exits`
ends at once, `leaks` takes all memory. `fails` answers POST with 500, `refuses` with 400, and `slow` after a while.
POST answers with its body, the number of its bytes as `size`, and VERSION. GET /count has the number of POSTs, and
GET /write the error of a change to the model. After GET /hang only a restart makes GET /alive succeed. SIGTERM lets
streams end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from base64 import b64encode
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

MODE = os.environ.get("MODE", "")
SECRETS = ("AWS_", "ULTRAMARINE_")
STATUS = {"fails": 500, "refuses": 400}.get(MODE, 200)
ENOUGH, HUNG = Event(), Event()
POSTS: list[str] = []
STREAMS: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(500 if MODE == "sick" else 200, "")
        elif self.path == "/alive":
            self.answer(500 if HUNG.is_set() else 200, "")
        elif self.path == "/hang":
            HUNG.set()
            self.answer(200, "")
        elif self.path == "/write":
            self.answer(200, written())
        elif self.path.startswith("/events"):
            STREAMS.append(self.path)
            self.events(int(urlsplit(self.path).query or 100))
            STREAMS.remove(self.path)
        elif self.path == "/enough":
            ENOUGH.set()
            self.answer(200, "")
        elif self.path == "/socket":
            self.socket()
        elif self.path == "/count":
            self.answer(200, str(len(POSTS)))
        else:
            names = [*self.headers.keys(), *(name for name in os.environ if name.startswith(SECRETS))]
            self.answer(200, " ".join(names).lower())

    def do_POST(self) -> None:
        body = self.body()
        POSTS.append(self.path)
        time.sleep(0.3 if MODE == "slow" else 0)
        answer = {"given": json.loads(body), "size": len(body), "model_version": os.environ.get("VERSION", "")}
        self.answer(STATUS, json.dumps(answer), "application/json")

    def body(self) -> bytes:
        """Read a body with a length, or in chunks."""
        if length := self.headers["Content-Length"]:
            return self.rfile.read(int(length))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def events(self, most: int) -> None:
        """Send two events a second until GET /enough, and so many at most."""
        ENOUGH.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(most):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            if ENOUGH.wait(0.5):
                return

    def socket(self) -> None:
        """Echo one short frame."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", b64encode(sha1(key.encode()).digest()).decode())
        self.end_headers()
        length = self.rfile.read(2)[1] & 127
        mask, masked = self.rfile.read(4), self.rfile.read(length)
        self.wfile.write(bytes([0x81, length]) + bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked)))
        self.close_connection = True


def written() -> str:
    """Try to change the model, and return the error."""
    try:
        Path("/mnt/model/added").touch()
    except OSError as error:
        return str(error.strerror)
    return "written"


def leave() -> None:
    """End when no stream is open."""
    while STREAMS:
        time.sleep(0.1)
    os._exit(0)


signal.signal(signal.SIGTERM, lambda *_: Thread(target=leave).start())
if MODE == "exits":
    sys.exit("no weights in /mnt/model")
while MODE == "silent":
    time.sleep(1)
leak: list[bytes] = []
while MODE == "leaks":
    leak.append(b"x" * 10_000_000)
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1" if MODE == "loopback" else "0.0.0.0", 8000), Handler).serve_forever()
