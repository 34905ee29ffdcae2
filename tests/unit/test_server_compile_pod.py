"""The three containers of a compiling pod as processes, with a real S3 server, and a server of what they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from msgspec.structs import replace
from serving_process import LABELS, ROWS, environment, serving
from sklearn.ensemble import RandomForestClassifier
from ultramarine_contract.common import (
    COMPILED_NAME,
    ENV_STORAGE_ENDPOINT,
    ENV_TASK,
    RESULT_NAME,
    VERDICT_NAME,
    OutputRecord,
)
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.version_records import CompileRecord, CompileTask


@pytest.fixture
def native(storage: Storage, bucket: str, tmp_path: Path) -> OutputRecord:
    """A forest, stored as a TrainingJob stores it."""
    folder = tmp_path / "made"
    folder.mkdir()
    skops.io.dump(RandomForestClassifier(20, random_state=0).fit(ROWS, LABELS), folder / "model.skops")
    return storage.upload_folder(folder, f"s3://{bucket}/team-a/out", "sklearn")


def task_of(native: OutputRecord, **changes: Any) -> CompileTask:
    """The task to compile it."""
    bucket = native.uri.split("/")[2]
    task = CompileTask("cancer", "3", native.uri, native.digest, "sklearn", f"s3://{bucket}/team-a/compiled/x/")
    return replace(task, **changes)


def contain(folder: Path, command: str, task: CompileTask, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one container to its end."""
    paths = {"--model-dir": "model", "--termination-log": f"{command}.log"}
    if command != "fetch":
        paths["--compiled-dir"] = "compiled"
    options = [word for name, path in paths.items() for word in (name, str(folder / path))]
    (folder / "compiled").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "ultramarine_server", command, *options],
        env=environment() | {ENV_TASK: task.to_json()} | variables,
        capture_output=True,
        text=True,
        timeout=240,
    )


def compile_pod(folder: Path, task: CompileTask, storage: Storage) -> CompileRecord:
    """Run the containers one after another, the second without keys; what the last one said."""
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    keys[ENV_STORAGE_ENDPOINT] = storage.name
    for command, variables in (("fetch", keys), ("compile", {}), ("store", keys)):
        done = contain(folder, command, task, **variables)
        assert done.returncode == 0, done.stderr
    return CompileRecord.from_json((folder / "store.log").read_text())


def test_a_compiled_model_is_stored_and_served(native, storage, tmp_path):
    """The pod stores the model and its verdict, and a server answers with the compiled model as natively."""
    task = task_of(native)
    printed = compile_pod(tmp_path, task, storage)

    assert printed.reason == "", printed.message
    assert storage.artifact_digest(printed.uri) == (printed.digest, printed.bytes, "onnx")
    assert printed.uri.startswith(task.prefix)
    assert CompileRecord.from_json(storage.read(task.prefix + RESULT_NAME)) == printed
    assert compile_pod(tmp_path, task, storage) == printed  # once more leads to the same place

    shown = []
    for name, uri, digest, format in (
        ("native", native.uri, native.digest, "sklearn"),
        ("compiled", printed.uri, printed.digest, "onnx"),
    ):
        serving_task = ServingTask("cancer", "3", uri, digest, format, True, auth="none")
        storage.fetch_artifact(uri, digest, tmp_path / name)
        with serving(tmp_path / name, serving_task) as server:
            shown.append((server.get("/v2/models/cancer").json(), server.infer(ROWS).json()["outputs"]))
    (as_native, expected), (as_compiled, got) = shown
    assert as_compiled.pop("platform") == "onnx_onnxv1"
    assert as_native.pop("platform") == "sklearn_skops"
    assert as_compiled == as_native
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in got] == [
        (tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in expected
    ]
    for native_output, output in zip(expected, got, strict=True):
        np.testing.assert_allclose(output["data"], native_output["data"], atol=1e-6)


@pytest.mark.slow
def test_a_verdict_without_a_model_is_stored_too(native, storage, tmp_path):
    """A parity that cannot hold ends the pod well: the verdict is the result, and nothing else is stored."""
    printed = compile_pod(tmp_path, task_of(native, rtol=-1.0), storage)

    assert (printed.reason, printed.uri, printed.rows) == ("ParityFailed", "", 1000)
    prefix = task_of(native).prefix
    assert set(storage.objects(prefix)) == {RESULT_NAME}
    assert CompileRecord.from_json(storage.read(prefix + RESULT_NAME)) == printed


@pytest.mark.attack(
    "model/forged-verdict",
    asset="truth of the answers",
    threat="a model that runs code forges the verdict on its compiling, or another user the stored one",
    control="it is compiled only where `allowCodeExecution` is set; where the artifact lies is said by the "
    "container that stores it, and counts only below the version's own place",
)
def test_a_forged_verdict_does_not_say_where_the_artifact_is(native, storage, tmp_path):
    """A model that runs code can write the verdict, not the address, the digest or the length of the message."""
    task = task_of(native)
    compiled = tmp_path / "compiled"
    (compiled / "artifact").mkdir(parents=True)
    (compiled / "artifact" / COMPILED_NAME).write_bytes(b"onnx")
    forged = CompileRecord(uri="s3://other/x/", digest="sha256:no", rows_from="x", message="m" * 9000)
    (compiled / VERDICT_NAME).write_bytes(forged.to_json())
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    done = contain(tmp_path, "store", task, **keys, ULTRAMARINE_STORAGE_ENDPOINT=storage.name)
    log = (tmp_path / "store.log").read_text()
    printed = CompileRecord.from_json(log)

    assert done.returncode == 0
    assert printed.uri.startswith(task.prefix)
    assert len(log) <= 4096


@pytest.mark.parametrize("left", [None, "[", json.dumps({"rows_from": 3})])
def test_storing_without_a_verdict_says_so(native, storage, tmp_path, left):
    """A pod whose model ended the compiling container quietly fails, with the reason in its last words."""
    (tmp_path / "compiled").mkdir()
    if left is not None:
        (tmp_path / "compiled" / VERDICT_NAME).write_text(left)
    done = contain(tmp_path, "store", task_of(native), ULTRAMARINE_STORAGE_ENDPOINT=storage.name)

    assert done.returncode == 1
    assert json.loads((tmp_path / "store.log").read_text())["reason"] == "CompileFailed"


@pytest.mark.parametrize("command", ["compile", "store"])
def test_a_task_of_another_kind_is_refused(tmp_path, command):
    """Without a compiling task the program says who gives it one."""
    variables = {ENV_TASK: ServingTask("m", "1", "s3://b/x", "", "auto").to_json() + "x"}
    done = contain(tmp_path, command, CompileTask("m", "1", "", "", "", ""), **variables)

    assert done.returncode == 1
    assert "TaskInvalid" in (tmp_path / f"{command}.log").read_text()
