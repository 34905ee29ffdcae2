"""Scoring scripts in the server: Azure's contract, errors, and worker processes that hang, crash and come back."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import joblib
import pandas
import pytest
import yaml
from ports import free_port
from serving_process import Server, command, refused, task_for
from sklearn.linear_model import LinearRegression
from ultramarine_contract.common import INIT_SECONDS, MANIFEST_NAME, ArtifactManifest, FileEntry
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.serving_records import ScoringTask, ServingTask
from ultramarine_server.collecting.exchange import reader_of
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile, find_model
from ultramarine_server.formats.loading import runs_apart
from ultramarine_server.http.messages import Request, Response
from ultramarine_server.workers.processes import Start, Workers, python_of
from ultramarine_server.workers.scripts import model_folder
from unit.conftest import eventually

SCRIPTS = Path(__file__).parent / "scored"
ENVIRONMENT = EnvironmentArchive("s3://b/environment.tar.zst", "sha256:00", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file as the model."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "words.txt").write_text("one two")
    return folder


def scored_task(folder: Path, entry: str, **changes: Any) -> ServingTask:
    """Return the task of a script with the model in `folder`."""
    return task_for(folder / "words.txt", format="", scoring=ScoringTask(entry), **changes)


@contextmanager
def scoring(folder: Path, task: ServingTask, *arguments: str, **variables: str) -> Iterator[Server]:
    """Run a server with a script until the block ends; its log is `server.log` in the model's parent."""
    port = free_port()
    ports = ["--host", "127.0.0.1", "--port", str(port), "--grpc-port", "0", "--linger-seconds", "1"]
    options = command(folder, task, "serve", *ports, "--scoring-dir", str(SCRIPTS), *arguments)
    # As in a pod, no variable adds the server's packages to those of the environment.
    options["env"] |= {"PYTHONPATH": "", "TMPDIR": str(folder.parent)} | variables
    log = folder.parent / "server.log"
    with log.open("w") as stream, subprocess.Popen(**options | {"stdout": stream, "stderr": stream}) as process:
        try:
            eventually(lambda: process.poll() is not None or '"event":"serving"' in log.read_text())
            assert process.poll() is None, log.read_text()
            yield Server(process, port)
        finally:
            process.kill()


def log_of(folder: Path) -> str:
    return (folder.parent / "server.log").read_text()


def score(server: Server, do: str, value: Any = None) -> httpx.Response:
    return httpx.post(f"{server.url}/score", json={"do": do, "value": value}, timeout=60)


def is_ready(server: Server) -> bool:
    return server.get("/v2/health/ready").status_code == 200


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server with the script that does as it is asked."""
    with scoring(folder, scored_task(folder, "behaves.py")) as server:
        yield server


# The contract


@pytest.mark.parametrize(
    ("do", "value", "body"),
    [
        ("echo", {"a": [1, 2.5, None]}, b'{"a": [1, 2.5, null]}'),
        ("echo", "text", b'"text"'),
        ("nothing", None, b"{}"),
        ("nan", None, b"[NaN]"),
        ("read", "words.txt", b'"one two"'),
        ("read", "model/words.txt", b'"one two"'),
        ("files", "models", b'["words.txt"]'),
        ("stdin", None, b'""'),
        ("flood", None, b'"printed"'),
    ],
)
def test_answers_are_json_by_the_rules_of_azure(server: Server, do: str, value: Any, body: bytes) -> None:
    """Values of run() become JSON; the model is in AZUREML_MODEL_DIR, by its own names and by those of Azure."""
    answer = score(server, do, value)

    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://lake/ada/jobs/train/outputs/model-output/0123456789abcdef/", "model_output"),
        ("s3://lake/ada/jobs/train/outputs/model-output/0123456789abcdef/", "model-output"),
        ("s3://lake/ada/models/half-plus/", "half_plus"),
        ("s3://lake/ada/model.pkl", "models"),
    ],
)
def test_scripts_find_a_model_below_its_name_in_azure(tmp_path: Path, uri: str, name: str) -> None:
    """The name of an output, or of a registered folder, leads to the model's files, with the underscores of Azure."""
    (tmp_path / "words.txt").write_text("one")

    assert (model_folder(tmp_path, uri) / name / "words.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("do", "status", "words"),
    [
        ("refuse", 400, r"run\(\) of behaves.py raised ValueError: age must not be negative \(behaves.py, line \d+\)"),
        ("fail", 500, r"run\(\) of behaves.py raised KeyError: 'no such model' \(behaves.py, line \d+\)"),
        ("leave", 500, r"called sys.exit\(3\)"),
        ("a_set", 500, r"returned a value of type set, which is not JSON .* Return a dict, list"),
        ("generator", 500, r"returned a value of type generator"),
        ("an_object", 500, r"returned a value of type object"),
        ("some_bytes", 500, r"returned a value of type bytes"),
        ("huge", 500, r"at most 67108864 can be sent"),
    ],
)
def test_errors_of_the_script_go_to_the_client(server: Server, folder: Path, do: str, status: int, words: str) -> None:
    """The client gets the exception and its line, the log has the trace, and the process goes on."""
    before = score(server, "count").json()["runs"]
    answer = score(server, do)

    assert answer.status_code == status
    assert re.search(words, answer.json()["error"])
    assert score(server, "count").json()["runs"] == before + 2


