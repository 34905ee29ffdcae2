"""Real clients against endpoints on the cluster: Triton's and KServe's, plain rows, and a model of each format."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import NAMESPACE, Platform
from manifests import endpoint, infer, model_version, onnx_model, training_job
from ultramarine_cluster.venvs import python_with

pytestmark = pytest.mark.slow

KSERVE = "kserve==0.21.0"  # 450 MB with what it needs, which does not go with our own versions: a virtualenv of its own

# One model as MLflow stores it, and one that is code.
FOLDERS = """
import sys
from pathlib import Path
import skops.io
from sklearn.linear_model import LinearRegression

mlflow, code = map(Path, sys.argv[1:])
skops.io.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), mlflow / "model.skops")
(mlflow / "MLmodel").write_text('''
flavors:
  sklearn:
    pickled_model: model.skops
    serialization_format: skops
mlflow_version: 3.17.2
''')
(code / "model.py").write_text('''
class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}],
        "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
    }

    def predict(self, inputs):
        return {"predict": inputs["x"][:, 0] * 2}
''')
"""


@pytest.fixture(scope="module")
def adder(platform: Platform) -> Platform:
    """An ONNX model that adds 1, behind the endpoint `clients`."""
    content = onnx_model(1)
    version = model_version("clients", 1, platform.put("clients-1.onnx", content), content)
    platform.apply(version, endpoint("clients", "clients@1"))
    platform.ready("clients", "clients-1")
    return platform


def headers(platform: Platform) -> dict[str, str]:
    """Return the headers that authenticate at the endpoint."""
    return {"authorization": f"Bearer {platform.secret('clients-keys')['primary']}"}


@contextmanager
def address(platform: Platform, port: int) -> Iterator[str]:
    """HOST:PORT of the endpoint."""
    with platform.target.reach(NAMESPACE, "clients", port) as url:
        yield urlsplit(url).netloc


@pytest.mark.parametrize("binary", [False, True])
def test_tritons_http_client_is_answered(adder, binary):
    """Its health checks, metadata and inference work unchanged, with tensors as JSON and as bytes."""
    with address(adder, 80) as at:
        client = triton_http.InferenceServerClient(at)
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("clients")
        assert client.get_model_metadata("clients", headers=headers(adder))["versions"] == ["1"]
        given = triton_http.InferInput("x", [2, 1], "FP32")
        given.set_data_from_numpy(np.array([[1.0], [2.0]], np.float32), binary_data=binary)
        wanted = triton_http.InferRequestedOutput("y", binary_data=binary)
        answer = client.infer("clients", [given], outputs=[wanted], request_id="7", headers=headers(adder))
        assert answer.get_response()["id"] == "7"
        assert answer.as_numpy("y").tolist() == [[2.0], [3.0]]


def test_tritons_grpc_client_is_answered(adder):
    """Unary calls and a stream, and without a key UNAUTHENTICATED."""
    with address(adder, 9000) as at:
        client = triton_grpc.InferenceServerClient(at)
        assert client.is_server_ready()
        assert client.get_model_metadata("clients", headers=headers(adder)).platform == "onnx_onnxv1"
        given = triton_grpc.InferInput("x", [1, 1], "FP32")
        given.set_data_from_numpy(np.array([[1.0]], np.float32))
        assert client.infer("clients", [given], headers=headers(adder)).as_numpy("y").tolist() == [[2.0]]
        with pytest.raises(triton_grpc.InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("clients", [given])
        answers: list[Any] = []
        client.start_stream(lambda result, error: answers.append(error or result), headers=headers(adder))
        for _ in range(3):
            client.async_stream_infer("clients", [given])
        client.stop_stream()
        assert [answer.as_numpy("y").tolist() for answer in answers] == [[[2.0]]] * 3


def test_kserves_client_is_answered(adder):
    """Its REST and gRPC clients work unchanged: health, tensors as JSON and as bytes, and the refusal without a key."""
    python, script = python_with("kserve", KSERVE), Path(__file__).with_name("kserve_client.py")
    key = adder.secret("clients-keys")["primary"]
    with address(adder, 80) as rest, address(adder, 9000) as grpc:
        words = [python, script, f"http://{rest}", grpc, "clients", key]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    healthy = {"live": True, "ready": True, "model": True}
    answer = ["7", [[2.0], [3.0]]]
    assert said["rest"] == {**healthy, "json": answer, "bytes": answer, "refused": 401}
    assert said["grpc"] == {**healthy, "answer": answer, "refused": "UNAUTHENTICATED"}


def test_plain_rows_are_answered_and_described(adder):
    """POST /score takes rows as Azure's endpoints do, and /openapi.json describes this very model."""
    with adder.client("clients") as client:
        assert client.post("/score", json={"data": [[1.0], [2.0]]}).json()["predictions"] == [[2.0], [3.0]]
        wrong = client.post("/score", json={"data": [[1.0, 2.0]]})
        assert (wrong.status_code, "error" in wrong.json()) == (400, True)
        page = client.get("/openapi.json").json()
    assert page["openapi"].startswith("3.1")
    assert {"/score", "/v2/models/clients/infer"} <= set(page["paths"])


