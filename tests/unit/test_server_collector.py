"""The data collector: what was asked and answered comes to the storage as Parquet, and no request waits for it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import skops.io
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from msgspec import structs
from serving_inside import Doubling
from serving_process import Server, environment, task_for
from sklearn.linear_model import LogisticRegression
from test_server_grpc import VALUES as DATATYPES
from test_server_grpc import GrpcServer, grpc_serving
from ultramarine_contract.serving_records import CollectTask, ServingTask
from ultramarine_contract.storage import Storage
from ultramarine_server.collecting import spool
from ultramarine_server.collecting.captures import Captures
from ultramarine_server.collecting.collector import Collector, Pace
from ultramarine_server.collecting.exchange import Capture, Exchange, Redaction
from ultramarine_server.collecting.parquet import rows_in
from ultramarine_server.collecting.spool import Bounds, Spool, Totals, read_totals, waiting
from ultramarine_server.grpc.stubs import open_inference_pb2 as v2
from ultramarine_server.grpc.tensors import answer, exchange
from ultramarine_server.models.model import Signature, TensorSpec
from ultramarine_server.protocol import binary
from ultramarine_server.protocol.tensors import Tensor
from unit import conftest
from unit.conftest import ObjectStore, eventually, free_port

COLUMNS = [
    *("time", "request_id", "inference_id", "endpoint", "deployment", "model", "version"),
    *("path", "status", "duration_ms", "request", "response"),
]
AT_ONCE = Pace(seconds=0, look_seconds=0.02, last_seconds=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows its features' names: who is older than 40 buys."""
    folder = tmp_path_factory.mktemp("named")
    rows = pd.DataFrame({"age": [20.0, 30.0, 50.0, 60.0], "income": [1.0, 2.0, 1.0, 2.0]})
    skops.io.dump(LogisticRegression().fit(rows, [0, 0, 1, 1]), folder / "model.skops")
    return folder


def collecting(folder: Path, bucket: str, rate: float = 1, redact: tuple[str, ...] = ()) -> ServingTask:
    """The task of a pod that keeps requests."""
    collect = CollectTask("shop", "blue", f"s3://{bucket}/team-a/kept/", rate, redact)
    return task_for(folder / "model.skops", collect=collect)


@contextmanager
def collector(store: ObjectStore, task: ServingTask, captures: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the sidecar's command until the block ends; who sees the block's end sees it ended by SIGTERM."""
    variables = {
        "ULTRAMARINE_TASK": task.to_json(),
        "ULTRAMARINE_POD": "shop-blue-abc",
        "ULTRAMARINE_STORAGE_ENDPOINT": store.endpoint,
        "ULTRAMARINE_STORAGE_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "ultramarine_server", "collect", "--captures-dir", str(captures)]
    env = environment() | variables | store.credentials
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each object of a bucket, by its key."""
    return {
        path.relative_to(folder).as_posix(): pyarrow.parquet.read_table(io.BytesIO(path.read_bytes())).to_pylist()
        for path in sorted(folder.rglob("*.parquet"))
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for rows in tables(folder).values() for row in rows]


def counted(server: Server) -> dict[str, int]:
    """Return the metrics of captures by reason, and `written`."""
    counts = {}
    for line in server.get("/metrics").text.splitlines():
        if line.startswith("ultramarine_server_captures_total"):
            reason = line.split('reason="')[1].split('"')[0]
            counts[reason or "written"] = int(float(line.rsplit(" ", 1)[1]))
    return counts


def ask_in_every_way(server: GrpcServer) -> list[str]:
    """Ask by JSON, bytes, /score and gRPC, and wrongly; return the ids."""
    url, name = server.http.url, "cancer"
    body = {"id": "q1", "inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 2], "data": [[55, 1]]}]}
    at = f"{url}/v2/models/{name}/infer"
    assert httpx.post(at, json=body, headers={"x-request-id": "json"}).status_code == 200
    client = triton_http.InferenceServerClient(url.removeprefix("http://"))
    given = triton_http.InferInput("input", [1, 2], "FP64")
    given.set_data_from_numpy(np.array([[55.0, 1.0]]), binary_data=True)
    requested = [triton_http.InferRequestedOutput(output, binary_data=True) for output in ("predict", "predict_proba")]
    client.infer(name, [given], outputs=requested, request_id="q2", headers={"x-request-id": "binary"})
    rows = {"data": [{"income": 1, "age": 55}]}
    assert httpx.post(f"{url}/score", json=rows, headers={"x-request-id": "score"}).status_code == 200
    asked = triton.InferInput("input", [1, 2], "FP64")
    asked.set_data_from_numpy(np.array([[55.0, 1.0]]))
    server.client.infer(name, [asked], headers={"x-request-id": "grpc"})
    wrong = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [55, 1, 1]}]}
    assert httpx.post(at, json=wrong, headers={"x-request-id": "wrong"}).status_code == 400
    assert httpx.post(at, content="{", headers={"x-request-id": "broken"}).status_code == 400
    return ["json", "binary", "score", "grpc", "wrong", "broken"]


