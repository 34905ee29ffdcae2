"""Recording a job in MLflow: the words of its REST API, on loopback; the real server is in tests/e2e/test_mlflow.py."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.storage import Storage
from ultramarine_trainer.tracking.run import MlflowRun, Times
from unit.test_trainer_run import Pod

UID = "11111111-2222-3333-4444-555555555555"
TIMES = Times(request=0.5, start=1.0, between=0.05)
DONE = ("FINISHED", {}, 2.0)


def made(uri: str, said: list[str], times: Times = TIMES, **params: str) -> MlflowRun:
    """The run of team-a/churn, not started."""
    return MlflowRun(uri, "team-a", "churn", params, {"ultramarine.uid": UID, "mlflow.user": "ada"}, said.append, times)


def test_a_run_is_made_in_the_experiment_of_the_namespace(tracking):
    """Name, tags, parameters and the values at their steps are there, and the end with its tags."""
    said: list[str] = []
    run = made(tracking.uri, said, lr="0.1")
    run_id = run.start()
    run.log({"loss": 0.5, "step": 1, "total_steps": 2}, 1)
    run.log({"loss": 0.25}, 2)
    run.finish("FINISHED", {"ultramarine.output.model": "s3://lake/model/"}, 2.0)

    (kept,) = tracking.runs
    assert tracking.experiments == ["team-a"]
    assert (kept["run_id"], kept["run_name"], kept["params"]) == (run_id, "churn", {"lr": "0.1"})
    assert kept["metrics"] == [("loss", 1, 0.5), ("loss", 2, 0.25)]
    assert kept["tags"] == {
        "ultramarine.uid": UID,
        "mlflow.user": "ada",
        "ultramarine.output.model": "s3://lake/model/",
    }
    assert kept["status"] == ["RUNNING", "FINISHED"]
    assert said == []


def test_the_next_attempt_goes_on_in_the_same_run(tracking):
    """The uid finds it, failed as it is; it runs again, and the values of both attempts are one curve."""
    first, second = made(tracking.uri, []), made(tracking.uri, [])
    first.start()
    first.log({"loss": 0.5}, 1)
    first.finish("FAILED", {}, 2.0)
    assert second.start() == first.run_id
    second.log({"loss": 0.25}, 2)
    second.finish(*DONE)

    (kept,) = tracking.runs
    assert kept["metrics"] == [("loss", 1, 0.5), ("loss", 2, 0.25)]
    assert kept["status"] == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]


def test_the_command_is_told_the_run(tracking):
    """Only once there is one."""
    run = made(tracking.uri + "/", [])
    assert run.environment == {}
    run.start()
    run.finish(*DONE)

    wanted = {"MLFLOW_TRACKING_URI": tracking.uri, "MLFLOW_EXPERIMENT_ID": "0", "MLFLOW_RUN_ID": run.run_id}
    assert run.environment == wanted


def test_values_go_in_batches_that_mlflow_takes(tracking):
    """2,500 values are three batches; names that MLflow would refuse a whole batch for are left out."""
    run = made(tracking.uri, [], Times(between=60), **{f"p{number}": "x" for number in range(128)})
    run.start()
    for step in range(2500):
        run.log({"loss": 1.0}, step)
    run.log({"a//b": 1.0, "../up": 1.0, "/etc": 1.0, "loss!": 1.0, "a/.": 1.0}, 1)
    run.finish(*DONE)

    assert [size for size in tracking.batches if size] == [1000, 1000, 500]
    assert [step for _, step, _ in tracking.runs[0]["metrics"]] == list(range(2500))
    assert len(tracking.runs[0]["params"]) == 128


@pytest.mark.parametrize(
    ("metrics", "step", "where"),
    [
        ({"loss": 1.0}, -1, 0),
        ({"loss": 1.0, "epoch": 3.0}, -1, 3),
        ({"loss": 1.0, "epoch": 3.0}, 40, 40),
        ({"loss": 1.0, "epoch": 1e300}, -1, 2**53 - 1),
    ],
)
def test_where_no_step_is_told_the_epoch_stands_for_it(tracking, metrics, step, where):
    """A number beyond what MLflow can hold is the largest that it can."""
    run = made(tracking.uri, [])
    run.start()
    run.log(metrics, step)
    run.finish(*DONE)

    assert {at for _, at, _ in tracking.runs[0]["metrics"]} == {where}


def test_a_server_that_comes_later_gets_all(tracking):
    """What it did not take at first is sent again, in order, and the trouble was said once."""
    tracking.refused = [("experiments/get-by-name", 503)] * 3
    said: list[str] = []
    run = made(tracking.uri, said)
    assert run.start() == ""
    run.log({"loss": 1.0}, 1)
    while not run.run_id:
        time.sleep(0.01)
    tracking.refused = [("runs/log-batch", 500), ("runs/log-batch", 429)]
    run.log({"loss": 0.5}, 2)
    while tracking.refused:
        time.sleep(0.01)
    run.finish(*DONE)

    assert tracking.runs[0]["metrics"] == [("loss", 1, 1.0), ("loss", 2, 0.5)]
    assert len(said) == 1
    assert "which does not disturb it: it answered 503 to experiments/get-by-name: of the test" in said[0]


def test_while_it_is_away_the_oldest_values_are_lost_and_that_is_said(silent):
    """The trainer's memory is the command's, so what waits has an end."""
    said: list[str] = []
    run = made(silent, said)
    for step in range(50_001):
        run.log({"loss": 1.0}, step)

    assert len(run._waiting) == 50_000
    assert len(said) == 1
    assert "the oldest are lost" in said[0]


def test_what_is_refused_for_good_is_dropped(tracking):
    """A batch that MLflow calls wrong does not hold up what comes after it."""
    said: list[str] = []
    run = made(tracking.uri, said)
    run.start()
    tracking.refused = [("runs/log-batch", 400)]
    run.log({"loss": 1.0}, 1)
    while tracking.refused:
        time.sleep(0.01)
    run.log({"loss": 0.5}, 2)
    run.finish(*DONE)

    assert tracking.runs[0]["metrics"] == [("loss", 2, 0.5)]
    assert tracking.runs[0]["status"] == ["RUNNING", "FINISHED"]
    assert len(said) == 1


def test_a_silent_server_costs_seconds_and_one_line(silent):
    """Neither start nor end wait longer than they promise."""
    said: list[str] = []
    run = made(silent, said, Times(request=90, start=0.3, between=0.05))
    before = time.monotonic()
    assert run.start() == ""
    run.log({"loss": 1.0}, 1)
    run.finish("FINISHED", {}, 0.3)

    assert time.monotonic() - before < 30
    assert len(said) == 1


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"experiment": {}}'])
def test_what_is_no_mlflow_is_said_to_be_none(answer):
    """A web page in its place is not worth a job."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    said: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        run = made(f"http://127.0.0.1:{server.server_address[1]}", said)
        assert run.start() == ""
        run.finish(*DONE)
        server.shutdown()

    assert len(said) == 1
    assert "answers what MLflow would not" in said[0]


