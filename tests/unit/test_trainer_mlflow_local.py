"""Records of mlflow without a tracking server: metrics, files and models in the job's own record."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest
from pyarrow.parquet import read_table
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TrainingContext
from ultramarine_trainer.progress.listeners import Listeners
from ultramarine_trainer.tracking import local
from ultramarine_trainer.tracking.local import LocalRuns, Point, logged_model, take_model
from unit.sweeping import Fleet
from unit.test_trainer_run import Pod

# Writes as mlflow's FileStore does: a run with a metric of two steps, a parameter, an artifact and a model.
LOGS = """
import os, pathlib, sys
root = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("file://"))
run = root / "0" / "abc"
for path, text in {
    "metrics/val/loss": "1700000000000 0.5 1\\n1700000001000 0.25 2\\n",
    "params/C": "0.25",
    "artifacts/note.txt": "hello",
}.items():
    (run / path).parent.mkdir(parents=True, exist_ok=True)
    (run / path).write_text(text)
if sys.argv[1:] == ["model"]:
    model = root / "0/models/m-1/artifacts"
    model.mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {sklearn: {pickled_model: model.pkl}}\\n")
    (model / "model.pkl").write_bytes(b"weights")
"""


def write(folder: Path, run: str, **metrics: str) -> Path:
    """Write metrics of a run of experiment 0 in the layout of mlflow, and return the folder of the run."""
    for name, text in metrics.items():
        path = folder / "0" / run / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
    return folder / "0" / run


def test_values_come_once_and_in_the_order_of_their_times(tmp_path):
    """Those of two files are one sequence, and a line that is not whole yet waits for its end."""
    taken: list[Point] = []
    with LocalRuns(tmp_path, taken.append, 0.01):
        write(tmp_path, "a", loss="2000 0.5 1\n", accuracy="1000 0.9 1\n3000 0.95")
        while len(taken) < 2:
            time.sleep(0.01)
        write(tmp_path, "a", accuracy=" 2\n", loss="4000 0.25 2 train 1a2b\n")

    assert [point.name for point in taken] == ["accuracy", "loss", "accuracy", "loss"]
    assert taken[2] == Point(3000, "accuracy", 0.95, 2)


def test_other_runs_and_odd_values_do_not_count(tmp_path):
    """Child runs of a search, runs from before, numbers without end and names that no status has room for."""
    taken: list[Point] = []
    write(tmp_path, "before", loss="1000 9 1\n")
    with LocalRuns(tmp_path, taken.append, 0.01):
        child = tmp_path / "0" / "child"
        (child / "tags").mkdir(parents=True)
        (child / "tags" / "mlflow.parentRunId").write_text("a")
        write(tmp_path, "child", loss="2000 8 1\n")
        write(tmp_path, "a", loss="2000 nan 1\n2001 inf 2\nnonsense\n2002 0.5 -3\n", **{"x" * 64: "2000 1 1\n"})

    assert taken == [Point(2002, "loss", 0.5, 0)]


def test_the_model_that_was_logged_last_is_taken(tmp_path):
    """Of a model in a model the outer one; of several the newest."""
    for number, name in enumerate(("old", "new", "new/inner")):
        model = tmp_path / "0/models" / name
        model.mkdir(parents=True)
        (model / "MLmodel").write_text(name)
        stamp = time.time() + 10 * number
        os.utime(model / "MLmodel", (stamp, stamp))

    assert logged_model(tmp_path) == tmp_path / "0/models/new"
    take_model(tmp_path, "model", tmp_path / "output")
    assert (tmp_path / "output/MLmodel").read_text() == "new"


def test_an_output_without_a_logged_model_is_refused_in_words(tmp_path):
    """Also if nothing was logged at all."""
    with pytest.raises(StorageError, match="output model has fromMlflow, but the command logged no model; call"):
        take_model(tmp_path / "missing", "model", tmp_path / "output")


@pytest.fixture
def pod(tmp_path: Path, storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/logs.py").write_text(LOGS)
    return Pod(tmp_path, storage.name, bucket)


def test_logged_metrics_and_files_are_in_the_jobs_record(pod, storage, bucket):
    """Metrics are in the record and, with their own steps and times, in Parquet; the runs' files are stored."""
    code, record, _, stderr = pod.run(sys.executable, "logs.py")

    assert code == 0, stderr
    assert record.metrics == {"val/loss": 0.25}
    rows = read_table(io.BytesIO(storage.read(record.series))).to_pylist()
    assert [(row["name"], row["step"], row["value"]) for row in rows] == [("val/loss", 1, 0.5), ("val/loss", 2, 0.25)]
    assert rows[0]["time"].timestamp() == 1_700_000_000
    stored = storage.objects(f"{pod.prefix}attempts/pod/mlruns/")
    assert {path.partition("/")[2] for path in stored} == {
        "0/abc/artifacts/note.txt",
        "0/abc/metrics/val/loss",
        "0/abc/params/C",
        "manifest.json",
    }
    assert "MLflow: " in stderr


