"""The server as its gRPC clients meet it: tritonclient and plain stubs, by raw and by typed contents."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from ports import free_port
from serving_process import KEY, ROWS, Server, environment, serving, task_for
from sklearn.pipeline import Pipeline
from tritonclient.grpc import service_pb2 as v2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException
from ultramarine_contract.serving_records import ServingTask

# Two rows of every datatype, with the ends of what it can hold; and where typed contents have them.
VALUES: dict[str, tuple[Any, str]] = {
    "BOOL": (np.array([[True, False], [False, True]]), "bool_contents"),
    "UINT8": (np.array([[0, 255], [1, 2]], np.uint8), "uint_contents"),
    "UINT16": (np.array([[0, 65535], [1, 2]], np.uint16), "uint_contents"),
    "UINT32": (np.array([[0, 2**32 - 1], [1, 2]], np.uint32), "uint_contents"),
    "UINT64": (np.array([[0, 2**64 - 1], [1, 2]], np.uint64), "uint64_contents"),
    "INT8": (np.array([[-128, 127], [1, 2]], np.int8), "int_contents"),
    "INT16": (np.array([[-32768, 32767], [1, 2]], np.int16), "int_contents"),
    "INT32": (np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32), "int_contents"),
    "INT64": (np.array([[-(2**63), 2**63 - 1], [1, 2]], np.int64), "int64_contents"),
    "FP16": (np.array([[-65504, 0.5], [np.inf, 1]], np.float16), ""),
    "FP32": (np.array([[-1e38, 0.1], [np.inf, 1]], np.float32), "fp32_contents"),
    "FP64": (np.array([[-1e308, 0.1], [np.inf, 1]], np.float64), "fp64_contents"),
    "BYTES": (np.array([["", "ä b"], ["long " * 100, "\n"]], object), "bytes_contents"),
}
HEALTH = "grpc.health.v1.Health"


class GrpcServer:
    """A server process and its gRPC side."""

    def __init__(self, http: Server, port: int) -> None:
        self.http, self.address = http, f"127.0.0.1:{port}"
        self.client = triton.InferenceServerClient(self.address)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = GRPCInferenceServiceStub(self.channel)

    def infer(self, rows: Any, name: str = "input", **options: Any) -> Any:
        """Send rows of FP64 to the model `cancer` by tritonclient."""
        return self.client.infer("cancer", [tensor(name, np.asarray(rows), "FP64")], **options)

    def health(self, service: str = "") -> int:
        """Return the number of the status, or raise what the server says."""
        answer: bytes = self.channel.unary_unary(f"/{HEALTH}/Check")(_asked(service), timeout=240)
        return answer[1] if answer else 0

    def counted(self, route: str, code: int) -> float:
        """Return how many answers of a route had this code."""
        label = f'ultramarine_server_requests_total{{code="{code}",route="{route}"}}'
        match = re.search(re.escape(label) + r" (\S+)", self.http.get("/metrics").text)
        return float(match[1]) if match else 0


def _asked(service: str) -> bytes:
    """The health protocol's request: one string, as field 1."""
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    """Return an input of tritonclient."""
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


@contextmanager
def grpc_serving(folder: Path, task: ServingTask, *arguments: str) -> Iterator[GrpcServer]:
    """Run a server that speaks both protocols until the block ends."""
    port = free_port()
    with serving(folder, task, "--grpc-port", str(port), *arguments) as http:
        server = GrpcServer(http, port)
        yield server
        server.client.close()
        server.channel.close()


