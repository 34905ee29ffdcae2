"""A model folder or a scoring script, served on loopback by the platform's server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ultramarine_contract.common import ENV_TASK, MANIFEST_NAME, ArtifactManifest
from ultramarine_contract.errors import InvalidSpec, UltramarineError
from ultramarine_contract.locations import files_below
from ultramarine_contract.serving_records import ScoringTask, ServingTask
from ultramarine_contract.storage import file_entry
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.transport import cause, inside
from urllib3.exceptions import HTTPError

from ultramarine.serving import asking
from ultramarine.serving.signature import Signature, signature_of

_NEEDED = ("numpy", "httptools", "uvloop", "orjson", "prometheus_client")
_END_SECONDS = 10.0


class ServerFailed(UltramarineError):
    """The local server cannot start or answer; `status` is that of its answer, or 0."""

    reason = "ServerFailed"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def served(model: Path, script: Path | None, port: int, *, allow_code_execution: bool = False) -> Iterator[LocalServer]:
    """Start a server for the block, whose log is this program's; with a `script` that answers instead of the format.

    Raises UltramarineError, in the server's words if it cannot load the model.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        remedy = "Run `pip install 'ultramarine[server]'`."
        raise ServerFailed(f"the server lacks {missing[0]}, which is not part of the command. {remedy}")
    with tempfile.TemporaryDirectory(prefix="ultramarine-") as scratch:
        base = Path(scratch)
        task = _task(model, script, base / "model", allow_code_execution)
        server = LocalServer(task, script, base, port)
        try:
            server.await_start()
            yield server
        finally:
            server.close()


def _task(model: Path, script: Path | None, folder: Path, allow_code_execution: bool) -> ServingTask:
    """Lay out the model as a serving pod has it, and return the server's task."""
    if not model.exists():
        raise InvalidSpec(f"{model} does not exist. Give the folder or the file of a model.")
    if script is not None and not script.is_file():
        raise InvalidSpec(f"{script} does not exist. Give the scoring script, such as score.py.")
    if model.is_file():
        folder.mkdir()
        _link(str(model), str(folder / model.name))
    else:
        above = {MANIFEST_NAME}  # of a downloaded model
        shutil.copytree(
            model, folder, copy_function=_link, ignore=lambda path, names: above if path == str(model) else ()
        )
    files = dict(files_below(folder))
    if not files:
        raise InvalidSpec(f"{model} is empty. Give the folder or the file of a model.")
    manifest = ArtifactManifest(tuple(file_entry(name, file) for name, file in files.items()))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return ServingTask(
        model=model.resolve().stem,
        version="local",
        uri="s3://local/model/",
        digest=manifest.digest,
        format="auto",
        allow_code_execution=allow_code_execution,
        auth="none",
        scoring=ScoringTask(script.name) if script else None,
        access_log_sampling=0.0,
    )


def _link(source: str, target: str) -> None:
    """Make the same file at `target`, or a copy: servers refuse links that lead out of a model's folder."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


class LocalServer:
    """Process of the server, and its `url` once it answers; with `port` 0 at a free one."""

    def __init__(self, task: ServingTask, script: Path | None, base: Path, port: int) -> None:
        self._port, self._log = port or _free_port(), base / "termination-log"
        self._model, self._script = task.model, script
        self.url = f"http://127.0.0.1:{self._port}"
        options = {
            "host": "127.0.0.1",
            "port": self._port,
            "grpc-port": 0,
            "linger-seconds": 0,
            "model-dir": base / "model",
            "scoring-dir": script.resolve().parent if script else base / "scoring",
            "keys-dir": base / "keys",
            "environment-dir": base / "environment",
            "captures-dir": base / "captures",
            "catalogue-dir": base / "catalogue",
            "termination-log": self._log,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        program = [sys.executable, "-P", "-m", "ultramarine_server", "serve", *words]
        variables = {**os.environ, ENV_TASK: task.to_json()}
        # A group of its own: Ctrl-C is for this program, which ends the server.
        self._process = subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, text=True, process_group=0)

    def await_start(self) -> None:
        """Return when the server answers. Raises ServerFailed if it ends instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"event":"serving"'):
                return
            print(line, end="", file=sys.stderr)
        self._process.wait()
        try:
            record = TerminationRecord.from_json(self._log.read_text())
            hint = "; on this machine, add --allow-code-execution" if record.reason == "CodeExecutionRefused" else ""
            message = f"{record.message}{hint}"
        except (OSError, ValueError):
            message = f"the server ended with code {self._process.returncode}; its own words are above"
        raise ServerFailed(message)

    @cached_property
    def signature(self) -> Signature | None:
        """Inputs and outputs of the model; None for a script without them."""
        try:
            _, body = self._request(f"/v2/models/{quote(self._model)}", None, {})
        except ServerFailed as failed:
            if failed.status == HTTPStatus.NOT_IMPLEMENTED:
                return None
            raise
        signature = signature_of(json.loads(body))
        return signature if signature.inputs else None

    def answer(self, rows: Any) -> Any:
        """Return the answer to rows, or to a complete request of the protocol, as an endpoint gives it.

        Raises ServerFailed for an error, and DataInvalid for rows that do not fit.
        """
        return asking.answer(self.signature, self._schema if self._script else {}, rows, self._request)

    @property
    def _schema(self) -> dict[str, Any]:
        """Schema that a script shows of its input; of any object without its decorators."""
        return dict(json.loads(self._request("/swagger.json", None, {})[1])["definitions"]["ServiceInput"])

    def _request(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> asking.Reply:
        headers = {"Content-Type": "application/json", **headers}
        method = "GET" if body is None else "POST"
        try:
            with inside() as http:
                answer = http.request(method, f"{self.url}{path}", body=body, headers=headers)
        except HTTPError as error:
            raise ServerFailed(f"the server does not answer: {cause(error)}; its own words are above") from error
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            words = answer.data.decode().strip()
            raise ServerFailed(f"the server answers {answer.status}: {words}", answer.status)
        return dict(answer.headers.items()), answer.data

    def forward(self) -> None:
        """Print the server's log until it ends."""
        for line in self._process.stdout or ():
            print(line, end="", file=sys.stderr)

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