def test_every_way_of_asking_is_kept_until_the_pod_ends(folder, tmp_path, object_store, bucket_folder):
    """JSON, bytes, rows and gRPC give the same columns; SIGTERM to the server, then to the sidecar, loses nothing."""
    task = collecting(folder, bucket_folder.name)
    with collector(object_store, task, tmp_path) as sidecar:
        with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
            began = time.time()
            ids = ask_in_every_way(server)
            server.client.close()
            server.channel.close()
            server.http.process.send_signal(signal.SIGTERM)
            assert server.http.process.wait(240) == 0
            ended = time.time()
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(240) == 0, sidecar.stdout.read() if sidecar.stdout else ""
    hours = {time.strftime("%Y/%m/%d/%H", time.gmtime(when)) for when in (began, ended)}
    [key] = tables(bucket_folder)
    assert key.startswith(tuple(f"team-a/kept/shop/blue/{hour}/shop-blue-abc-" for hour in hours))
    rows = {row["request_id"]: row for row in rows_of(bucket_folder)}

    assert list(rows["json"]) == COLUMNS
    assert list(rows) == ids
    for name in ("json", "binary", "score", "grpc"):
        label, probabilities = json.loads(rows[name]["response"])
        assert (label["shape"], label["data"]) == ([1], [1])
        assert probabilities["shape"] == [1, 2]
        assert rows[name]["status"] == 200
        assert 0 < rows[name]["duration_ms"] < 1000 * (ended - began + 1)
        assert began - 1 < rows[name]["time"].timestamp() < ended + 1
    for name in ("json", "binary", "grpc"):
        [asked] = json.loads(rows[name]["request"])
        assert asked == {"name": "input", "datatype": "FP64", "shape": [1, 2], "data": [55.0, 1.0]}
    assert [(tensor["name"], tensor["data"]) for tensor in json.loads(rows["score"]["request"])] == [
        ("income", [1]),
        ("age", [55]),
    ]
    assert (rows["json"]["inference_id"], rows["binary"]["inference_id"]) == ("q1", "q2")
    assert (rows["wrong"]["status"], rows["wrong"]["response"]) == (400, None)
    assert json.loads(rows["wrong"]["request"])[0]["shape"] == [1, 3]
    assert (rows["broken"]["request"], rows["broken"]["response"]) == (None, None)
    whose = {(row["endpoint"], row["deployment"], row["model"], row["version"]) for row in rows.values()}
    assert whose == {("shop", "blue", "cancer", "3")}
    assert rows["grpc"]["path"] == "/inference.GRPCInferenceService/ModelInfer"


def test_redacted_values_never_leave_the_server(folder, tmp_path, object_store, bucket_folder):
    """A feature and an output are null, whatever they came by, also in what was refused; nothing else is."""
    task = collecting(folder, bucket_folder.name, redact=("age", "predict_proba"))
    with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
        ask_in_every_way(server)
        server.http.process.send_signal(signal.SIGTERM)
        assert server.http.process.wait(240) == 0
    text = b"".join(path.read_bytes() for path in tmp_path.glob("*.jsonl"))
    assert text.count(b"55.") == text.count(b'"duration_ms":55.')
    rows, wrong = rows_in(text.splitlines())
    assert wrong == 0
    asked = {row.request_id: [tensor["data"] for tensor in json.loads(row.request)] for row in rows if row.request}
    answered = {row.request_id: [tensor["data"] for tensor in json.loads(row.response)] for row in rows if row.response}
    matrix = {name: [[None, 1.0]] for name in ("json", "binary", "grpc")}

    assert asked == {**matrix, "score": [[1], None], "wrong": [None]}
    assert answered == {name: [[1], None] for name in (*matrix, "score")}