def test_the_log_has_output_and_trace(server: Server, folder: Path) -> None:
    """Prints, logging and the trace of an exception are in the pod's log, without frames of the server."""
    score(server, "fail")

    log = log_of(folder)
    assert "beside: imported" in log
    assert "INFO root - init is complete" in log
    assert 'raise KeyError("no such model")' in log
    assert "usercode" not in log


def test_a_body_that_is_not_text_is_refused(server: Server) -> None:
    """Run() takes text, so other bytes are 400."""
    answer = httpx.post(f"{server.url}/score", content=b"\xff\xfe", timeout=60)

    assert answer.status_code == 400
    assert "the body is not UTF-8 text" in answer.json()["error"]


def test_a_get_request_has_its_query_as_json(server: Server) -> None:
    """GET /score passes the query, with values that are JSON as such."""
    assert server.get("/score?do=echo&value=[1,2]").json() == [1, 2]


def test_other_paths_of_a_script(server: Server) -> None:
    """Azure's health path and schema exist; the protocol's metadata too, but infer needs predict()."""
    assert server.get("/").text == "Healthy"
    assert server.get("/swagger.json").json()["definitions"]["ServiceInput"] == {"type": "object", "example": {}}
    assert server.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert server.get("/v2/models/cancer").json()["platform"] == "scoring_script"
    assert server.get("/v2/models/cancer/ready").json()["ready"] is True
    answer = server.infer([[1.0]])
    assert answer.status_code == 501
    assert "define predict(inputs)" in answer.json()["error"]
    assert "ultramarine_server_workers 1.0" in server.get("/metrics").text
    assert server.get("/invocations").status_code == 404


def test_the_collector_keeps_the_bodies_of_a_script() -> None:
    """Requests and answers of run() are kept as texts, and the answer of an error is not."""
    request = Request("POST", "/score", {}, "1", 0, True, b'{"do": "echo"}', "score")
    service: Any = SimpleNamespace(scripted=True)
    good = reader_of(service, request, Response(b"null"))()
    bad = reader_of(service, request, Response(b"{}", 500))()

    text = {"name": "body", "datatype": "BYTES", "shape": (1,)}
    assert (good.inputs, good.outputs) == ([{**text, "data": ['{"do": "echo"}']}], [{**text, "data": ["null"]}])
    assert (bad.inputs, bad.outputs) == (good.inputs, None)


def test_a_script_of_azure_runs_unchanged(tmp_path: Path) -> None:
    """The first example's shape: a pickle in the folder `model`, numpy arrays, logging."""
    model = tmp_path / "model"
    model.mkdir()
    path = model / "sklearn_regression_model.pkl"
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]), path)
    with scoring(model, task_for(path, scoring=ScoringTask("azure_sklearn.py"))) as server:
        answer = httpx.post(f"{server.url}/score", content=b'{"data": [[2.0], [3.0]]}', timeout=60)

    assert answer.json() == pytest.approx([5.0, 7.0])


