"""Azure ML endpoints as they are: two scripts with packages, an MLflow model without a script, and a container."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import joblib
import mlflow.sklearn
import pytest
import yaml
from conftest import Platform
from mlflow.models import infer_signature
from person import Person, data_scientist
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from ultramarine_cluster import archives
from ultramarine_cluster.paths import State
from ultramarine_contract.routes import PIN_HEADER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # it builds an image and an environment

SCHEMA = "https://azuremlschemas.azureedge.net/latest/managedOnline{}.schema.json"
CONDA = {"name": "model-env", "dependencies": ["python=3.11", "pip", {"pip": ["azureml-defaults", "joblib", "numpy"]}]}
SCORE = """\
import json
import logging
import os

import joblib
import numpy


def init():
    global weights
    path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "model/weights.pkl")
    weights = joblib.load(path)["weights"]
    logging.info("init is complete")


def run(raw_data):
    rows = numpy.array(json.loads(raw_data)["data"])
    return (rows @ numpy.array(weights)).tolist()
"""
SERVER = """\
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ["MODEL_NAME"]
with open(os.path.join(os.environ["MODEL_BASE_PATH"], NAME, "weight.txt")) as file:
    WEIGHT = float(file.read())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == f"/v1/models/{NAME}" else 404, {})

    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        known = self.path == f"/v1/models/{NAME}:predict"
        self.answer(200 if known else 404, {"predictions": [WEIGHT * row + 2 for row in rows]})

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


ThreadingHTTPServer(("0.0.0.0", 8501), Handler).serve_forever()
"""
DOCKERFILE = 'FROM python:3.11-slim\nCOPY server.py /server.py\nCMD ["python3", "/server.py"]\n'
VM = {"instance_type": "Standard_DS3_v2", "instance_count": 1}


def endpoint(name: str) -> dict[str, Any]:
    """The file of an endpoint."""
    return {"$schema": SCHEMA.format("Endpoint"), "name": name, "auth_mode": "key"}


def deployment(name: str, endpoint: str, **fields: Any) -> dict[str, Any]:
    """The file of a deployment."""
    return {"$schema": SCHEMA.format("Deployment"), "name": name, "endpoint_name": endpoint, **fields, **VM}


def scripted(name: str, folder: str) -> dict[str, Any]:
    """A deployment of a folder with model, script and conda file, as in managed/sample."""
    environment = {"conda_file": f"../{folder}/environment/conda.yml", "image": "mcr.microsoft.com/azureml/base:1"}
    return deployment(
        name,
        "azure-sample",
        model={"path": f"../{folder}/model/"},
        code_configuration={"code": f"../{folder}/onlinescoring/", "scoring_script": "score.py"},
        environment=environment,
    )


def pickled(weights: list[float]) -> bytes:
    """A model as joblib stores it."""
    file = io.BytesIO()
    joblib.dump({"weights": weights}, file)
    return file.getvalue()


def in_container(image: str) -> dict[str, Any]:
    """A deployment of an image with the routes of its server, as in custom-container."""
    route = {"port": 8501, "path": "/v1/models/half_plus_two"}
    routes = {"liveness_route": route, "readiness_route": route}
    routes["scoring_route"] = {"port": 8501, "path": f"{route['path']}:predict"}
    folder = "/var/azureml-app/azureml-models/azure-half/1"
    return deployment(
        "served",
        "azure-container",
        model={"name": "azure-half", "version": 1, "path": "./half_plus_two"},
        environment_variables={"MODEL_BASE_PATH": folder, "MODEL_NAME": "half_plus_two"},
        environment={"image": image, "inference_config": routes},
    )


@pytest.fixture(scope="module")
def eve(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The data scientist, with folders in the shapes of Azure's examples."""
    folder = tmp_path_factory.mktemp("eve")
    files: dict[str, str | bytes] = {
        "sample/endpoint.yml": yaml.safe_dump(endpoint("azure-sample")),
        "sample/blue-deployment.yml": yaml.safe_dump(scripted("blue", "model-1")),
        "sample/green-deployment.yml": yaml.safe_dump(scripted("green", "model-2")),
        "container/half_plus_two/weight.txt": "0.5",
        "image/server.py": SERVER,
        "image/Dockerfile": DOCKERFILE,
    }
    for number in (1, 2):
        files |= {
            f"model-{number}/model/weights.pkl": pickled([number, 1.0]),
            f"model-{number}/onlinescoring/score.py": SCORE,
            f"model-{number}/environment/conda.yml": yaml.safe_dump(CONDA),
        }
    for name, content in files.items():
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "image").rename(folder / "azure-half-plus-two")
    image = archives.load(str(folder / "azure-half-plus-two"), State("full"))
    (folder / "container" / "deployment.yml").write_text(yaml.safe_dump(in_container(image)))
    logged = {"name": "azure-iris", "version": 1, "path": "sklearn-iris/model", "type": "mlflow_model"}
    (folder / "ncd").mkdir()
    (folder / "ncd" / "deployment.yaml").write_text(yaml.safe_dump(deployment("plain", "azure-ncd", model=logged)))
    frame, classes = load_iris(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=500).fit(frame, classes)
    mlflow.sklearn.save_model(
        model,
        str(folder / "ncd" / "sklearn-iris" / "model"),
        serialization_format="skops",
        signature=infer_signature(frame, classes),
        pip_requirements=["scikit-learn"],
    )
    return Person(folder, data_scientist(platform, "azure-eve", folder))


