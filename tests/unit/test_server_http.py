"""The server as its clients meet it: the protocol over HTTP, errors, large bodies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_process import KEY, ROWS, Server, serving, task_for
from sklearn.pipeline import Pipeline


@pytest.fixture(scope="session")
def sklearn_server(models: Path, keys: Path) -> Iterator[Server]:
    """The skops model behind a key."""
    with serving(models, task_for(models / "model.skops", auth="key"), "--keys-dir", str(keys)) as server:
        yield server


@pytest.fixture(scope="session")
def onnx_server(models: Path) -> Iterator[Server]:
    """The ONNX model without a key."""
    with serving(models, task_for(models / "plain.onnx")) as server:
        yield server


# The protocol


@pytest.mark.attack("client/no-key")
def test_health_needs_no_key(sklearn_server: Server) -> None:
    """Probes and scrapes get in without a key."""
    assert sklearn_server.get("/v2/health/live").json() == {"live": True}
    assert sklearn_server.get("/v2/health/ready").json() == {"ready": True}
    assert sklearn_server.get("/v2/models/cancer/ready").json() == {"name": "cancer", "ready": True}
    assert sklearn_server.get("/v2/models/cancer/versions/3/ready").status_code == 200
    assert "process_resident_memory_bytes" in sklearn_server.get("/metrics").text


def test_metadata_says_what_the_model_takes_and_gives(sklearn_server: Server) -> None:
    """Server and model describe themselves, with and without version in the path."""
    assert sklearn_server.get("/v2", headers=KEY).json()["name"] == "ultramarine"
    for path in ("/v2/models/cancer", "/v2/models/cancer/versions/3"):
        assert sklearn_server.get(path, headers=KEY).json() == {
            "name": "cancer",
            "versions": ["3"],
            "platform": "sklearn_skops",
            "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 30]}],
            "outputs": [
                {"name": "predict", "datatype": "INT64", "shape": [-1]},
                {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]},
            ],
        }


def test_the_start_line_tells_what_is_served(sklearn_server: Server) -> None:
    """One line of JSON says model, version, format, load time and signature."""
    line = sklearn_server.start_line

    assert (line["event"], line["model"], line["version"], line["format"]) == ("serving", "cancer", "3", "sklearn")
    assert line["loadSeconds"] > 0
    assert line["signature"]["inputs"][0]["name"] == "input"


def test_answers_are_the_models_own(sklearn_server: Server, estimator: Pipeline) -> None:
    """All rows in one request give exactly what the estimator gives in this process."""
    answer = sklearn_server.infer(ROWS, path="/v2/models/cancer/versions/3/infer", headers=KEY).json()

    assert (answer["model_name"], answer["model_version"]) == ("cancer", "3")
    predict, proba = answer["outputs"]
    assert predict["data"] == estimator.predict(ROWS).tolist()
    assert proba["shape"] == [569, 2]
    np.testing.assert_array_equal(np.reshape(proba["data"], (569, 2)), estimator.predict_proba(ROWS))


def test_one_output_can_be_selected(sklearn_server: Server) -> None:
    """Only what was asked for is computed and sent."""
    [output] = sklearn_server.infer(ROWS[:2], outputs=["predict_proba"], headers=KEY).json()["outputs"]

    assert output["name"] == "predict_proba"


@pytest.mark.parametrize("name", ["plain.onnx", "zipmap.onnx"])
def test_onnx_answers_are_the_models_own(models: Path, estimator: Pipeline, name: str) -> None:
    """Both forms that skl2onnx writes are served as matrices and agree with the estimator."""
    with serving(models, task_for(models / name)) as server:
        answer = server.infer(ROWS, "X", "FP32").json()

    label, proba = answer["outputs"]
    assert label["data"] == estimator.predict(ROWS).tolist()
    np.testing.assert_allclose(np.reshape(proba["data"], (569, 2)), estimator.predict_proba(ROWS), atol=1e-5)


@pytest.mark.attack("client/nonsense")
@pytest.mark.parametrize(
    ("method", "path", "headers", "code", "words"),
    [
        ("GET", "/", KEY, 404, "the protocol begins at /v2"),
        ("POST", "/v2/models/cancer/infr", KEY, 404, "/v2/models/cancer/ready and /v2/models/cancer/infer"),
        ("GET", "/v2/models/other", KEY, 404, "model 'other' is unknown; this server has 'cancer'"),
        ("GET", "/v2/models/cancer/versions/4", KEY, 404, "version '4' of 'cancer' is not here"),
        ("POST", "/v2/models/other/infer", KEY, 404, "model 'other' is unknown"),
        ("GET", "/v2/models/cancer/infer", KEY, 405, "GET is not allowed"),
        ("POST", "/v2/models/cancer", KEY, 405, "POST is not allowed"),
        ("POST", "/v2/models/cancer/infer", KEY, 400, "the body is not JSON"),
        ("GET", "/v2", {}, 401, "a valid key is needed"),
        ("GET", "/v2/models/cancer", {"api-key": "wrong"}, 401, "a valid key is needed"),
        ("GET", "/v2/models/other", {}, 401, "a valid key is needed"),
        ("POST", "/v2/models/cancer/infer", {"authorization": "Bearer wrong"}, 401, "a valid key is needed"),
    ],
)
def test_errors_are_json_with_the_right_code(
    sklearn_server: Server, method: str, path: str, headers: dict[str, str], code: int, words: str
) -> None:
    """Whatever is wrong, the answer is {"error": ...} with a sentence."""
    answer = httpx.request(method, sklearn_server.url + path, headers=headers)

    assert answer.status_code == code
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert code != 401 or answer.headers["www-authenticate"].startswith("Bearer")
    assert code != 405 or answer.headers["allow"]


def test_wrong_rows_are_the_clients_to_mend(sklearn_server: Server) -> None:
    """Too few features is a 400 that says both numbers."""
    answer = sklearn_server.infer(ROWS[:1, :29], headers=KEY)

    assert answer.status_code == 400
    assert answer.json() == {"error": "input 'input': shape [-1, 30] expected, [1, 29] came"}


def test_the_request_id_is_echoed_or_made(sklearn_server: Server) -> None:
    """A trace goes through; what cannot be a header value is replaced."""
    assert sklearn_server.get("/v2/health/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(sklearn_server.get("/v2/health/live", headers={"x-request-id": "a b"}).headers["x-request-id"]) == 32


def test_requests_are_counted(onnx_server: Server) -> None:
    """Answers by code, latency and requests in flight can be scraped; probes are not among them."""
    onnx_server.infer(ROWS[:1], "X", "FP32")
    onnx_server.infer(ROWS[:1], "Y", "FP32")
    onnx_server.get("/v2/health/ready")

    text = onnx_server.get("/metrics").text

    assert 'ultramarine_server_requests_total{code="200",route="infer"}' in text
    assert 'ultramarine_server_requests_total{code="400",route="infer"}' in text
    assert 'ultramarine_server_request_seconds_bucket{le="0.5",route="infer"}' in text
    assert "ultramarine_server_in_flight" in text
    assert 'route=""' not in text


# Bodies


def memory_peak(server: Server) -> int:
    """Return the most memory that the server has ever had, in MiB."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.attack(
    "client/huge-body",
    asset="memory of the server",
    threat="huge bodies, announced or not",
    control="refused above 64 MiB without being kept",
)
@pytest.mark.parametrize("announced", [True, False])
def test_a_100_mb_body_is_refused_without_keeping_it(onnx_server: Server, announced: bool) -> None:
    """The client sends everything, reads a 413 in JSON, and the server's memory does not grow by that body."""
    onnx_server.infer(ROWS[:1], "X", "FP32")
    before = memory_peak(onnx_server)
    mega = b" " * 1024 * 1024

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield mega

    headers = {"content-length": str(100 * len(mega))} if announced else {}
    answer = httpx.post(onnx_server.url + "/v2/models/cancer/infer", content=body(), headers=headers, timeout=240)

    assert answer.status_code == 413
    assert "larger than 67108864 bytes" in answer.json()["error"]
    # Without a length the server has to hold what could still be a good body, up to the limit.
    assert memory_peak(onnx_server) - before < (16 if announced else 100)