def test_raw_requests(folder: Path) -> None:
    """@rawhttp gives the request and takes an answer as it is; forged headers are refused."""
    with scoring(folder, scored_task(folder, "raw.py")) as server:
        url = f"{server.url}/score"
        files = [("file[]", ("a.bin", b"\r\n\x00\xff--")), ("file[]", ("b.txt", b"text"))]
        form = httpx.post(url, files=files, data={"note": "hello"})
        image = httpx.post(url, content=b"\x00\xffabc", headers={"content-type": "image/png"})
        queried = server.get("/score?name=x")
        options = httpx.options(url)
        broken = httpx.post(url, content=b"x", headers={"content-type": "application/x-broken"})
        deleted = httpx.delete(url)

    assert form.json() == {
        "response": [{"filename": "a.bin", "size": 6}, {"filename": "b.txt", "size": 4}],
        "note": "hello",
    }
    assert (image.status_code, image.content) == (201, b"cba\xff\x00")
    assert (image.headers["content-type"], image.headers["x-own"]) == ("image/jpg", "yes")
    assert image.headers.get_list("set-cookie") == ["a=1; Expires=Wed, 21 Oct 2037 07:28:00 GMT", "b=2"]
    assert (queried.text, queried.headers["content-type"]) == ("name=x", "text/html; charset=utf-8")
    assert (options.status_code, options.headers["access-control-allow-origin"]) == (204, "*")
    assert broken.status_code == 500
    assert "x-injected" not in broken.headers
    assert deleted.status_code == 405


