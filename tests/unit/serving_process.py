"""A server as a process of its own, with real models of the breast-cancer set; used by the tests of serving."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import skops.io
from ports import free_port
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.training_records import TerminationRecord

ROWS, LABELS = load_breast_cancer(return_X_y=True)
KEY = {"api-key": "first-key"}


class Slow(Pipeline):  # type: ignore[misc]
    """A pipeline that takes its time, as long as the file HELD_WHILE is there, and fails on rows that begin with -1."""

    def predict(self, rows: Any) -> Any:
        time.sleep(0.5)
        while Path(os.environ.get("HELD_WHILE", "/none")).exists():
            time.sleep(0.01)
        if rows[0, 0] == -1:
            raise RuntimeError("secret detail")
        return super().predict(rows)


def fitted() -> Pipeline:
    """Return a classifier fitted on the whole set."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(ROWS, LABELS)


def write_models(estimator: Pipeline, folder: Path) -> None:
    """Write the classifier in several formats: whole, damaged, and of a type that runs code."""
    skops.io.dump(estimator, folder / "model.skops")
    floats = ROWS[:1].astype(np.float32)
    for name, zipmap in (("zipmap", True), ("plain", False)):
        onnx = to_onnx(estimator, floats, options={"zipmap": zipmap})
        (folder / f"{name}.onnx").write_bytes(onnx.SerializeToString())
    (folder / "broken.onnx").write_bytes((folder / "plain.onnx").read_bytes()[:200])
    skops.io.dump(Slow(estimator.steps), folder / "slow.skops")


def task_for(path: Path, **changes: Any) -> ServingTask:
    """Return the task to serve one file as model `cancer`, version `3`."""
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    given = {"model": "cancer", "version": "3", "uri": f"s3://b/{path.name}", "digest": digest, "format": "auto"}
    return ServingTask(**(given | {"auth": "none"} | changes))


class Server:
    """A server process and where it listens."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"
        self.start_line: dict[str, Any] = {}

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=240, **options)

    def wait_until_busy(self, count: int) -> None:
        """Wait until `count` requests are being answered, including the scrape itself, which is immediate."""
        end = time.monotonic() + 240
        while f"ultramarine_server_in_flight {count}.0" not in self._metrics():
            assert time.monotonic() < end, f"{count} requests were never being answered at once"
            time.sleep(0.01)

    def _metrics(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            return connection.getresponse().read().decode()

    def infer(self, rows: Any, name: str = "input", datatype: str = "FP64", **options: Any) -> httpx.Response:
        """Send rows to the model; `path`, `headers` and `outputs` may be given."""
        rows = np.asarray(rows)
        request = {"inputs": [{"name": name, "shape": list(rows.shape), "datatype": datatype, "data": rows.tolist()}]}
        request |= {"outputs": [{"name": o} for o in options.pop("outputs", [])]}
        path = options.pop("path", "/v2/models/cancer/infer")
        return httpx.post(self.url + path, json=request, timeout=240, **options)


def environment() -> dict[str, str]:
    """Return a process' environment with our packages and without storage keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


def command(folder: Path, task: ServingTask, *arguments: str) -> dict[str, Any]:
    """Return Popen's arguments for the server image's program."""
    log = ["--termination-log", str(folder / "log"), "--model-dir", str(folder)]
    return {
        "args": [sys.executable, "-m", "ultramarine_server", arguments[0], *log, *arguments[1:]],
        "env": environment() | {"ULTRAMARINE_TASK": task.to_json()},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


@contextmanager
def serving(folder: Path, task: ServingTask, *arguments: str) -> Iterator[Server]:
    """Run a server until the block ends; it listens when the block begins."""
    port = free_port()
    ports = ["--port", str(port), "--grpc-port", "0"]
    options = ["serve", "--host", "127.0.0.1", *ports, "--linger-seconds", "1", *arguments]
    with subprocess.Popen(**command(folder, task, *options)) as process:
        try:
            server = Server(process, port)
            line = process.stdout.readline() if process.stdout else ""
            assert line, process.stderr.read() if process.stderr else ""
            server.start_line = json.loads(line)
            yield server
        finally:
            process.kill()


def refused(folder: Path, task: ServingTask, *arguments: str) -> tuple[int, TerminationRecord, str]:
    """Run the program to its end; return exit code, termination record and stderr."""
    (folder / "log").unlink(missing_ok=True)
    with subprocess.Popen(**command(folder, task, *arguments)) as process:
        _, stderr = process.communicate(timeout=240)
    return process.returncode, TerminationRecord.from_json((folder / "log").read_text()), stderr
