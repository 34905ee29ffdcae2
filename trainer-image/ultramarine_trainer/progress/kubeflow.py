"""Kubeflow Trainer's progress protocol, served to the command: what reports to Kubeflow reports to us, unchanged.

Hugging Face Transformers and the Kubeflow SDK post to KUBEFLOW_TRAINER_SERVER_URL once that is set.
Source: Kubeflow Trainer's proposal 2779, "Track TrainJob progress and expose training metrics".
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import os
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ultramarine_contract.common import LARGEST, METRIC_LIMIT, METRIC_NAME_LIMIT
from ultramarine_contract.training_records import Progress

BODY_LIMIT = 64 * 1024
PATH = "/status"
_STEPS = {"current_step": "step", "total_steps": "total_steps"}  # how Transformers tells them, among the metrics


class KubeflowServer:
    """Answers on loopback, by http, and hands each report to `take`; `folder` gets the file with the token."""

    def __init__(self, take: Callable[[Progress], None], folder: Path) -> None:
        self._take, self._folder = take, folder
        self._server: _Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The command's variables; none while the server does not run.

        KUBEFLOW_TRAINER_SERVER_CA_CERT is not among them: the clients use it if there is one, and http needs none.
        """
        if self._server is None:
            return {}
        return {
            "KUBEFLOW_TRAINER_SERVER_URL": f"http://127.0.0.1:{self._server.server_address[1]}{PATH}",
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self._token_path),
        }

    @property
    def _token_path(self) -> Path:
        return self._folder / "kubeflow-token"

    def start(self) -> None:
        """Begin to answer. Where the token cannot be written it stays off: reports are not worth a job."""
        token = secrets.token_urlsafe(32)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._token_path.unlink(missing_ok=True)
            with os.fdopen(os.open(self._token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(token)
            self._server = _Server(token, self._take)
            threading.Thread(target=self._server.serve_forever, name="kubeflow", daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with contextlib.suppress(OSError):
            self._token_path.unlink(missing_ok=True)


def progress_of(body: bytes) -> Progress:
    """Read a report. Raises ValueError for anything else; values that are not numbers are left out."""
    try:
        status = json.loads(body)["trainerStatus"]
        values = {entry["name"]: entry["value"] for entry in status.get("metrics") or []}
        percent, eta = status.get("progressPercentage"), status.get("estimatedRemainingSeconds")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no trainerStatus: {error!r}") from error
    counts: dict[str, Any] = {"percent": _count(percent, 100), "eta_seconds": _count(eta, LARGEST - 1)}
    counts |= {field: _count(values[name], LARGEST - 1) for name, field in _STEPS.items() if name in values}
    numbers = ((str(name), _number(value)) for name, value in values.items() if name not in _STEPS)
    metrics = [(name, number) for name, number in numbers if number is not None and _is_name(name)]
    return Progress(**counts, metrics=dict(metrics[:METRIC_LIMIT]))


def _is_name(text: str) -> bool:
    return len(text) <= METRIC_NAME_LIMIT and text.isprintable()  # the operator takes no other


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(value: Any, most: int) -> int:
    number = _number(value)
    return -1 if number is None else int(min(max(number, -1), most))


class _Server(ThreadingHTTPServer):
    """One for the pod, on a port that the kernel chooses."""

    daemon_threads = True

    def __init__(self, token: str, take: Callable[[Progress], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.take = token, take

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a client that says nothing
    server: _Server

    def do_POST(self) -> None:
        self._answer(*self._done())

    def _done(self) -> tuple[int, str]:
        if self.path != PATH:
            return 404, f"there is only {PATH}"
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            return 401, "the token is in the file that KUBEFLOW_TRAINER_SERVER_TOKEN names"
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, "a report tells its Content-Length"
        if int(length) > BODY_LIMIT:
            return 413, f"a report has {BODY_LIMIT} bytes at most"
        try:
            progress = progress_of(self.rfile.read(int(length)))
        except ValueError as error:
            return 400, str(error)
        self.server.take(progress)
        return 200, ""

    def _answer(self, code: int, message: str) -> None:
        body = json.dumps({"message": message} if message else {}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard error is the log of the training."""