def test_predict_answers_the_protocol(folder: Path) -> None:
    """With a signature, predict(inputs) takes arrays by name and answers infer."""
    signature = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
        "outputs": [
            {"name": "y", "datatype": "FP64", "shape": [-1, 2]},
            {"name": "word", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    with scoring(folder, scored_task(folder, "predicts.py", signature=signature)) as server:
        good = server.infer([[1.0, 2.0], [3.0, 3.0]], "x")
        bad = server.infer([[-1.0, 2.0]], "x")
        plain = httpx.post(f"{server.url}/score", json=[1])

    assert {output["name"]: output["data"] for output in good.json()["outputs"]} == {
        "y": [2.0, 4.0, 6.0, 6.0],
        "word": ["odd", "even"],
    }
    assert (bad.status_code, plain.json()) == (400, [1])
    assert "x must not be negative" in bad.json()["error"]


# Failures before the pod is ready


@pytest.mark.parametrize(
    ("entry", "reason", "words"),
    [
        ("init_raises.py", "ScoringFailed", r"init() of init_raises.py raised FileNotFoundError: [Errno 2]"),
        ("init_raises.py", "ScoringFailed", r"(init_raises.py, line 7). Correct the script"),
        ("needs_module.py", "DependencyMissing", "needs the module package_that_is_missing, which is not installed"),
        ("needs_module.py", "DependencyMissing", "(needs_module.py, line 3). Add its package to environment"),
        ("no_run.py", "ScoringFailed", "no_run.py has no function run()"),
        (
            "takes_more.py",
            "ScoringFailed",
            "has a parameter 'request_header', which no request fills. Define run(data)",
        ),
        ("init_ends.py", "ScoringFailed", "was ended by SIGKILL; it may have needed more memory"),
        ("absent.py", "ScoringFailed", "the source has no absent.py, but azure_sklearn.py, behaves.py"),
    ],
)
def test_a_script_that_cannot_start_names_its_line(folder: Path, entry: str, reason: str, words: str) -> None:
    """The pod ends with the exception, its line and the remedy; nothing listens before."""
    code, record, _ = refused(folder, scored_task(folder, entry), "serve", "--scoring-dir", str(SCRIPTS))

    assert (code, record.reason) == (1, reason)
    assert words in record.message


def test_an_absent_config_map_is_named(folder: Path, tmp_path: Path) -> None:
    """Its mount is an empty folder, and the name of the script is not the fault."""
    (tmp_path / "empty").mkdir()
    _, record, _ = refused(folder, scored_task(folder, "score.py"), "serve", "--scoring-dir", str(tmp_path / "empty"))

    assert record.reason == "ScoringMissing"
    assert "scoring.source is missing or empty. Create its ConfigMap with score.py" in record.message
    assert "Correct scoring.entry" not in record.message


def test_an_init_that_hangs_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The start fails with the limit in words and the traces in the log, and the process is gone."""
    start = Start(
        "init_hangs.py",
        python_of(None),
        SCRIPTS,
        {"entry": "init_hangs.py", "folder": str(SCRIPTS)},
        {"AZUREML_MODEL_DIR": str(tmp_path)},
    )
    with pytest.raises(LoadError, match=r"init_hangs\.py has not become ready within 5 s\. Load less") as raised:
        Workers(start, 1, 10, start_seconds=5)

    assert raised.value.reason == "ScoringFailed"
    assert "in init" in capfd.readouterr().err
    assert not _runs(int((tmp_path / "pid").read_text()))


def test_the_limit_of_the_start_is_below_that_of_the_probe() -> None:
    """The kubelet must not end the server before the server has written the reason."""
    children = list(yaml.safe_load_all((Path(__file__).parents[1] / "golden" / "scoring_endpoint.yaml").read_text()))
    [pod] = [child["spec"]["template"]["spec"] for child in children if child["kind"] == "Deployment"]
    [probe] = [container["startupProbe"] for container in pod["containers"] if "startupProbe" in container]

    assert probe["periodSeconds"] * probe["failureThreshold"] > INIT_SECONDS


def test_the_environment_needs_its_python(folder: Path, tmp_path: Path) -> None:
    """A missing environment is named, with the place to look."""
    task = scored_task(folder, "behaves.py", environment=ENVIRONMENT)
    arguments = ("--scoring-dir", str(SCRIPTS), "--environment-dir", str(tmp_path))
    _, record, _ = refused(folder, task, "serve", *arguments)

    assert record.reason == "EnvironmentMissing"


# Workers that hang, end and come back


def test_a_hanging_run_is_ended_and_replaced(folder: Path) -> None:
    """The request gets 504, others meanwhile 503 with a time to retry, and the next worker answers."""
    with scoring(folder, scored_task(folder, "behaves.py", timeout_seconds=1.0)) as server:
        hanging = score(server, "hang")
        eventually(lambda: is_ready(server) and score(server, "echo", 1).status_code == 200)
        metrics = server.get("/metrics").text

    assert hanging.status_code == 504
    assert "time.sleep(3600)" not in hanging.text
    assert "in hang" in log_of(folder), "the log does not show where the script hung"
    assert "was ended by SIG" not in log_of(folder), "the log names another cause than the timeout"
    assert 'ultramarine_server_worker_ends_total{reason="timeout"} 1.0' in metrics


@pytest.mark.parametrize(("do", "words"), [("crash", "exited with code 7"), ("abort", "was ended by SIGABRT")])
def test_a_crash_takes_one_request(folder: Path, do: str, words: str) -> None:
    """The request that met the crash gets 502 with the reason, the pod is unready, then the next worker answers."""
    with scoring(folder, scored_task(folder, "behaves.py")) as server:
        crashed = score(server, do)
        meanwhile = score(server, "echo", 1)
        unready = is_ready(server)
        eventually(lambda: is_ready(server))
        again = score(server, "echo", 1)

    assert crashed.status_code == 502
    assert f"the process of behaves.py {words} while it answered" in crashed.json()["error"]
    assert (meanwhile.status_code, meanwhile.headers["retry-after"]) == (503, "2")
    assert not unready
    assert again.json() == 1


def test_workers_answer_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    """WORKER_COUNT processes answer as many requests at once: both wait until the other request has begun."""
    with scoring(folder, scored_task(folder, "behaves.py"), WORKER_COUNT="2") as server:
        answers: list[httpx.Response] = []
        call = partial(score, server, "meet", str(tmp_path))
        threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [answer.json() for answer in answers] == [2, 2]


def test_no_worker_outlives_the_server(folder: Path) -> None:
    """Killed like a process that needs too much memory, the server takes its worker along."""
    with scoring(folder, scored_task(folder, "behaves.py")) as server:
        children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
        [worker] = [int(child) for file in children for child in file.read_text().split()]
        server.process.kill()
        server.process.wait()
    eventually(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# Environments


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with a package of its own, which falls back on the packages of the tests."""
    folder = tmp_path_factory.mktemp("environment") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("ANSWER = 42\n")
    (packages / "fallback.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder


def folder_task(folder: Path, format: str, **changes: Any) -> ServingTask:
    """Return the task of all files in a folder, with the environment."""
    entries = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, digest))
    manifest = ArtifactManifest(tuple(entries))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    given = {"model": "cancer", "version": "3", "uri": "s3://b/m/", "digest": manifest.digest, "format": format}
    return ServingTask(**(given | {"auth": "none", "allow_code_execution": True, "environment": ENVIRONMENT} | changes))


def test_a_python_model_runs_in_its_environment(tmp_path: Path, environment: Path) -> None:
    """With an environment, model.py has its packages, and a crash leaves the server alive."""
    folder = tmp_path / "model"
    shutil.copytree(SCRIPTS / "python_model", folder)
    with scoring(folder, folder_task(folder, "python"), "--environment-dir", str(environment)) as server:
        metadata = server.get("/v2/models/cancer").json()
        good = server.infer([[1.0], [2.0]], "x")
        bad = server.infer([[-1.0]], "x")
        failed = server.infer([[13.0]], "x")
        scores = httpx.post(f"{server.url}/invocations", json={"dataframe_split": {"columns": ["x"], "data": [[1]]}})
        crashed = server.infer([[7.0]], "x")

    assert metadata["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}]
    assert good.json()["outputs"][0]["data"] == [43.0, 44.0]
    assert (bad.status_code, scores.json()) == (400, {"predictions": [[43.0]]})
    assert "x must not be negative" in bad.json()["error"]
    assert failed.status_code == 500
    assert "its log has the reason under request" in failed.json()["error"]
    assert crashed.status_code == 502


def test_a_pickle_of_named_columns_runs_in_its_environment(tmp_path: Path, environment: Path) -> None:
    """The estimator's columns reach the server's metadata and requests by column."""
    folder = tmp_path / "model"
    folder.mkdir()
    frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0], "b": [1.0, 1.0, 0.0]})
    joblib.dump(LinearRegression().fit(frame, [0.0, 1.0, 2.0]), folder / "model.joblib")
    task = task_for(folder / "model.joblib", allow_code_execution=True, environment=ENVIRONMENT)
    with scoring(folder, task, "--environment-dir", str(environment)) as server:
        by_name = httpx.post(f"{server.url}/score", json=[{"b": 1, "a": 1}])
        matrix = server.infer([[1.0, 1.0]])

    assert by_name.json()["predictions"] == pytest.approx([1.0])
    assert matrix.json()["outputs"][0]["data"] == pytest.approx([1.0])


