"""Tensors and documents of the Open Inference Protocol, without HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from asking import infer
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_server.errors import BadRequest
from ultramarine_server.grpc import tensors as grpc_tensors
from ultramarine_server.grpc.stubs.open_inference_pb2 import ModelInferRequest
from ultramarine_server.models.model import Signature, TensorSpec
from ultramarine_server.protocol import binary
from ultramarine_server.protocol.tensors import DTYPES, Array, Tensor, decode, encode


class Echo:
    """A model that gives back its one input."""

    def __init__(self, datatype: str = "FP64", shape: tuple[int, ...] = (-1, 2)) -> None:
        self.signature = Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),))

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"y": inputs["x"]}


def tensor(**changes: Any) -> dict[str, Any]:
    """Return a good input of two rows, with `changes`."""
    return {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]} | changes


def ask(request: Any, model: Any = None) -> dict[str, Any]:
    """Return the answer of the echo (or another model) to a request document."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    answer: dict[str, Any] = json.loads(infer(model or Echo(), "echo", "7", body))
    return answer


# Tensors

LIMITS = {name: (np.iinfo(dtype).min, np.iinfo(dtype).max) for name, dtype in DTYPES.items() if dtype.kind in "iu"}


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    """Return all JSON values that `datatype` can hold."""
    if datatype in LIMITS:
        return st.integers(*map(int, LIMITS[datatype]))
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.text(max_size=5)
    return st.floats(allow_nan=False, allow_infinity=False, width={"FP16": 16, "FP32": 32, "FP64": 64}[datatype])  # type: ignore[arg-type]


@given(st.data(), st.sampled_from(sorted(DTYPES)), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_every_value_survives_the_way_in_and_out(
    data: st.DataObject, datatype: str, rows: int, columns: int, nested: bool
) -> None:
    """Flat or nested, each value of each datatype comes out as it went in."""
    flat = data.draw(st.lists(values_of(datatype), min_size=rows * columns, max_size=rows * columns))
    given_data = [flat[row * columns : (row + 1) * columns] for row in range(rows)] if nested else flat

    array = decode(datatype, [rows, columns], given_data)

    assert array.dtype == DTYPES[datatype]
    assert array.shape == (rows, columns)
    assert list(encode(array, datatype)) == flat


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3), st.lists(JSON, max_size=5))
def test_any_data_is_an_array_or_a_bad_request(datatype: str, shape: list[int], data: list[Any]) -> None:
    """Whatever JSON comes as data, the answer is an array of the promised shape and type, or a reason."""
    try:
        array = decode(datatype, shape, data)
    except BadRequest:
        return

    assert array.shape == tuple(shape)
    assert array.dtype == DTYPES[datatype]


@pytest.mark.parametrize(("datatype", "largest"), [("FP16", 65504.0), ("FP32", 3.4e38)])
def test_the_largest_numbers_of_a_type_are_taken(datatype: str, largest: float) -> None:
    """Numbers whose squares no longer fit into the type are as good as any."""
    array = decode(datatype, [1, 2], [largest, -largest])

    assert array.tolist() == [[float(DTYPES[datatype].type(largest)), float(DTYPES[datatype].type(-largest))]]


@pytest.mark.attack(
    "client/nonsense",
    asset="the server",
    threat="nonsense for JSON, tensors, shapes",
    control="any document is answered or refused in the protocol's words",
)
@given(
    st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters", "x"]), JSON | st.lists(JSON, max_size=2))
)
def test_any_document_is_answered_or_refused(document: dict[str, Any]) -> None:
    """No JSON document makes the protocol fall over."""
    try:
        ask(document)
    except BadRequest as error:
        reason = str(error)
    else:
        reason = "answered"

    assert reason


# Protocol