@pytest.mark.slow
def test_with_a_name_that_the_model_does_not_have_no_value_is_kept(folder, tmp_path, bucket):
    """The log says it, and no value is kept: it may be a slip. The model is served all the same."""
    task = collecting(folder, bucket, redact=("age", "agee"))
    with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
        assert server.http.start_line["unknown"] == ["agee"]
        assert server.http.process.stdout
        assert "serving" in server.http.process.stdout.readline()
        assert httpx.post(f"{server.http.url}/score", json=[[55, 1]]).status_code == 200
        eventually(lambda: any(path.stat().st_size for path in tmp_path.glob("*.part")))
    [row], _ = rows_in(next(tmp_path.glob("*.part")).read_bytes().splitlines())
    assert {tensor["data"] for tensor in json.loads(row.request or "") + json.loads(row.response or "")} == {None}


@pytest.mark.slow
def test_a_share_is_drawn_and_counted(folder, tmp_path, object_store, bucket_folder):
    """Of 400 requests at 0.25 between 50 and 160 are kept (a fair draw misses that once in a billion); probes never."""
    task = collecting(folder, bucket_folder.name, rate=0.25)
    with (
        collector(object_store, task, tmp_path) as sidecar,
        grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server,
        httpx.Client(base_url=server.http.url) as client,
    ):
        for _ in range(400):
            client.get("/v2/health/ready")
            client.request("OPTIONS", "/score")
            assert client.post("/score", json=[[55, 1]]).status_code == 200
        server.http.process.send_signal(signal.SIGTERM)
        client.close()
        assert server.http.process.wait(240) == 0
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(240) == 0
    assert 50 < len(rows_of(bucket_folder)) < 160
    assert {row["path"] for row in rows_of(bucket_folder)} == {"/score"}


def test_without_a_collector_nothing_is_kept(folder, tmp_path):
    """A server whose task says nothing of one has no such metric and writes nothing."""
    task = structs.replace(collecting(folder, "b"), collect=None)
    with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
        assert httpx.post(f"{server.http.url}/score", json=[[55, 1]]).status_code == 200
        assert "captures" not in server.http.get("/metrics").text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_large_ones_are_counted_and_not_kept(folder, tmp_path, object_store, bucket_folder):
    """More than 64 KiB of request and answer, as they came or as text, are too much; the metrics say so."""
    task = collecting(folder, bucket_folder.name)
    with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
        url = server.http.url
        assert httpx.post(f"{url}/score", json=[[55.5, 1.5]] * 8000).status_code == 200
        asked = triton.InferInput("input", [2500, 2], "FP64")
        asked.set_data_from_numpy(np.full((2500, 2), 1 / 3))  # 40,000 bytes, but 100,000 characters
        server.client.infer("cancer", [asked], outputs=[triton.InferRequestedOutput("predict")])
        assert httpx.post(f"{url}/score", json=[[55, 1]]).status_code == 200
        eventually(lambda: counted(server.http)["size"] == 2)
        server.http.process.send_signal(signal.SIGTERM)
        server.http.process.wait(240)
    assert sum(file.lines for file in waiting(tmp_path)) == 1


@pytest.mark.slow
def test_the_server_tells_what_the_collector_has_stored(folder, tmp_path, object_store, bucket_folder, storage):
    """The sidecar's counts are among the server's metrics."""
    task = collecting(folder, bucket_folder.name)
    ended = threading.Event()
    with grpc_serving(folder, task, "--captures-dir", str(tmp_path)) as server:
        thread = threading.Thread(target=Collector(task, storage, "p", tmp_path, AT_ONCE).run, args=(ended,))
        thread.start()
        httpx.post(f"{server.http.url}/score", json=[[55, 1]])
        eventually(lambda: counted(server.http)["written"] == 1)
        ended.set()
        thread.join()
    assert len(rows_of(bucket_folder)) == 1


# Without a server


def capture(number: int, size: int = 10) -> Capture:
    return Capture(f"r{number}", "/score", 200, 0.001, size, lambda: Exchange("", [], []))