def test_any_flavor_of_mlflow_runs_in_its_environment(tmp_path: Path, environment: Path) -> None:
    """A folder with python_function alone is loaded by mlflow.pyfunc; the signature becomes the metadata."""
    folder = tmp_path / "model"
    shutil.copytree(SCRIPTS / "pyfunc_model", folder)
    with scoring(folder, folder_task(folder, "mlflow"), "--environment-dir", str(environment)) as server:
        metadata = server.get("/v2/models/cancer").json()
        rows = {"columns": ["plan", "age"], "data": [["basic", 3], [None, 4]]}
        answer = httpx.post(f"{server.url}/invocations", json={"dataframe_split": rows})

    assert metadata["inputs"] == [
        {"name": "age", "datatype": "INT64", "shape": [-1]},
        {"name": "plan", "datatype": "BYTES", "shape": [-1]},
    ]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP64", "shape": [-1]}]
    assert answer.json() == {"predictions": [8.0, 4.0]}


def test_a_worker_needs_the_standard_library_alone(environment: Path) -> None:
    """The Python of an environment runs a script without any package of the server."""
    bare = environment.with_name("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    variables = {"PYTHONPATH": "", "AZUREML_MODEL_DIR": "/tmp"}
    frame = {"entry": "behaves.py", "folder": str(SCRIPTS)}
    workers = Workers(Start("behaves.py", python_of(bare), SCRIPTS, frame, variables), 1, 10)
    header = {"method": "POST", "path": "/score", "query": "", "headers": {}}
    answer, body = workers.ask(header, b'{"do": "packages"}')
    workers.close()

    assert (answer["status"], json.loads(body)) == (200, [])


def test_files_of_any_kind_need_code(folder: Path) -> None:
    """The format custom is served by a script or a container alone, and the message says so."""
    _, record, _ = refused(folder, task_for(folder / "words.txt", format="custom"), "serve")

    assert record.reason == "ModelUnsupported"
    assert "Set scoring or container on the deployment" in record.message


def test_native_formats_stay_in_the_server(models: Path, tmp_path: Path) -> None:
    """ONNX runs no code, so its server starts no worker although the task has an environment."""
    task = task_for(models / "plain.onnx", allow_code_execution=True, environment=ENVIRONMENT)

    assert not runs_apart(find_model(models, task), task)
    assert runs_apart(ModelFile(models / "model.skops", "sklearn"), task)
