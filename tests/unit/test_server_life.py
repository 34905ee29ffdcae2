"""The server over its life: what cannot be loaded, failures, key rotation, the goodbye, and the fetch before it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ultramarine_server
from msgspec.structs import replace
from serving_process import ROWS, command, environment, refused, serving, task_for
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import DeleteTask
from ultramarine_server.authentication import LOOK_SECONDS
from unit.conftest import eventually
from unit.packages import stored_environment

# Failures of the model, keys, shutdown


@pytest.mark.slow
@pytest.mark.attack(
    "client/traceback",
    asset="the model's inside",
    threat="tracebacks in answers",
    control="logged, never sent",
)
def test_a_failing_model_shows_no_traceback_to_the_client(models: Path) -> None:
    """The client gets a request id, the log gets the reason, and the next request is answered."""
    task = task_for(models / "slow.skops", allow_code_execution=True)
    with serving(models, task) as server:
        failed = server.infer(np.full((1, 30), -1.0), headers={"x-request-id": "trace-7"})
        good = server.infer(ROWS[:1])
        server.process.terminate()
        _, stderr = server.process.communicate(timeout=240)

    assert failed.status_code == 500
    assert failed.json() == {"error": "the model failed; its log has the reason under request trace-7"}
    assert good.status_code == 200
    assert "request trace-7 failed" in stderr
    assert "secret detail" in stderr


def test_health_answers_while_the_model_computes(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow prediction does not make a probe wait."""
    monkeypatch.setenv("HELD_WHILE", str(tmp_path / "held"))
    with serving(models, task_for(models / "slow.skops", allow_code_execution=True)) as server:
        (tmp_path / "held").touch()  # the first prediction was for the warm-up
        thread = threading.Thread(target=server.infer, args=(ROWS[:1],))
        thread.start()
        server.wait_until_busy(2)

        assert server.get("/v2/health/live").status_code == 200
        assert thread.is_alive(), "the prediction did not wait"
        (tmp_path / "held").unlink()
        thread.join()


@pytest.mark.attack(
    "client/leaked-key",
    asset="keys",
    threat="a leaked one",
    control="two keys, exchanged without a restart",
)
def test_keys_rotate_without_restart(models: Path, tmp_path: Path) -> None:
    """Old and new open together while both are there; then only the new one does."""
    (tmp_path / "primary").write_text("old")
    with serving(models, task_for(models / "plain.onnx", auth="key"), "--keys-dir", str(tmp_path)) as server:

        def code(key: str) -> int:
            time.sleep(2 * LOOK_SECONDS)
            return server.get("/v2", headers={"authorization": f"Bearer {key}"}).status_code

        assert (code("old"), code("new")) == (200, 401)
        (tmp_path / "secondary").write_text("new")
        assert (code("old"), code("new")) == (200, 200)
        (tmp_path / "primary").unlink()
        assert (code("old"), code("new")) == (401, 200)


def test_no_request_is_lost_when_the_server_leaves(models: Path) -> None:
    """SIGTERM under load: what was accepted is answered, clients are told to close, readiness falls, the end is 0."""
    codes: list[int | str] = []
    goodbyes: list[str] = []
    met: set[int] = set()
    task = task_for(models / "slow.skops", allow_code_execution=True)
    with serving(models, task, "--linger-seconds", "3") as server:

        def client(number: int) -> None:
            # Connections stay open between requests, as those of a gateway do.
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
            rows = {"name": "input", "shape": [1, 30], "datatype": "FP64", "data": ROWS[0].tolist()}
            body = json.dumps({"inputs": [rows]})
            while True:
                try:
                    connection.request("POST", "/v2/models/cancer/infer", body)
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException) as error:
                    codes.append(repr(error))
                    return
                codes.append(answer.status)
                met.add(number)
                if answer.getheader("connection") == "close":
                    goodbyes.append("close")
                    return

        def readiness() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})
                return connection.getresponse().status

        clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in clients:
            thread.start()
        eventually(lambda: len(met) == 4)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: readiness() == 503)
        for thread in clients:
            thread.join()

        assert server.process.wait(timeout=240) == 0
    assert set(codes) == {200}
    assert len(goodbyes) == 4