def test_what_does_not_fit_into_the_buffer_is_counted(tmp_path):
    """While the thread cannot write, 1,000 captures and 8 MiB wait, and the rest is dropped at once."""
    entered, gate, lines = threading.Event(), threading.Event(), []

    class Stuck(Spool):
        def add(self, given):
            entered.set()
            gate.wait(60)
            lines.extend(given)
            return 0

    captures = Captures(1, Redaction((), Doubling()), tmp_path, Stuck(tmp_path))
    captures.take(capture(0))
    assert entered.wait(60)
    for number in range(1, 1101):
        captures.take(capture(number))
    assert dropped(captures)["buffer"] == 100
    gate.set()
    captures.close()
    assert len(lines) == 1001

    captures = Captures(1, Redaction((), Doubling()), tmp_path)
    captures._closing.set()
    captures._thread.join()
    for number in range(200):
        captures.take(capture(number, 64 * 1024))
    assert dropped(captures)["buffer"] == 200 - 128


def dropped(captures: Captures) -> Counter[str]:
    [family, _] = captures.metrics()
    return Counter({sample.labels["reason"]: int(sample.value) for sample in family.samples})


def test_what_cannot_be_taken_apart_is_counted_and_the_next_kept(tmp_path):
    """An exchange that raises costs itself only, and its words are not in the log: they may hold values."""

    def fail() -> Exchange:
        raise ValueError("secret")

    captures = Captures(1, Redaction((), Doubling()), tmp_path)
    captures.take(msgspec.structs.replace(capture(1), read=fail))
    captures.take(capture(2))
    captures.close()
    assert dropped(captures)["unreadable"] == 1
    assert [file.lines for file in waiting(tmp_path)] == [1]