def test_an_answer_has_the_models_name_and_the_requests_id() -> None:
    """Name, version, id and outputs are those of the protocol."""
    assert ask({"id": "42", "inputs": [tensor()]}) == {
        "model_name": "echo",
        "model_version": "7",
        "id": "42",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}],
    }


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"inputs": [NaN]}', "NaN and Infinity are not JSON"),
        (b"\xff", "the body is not JSON"),
        ([], "Expected `object`, got `array`"),
        ({}, "Object missing required field `inputs`"),
        ({"inputs": []}, "input 'x' is missing; this model takes 'x' (FP64 [-1, 2])"),
        ({"inputs": [1]}, "Expected `object`, got `int` - at `$.inputs[0]`"),
        ({"inputs": [{}]}, "Object missing required field `name` - at `$.inputs[0]`"),
        ({"inputs": [tensor()], "id": 4}, "Expected `str`, got `int` - at `$.id`"),
        ({"inputs": [tensor()], "parameters": 4}, "Expected `object`, got `int` - at `$.parameters`"),
        ({"inputs": [tensor(parameters=4)]}, "Expected `object`, got `int` - at `$.inputs[0].parameters`"),
        ({"inputs": [tensor(parameters={"binary_data_size": 8})]}, "data and parameters.binary_data_size exclude"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "r"})]}, "input 'x': shared memory is not supported"),
        ({"inputs": [tensor(name="z")]}, "input 'z' is unknown; this model takes 'x'"),
        ({"inputs": [tensor(), tensor()]}, "input 'x' is there twice"),
        ({"inputs": [tensor(datatype="FLOAT")]}, "input 'x': datatype 'FLOAT' is unknown; known are BOOL"),
        ({"inputs": [tensor(datatype="BYTES", data=list("abcd"))]}, "input 'x': datatype FP64 expected, BYTES came"),
        ({"inputs": [tensor(shape=4)]}, "Expected `array`, got `int` - at `$.inputs[0].shape`"),
        ({"inputs": [tensor(shape=[-1, 2])]}, "Expected `int` >= 0 - at `$.inputs[0].shape[0]`"),
        ({"inputs": [tensor(shape=[True, 4])]}, "Expected `int`, got `bool` - at `$.inputs[0].shape[0]`"),
        ({"inputs": [tensor(shape=[4])]}, "input 'x': shape [-1, 2] expected, [4] came"),
        ({"inputs": [tensor(shape=[1, 4])]}, "input 'x': shape [-1, 2] expected, [1, 4] came"),
        ({"inputs": [tensor(shape=[3, 2])]}, "input 'x': shape [3, 2] wants 6 values in data, 4 came"),
        ({"inputs": [tensor(shape=[9**9, 9**9])]}, "values in data, 4 came"),
        ({"inputs": [tensor(data=[[1, 2, 3, 4]])]}, "input 'x': data is nested as [1, 4], shape says [2, 2]"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "input 'x': data is nested unevenly"),
        ({"inputs": [tensor(data="1")]}, "got `str` - at `$.inputs[0].data`"),
        ({"inputs": [tensor(data=None)]}, "input 'x': data must be a list of values, flat or nested"),
        (
            {"inputs": [tensor(datatype="INT64", data=[1, 2, 3, None])]},
            "input 'x': column 1: data must hold INT64 values; null at index 1 (which is NaN, and for FP16, FP32",
        ),
        ({"inputs": [tensor(data=[1, None, 3, "4"])]}, "input 'x': column 1: data must hold FP64 values; '4' came"),
        (
            {"inputs": [tensor(datatype="BOOL", data=[True, None, True, True])]},
            "column 1: data must hold BOOL values; null at index 0",
        ),
        (
            {"inputs": [tensor(data=[[1, 2], [3, "4"]])]},
            "input 'x': column 1: data must hold FP64 values; strings came",
        ),
        ({"inputs": [tensor(data=[1, 2, 3, 10**400])]}, "input 'x': column 1: data must hold FP64 values; 1000"),
        ({"inputs": [tensor(datatype="INT8", data=[1, 2, 3, 300])]}, "outside of INT8, which is -128 to 127"),
        ({"inputs": [tensor(datatype="INT64", data=[1, 2, 3, 2**63])]}, "outside of INT64"),
        ({"inputs": [tensor(datatype="INT8", data=[1, 2, 3, 1.5])]}, "numbers with a fraction came"),
        ({"inputs": [tensor(datatype="FP16", data=[1, 2, 3, 1e9])]}, "too large for FP16"),
        ({"inputs": [tensor(datatype="BOOL")]}, "data must hold BOOL values; integers came"),
        ({"inputs": [tensor()], "outputs": [{"name": "z"}]}, "output 'z' is unknown; this model gives 'y'"),
        ({"inputs": [tensor()], "outputs": ["y"]}, "Expected `object`, got `str` - at `$.outputs[0]`"),
    ],
)
def test_a_bad_request_says_what_is_wrong(request_: Any, words: str) -> None:
    """The message names the input and the field, what was expected and what came."""
    with pytest.raises(BadRequest) as caught:
        ask(request_)

    assert words in str(caught.value)


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "INT64", "FP16", "FP32", "FP64"])
def test_numbers_that_fit_are_taken_for_fp64(datatype: str) -> None:
    """A model of doubles takes every numeric datatype that converts without loss of kind."""
    data = [True, False, True, True] if datatype == "BOOL" else [1, 0, 1, 1]

    answer = ask({"inputs": [tensor(datatype=datatype, data=data)]})

    assert answer["outputs"][0]["data"] == [1.0, 0.0, 1.0, 1.0]