def echo(folder: Path, names: list[str], *more: Any) -> ServingTask:
    """Write a model with an input and an output of each datatype, which gives back what it gets."""
    types = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
    given = {name: getattr(TensorProto, types.get(name, name)) for name in names}
    made = [(f"out_{name}", kind) for name, kind in given.items()] + [("half", TensorProto.FLOAT16)] * len(more)
    graph = helper.make_graph(
        [*(helper.make_node("Identity", [name], [f"out_{name}"]) for name in given), *more],
        "echo",
        [helper.make_tensor_value_info(name, kind, [None, 2]) for name, kind in given.items()],
        [helper.make_tensor_value_info(name, kind, [None, 2]) for name, kind in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "echo.onnx").write_bytes(model.SerializeToString())
    return task_for(folder / "echo.onnx")


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A model that gives back every datatype. No key is wanted."""
    folder = tmp_path_factory.mktemp("echo")
    with grpc_serving(folder, echo(folder, list(VALUES))) as server:
        yield server


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A model that gives back every datatype that typed contents have, and FP32 as FP16 besides."""
    folder = tmp_path_factory.mktemp("typed")
    half = helper.make_node("Cast", ["FP32"], ["half"], to=TensorProto.FLOAT16)
    with grpc_serving(folder, echo(folder, [name for name, (_, field) in VALUES.items() if field], half)) as server:
        yield server


@pytest.fixture(scope="module")
def cancer(models: Path, keys: Path) -> Iterator[GrpcServer]:
    """The skops model behind a key."""
    with grpc_serving(models, task_for(models / "model.skops", auth="key"), "--keys-dir", str(keys)) as server:
        yield server


def typed_request(**changes: Any) -> v2.ModelInferRequest:
    """Return a request with typed contents of every datatype that has some."""
    request = v2.ModelInferRequest(model_name="cancer", id="q-1")
    for name, (values, field) in VALUES.items():
        if field:
            flat = changes.get(name, values.ravel().tolist())
            given = request.inputs.add(name=name, datatype=name, shape=values.shape)
            getattr(given.contents, field).extend([v.encode() for v in flat] if name == "BYTES" else flat)
            if name != "half":
                request.outputs.add(name=f"out_{name}")
    return request


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Return the status and the words with which a call is refused."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    except InferenceServerException as error:
        return getattr(grpc.StatusCode, error.status().removeprefix("StatusCode.")), error.message()
    raise AssertionError("it was not refused")


# The protocol


def test_tritonclient_finds_server_and_model_well(cancer: GrpcServer) -> None:
    """Probes need no key, and metadata says what the model takes and gives."""
    client = cancer.client

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cancer")
    assert client.is_model_ready("cancer", "3")
    server = client.get_server_metadata(headers=KEY, as_json=True)
    assert server["name"] == "ultramarine"
    assert "model_repository" in server["extensions"]
    assert client.get_model_metadata("cancer", headers=KEY, as_json=True) == {
        "name": "cancer",
        "versions": ["3"],
        "platform": "sklearn_skops",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": ["-1", "30"]}],
        "outputs": [
            {"name": "predict", "datatype": "INT64", "shape": ["-1"]},
            {"name": "predict_proba", "datatype": "FP64", "shape": ["-1", "2"]},
        ],
    }


def test_predictions_are_those_of_the_model(cancer: GrpcServer, estimator: Pipeline) -> None:
    """Labels and probabilities are the estimator's own; selected outputs come alone, with the request's id."""
    whole = cancer.infer(ROWS[:50], headers=KEY)
    part = cancer.infer(ROWS[:2], headers=KEY, request_id="q-7", outputs=[triton.InferRequestedOutput("predict_proba")])

    np.testing.assert_array_equal(whole.as_numpy("predict"), estimator.predict(ROWS[:50]))
    np.testing.assert_array_equal(whole.as_numpy("predict_proba"), estimator.predict_proba(ROWS[:50]))
    answer = part.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("q-7", "cancer", "3")
    assert [output.name for output in answer.outputs] == ["predict_proba"]


def test_raw_contents_of_every_datatype_come_back(echoing: GrpcServer) -> None:
    """tritonclient's values of each datatype arrive unchanged, and are answered raw."""
    result = echoing.client.infer("cancer", [tensor(name, values, name) for name, (values, _) in VALUES.items()])

    assert len(result.get_response().raw_output_contents) == len(VALUES)
    for name, (values, _) in VALUES.items():
        got = result.as_numpy(f"out_{name}")
        assert result.get_output(f"out_{name}").datatype == name
        assert got.tolist() == [[v.encode() for v in row] if name == "BYTES" else row for row in values.tolist()]


def test_typed_contents_of_every_datatype_come_back(typed: GrpcServer) -> None:
    """A client that sends values in the protocol's lists gets its answer in them."""
    answer = typed.stub.ModelInfer(typed_request())

    assert answer.id == "q-1"
    assert not answer.raw_output_contents
    for output in answer.outputs:
        values, field = VALUES[output.datatype]
        assert list(output.shape) == [2, 2]
        assert [name.name for name, _ in output.contents.ListFields()] == [field]
        sent = [v.encode() for v in values.ravel()] if output.datatype == "BYTES" else values.ravel().tolist()
        assert list(getattr(output.contents, field)) == sent
    assert len(answer.outputs) == len(VALUES) - 1


def test_half_floats_are_always_raw(typed: GrpcServer, echoing: GrpcServer) -> None:
    """The protocol has no list for FP16: an answer with some is raw altogether, and a typed request is refused."""
    request = typed_request()
    request.outputs.add(name="half")
    answer = typed.stub.ModelInfer(request)
    half = v2.ModelInferRequest(model_name="cancer")
    half.inputs.add(name="FP16", datatype="FP16", shape=[1]).contents.fp32_contents.extend([0.5])

    assert len(answer.raw_output_contents) == len(answer.outputs) == len(VALUES)
    assert np.frombuffer(answer.raw_output_contents[-1], np.float16)[1] == np.float16(0.1)
    assert refusal(echoing.stub.ModelInfer, half) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'FP16': FP16 has no typed contents; send raw_input_contents",
    )