def test_a_logged_model_becomes_an_output(pod, storage):
    """It has the format mlflow, and its files are not stored a second time."""
    words = (sys.executable, "logs.py", "model")
    code, record, _, stderr = pod.run(*words, outputs={"model": "auto"}, from_mlflow=("model",))

    assert code == 0, stderr
    assert record.outputs["model"].format == "mlflow"
    assert storage.read(f"{record.outputs['model'].uri}model.pkl") == b"weights"
    assert not [path for path in storage.objects(f"{pod.prefix}attempts/pod/mlruns/") if "models" in path]


def test_a_logged_model_that_is_no_output_stays_with_the_runs(pod, storage):
    """`mlflow.autolog()` alone loses no model."""
    code, _, _, stderr = pod.run(sys.executable, "logs.py", "model")
    assert code == 0, stderr
    objects = storage.objects(f"{pod.prefix}attempts/pod/mlruns/")
    uris = {path.partition("/")[2]: uri for path, (uri, _) in objects.items()}
    assert storage.read(uris["0/models/m-1/artifacts/model.pkl"]) == b"weights"


def test_models_without_room_are_left_out_of_the_runs(tmp_path, storage, bucket, monkeypatch):
    """The other files of the runs are kept, and the log says what is not."""
    for name, size in (("0/models/m-1/artifacts/MLmodel", 200), ("0/abc/params/C", 3)):
        (tmp_path / "runs" / name).parent.mkdir(parents=True)
        (tmp_path / "runs" / name).write_bytes(b"x" * size)
    monkeypatch.setattr(local, "MAX_BYTES", 100)
    said: list[str] = []
    listeners = Listeners(TrainingContext(), True, None, said.append, lambda: None)
    listeners.start({}, tmp_path / "runs")
    listeners.store_runs(storage, f"s3://{bucket}/mlruns/", with_models=True)

    stored = {path.partition("/")[2] for path in storage.objects(f"s3://{bucket}/mlruns/")}
    assert stored == {"0/abc/params/C", "manifest.json"}
    assert "their files and models have" in said[0]
    assert "3 bytes of runs to" in said[1]


def test_a_job_without_its_logged_model_fails(pod):
    """The message says what to call."""
    code, record, _, _ = pod.run("true", outputs={"model": "auto"}, from_mlflow=("model",))

    assert (code, record.reason) == (203, "OutputEmpty")
    assert "the command logged no model; call log_model" in record.message


def test_a_server_of_the_command_has_no_model_for_an_output(pod):
    """The trainer does not know how to ask it."""
    pod.environment |= {"MLFLOW_TRACKING_URI": "http://own"}
    code, record, _, _ = pod.run("true", outputs={"model": "auto"}, from_mlflow=("model",))

    assert (code, record.reason) == (203, "OutputInvalid")
    assert "MLFLOW_TRACKING_URI in spec.env names another server; remove the variable" in record.message


def test_a_job_that_logs_nothing_stores_nothing_of_mlflow(pod, storage):
    """Neither folder nor line."""
    code, _, _, stderr = pod.run("true")

    assert code == 0
    assert "MLflow" not in stderr
    assert not [path for path in storage.objects(pod.prefix) if "mlruns" in path]


def test_trials_may_log_their_objective_by_mlflow(tmp_path, storage, bucket):
    """A sweep's worker reads it as a printed one, and each trial has its own run."""
    fleet = Fleet(tmp_path, storage.name, bucket)
    script = (
        'run=${MLFLOW_TRACKING_URI#file://}/0/r$AZUREML_RUN_ID/metrics; mkdir -p "$run"; '
        'echo "1700000000000 $(params.x) 0" > "$run/loss"'
    )
    try:
        coordinator = fleet.coordinate(max_trials=3)
        fleet.work("worker-0", "sh", "-c", script)
        assert coordinator.wait(240) == 0, fleet.said("worker-0")
        best = fleet.last_words().best
        assert best
        assert best[0].values == (1.0,)
    finally:
        fleet.end()


REAL = """
import mlflow, pathlib
mlflow.set_experiment("churn")
mlflow.autolog()
from sklearn.linear_model import LogisticRegression
with mlflow.start_run():
    LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    mlflow.log_metric("own", 7, step=3)
    mlflow.log_param("who", "ada")
    pathlib.Path("note.txt").write_text("hello")
    mlflow.log_artifact("note.txt")
"""


@pytest.mark.slow
def test_mlflow_itself_logs_into_the_record_of_the_job(pod, storage):
    """Also below an experiment of the script's own; autolog's model is the output."""
    (pod.base / "source/train.py").write_text(REAL)
    code, record, _, stderr = pod.run(sys.executable, "train.py", outputs={"model": "auto"}, from_mlflow=("model",))

    assert code == 0, stderr
    assert record.metrics["own"] == 7.0
    assert record.metrics["training_accuracy_score"] == 1.0
    assert record.outputs["model"].format == "mlflow"
    stored = storage.objects(f"{pod.prefix}attempts/pod/mlruns/")
    assert {
        name for name in ("params/C", "params/who", "artifacts/note.txt") if any(name in path for path in stored)
    } == {
        "params/C",
        "params/who",
        "artifacts/note.txt",
    }
