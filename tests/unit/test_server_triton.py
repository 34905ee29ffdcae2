"""The server as NVIDIA's own client meets it, unchanged: JSON and binary tensors, compression, the repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from asking import infer
from serving_inside import Doubling
from serving_process import KEY, ROWS, Server, serving, task_for
from sklearn.pipeline import Pipeline
from tritonclient.utils import InferenceServerException
from ultramarine_server.errors import BadRequest


@pytest.fixture(scope="module")
def server(models: Path, keys: Path) -> Iterator[Server]:
    """The ONNX model behind a key."""
    with serving(models, task_for(models / "plain.onnx", auth="key"), "--keys-dir", str(keys)) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """A client of that server."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


# Headers are passed as copies: the client writes into them.


def rows_input(*, binary: bool) -> triton.InferInput:
    """All rows of the set."""
    tensor = triton.InferInput("X", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS.astype(np.float32), binary_data=binary)
    return tensor


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_its_client_gets_the_models_answers(
    client: triton.InferenceServerClient, estimator: Pipeline, sent: bool, taken: bool, compression: str | None
) -> None:
    """Bytes or JSON, either way, compressed or not, give the same numbers."""
    requested = [triton.InferRequestedOutput(name, binary_data=taken) for name in ("label", "probabilities")]

    answer = client.infer(
        "cancer",
        [rows_input(binary=sent)],
        outputs=requested,
        request_id="42",
        headers=dict(KEY),
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )

    np.testing.assert_array_equal(answer.as_numpy("label"), estimator.predict(ROWS))
    np.testing.assert_allclose(answer.as_numpy("probabilities"), estimator.predict_proba(ROWS), atol=1e-5)
    described = answer.get_output("probabilities")
    assert described["datatype"] == "FP32"
    assert ("data" in described) is not taken
    assert answer.get_response()["id"] == "42"


def test_its_client_asks_for_all_outputs_as_bytes(client: triton.InferenceServerClient) -> None:
    """Without a list of outputs the client wants all of them, in bytes (`binary_data_output`)."""
    answer = client.infer("cancer", [rows_input(binary=True)], model_version="3", headers=dict(KEY))

    assert "data" not in answer.get_output("label")
    assert answer.as_numpy("probabilities").shape == (569, 2)