def test_a_disk_that_fails_costs_captures_only(tmp_path):
    """A folder that is gone is counted, and the thread goes on."""
    (tmp_path / "gone").mkdir()
    captures = Captures(1, Redaction((), Doubling()), tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    captures.take(capture(1))
    eventually(lambda: dropped(captures)["disk"] == 1)
    (tmp_path / "gone").mkdir()
    captures.take(capture(2))
    captures.close()
    assert [file.lines for file in waiting(tmp_path / "gone")] == [1]


def test_the_oldest_files_make_room(tmp_path):
    """Beyond the bound the oldest files go and their lines are counted; those that are being stored stay."""
    full = Spool(tmp_path, Bounds(file_bytes=1, bytes=10 * 4096))
    first = full.add([b"0\n", b"1\n"]) or waiting(tmp_path)[0]
    assert isinstance(first, spool.Waiting)
    first.path.rename(first.path.with_suffix(".taken"))
    lost = sum(full.add([f"{number}\n".encode()]) for number in range(2, 40))
    left = [file.path.read_bytes() for file in waiting(tmp_path)]

    assert lost + len(left) == 38
    assert left == [f"{number}\n".encode() for number in range(40 - len(left), 40)]
    assert 7 <= len(left) <= 10
    assert first.path.with_suffix(".taken").exists()


def test_what_a_killed_server_has_left_is_passed_on(tmp_path):
    """Lines of a file that was still appended to are there for the collector, by the next server or at the end."""
    Spool(tmp_path).add([b"1\n", b"2\n"])
    assert waiting(tmp_path) == []
    Spool(tmp_path)
    assert [file.lines for file in waiting(tmp_path)] == [2]


def line(number: int) -> bytes:
    return json.dumps(
        {"time": number, "request_id": f"r{number}", "inference_id": "", "path": "/score"}
        | {"status": 200, "duration_ms": 1.5, "request": "[]", "response": None}
    ).encode()


def wait_in(folder: Path, number: int, lines: list[bytes]) -> Path:
    path = folder / f"{number:013d}-{len(lines)}.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def run(task: ServingTask, storage: Storage, folder: Path, pace: Pace = AT_ONCE) -> None:
    """Let a collector run as one that was told to end at once."""
    ended = threading.Event()
    ended.set()
    Collector(task, storage, "p", folder, pace).run(ended)


def test_an_object_is_of_one_hour_and_bounded(folder, tmp_path, bucket_folder, storage):
    """Files of two hours become two objects, and so do more rows than the limit of an object."""
    task = collecting(folder, bucket_folder.name)
    hour = 3600 * 1000
    wait_in(tmp_path, 10 * hour - 1, [line(1)])
    wait_in(tmp_path, 10 * hour, [line(2), line(3)])
    wait_in(tmp_path, 10 * hour + 1, [line(4)])
    run(task, storage, tmp_path, replace(AT_ONCE, rows=2))
    there = {
        key.partition("blue/")[2]: [row["request_id"] for row in rows] for key, rows in tables(bucket_folder).items()
    }

    assert there == {
        f"1970/01/01/09/p-{10 * hour - 1:013d}.parquet": ["r1"],
        f"1970/01/01/10/p-{10 * hour:013d}.parquet": ["r2", "r3"],
        f"1970/01/01/10/p-{10 * hour + 1:013d}.parquet": ["r4"],
    }
    assert read_totals(tmp_path) == Totals(written=4)


def test_what_was_stored_before_a_crash_is_not_there_twice(folder, tmp_path, bucket_folder, storage):
    """A collector that stored and was killed before it removed the file stores the same object again."""
    task = collecting(folder, bucket_folder.name)
    wait_in(tmp_path, 1, [line(1)])
    run(task, storage, tmp_path)
    wait_in(tmp_path, 1, [line(1)]).rename(tmp_path / "0000000000001-1.taken")
    wait_in(tmp_path, 2, [line(2)])
    run(task, storage, tmp_path)
    assert [row["request_id"] for row in rows_of(bucket_folder)] == ["r1", "r2"]


def test_a_storage_that_was_away_gets_all(folder, tmp_path, monkeypatch, capsys):
    """Until it is there again files wait and failures are counted, said once; then all is stored, in order."""
    task, port = collecting(folder, "lake"), free_port()
    for name, value in ObjectStore("", tmp_path).credentials.items():
        monkeypatch.setenv(name, value)
    spooled, behind = tmp_path / "spool", tmp_path / "store"
    spooled.mkdir()
    (behind / "lake").mkdir(parents=True)
    wait_in(spooled, 1, [line(1)])
    away = Storage(f"http://127.0.0.1:{port}", "us-east-1", read_seconds=1, attempts=1)
    ended = threading.Event()
    thread = threading.Thread(target=Collector(task, away, "p", spooled, AT_ONCE).run, args=(ended,))
    thread.start()
    eventually(lambda: read_totals(spooled).failed_writes >= 3)
    wait_in(spooled, 2, [line(2)])
    monkeypatch.setattr(conftest, "free_port", lambda: port)
    with conftest.serving_store(behind):
        eventually(lambda: read_totals(spooled).written == 2)
        ended.set()
        thread.join(60)
    assert [row["request_id"] for row in rows_of(behind / "lake")] == ["r1", "r2"]
    assert capsys.readouterr().err.count("cannot store captures now: Unreachable") == 1


def test_a_storage_that_stays_away_does_not_hold_the_pods_end(folder, tmp_path, monkeypatch, capsys):
    """After its last seconds the collector ends, and says how many captures are lost."""
    for name, value in ObjectStore("", tmp_path).credentials.items():
        monkeypatch.setenv(name, value)
    wait_in(tmp_path, 1, [line(1), line(2)])
    away = Storage(f"http://127.0.0.1:{free_port()}", "us-east-1", read_seconds=1, attempts=1)
    began = time.monotonic()
    run(collecting(folder, "lake"), away, tmp_path, replace(AT_ONCE, last_seconds=1))
    assert time.monotonic() - began < 30
    assert "2 captures are lost with the pod" in capsys.readouterr().out


@pytest.mark.attack(
    "model/collector-keys",
    asset="storage keys",
    threat="the model's code has the data collector's sidecar, which has them, read or run something: by links, "
    "pipes and forged files in the folder that they share",
    control="nothing else is shared, not `/tmp` and its configuration files either; plain files of bounded size "
    "are read, as data; whose a capture is the task says",
)
def test_a_models_code_gets_nothing_out_of_the_collector(folder, tmp_path, bucket_folder, storage, monkeypatch):
    """Links, pipes, broken lines and other names are not captures: no link is followed, and no pipe awaited."""
    task = collecting(folder, bucket_folder.name)
    secret = tmp_path / "secret"
    secret.write_bytes(line(666) + b"\n")
    captures = tmp_path / "captures"
    captures.mkdir()
    (captures / "0000000000001-1.jsonl").symlink_to(secret)
    os.mkfifo(captures / "0000000000002-1.jsonl")
    (captures / "0000000000003.part").symlink_to(secret)
    (captures / "collected.json.new").symlink_to(secret)
    (captures / "../0000000000009-1.jsonl").write_bytes(line(667))
    forged = json.dumps({**json.loads(line(5)), "endpoint": "other"}).encode()
    wait_in(captures, 4, [b"{", b"\xff", line(4).replace(b"200", b"2e9"), forged, b'{"time": 1}'])
    run(task, storage, captures)

    assert [(row["request_id"], row["endpoint"]) for row in rows_of(bucket_folder)] == [("r5", "shop")]
    assert read_totals(captures) == Totals(written=1, unreadable=4)
    assert secret.read_bytes() == line(666) + b"\n"


def test_forged_totals_do_not_stop_the_collector(folder, tmp_path, bucket_folder, storage):
    """Unreadable counts start again from zero."""
    (tmp_path / "collected.json").write_text('{"written": "many"}')
    wait_in(tmp_path, 1, [line(1)])
    run(collecting(folder, bucket_folder.name), storage, tmp_path)
    assert read_totals(tmp_path).written == 1


@pytest.mark.parametrize(
    ("names", "shape", "data", "left"),
    [
        (["b"], (2, 3), [1, 2, 3, 4, 5, 6], [1, None, 3, 4, None, 6]),
        (["b", "c"], (1, 3), np.array([1.0, 2.0, 3.0]), [1.0, None, None]),
        (["b"], (3,), [1, 2, 3], None),
        (["x"], (1, 3), [1, 2, 3], None),
        (["y"], (1, 3), [1, 2, 3], [1, 2, 3]),
        (["other"], (1, 3), [1, 2, 3], None),
        ([], (1, 3), [1, 2, 3], [1, 2, 3]),
    ],
)
def test_a_features_values_are_left_out(names, shape, data, left):
    """A column of a matrix is null; where it is not known which values are the column's, all are."""
    model = Doubling((-1, 3))
    model.signature = Signature(
        (TensorSpec("x", "FP64", (-1, 3), {"feature_names": "a, b, c"}),), model.signature.outputs
    )
    document = {"name": "x", "datatype": "FP64", "shape": shape, "data": data}
    strange = {**document, "name": "bee"}
    redacted, other = json.loads(Redaction(names, model).text([document, strange]) or "")

    assert redacted["data"] == left
    assert (other["data"] is None) == bool(names)


@pytest.mark.parametrize("typed", [False, True])
def test_every_datatype_can_be_kept(typed):
    """Raw and typed contents of gRPC, a stream's too, give the values that were sent; NaN is null."""
    names = [name for name in DATATYPES if not (typed and name == "FP16")]
    tensors = [Tensor(name, name, DATATYPES[name][0]) for name in names]
    request = v2.ModelInferRequest(model_name="m", id="q")
    for tensor in tensors:
        given = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if typed:
            values = [value.encode() if isinstance(value, str) else value for value in tensor.array.ravel().tolist()]
            getattr(given.contents, DATATYPES[tensor.name][1]).extend(values)
        else:
            request.raw_input_contents.append(binary.encode(tensor.array, tensor.datatype))
    response = answer(request, "1", tensors)
    for answered in (response, v2.ModelStreamInferResponse(infer_response=response)):
        read = exchange(request, answered)
        assert read.id == "q"
        for side in (read.inputs, read.outputs):
            written = json.loads(Redaction((), Doubling()).text(side) or "")
            assert [document["name"] for document in written] == names
            for document, tensor in zip(written, tensors, strict=True):
                values = [None if value in (np.inf, -np.inf) else value for value in tensor.array.ravel().tolist()]
                assert document["data"] == (pytest.approx(values) if tensor.datatype[:2] == "FP" else values)
                assert document["shape"] == [2, 2]


@pytest.mark.slow
def test_a_streams_requests_are_kept_each(folder, tmp_path, bucket):
    """Each request of a stream is one capture, with the stream's id; one that is refused has no answer."""
    with grpc_serving(folder, collecting(folder, bucket), "--captures-dir", str(tmp_path)) as server:
        given, came = [np.array([[55.0, 1.0]]), np.array([[1.0]])], []
        server.client.start_stream(lambda result, error: came.append(error), headers={"x-request-id": "s"})
        for number, rows in enumerate(given):
            asked = triton.InferInput("input", list(rows.shape), "FP64")
            asked.set_data_from_numpy(rows)
            server.client.async_stream_infer("cancer", [asked], request_id=str(number))
        eventually(lambda: len(came) == 2)
        server.client.stop_stream()
        server.http.process.send_signal(signal.SIGTERM)
        server.http.process.wait(240)
    [file] = waiting(tmp_path)
    rows, _ = rows_in(file.path.read_bytes().splitlines())

    assert [(row.request_id, row.inference_id, row.status) for row in rows] == [("s", "0", 200), ("s", "1", 400)]
    assert rows[0].response is not None
    assert rows[1].response is None