def test_doubles_are_not_cut_to_floats() -> None:
    """FP64 sent to a model of FP32 is refused rather than rounded."""
    with pytest.raises(BadRequest, match="datatype FP32 expected, FP64 came"):
        ask({"inputs": [tensor()]}, Echo("FP32"))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("data", [[1, None, 3.5, None], [[1, None], [3.5, None]]])
def test_null_is_nan_for_numbers_with_a_fraction(datatype: str, data: list[Any]) -> None:
    """JSON has no other word for a missing value."""
    array = decode(datatype, [2, 2], data)

    assert array.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(array, [[1, np.nan], [3.5, np.nan]])


def test_null_alone_is_nan_and_large_numbers_beside_it_are_refused() -> None:
    assert np.isnan(decode("FP64", [1], [None])).all()
    with pytest.raises(BadRequest, match="too large for FP32"):
        decode("FP32", [2], [None, 1e300])


def test_a_missing_text_of_an_answer_is_null_or_empty() -> None:
    """JSON has a word for it, bytes and gRPC have none: the letters None would be a text."""
    texts = np.array(["a", None, np.nan, np.float32("nan"), b"\xff"], dtype=object)
    raw = b"\1\0\0\0a" + 3 * b"\0\0\0\0" + b"\1\0\0\0\xff"

    assert encode(texts, "BYTES") == ["a", None, None, None, "\ufffd"]
    assert binary.encode(texts, "BYTES") == raw
    for kind, contents in (("", []), ("typed", [b"a", b"", b"", b"", b"\xff"])):
        request = ModelInferRequest(model_name="m")
        if kind:
            request.inputs.add(name="x", datatype="BYTES", shape=[0]).contents.SetInParent()
        response = grpc_tensors.answer(request, "1", [Tensor("y", "BYTES", texts)])
        assert list(response.raw_output_contents) == ([] if kind else [raw])
        assert list(response.outputs[0].contents.bytes_contents) == contents


def test_nan_in_an_answer_is_null() -> None:
    """JSON has no NaN; a model that gives one is answered with null."""
    model = Echo()
    model.predict = lambda inputs, outputs: {"y": np.array([[math.nan, 1.0]])}  # type: ignore[method-assign]

    assert ask({"inputs": [tensor()]}, model)["outputs"][0]["data"] == [None, 1.0]