def test_its_client_reads_metadata_and_health(client: triton.InferenceServerClient) -> None:
    """It understands metadata and health of the server and the model."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cancer", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata(dict(KEY))["extensions"] == ["binary_tensor_data", "model_repository"]
    assert client.get_model_metadata("cancer", headers=dict(KEY))["inputs"][0]["name"] == "X"


def test_its_client_reads_errors(client: triton.InferenceServerClient) -> None:
    """An error of the server is its exception, with status and message."""
    with pytest.raises(InferenceServerException, match="model 'other' is unknown") as caught:
        client.infer("other", [rows_input(binary=True)], headers=dict(KEY))
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="a valid key is needed"):
        client.get_model_metadata("cancer")


def test_a_model_is_unloaded_and_loaded(client: triton.InferenceServerClient) -> None:
    """Without its model the server is not ready and says so; loaded again from disk it answers as before."""
    [entry] = client.get_model_repository_index(dict(KEY))
    assert (entry["name"], entry["version"], entry["state"]) == ("cancer", "3", "READY")
    client.unload_model("cancer", headers=dict(KEY))
    try:
        assert not client.is_server_ready()
        assert client.is_server_live()
        assert not client.is_model_ready("cancer")
        assert client.get_model_repository_index(dict(KEY))[0]["state"] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="model 'cancer' is not loaded") as caught:
            client.infer("cancer", [rows_input(binary=True)], headers=dict(KEY))
        assert caught.value.status() == "400"
    finally:
        client.load_model("cancer", headers=dict(KEY))

    assert client.is_server_ready()
    assert client.infer("cancer", [rows_input(binary=True)], headers=dict(KEY)).as_numpy("label").shape == (569,)


def test_only_the_registered_model_is_loaded(client: triton.InferenceServerClient) -> None:
    """Another configuration, other files, other names: none of that can be brought in by a call."""
    with pytest.raises(InferenceServerException, match="parameters of a load are not supported"):
        client.load_model("cancer", headers=dict(KEY), config="{}")
    with pytest.raises(InferenceServerException, match="model 'other' is unknown"):
        client.load_model("other", headers=dict(KEY))
    with pytest.raises(InferenceServerException, match="a valid key is needed"):
        client.unload_model("cancer")


def test_what_everybody_may_ask_nobody_may_unload(models: Path) -> None:
    """An endpoint without keys does not let one of its clients take the model away from the others."""
    with (
        serving(models, task_for(models / "plain.onnx")) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client,
        pytest.raises(InferenceServerException, match="loading and unloading need an endpoint with keys") as caught,
    ):
        client.unload_model("cancer")
    assert caught.value.status() == "403"


# Binary tensors, without the client's good manners


def binary_body(data: bytes, changes: dict[str, Any]) -> tuple[bytes, str]:
    """Return a request of one row in bytes, with `changes`, and the length of its document."""
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 2], "parameters": {"binary_data_size": len(data)}}
    document = json.dumps({"inputs": [tensor | changes]}).encode()
    return document + data, str(len(document))


GOOD = np.array([1.0, 2.0]).tobytes()


def test_bytes_in_give_json_out_where_no_bytes_are_wanted() -> None:
    """The form of the answer does not depend on the form of the request."""
    body, length = binary_body(GOOD, {})

    assert json.loads(infer(Doubling(), "double", "1", body, length))["outputs"][0]["data"] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("data", "changes", "words"),
    [
        (GOOD[:-1], {}, "shape [1, 2] of FP64 wants 16 bytes, 15 came"),
        (GOOD, {"parameters": {"binary_data_size": 8}}, "shape [1, 2] of FP64 wants 16 bytes, 8 came"),
        (GOOD, {"parameters": {"binary_data_size": 17}}, "binary_data_size says 17 bytes, 16 came"),
        (GOOD, {"parameters": {"binary_data_size": -1}}, "binary_data_size must be a number of bytes"),
        (GOOD, {"parameters": {"binary_data_size": True}}, "binary_data_size must be a number of bytes"),
        (GOOD + b"x", {"parameters": {"binary_data_size": 16}}, "1 bytes follow the last tensor"),
        (GOOD, {"parameters": {}, "data": [1, 2]}, "16 bytes follow the last tensor"),
        (GOOD, {"shape": [9**9, 9**9]}, "bytes, 16 came"),
        (b"\x02\x01", {"datatype": "BOOL"}, "a BOOL byte must be 0 or 1"),
        (b"\x01\x00\x00\x00a\x09\x00\x00\x00b", {"datatype": "BYTES"}, "a BYTES element has 9 bytes"),
        (b"\x01\x00\x00\x00a\x01\x00", {"datatype": "BYTES"}, "a BYTES element is cut off within its length"),
        (b"\x01\x00\x00\x00a", {"datatype": "BYTES"}, "the shape wants 2 BYTES elements, 1 came"),
        (b"\x00\x00\x00\x00" * 3, {"datatype": "BYTES"}, "the shape wants 2 BYTES elements, 3 came"),
        (b"\x01\x00\x00\x00\xff" * 2, {"datatype": "BYTES"}, "a BYTES element is not UTF-8 text"),
    ],
)
def test_bytes_that_do_not_fit_are_refused_in_words(data: bytes, changes: dict[str, Any], words: str) -> None:
    """Sizes, counts and lengths are checked before anything is made of them."""
    body, length = binary_body(data, changes)

    with pytest.raises(BadRequest) as caught:
        infer(Doubling(), "double", "1", body, length)
    assert words in str(caught.value)