def ready(platform: Platform, name: str) -> None:
    """Wait until an endpoint answers."""
    platform.kubectl("wait", f"oe/{name}", "--for=condition=Ready", "--timeout=10m")


def test_scripts_answer_with_their_packages(eve: Person, platform: Platform) -> None:
    """Blue is submitted, then green beside it without traffic; models, scripts and conda files are in other folders."""
    eve.run("submit", "sample/blue-deployment.yml")
    ready(platform, "azure-sample")
    rows = {"data": [[1.0, 2.0], [3.0, 4.0]]}
    with platform.client("azure-sample") as client:
        assert client.post("/score", json=rows).json() == [3.0, 7.0]
        eve.run("submit", "sample/green-deployment.yml")
        states = {"blue": "Ready", "green": "Ready"}
        platform.wait("oe", "azure-sample", lambda s: {d["name"]: d["state"] for d in s["deployments"]} == states, 600)
        assert client.post("/score", json=rows, headers={PIN_HEADER: "green"}).json() == [4.0, 10.0]
        assert client.post("/score", json=rows).json() == [3.0, 7.0]


def test_an_mlflow_model_answers_without_a_script(eve: Person, platform: Platform) -> None:
    """The request has Azure's form of a table, and the answer has the predictions."""
    eve.run("submit", "ncd/deployment.yaml")
    ready(platform, "azure-ncd")
    frame, _ = load_iris(return_X_y=True, as_frame=True)
    table = {"columns": list(frame.columns), "index": [0, 1], "data": frame.iloc[[0, 140]].to_numpy().tolist()}
    with platform.client("azure-ncd") as client:
        assert client.post("/score", json={"input_data": table}).json()["predictions"] == [0, 2]


def test_a_container_answers_at_its_routes(eve: Person, platform: Platform) -> None:
    """After `convert` and `apply` the image serves: variables name the model's folder, and the routes are its own."""
    location = f"s3://ultramarine/{platform.namespace}"
    eve.run("convert", "azureml", "container", "-o", "manifests", "--location", location)
    eve.run("data", "put", "container/half_plus_two", "models/half-plus-two/")
    eve.run("apply", *(str(file) for file in sorted((eve.folder / "manifests").iterdir())))
    ready(platform, "azure-container")
    with platform.client("azure-container") as client:
        answer = client.post("/v1/models/half_plus_two:predict", json={"instances": [1.0, 2.0, 5.0]})
        assert answer.json() == {"predictions": [2.5, 3.0, 4.5]}
        assert client.get("/v1/models/another").status_code == 404
    with platform.client("azure-container", "wrong") as client:
        assert client.get("/v1/models/half_plus_two").status_code == 401