def test_a_request_id_goes_with_the_answer(cancer: GrpcServer) -> None:
    """The id that a client sends, or one that is made, is in the trailing metadata of good and bad answers alike."""

    def seen(*given: tuple[str, str]) -> str:
        ask = v2.ModelMetadataRequest(name="cancer")
        try:
            _, call = cancer.stub.ModelMetadata.with_call(ask, metadata=given)
        except grpc.RpcError as error:
            call = error
        return str(dict(call.trailing_metadata())["x-request-id"])

    assert seen(("api-key", "first-key"), ("x-request-id", "trace-7")) == "trace-7"
    assert seen(("x-request-id", "trace-8")) == "trace-8"
    assert re.fullmatch("[0-9a-f]{32}", seen(("x-request-id", "not good")))


# Streams


@contextmanager
def streaming(server: GrpcServer, **options: Any) -> Iterator[queue.Queue[Any]]:
    """Open tritonclient's stream; what it tells, results and errors, comes out of the queue."""
    answers: queue.Queue[Any] = queue.Queue()
    server.client.start_stream(callback=lambda result, error: answers.put(error or result), **options)
    try:
        yield answers
    finally:
        server.client.stop_stream()


def test_a_stream_answers_each_request_in_its_order(cancer: GrpcServer, estimator: Pipeline) -> None:
    """Answers carry the ids of their requests; a bad request among them is told so and the stream goes on."""
    with streaming(cancer, headers=KEY) as answers:
        for index in range(20):
            rows = ROWS[index : index + 1] if index != 7 else ROWS[:1, :3]
            inputs = [tensor("input", rows, "FP64")]
            cancer.client.async_stream_infer("cancer", inputs, request_id=f"q-{index}")
        got = [answers.get(timeout=240) for _ in range(20)]

    bad = got.pop(7)
    assert isinstance(bad, InferenceServerException)
    assert "input 'input': shape [-1, 30] expected, [1, 3] came" in bad.message()
    assert [result.get_response().id for result in got] == [f"q-{index}" for index in range(20) if index != 7]
    labels = [int(result.as_numpy("predict")[0]) for result in got]
    assert labels == [int(label) for index, label in enumerate(estimator.predict(ROWS[:20])) if index != 7]


