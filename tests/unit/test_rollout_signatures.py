"""When requests for one model can be answered by another: by the inputs of both."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from builders import seen
from ultramarine_contract.errors import listed
from ultramarine_contract.routes import RouteState
from ultramarine_operator.kinds.onlineendpoint.signatures.inputs import Input, _takes, incompatibility, inputs_of
from ultramarine_server.protocol.tensors import DTYPES, keeps_values


def taking(datatype="FP64", shape=(-1, 2), name="x", features=()):
    """One input."""
    return Input(name, datatype, tuple(shape), frozenset(features))


def test_datatypes_are_taken_as_the_servers_take_them():
    """The table here, which needs no NumPy, says of every pair what the servers do."""
    for old, new in product(DTYPES, DTYPES):
        assert _takes(new, old) == (old == new or keeps_values(old, new)), f"{old} as {new}"
    assert np.can_cast(np.int64, np.float64, "safe")
    assert all(_takes(*pair) for pair in (("INT64", "BF16"), ("BF16", "INT64"), ("FP32", "INT"), ("FP16", "FP8")))


def test_what_no_model_takes_is_not_heard():
    """A pod may tell any datatype and any length; these must not end the pass, nor come into a status."""
    for datatype, shape, heard in (
        ("FP64", [-1, 2**63 - 1], True),
        ("", [-1], True),
        ("BF16", [-1], False),
        ("FP64", [float("inf")], False),
        ("FP64", [float("nan")], False),
        ("FP64", [10**30], False),
        ("FP64", [-(2**63)], False),
    ):
        told = {"name": "m", "version": "1", "inputs": [{"name": "x", "datatype": datatype, "shape": shape}]}
        assert (inputs_of("m-1", seen(), [RouteState(signatures={"blue": told})]) is not None) == heard, (
            datatype,
            shape,
        )


@pytest.mark.parametrize(
    ("champion", "candidate"),
    [
        (taking("FP32"), taking("FP64")),
        (taking("FP64"), taking("")),
        (taking(""), taking("INT32")),
        (taking(shape=(-1, 30)), taking(shape=(-1, -1))),
        (taking(shape=(-1, -1)), taking(shape=(-1, 30))),  # nobody knows what clients send
        (taking(shape=(-1, 1)), taking(shape=(-1,))),
        (taking(features="ab"), taking(features="ba")),
        (taking(features="ab"), taking()),
        (taking(), taking(features="ab")),
    ],
)
def test_what_takes_the_same_requests_is_no_change(champion, candidate):
    """A wider type, any length, other order of named features: requests go on being answered."""
    assert incompatibility((champion,), (candidate,)) == ""


@pytest.mark.parametrize(
    ("champion", "candidate", "why"),
    [
        (taking("FP64"), taking("FP32"), "its input x is FP32 and not FP64"),
        (taking("BYTES"), taking("INT64"), "its input x is INT64 and not BYTES"),
        (taking(shape=(-1,)), taking(shape=(-1, 1)), "its input x has the shape [-1, 1] and not [-1]"),
        (taking(features="ab"), taking(features="bc"), "it has no feature a, it needs a feature c"),
    ],
)
def test_what_refuses_requests_is_told(champion, candidate, why):
    """With what the candidate has, and what it would need."""
    assert incompatibility((champion,), (candidate,)) == why


def test_many_differences_are_counted():
    """Three are named, and the others counted."""
    champion = tuple(taking(name=f"x{number}", shape=(-1,)) for number in range(9))
    why = incompatibility(champion, champion[:2])
    assert why == "it has no input x2, it has no input x3, it has no input x4 and 4 more"


def test_a_list_in_a_sentence_says_how_many_more_there_are():
    """Ten are named, unless more fit or fewer are known."""
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(range(13)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"
    assert listed(["a", "b"], 1) == "a and 1 more"
    assert listed(iter("ab"), count=5) == "a, b and 3 more"