def test_trees_in_their_own_files_are_served(platform, tmp_path):
    """A file that XGBoost or LightGBM wrote is answered as the library answers."""
    import lightgbm
    import xgboost

    rows = np.array([[0.0], [1.0], [2.0], [3.0]] * 10)
    label = np.array([0.0, 0.0, 1.0, 1.0] * 10)
    boosted = xgboost.XGBRegressor(n_estimators=5).fit(rows, label)
    boosted.save_model(tmp_path / "model.ubj")
    light = lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=1, verbose=-1).fit(rows, label)
    light.booster_.save_model(str(tmp_path / "model.lgb"))
    expected = {"xgboost": boosted.predict(rows[:4]), "lightgbm": light.predict(rows[:4])}
    for format, file in (("xgboost", "model.ubj"), ("lightgbm", "model.lgb")):
        content = (tmp_path / file).read_bytes()
        version = model_version(format, 1, platform.put(f"{format}-{file}", content), content, format)
        platform.apply(version, endpoint(format, f"{format}@1"))
    for format, answers in expected.items():
        platform.ready(format, f"{format}-1")
        with platform.client(format) as client:
            body = infer(rows[:4].tolist(), name="input", datatype="FP64")
            answer = client.post(f"/v2/models/{format}/infer", json=body).json()
        assert answer["outputs"][0]["data"] == pytest.approx(answers.tolist(), rel=1e-6)


def test_folders_of_mlflow_and_of_python_are_served(platform):
    """A TrainingJob registers both; the one that is code is refused until its owner allows it."""
    outputs = {
        "mlflow": {"registerAs": "folder-mlflow", "format": "mlflow"},
        "code": {"registerAs": "folder-code", "format": "python"},
    }
    command = ["python", "train.py", "$(outputs.mlflow)", "$(outputs.code)"]
    platform.apply(training_job("folders", FOLDERS, outputs=outputs, command=command))
    assert platform.ended("folders")["state"] == "Succeeded"
    platform.wait("mv", "folder-code-1", lambda s: s.get("state") == "Refused")
    platform.kubectl("patch", "mv", "folder-code-1", "--type=merge", "-p", '{"spec": {"allowCodeExecution": true}}')
    platform.apply(endpoint("folder-mlflow", "folder-mlflow@1"), endpoint("folder-code", "folder-code@1"))
    for name, given in (("folder-mlflow", "input"), ("folder-code", "x")):
        platform.ready(name, f"{name}-1")
        with platform.client(name) as client:
            body = infer([[1.5], [2.0]], name=given, datatype="FP64")
            answer = client.post(f"/v2/models/{name}/infer", json=body).json()
        assert answer["outputs"][0]["data"] == pytest.approx([3.0, 4.0])