# What cannot be served


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("broken.onnx", {}, "ModelCorrupt"),
        ("model.skops", {"digest": "sha256:00"}, "DigestMismatch"),
        ("model.skops", {"format": "tensorrt"}, "FormatUnknown"),
        ("slow.skops", {}, "CodeExecutionRefused"),
        ("plain.onnx", {"auth": "key"}, "KeysMissing"),
        (
            "plain.onnx",
            {"signature": {"inputs": [{"name": "X", "datatype": "FP64", "shape": [-1, 30]}]}},
            "SignatureMismatch",
        ),
    ],
)
def test_what_cannot_be_served_is_said_before_listening(
    models: Path, tmp_path: Path, file: str, changes: dict[str, Any], reason: str
) -> None:
    """The process ends with 1 and its termination log carries reason and message."""
    code, record, stderr = refused(models, task_for(models / file, **changes), "serve", "--keys-dir", str(tmp_path))

    assert (code, record.reason) == (1, reason)
    assert record.message
    assert f"ultramarine-server: {reason}: {record.message}" in stderr


def test_fetch_brings_what_serve_can_check(storage: Storage, bucket: str, models: Path, tmp_path: Path) -> None:
    """The init container's folders are what the main container serves and runs, without storage keys."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up/model.onnx").write_bytes((models / "plain.onnx").read_bytes())
    record = storage.upload_folder(tmp_path / "up", f"s3://{bucket}/models/", "onnx")
    archive = stored_environment(storage, f"s3://{bucket}/environment.tar.zst", tmp_path / "built")
    task = ServingTask("cancer", "3", record.uri, record.digest, "auto", auth="none")
    folder = tmp_path / "environment"
    options = command(tmp_path, replace(task, environment=archive), "fetch", "--environment-dir", str(folder))
    options["env"] |= {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    options["env"] |= {"ULTRAMARINE_STORAGE_ENDPOINT": storage.name}

    with subprocess.Popen(**options) as process:
        stdout, stderr = process.communicate(timeout=240)

    assert process.returncode == 0, stderr
    assert "fetched 1 file," in stdout
    subprocess.run([folder / "bin/python", "-c", "import own"], check=True)
    with serving(tmp_path, task) as server:
        assert server.infer(ROWS[:1], "X", "FP32").status_code == 200


def test_a_failed_fetch_says_why(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The init container leaves the storage's reason in the termination log."""
    task = ServingTask("cancer", "3", f"s3://{bucket}/gone/", "sha256:00", "auto")
    options = command(tmp_path, task, "fetch")
    options["env"] |= {"AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "wrong"}
    options["env"] |= {"ULTRAMARINE_STORAGE_ENDPOINT": storage.name}

    with subprocess.Popen(**options) as process:
        process.communicate(timeout=240)

    assert process.returncode == 1
    assert TerminationRecord.from_json((tmp_path / "log").read_text()).reason == "AccessDenied"


def test_delete_takes_away_one_artifact(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The folder is gone and its neighbour is not. A second try succeeds; a folder without an artifact is refused."""
    prefix = f"s3://{bucket}/team-a/trainingjobs/churn/0a-1b/model"
    made = []
    for content in ("one", "two"):
        (tmp_path / "model.onnx").write_text(content)
        made.append(storage.upload_folder(tmp_path, prefix, files={"model.onnx": tmp_path / "model.onnx"}))
    environ = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    environ["ULTRAMARINE_STORAGE_ENDPOINT"] = storage.name

    def delete(uri: str) -> int:
        options = command(tmp_path, ServingTask("m", "1", uri, "", "auto"), "delete")
        options["env"] |= {**environ, "ULTRAMARINE_TASK": DeleteTask(uri).to_json()}
        with subprocess.Popen(**options) as process:
            process.communicate(timeout=240)
        return process.returncode

    assert [delete(made[0].uri), delete(made[0].uri)] == [0, 0]
    assert storage.folders(f"{prefix}/") == [made[1].uri]
    assert delete(f"{prefix}/") == 1
    assert TerminationRecord.from_json((tmp_path / "log").read_text()).reason == "TaskInvalid"
    assert storage.folders(f"{prefix}/") == [made[1].uri]


@pytest.mark.attack("model/keys-in-server")
def test_the_server_knows_nothing_of_the_storage() -> None:
    """The process that faces the network imports no storage client."""
    names = ("serve", "formats.sklearn", "formats.onnx")
    program = f"import sys, {', '.join('ultramarine_server.' + name for name in names)}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )

    assert "boto3" not in loaded.stdout.split()


def test_an_onnx_model_brings_no_other_library_with_it() -> None:
    """A server of ONNX is small and starts at once: nothing of what other formats and gRPC need is imported."""
    program = "import sys, ultramarine_server.serve, ultramarine_server.formats.onnx; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )

    assert not {"sklearn", "scipy", "pandas", "xgboost", "lightgbm", "torch", "grpc"} & set(loaded.stdout.split())


def test_the_version_is_that_of_the_product() -> None:
    """Server metadata and pyproject.toml agree."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert ultramarine_server.__version__ == project["version"]