@pytest.fixture
def pod(tmp_path: Path, storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(tmp_path, storage.name, bucket)


def task(uri: str) -> dict[str, Any]:
    """What the operator asks for where it knows a tracking server."""
    return {"mlflow": uri, "uid": UID, "parameters": {"lr": "0.1"}, "job": "team-a/churn"}


def test_two_attempts_of_a_job_are_one_run(tracking, pod, tmp_path):
    """The first fails and the second stores an output: one run, with what both printed, that the record names."""
    code, failed, _, _ = pod.run(
        "sh", "-c", "echo step=1 loss=0.5; exit 3", **task(tracking.uri), outputs={"model": ""}
    )
    assert code == 3
    script = "echo step=2 loss=0.25; echo $MLFLOW_RUN_ID; echo done > " + str(tmp_path / "outputs/model/file")
    code, record, stdout, stderr = pod.run("sh", "-c", script, **task(tracking.uri), outputs={"model": ""})
    assert code == 0, stderr

    (kept,) = tracking.runs
    assert kept["metrics"] == [("loss", 1, 0.5), ("loss", 2, 0.25)]
    assert kept["status"] == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert kept["params"] == {"lr": "0.1"}
    assert kept["tags"]["ultramarine.job"] == "team-a/churn"
    assert kept["tags"]["ultramarine.output.model"] == record.outputs["model"].uri
    assert kept["tags"]["ultramarine.digest.model"] == record.outputs["model"].digest
    assert failed.mlflow_run == record.mlflow_run == kept["run_id"]
    assert kept["run_id"] in stdout.split()


@pytest.mark.parametrize(
    ("account", "header"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "x"}, "Basic YWRhOng="),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_the_namespaces_account_goes_to_the_platforms_server_alone(tracking, pod, account, header):
    """Each request has it, and so has the command, unless it names a server of its own."""
    pod.environment |= {f"ULTRAMARINE_{name}": value for name, value in account.items()}
    words = ("sh", "-c", "env | grep -e MLFLOW_TRACKING_[PTU]")

    _, _, stdout, _ = pod.run(*words, **task(tracking.uri))
    assert {line for line in stdout.splitlines() if "_URI" not in line} == {f"{k}={v}" for k, v in account.items()}
    assert tracking.headers == {header}

    pod.environment |= {"MLFLOW_TRACKING_URI": "http://own"}
    _, _, stdout, _ = pod.run(*words, **task(tracking.uri))
    assert stdout.splitlines() == ["MLFLOW_TRACKING_URI=http://own"]


def test_a_server_that_is_away_does_not_disturb_a_job(pod):
    """It ends well, with one line about it, and the command finds a folder in place of a server to wait for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"

    code, record, _, stderr = pod.run("sh", "-c", "echo loss=0.5; env >&2", **task(uri))

    assert (code, record.metrics, record.mlflow_run) == (0, {"loss": 0.5}, "")
    assert stderr.count("MLflow") == 1
    told = [line for line in stderr.splitlines() if line.startswith("MLFLOW")]
    assert sorted(told) == [
        "MLFLOW_ALLOW_FILE_STORE=true",
        f"MLFLOW_TRACKING_URI={(pod.base / 'work/mlruns').as_uri()}",
    ]


AUTOLOG = """
import mlflow
mlflow.autolog(log_models=False)
from sklearn.linear_model import LogisticRegression
model = LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
mlflow.log_metric("own", 7)
print(f"accuracy={model.score([[0.0], [3.0]], [0, 1])}")
"""


@pytest.mark.slow
def test_autolog_without_a_server_writes_into_the_pods_own_folder(pod, tmp_path):
    """The job succeeds, and the image's folder, which is read-only in a pod, stays as it is."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image/train.py").write_text(AUTOLOG)
    code, record, _, stderr = pod.run(sys.executable, "train.py")

    assert code == 0, stderr
    assert (record.metrics["accuracy"], record.metrics["own"]) == (1.0, 7.0)
    assert "unexpected error" not in stderr
    assert [path.name for path in (tmp_path / "image").iterdir()] == ["train.py"]
    assert {path.name for path in (tmp_path / "work").glob("mlruns/0/*/params/C")} == {"C"}


def test_a_command_with_a_server_of_its_own_keeps_it(tracking, pod):
    """Whoever names a tracking server in spec.env does not get half of ours: it would know no such run."""
    pod.environment |= {"MLFLOW_TRACKING_URI": "http://own"}
    _, _, stdout, _ = pod.run(sys.executable, "-c", "import os; print(os.environ)", **task(tracking.uri))

    assert "http://own" in stdout
    assert not {"MLFLOW_RUN_ID", "MLFLOW_ALLOW_FILE_STORE"} & set(re.findall(r"\w+", stdout))


def test_only_node_0_speaks_for_the_job(tracking, pod):
    """Another node makes no run."""
    pod.environment |= {"JOB_COMPLETION_INDEX": "1"}
    code, _, _, _ = pod.run("true", **task(tracking.uri))

    assert code == 0
    assert tracking.runs == []


def test_a_job_that_is_told_to_stop_is_a_killed_run(tracking, pod):
    """SIGTERM, as an eviction or a suspension sends it; the next attempt would go on with the run."""
    with pod.start("sh", "-c", "echo loss=1; exec sleep 60", **task(tracking.uri)) as process:
        while not tracking.runs:
            time.sleep(0.05)
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=240)

    assert tracking.runs[0]["status"] == ["RUNNING", "KILLED"]