def test_an_announced_size_is_refused_before_the_body(onnx_server: Server) -> None:
    """A client that waits for `100 Continue` never has to send the body at all."""
    with socket.create_connection(("127.0.0.1", onnx_server.port), timeout=240) as connection:
        head = ["POST /v2/models/cancer/infer HTTP/1.1", "host: x", "content-length: 99999999", "expect: 100-continue"]
        connection.sendall("\r\n".join([*head, "", ""]).encode())

        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("header", "code", "words"),
    [
        ({"content-encoding": "br"}, 415, "content-encoding br is not supported; send gzip, deflate or plain JSON"),
        ({"content-encoding": "gzip"}, 400, "the body ends in the middle of its gzip stream"),
        ({"inference-header-content-length": "20"}, 400, "it must be the length of the JSON document in the body"),
        ({"content-type": "text/csv"}, 415, "content-type text/csv is not supported; send application/json"),
    ],
)
def test_what_is_not_what_its_headers_say_is_refused_in_words(
    onnx_server: Server, header: dict[str, str], code: int, words: str
) -> None:
    """Encodings and types that are unknown, and bodies that belie theirs, are told apart."""
    answer = httpx.post(f"{onnx_server.url}/v2/models/cancer/infer", content=b"\x1f\x8b", headers=header)

    assert answer.status_code == code
    assert words in answer.json()["error"]
