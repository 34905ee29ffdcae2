"""Servers of other makers, each built from a folder by the launcher and put behind an endpoint by its manifest."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from platform import machine
from urllib.parse import urlsplit

import joblib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import Platform, condition
from manifests import model_version
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from ultramarine_cluster import archives
from ultramarine_cluster.paths import REPOSITORY, State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first time it builds three images

IMAGES = REPOSITORY / "tests" / "images"


def iris() -> bytes:
    """A classifier as joblib stores it."""
    file = io.BytesIO()
    joblib.dump(LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), file)
    return file.getvalue()


MODELS = {
    "foreign-iris": ("joblib", iris()),
    "foreign-speed": ("csv", b"intercept,speed\n-17.5,3.5\n"),
}


DOCKERFILE = """
FROM python:3.11-slim
COPY serve /serve
RUN chmod +x /serve
CMD ["/serve"]
"""


def program_of_another_machine() -> bytes:
    """The head of a program for arm64, or for x86_64 on arm64."""
    number = 183 if machine() == "x86_64" else 62
    head = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + head


@pytest.fixture(scope="module")
def foreign(platform: Platform) -> Platform:
    """All images in the cluster, the models in the bucket, and an endpoint for each server."""
    for model, (suffix, content) in MODELS.items():
        uri = platform.put(f"{model}.{suffix}", content)
        platform.apply(model_version(model, 1, uri, content))  # only the platform's server reads the format
    for name in ("fastapi", "plumber", "mlserver"):
        assert archives.load(str(IMAGES / name), State("full")) == f"docker.io/library/{name}:local"
        platform.kubectl("apply", "-f", str(IMAGES / name / "endpoint.yaml"))
    return platform


def test_mlserver_answers_clients_of_the_open_inference_protocol(foreign: Platform) -> None:
    """Its metadata and answers reach clients, and its inputs the status; no call passes without a key."""
    foreign.ready("foreign-mlserver", "foreign-iris-1", 300)
    headers = {"authorization": f"Bearer {foreign.secret('foreign-mlserver-keys')['primary']}"}
    flowers = np.array([[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]])
    for port, triton, as_json in ((80, triton_http, {"binary_data": False}), (9000, triton_grpc, {})):
        with foreign.target.reach(foreign.namespace, "foreign-mlserver", port) as url:
            client = triton.InferenceServerClient(urlsplit(url).netloc)
            assert "flowers" in str(client.get_model_metadata("iris", headers=headers))
            given, asked = (
                triton.InferInput("flowers", [2, 4], "FP64"),
                triton.InferRequestedOutput("predict", **as_json),
            )
            given.set_data_from_numpy(flowers, **as_json)  # MLServer reads no binary data of this client
            answer = client.infer("iris", [given], outputs=[asked], headers=headers)
            assert answer.as_numpy("predict").ravel().tolist() == [0, 2]
    inputs = [{"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}]
    foreign.wait(
        "oe",
        "foreign-mlserver",
        lambda status: [i["inputs"] for i in (status.get("signatures") or {}).get("known", [])] == [inputs],
    )
    with foreign.client("foreign-mlserver", "wrong") as http:
        assert http.get("/v2/models/iris").status_code == 401


def test_r_answers_with_its_model(foreign: Platform) -> None:
    """A server of plumber reads the mounted model, and answers under its own path."""
    foreign.ready("foreign-plumber", "foreign-speed-1", 300)
    with foreign.client("foreign-plumber") as client:
        assert client.post("/predict", json={"speed": [10, 20]}).json() == {"distance": [17.5, 52.5]}
        assert client.post("/predict", json={"speed": "fast"}).status_code == 500


def test_fastapi_answers_without_a_model(foreign: Platform) -> None:
    """An app's paths, its own refusal, its documentation and its stream pass the gateway."""
    foreign.wait("oe", "foreign-fastapi", lambda status: condition(status, "Ready").get("status") == "True", 300)
    with foreign.client("foreign-fastapi") as client:
        assert client.post("/api/convert", json={"celsius": 100}).json() == {"fahrenheit": 212}
        assert client.post("/api/convert", json={"kelvin": 1}).status_code == 422
        assert client.get("/openapi.json").json()["paths"].keys() >= {"/api/convert"}
        assert client.get("/api/table").text.splitlines() == ["0 32", "10 50", "20 68"]


def test_an_image_for_another_machine_is_named(platform: Platform, tmp_path: Path) -> None:
    """The status says what the image was built for, rather than that its program is no program."""
    folder = tmp_path / "foreign-machine"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "serve").write_bytes(program_of_another_machine())
    image = archives.load(str(folder), State("full"))
    deployment = {"name": "blue", "container": {"image": image, "ports": {"http": 8000}}}
    owner = {"kind": "OnlineEndpoint", "metadata": {"name": "foreign-machine"}, "spec": {"deployments": [deployment]}}
    platform.apply(owner)
    words = f"image {image} was built for another architecture"
    platform.wait("oe", "foreign-machine", lambda status: words in condition(status, "Ready").get("message", ""))
    platform.delete("oe", "foreign-machine")