def test_an_answer_in_a_stream_is_told_to_be_the_last(cancer: GrpcServer) -> None:
    """Clients of Triton that wait for the final response of a request see that it is, and errors bear the id."""
    good = v2.ModelInferRequest(model_name="cancer", id="a")
    good.inputs.add(name="input", datatype="FP64", shape=[1, 30])
    good.raw_input_contents.append(ROWS[:1].tobytes())
    bad = v2.ModelInferRequest(model_name="missing", id="b")
    answers = list(cancer.stub.ModelStreamInfer(iter([good, bad]), metadata=tuple(KEY.items()), timeout=240))

    assert answers[0].infer_response.parameters["triton_final_response"].bool_param
    assert [answer.infer_response.id for answer in answers] == ["a", "b"]
    assert answers[1].error_message == "model 'missing' is unknown; this server has 'cancer'"


def test_a_stream_needs_a_key_too(cancer: GrpcServer) -> None:
    """Without one it ends before the first answer."""
    with streaming(cancer) as answers:
        error = answers.get(timeout=240)

    assert error.status() == "StatusCode.UNAUTHENTICATED"


# The repository


def test_a_model_is_unloaded_and_loaded_again(models: Path, tmp_path: Path) -> None:
    """Whoever has a key takes the model out and puts it back; meanwhile the server says that it is not ready."""
    (tmp_path / "primary").write_text("first-key")
    task = task_for(models / "plain.onnx", auth="key")
    with grpc_serving(models, task, "--keys-dir", str(tmp_path)) as server:
        client = server.client

        def state() -> Any:
            return client.get_model_repository_index(headers=KEY, as_json=True)["models"][0]["state"]

        def infer() -> Any:
            return client.infer("cancer", [tensor("X", ROWS[:1].astype(np.float32), "FP32")], headers=KEY)

        assert state() == "READY"
        client.unload_model("cancer", headers=KEY)
        assert state() == "UNAVAILABLE"
        assert not client.is_model_ready("cancer")
        assert not client.is_server_ready()
        assert server.health() == 2
        assert refusal(infer)[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert "models" not in client.get_model_repository_index(headers=KEY, as_json=True) or state() == "UNAVAILABLE"

        client.load_model("cancer", headers=KEY)
        assert state() == "READY"
        assert server.health() == 1
        assert infer().as_numpy("label").shape == (1,)

        # KServe's clients have the model's name in field 1, and read the answer's two fields.
        named = v2.RepositoryModelLoadRequest(repository_name="cancer")
        answer = server.stub.RepositoryModelLoad(named, metadata=tuple(KEY.items()))
        assert answer.SerializeToString() == b"\x0a\x06cancer\x10\x01"
        changed = refusal(client.load_model, "cancer", headers=KEY, config="{}")
        assert changed[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert refusal(client.load_model, "other", headers=KEY)[0] == grpc.StatusCode.NOT_FOUND


def test_an_open_endpoint_lets_nobody_take_its_model(echoing: GrpcServer) -> None:
    """Without keys all clients may ask, so none may unload."""
    assert refusal(echoing.client.unload_model, "cancer")[0] == grpc.StatusCode.PERMISSION_DENIED
    assert echoing.client.is_model_ready("cancer")


# What is refused


def test_a_key_is_wanted_in_the_metadata(cancer: GrpcServer) -> None:
    """Either way to send a key opens; no key, a wrong one or another scheme does not."""
    for good in (KEY, {"authorization": "Bearer first-key"}):
        assert cancer.infer(ROWS[:1], headers=good).as_numpy("predict").shape == (1,)
    for bad in ({}, {"api-key": "other"}, {"authorization": "Basic first-key"}):
        assert refusal(cancer.infer, ROWS[:1], headers=bad) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "a valid key is needed: send it as metadata, `authorization: Bearer KEY` or `api-key: KEY`",
        )
    assert refusal(cancer.client.get_model_metadata, "cancer")[0] == grpc.StatusCode.UNAUTHENTICATED
    assert refusal(cancer.client.unload_model, "cancer")[0] == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model_name": "churn"}, "NOT_FOUND", "model 'churn' is unknown; this server has 'cancer'"),
        ({"model_version": "4"}, "NOT_FOUND", "version '4' of 'cancer' is not here; this is '3'"),
        ({"name": "rows"}, "INVALID_ARGUMENT", "input 'rows' is unknown; this model takes 'input' (FP64 [-1, 30])"),
        ({"datatype": "BF16"}, "INVALID_ARGUMENT", "input 'input': datatype 'BF16' is unknown; known are BOOL"),
        ({"shape": [10, 3]}, "INVALID_ARGUMENT", "input 'input': shape [-1, 30] expected, [10, 3] came"),
        ({"shape": [-1, 30]}, "INVALID_ARGUMENT", "input 'input': shape [-1, 30] has a negative size"),
        ({"shape": [2, 30]}, "INVALID_ARGUMENT", "shape [2, 30] of FP64 wants 480 bytes, 240 came"),
        ({"shape": [2**62, 2**62]}, "INVALID_ARGUMENT", "bytes, 240 came"),
        ({"raw": []}, "INVALID_ARGUMENT", "input 'input': shape [1, 30] wants 30 values in fp64_contents, 0 came"),
        (
            {"raw": [b"", b""]},
            "INVALID_ARGUMENT",
            "raw_input_contents must hold one entry for each of 1 inputs; 2 came",
        ),
        ({"output": "odds"}, "INVALID_ARGUMENT", "output 'odds' is unknown; this model gives 'predict'"),
        ({"fp64": [1.0]}, "INVALID_ARGUMENT", "values came in raw_input_contents and in contents; send one of them"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(cancer: GrpcServer, change: Any, code: str, words: str) -> None:
    """Status and message name what was expected and what came."""
    request = v2.ModelInferRequest(
        model_name=change.get("model_name", "cancer"), model_version=change.get("model_version", "")
    )
    given = request.inputs.add(
        name=change.get("name", "input"), datatype=change.get("datatype", "FP64"), shape=change.get("shape", [1, 30])
    )
    if "fp64" in change:
        given.contents.fp64_contents.extend(change["fp64"])
    if "output" in change:
        request.outputs.add(name=change["output"])
    request.raw_input_contents.extend(change.get("raw", [ROWS[:1].tobytes()]))

    status, message = refusal(cancer.stub.ModelInfer, request, metadata=tuple(KEY.items()))

    assert status.name == code
    assert words in message


def test_strings_and_integers_are_checked(typed: GrpcServer, echoing: GrpcServer) -> None:
    """Raw strings that end early, too few of them, other datatypes and integers out of their range are told."""
    texts = v2.ModelInferRequest(model_name="cancer")
    texts.inputs.add(name="BYTES", datatype="BYTES", shape=[2])
    texts.raw_input_contents.append(b"\x05\0\0\0four")
    cut = refusal(echoing.stub.ModelInfer, texts)[1]
    texts.raw_input_contents[0] = b"\x04\0\0\0four"
    few = refusal(echoing.stub.ModelInfer, texts)[1]

    assert "input 'BYTES': a BYTES element has 5 bytes, but the tensor ends before" in cut
    assert "input 'BYTES': the shape wants 2 BYTES elements, 1 came" in few
    other = typed_request()
    other.inputs[5].datatype = "INT32"
    assert refusal(typed.stub.ModelInfer, other)[1] == "input 'INT8': datatype INT8 expected, INT32 came"
    for name, value, limits in (("INT8", 128, "-128 to 127"), ("UINT16", 65536, "0 to 65535")):
        message = refusal(typed.stub.ModelInfer, typed_request(**{name: [0, 0, 0, value]}))[1]
        assert f"input '{name}': " in message
        assert f"outside of {name}, which is {limits}" in message


def test_what_the_server_cannot_do_is_not_ignored(cancer: GrpcServer) -> None:
    """An extension that would change the answer is refused, and a call that is not there is told so."""
    classes = [triton.InferRequestedOutput("predict_proba", class_count=2)]

    assert refusal(cancer.infer, ROWS[:1], headers=KEY, outputs=classes) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "output 'predict_proba': classification is not supported; take the values as they are",
    )
    assert refusal(cancer.client.get_model_config, "cancer", headers=KEY)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused(cancer: GrpcServer) -> None:
    """Neither a large message nor a small one that unpacks to a large one is taken; without a key none is read."""
    rows = [tensor("input", np.zeros((300_000, 30)), "FP64")]  # 72 MB

    def refused(**options: Any) -> grpc.StatusCode:
        # By a new connection: one that comes of age while the client still sends ends before the refusal is read.
        unshared = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with triton.InferenceServerClient(cancer.address, channel_args=unshared) as client:
            return refusal(client.infer, "cancer", rows, **options)[0]

    assert refused() == grpc.StatusCode.UNAUTHENTICATED
    for packed in (None, "gzip"):
        assert refused(headers=KEY, compression_algorithm=packed) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert cancer.infer(ROWS[:1], headers=KEY, compression_algorithm="gzip").as_numpy("predict").shape == (1,)


# Time, failures, the goodbye


@pytest.fixture(scope="module")
def slow(models: Path) -> Iterator[GrpcServer]:
    """A model that takes half a second, and fails on rows that begin with -1."""
    with grpc_serving(models, task_for(models / "slow.skops", allow_code_execution=True)) as server:
        yield server


def test_a_deadline_is_kept(slow: GrpcServer) -> None:
    """A client that waits no longer is let go at its deadline, counted as gone, and the next one is answered."""
    assert slow.client.is_server_live()  # the deadline is not for the connection
    status, _ = refusal(slow.infer, ROWS[:1], client_timeout=0.3)

    assert status == grpc.StatusCode.DEADLINE_EXCEEDED
    assert slow.infer(ROWS[:1]).as_numpy("predict").shape == (1,)
    assert slow.counted("grpc_infer", 499) == 1
    assert slow.counted("grpc_infer", 200) >= 1


@pytest.mark.slow
def test_a_failing_model_shows_the_client_an_id_only(models: Path) -> None:
    """The log has the reason under that id; in a stream the next request is answered."""
    task = task_for(models / "slow.skops", allow_code_execution=True)
    with grpc_serving(models, task) as server:
        bad = np.full((1, 30), -1.0)
        failed = refusal(server.infer, bad, headers={"x-request-id": "trace-9"})
        with streaming(server) as answers:
            for rows in (bad, ROWS[:1]):
                server.client.async_stream_infer("cancer", [tensor("input", rows, "FP64")])
            first, second = answers.get(timeout=240), answers.get(timeout=240)
        server.http.process.terminate()
        _, stderr = server.http.process.communicate(timeout=240)

    words = "the model failed; its log has the reason under request trace-9"
    assert failed == (grpc.StatusCode.INTERNAL, words)
    assert "the model failed; its log has the reason under request" in first.message()
    assert second.as_numpy("predict").shape == (1,)
    assert "secret detail" in stderr
    assert "trace-9" in stderr


def test_what_was_accepted_is_answered_when_the_server_leaves(models: Path) -> None:
    """After SIGTERM calls that are being answered end well, watchers of health are told, and the exit code is 0."""
    task = task_for(models / "slow.skops", allow_code_execution=True)
    with grpc_serving(models, task) as server:
        outcomes: queue.Queue[Any] = queue.Queue()
        watch = server.channel.unary_stream(f"/{HEALTH}/Watch")(b"", timeout=240)
        first = next(watch)
        for _ in range(4):
            inputs = [tensor("input", ROWS[:1], "FP64")]
            server.client.async_infer("cancer", inputs, callback=lambda result, error: outcomes.put(error or result))
        server.http.wait_until_busy(5)
        server.http.process.terminate()
        answers = [outcomes.get(timeout=240) for _ in range(4)]
        rest = list(watch)
        code = server.http.process.wait(timeout=240)

    assert [answer.as_numpy("predict").shape for answer in answers] == [(1,)] * 4
    assert [first, *rest] == [b"\x08\x01", b"\x08\x02"]
    assert code == 0


@pytest.mark.slow
def test_a_stream_ends_with_a_word_when_the_server_leaves(models: Path) -> None:
    """The request that came before SIGTERM is answered; then the client is told to open another stream."""
    task = task_for(models / "slow.skops", allow_code_execution=True)
    with grpc_serving(models, task) as server, streaming(server) as answers:
        server.client.async_stream_infer("cancer", [tensor("input", ROWS[:1], "FP64")])
        server.http.wait_until_busy(2)
        server.http.process.terminate()
        answer, goodbye = answers.get(timeout=240), answers.get(timeout=240)

    assert answer.as_numpy("predict").shape == (1,)
    assert goodbye.status() == "StatusCode.UNAVAILABLE"
    assert "open another stream" in goodbye.message()


# Health, metrics, and what is loaded


def test_health_is_told_as_kubelets_and_envoys_ask(cancer: GrpcServer) -> None:
    """The server as a whole and the protocol's service are SERVING, without a key; no other service is known."""
    assert cancer.health() == 1
    assert cancer.health("inference.GRPCInferenceService") == 1
    assert refusal(cancer.health, "other")[0] == grpc.StatusCode.NOT_FOUND
    unknown = cancer.channel.unary_stream(f"/{HEALTH}/Watch")(_asked("other"), timeout=240)
    assert next(unknown) == b"\x08\x03"
    unknown.cancel()


def test_answers_are_counted_by_call_and_code(cancer: GrpcServer) -> None:
    """Good and refused calls are told apart, and probes are not counted."""
    good, bad = cancer.counted("grpc_infer", 200), cancer.counted("grpc_infer", 401)
    cancer.infer(ROWS[:1], headers=KEY)
    refusal(cancer.infer, ROWS[:1])
    cancer.health()

    assert cancer.counted("grpc_infer", 200) == good + 1
    assert cancer.counted("grpc_infer", 401) == bad + 1
    routes = set(re.findall(r'requests_total{code="\d+",route="(grpc_\w+)"}', cancer.http.get("/metrics").text))
    assert routes <= {"grpc_infer", "grpc_stream", "grpc_metadata", "grpc_repository"}


def test_refused_calls_are_in_the_access_log(models: Path, tmp_path: Path) -> None:
    """A line tells which call of whom was answered how; good ones are shown as often as the task says."""
    (tmp_path / "primary").write_text("first-key")
    task = task_for(models / "model.skops", auth="key", access_log_sampling=1.0)
    with grpc_serving(models, task, "--keys-dir", str(tmp_path)) as server:
        refusal(server.infer, ROWS[:1], headers={"x-request-id": "stranger"})
        server.infer(ROWS[:1], headers=KEY | {"x-request-id": "friend"})
        server.health()
        server.infer(ROWS[:1], headers=KEY | {"x-request-id": "friend"})
        assert server.http.process.stdout
        lines = [json.loads(server.http.process.stdout.readline()) for _ in range(3)]

    shown = [(line["requestId"], line["method"], line["path"], line["status"]) for line in lines]
    path = "/inference.GRPCInferenceService/ModelInfer"
    assert shown == [("stranger", "gRPC", path, 401), *[("friend", "gRPC", path, 200)] * 2]
    assert lines[1]["bytesIn"] > 240
    assert lines[1]["bytesOut"] > 24


def test_a_models_code_may_use_another_client_of_the_protocol() -> None:
    """tritonclient's messages have the same names as ours; both fit into one process."""
    code = "import tritonclient.grpc, ultramarine_server.grpc.server; print('both')"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=240)

    assert done.stdout == "both\n", done.stderr


def test_without_a_port_nothing_of_grpc_is_loaded(models: Path) -> None:
    """A server that is not asked for gRPC neither listens nor pays for it."""
    with serving(models, task_for(models / "plain.onnx"), "--grpc-port", "0") as server:
        assert "cygrpc" not in Path(f"/proc/{server.process.pid}/maps").read_text()
