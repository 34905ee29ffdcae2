"""`ultramarine endpoints test --local`: the platform's server on loopback, with a model of this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import pandas
import pytest
from ultramarine.local import serving
from ultramarine.local.serving import ServerFailed, served
from ultramarine.serving.asking import script_document
from ultramarine.serving.reading import read_data
from ultramarine_contract.errors import InvalidSpec
from unit.serving_process import ROWS, fitted, write_models

SCORE = """
import json, os
def init():
    global model
    model = open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights")).read()
def run(data):
    return {"model": model, "rows": json.loads(data)}
"""
CLI = "from ultramarine.cli.main import main; main()"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of several formats."""
    folder = tmp_path_factory.mktemp("models")
    write_models(fitted(), folder)
    return folder


def test_a_model_answers_rows(models):
    """A file alone; its server is gone afterwards."""
    with served(models / "model.skops", None, 0) as server:
        answer = server.answer(ROWS[:2].tolist())
        url = server.url
    assert answer["predict"] == fitted().predict(ROWS[:2]).tolist()
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)


def test_a_folder_may_have_a_list_of_files(models, tmp_path):
    """As a downloaded artifact has it."""
    (tmp_path / "model.skops").write_bytes((models / "model.skops").read_bytes())
    (tmp_path / "manifest.json").write_text("{}")
    with served(tmp_path, None, 0) as server:
        assert server.answer(ROWS[:1].tolist())


def test_a_folder_that_mlflow_wrote_is_a_model(models, tmp_path):
    """Its files are found beside MLmodel, in folders too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/model.onnx").write_bytes((models / "plain.onnx").read_bytes())
    (tmp_path / "MLmodel").write_text("flavors: {onnx: {data: data/model.onnx}}\nmlflow_version: 3.17.2\n")
    with served(tmp_path, None, 0) as server:
        assert server.answer(ROWS[:1].tolist())


def test_a_scoring_script_answers_instead(tmp_path):
    """It finds the model as on the cluster."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w1")
    (tmp_path / "score.py").write_text(SCORE)
    with served(tmp_path / "model", tmp_path / "score.py", 0) as server:
        assert server.answer([1, 2]) == {"model": "w1", "rows": {"data": [1, 2]}}
        assert server.answer({"any": 1}) == {"model": "w1", "rows": {"any": 1}}


def test_a_table_reaches_a_script_as_azures_examples_read_it(tmp_path):
    """`json.loads(data)["data"]` has the rows of a CSV file or a data frame, and `columns` their names."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w1")
    (tmp_path / "score.py").write_text(SCORE)
    (tmp_path / "rows.csv").write_text("age,plan\n20,basic\n70,\n")
    frame = pandas.DataFrame({"age": [20, 70], "plan": ["basic", None]})
    expected = {"columns": ["age", "plan"], "data": [[20, "basic"], [70, None]]}
    with served(tmp_path / "model", tmp_path / "score.py", 0) as server:
        assert server.answer(read_data(f"@{tmp_path}/rows.csv", None))["rows"] == expected
        assert server.answer(frame)["rows"] == expected
        assert server.answer([{"age": 20}])["rows"] == {"data": [{"age": 20}]}


@pytest.mark.parametrize(
    ("items", "rows"),
    [
        ({"type": "object"}, [{"age": 20, "plan": "basic"}]),
        ({"type": "array"}, [[20, "basic"]]),
    ],
)
def test_the_decorators_of_a_script_choose_the_form(items, rows):
    """PandasParameterType takes records, NumpyParameterType rows; the parameter's name is that of run()."""
    schema = {"type": "object", "properties": {"input_data": {"type": "array", "items": items}}}
    frame = pandas.DataFrame({"age": [20], "plan": ["basic"]})

    assert script_document(schema, frame) == {"input_data": rows}
    assert script_document(schema, rows) == {"input_data": rows}
    assert script_document(schema, {"input_data": rows, "mode": 1}) == {"input_data": rows, "mode": 1}


def test_a_request_that_is_refused_is_said_in_the_servers_words(models):
    """With the status."""
    with served(models / "model.skops", None, 0) as server, pytest.raises(ServerFailed, match="the server answers 400"):
        server.answer({"instances": [[1]]})


def test_a_model_that_cannot_be_loaded_is_said_in_the_servers_words(models, tmp_path):
    """A damaged file, and a format that runs code without permission."""
    with pytest.raises(ServerFailed, match=r"broken\.onnx"), served(models / "broken.onnx", None, 0):
        pass
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(ServerFailed, match="add --allow-code-execution"), served(tmp_path, None, 0):
        pass


@pytest.mark.parametrize(("model", "script"), [("no", None), (".", "no.py"), ("empty", None)])
def test_what_does_not_exist_is_named(tmp_path, model, script):
    """Before anything starts."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="Give the"), served(tmp_path / model, script and tmp_path / script, 0):
        pass


def test_a_missing_package_is_named_with_its_remedy(models, monkeypatch):
    """The wheel alone has no server."""
    monkeypatch.setattr(serving, "_NEEDED", ("numpy", "no_such_package"))
    remedy = r"lacks no_such_package.*pip install 'ultramarine\[server\]'"
    with pytest.raises(ServerFailed, match=remedy), served(models / "model.skops", None, 0):
        pass


@pytest.mark.slow
def test_the_command_answers_one_request_or_serves_until_ctrl_c(models):
    """The answer is JSON on stdout."""
    words = [sys.executable, "-c", CLI, "endpoints", "test", "--local", str(models / "model.skops")]
    rows = json.dumps(ROWS[:1].tolist())
    ended = subprocess.run([*words, "--data", rows], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(ended.stdout)) == {"predict", "predict_proba"}

    # A suite in the background ignores the signal, and its children would too.
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("Serving "))
        url = line.split(" at ")[1].partition(". ")[0]
        urllib.request.urlopen(urllib.request.Request(f"{url}/score", rows.encode(), method="POST"), timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
