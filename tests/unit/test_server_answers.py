"""Answers that the server keeps for a gateway that compares them, and copies of requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_inside import Client, Doubling, eventually, inside, question, service_of
from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER
from ultramarine_server.authentication import KeyRing
from ultramarine_server.errors import Problem
from ultramarine_server.http.answers import KEPT_SECONDS, LABELS, LARGEST, NUMBERS, REFUSAL, Answers
from ultramarine_server.inference.limits import Limits
from ultramarine_server.inference.service import Service
from ultramarine_server.models.model import Signature, TensorSpec
from ultramarine_server.protocol.tensors import DTYPES, Array, Tensor

INFER = "/v2/models/double/infer"
COMPARED, COPY = COMPARED_HEADER.replace("-", "_"), COPY_HEADER.replace("-", "_")


def tensor(datatype: str, values: Any, name: str = "y") -> Tensor:
    """One output."""
    return Tensor(name, datatype, np.array(values, DTYPES[datatype]))


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def facts_of(answers: Answers, *outputs: Tensor, status: int = 200) -> Any:
    """Return the facts of one answer."""
    answers.read("me")
    answers.take("me 1", status, outputs)
    [(name, kept)] = json.loads(answers.read("me"))
    assert name == "1"
    return kept


def same(first: Tensor, other: Tensor) -> bool:
    """True if two outputs have the same facts."""
    return bool(facts_of(Answers(), first) == facts_of(Answers(), other))


def test_labels_are_told_as_a_word_that_only_the_same_labels_have() -> None:
    """Whatever the size of the integers and the shape of the column; texts and booleans too."""
    assert facts_of(Answers(), tensor("INT64", [1, 2]))[0][:2] == ["y", LABELS]
    assert same(tensor("INT64", [1, 2]), tensor("INT32", [[1], [2]]))
    assert not same(tensor("INT64", [1, 2]), tensor("INT64", [2, 1]))
    assert same(tensor("BYTES", ["yes", "no"]), tensor("BYTES", [b"yes", b"no"]))
    assert not same(tensor("BOOL", [True]), tensor("BOOL", [False]))


def test_of_probabilities_the_largest_of_each_row_is_told() -> None:
    """Equality counts which class is the largest, and not its value."""
    assert facts_of(Answers(), tensor("FP32", [[0.1, 0.9]]))[0][:2] == ["y", LARGEST]
    assert same(tensor("FP32", [[0.1, 0.9], [0.6, 0.4]]), tensor("FP64", [[0.4, 0.6], [0.9, 0.1]]))
    assert not same(tensor("FP32", [[0.1, 0.9], [0.6, 0.4]]), tensor("FP32", [[0.1, 0.9], [0.4, 0.6]]))


def test_numbers_are_told_as_they_are() -> None:
    """One column or more dimensions; a value that is not a number is null."""
    assert facts_of(Answers(), tensor("FP32", [[0.5], [float("nan")]])) == [["y", NUMBERS, [0.5, None]]]
    assert facts_of(Answers(), tensor("FP64", [[[1, 2]]])) == [["y", NUMBERS, [1, 2]]]


def test_large_outputs_are_not_told_and_errors_are() -> None:
    """65 rows are too many, of one output or of all; an error is null, and one for want of room or time is nothing."""
    kept = facts_of(
        Answers(), tensor("INT64", range(65)), tensor("INT64", [[1] * 1000] * 2, "wide"), tensor("FP32", [1], "z")
    )
    assert kept == [["z", NUMBERS, [1]]]
    assert facts_of(Answers(), tensor("INT64", range(65))) == []
    assert facts_of(Answers(), status=500) is None
    for status in (401, 503, 504):
        with pytest.raises(ValueError, match="not enough values"):
            facts_of(Answers(), status=status)


@pytest.mark.attack("client/kept-answers")
def test_only_who_asks_is_kept_for_and_only_as_long() -> None:
    """Nothing before the first question, nothing for others, each answer once, and nothing after a while."""
    clock = Clock()
    answers = Answers(clock)
    output = (tensor("FP32", [1]),)
    answers.take("me 1", 200, output)
    assert (answers.read("me"), answers.read("you")) == (b"[]", b"[]")
    for header in ("me 2", "you 3", "nobody 4", "me", "", "me " + "x" * 129):
        answers.take(header, 200, output)
    assert [name for name, _ in json.loads(answers.read("me"))] == ["2"]
    assert answers.read("me") == b"[]"

    clock.now += KEPT_SECONDS - 1
    answers.take("you 5", 200, output)
    answers.read("me")
    clock.now += 2
    answers.lapse()
    assert list(answers.readers) == ["me"]
    clock.now += KEPT_SECONDS
    answers.lapse()
    assert answers.readers == {}


def test_what_is_kept_is_bounded() -> None:
    """The oldest answers go, by number and by bytes; a seventeenth reader is told to come back."""
    answers = Answers(Clock())
    answers.read("me")
    for number in range(3000):
        answers.take(f"me {number}", 200, (tensor("FP32", [1]),))
    names = [int(name) for name, _ in json.loads(answers.read("me"))]
    assert names == list(range(1000, 3000))
    for number in range(1000):
        answers.take(f"me {number}", 200, (tensor("FP64", np.arange(1000).reshape(1, 1000, 1) / 7),))
    assert 100_000 < len(answers.read("me")) < 600_000

    for number in range(15):
        answers.read(f"reader {number}")
    with pytest.raises(Problem) as refused:
        answers.read("one more")
    assert (refused.value.status, refused.value.retry_after) == (429, KEPT_SECONDS)


async def ask(client: Client, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """One request; status and document."""
    client.ask("POST", path, body, **headers)
    answer = await client.answer()
    return answer.status, json.loads(answer.body)


async def test_requests_that_are_compared_are_told_to_the_gateway_pod_that_they_name() -> None:
    """Infer and score, answers and errors are kept; requests without the header are not."""
    async with inside(service_of(Doubling())) as server:
        client = await server.client()
        assert await ask(client, ANSWERS_PATH, b'{"reader": "me"}') == (200, [])
        await ask(client, INFER, question(1), **{COMPARED: "me a"})
        await ask(client, "/score", b'{"data": [[1, 2]]}', **{COMPARED: "me b"})
        await ask(client, INFER, question(13), **{COMPARED: "me c"})
        await ask(client, INFER, b"{}", **{COMPARED: "me d"})
        await ask(client, INFER, question(1))

        status, answers = await ask(client, ANSWERS_PATH, b'{"reader": "me"}')

    assert (status, dict(answers).keys()) == (200, {"a", "b", "c", "d"})
    assert dict(answers)["a"][0][:2] == ["y", LARGEST]
    assert dict(answers)["b"][0][:2] == ["y", LARGEST]
    assert (dict(answers)["c"], dict(answers)["d"]) == (None, REFUSAL)


@pytest.mark.attack(
    "client/kept-answers",
    asset="others' answers",
    threat="reading what servers keep of them while a rollout compares answers",
    control="told by a path that asks for a key, and only to who knows the random word of the gateway pod whose "
    "requests they were; of labels a digest; the path is closed at the gateway, and clients cannot send "
    "the headers",
)
async def test_answers_are_told_to_nobody_without_a_key(tmp_path: Path) -> None:
    """They are data of others: who has no key gets none, and a question without a reader is refused in words."""
    (tmp_path / "primary").write_text("the-key")
    async with inside(service_of(Doubling()), KeyRing(tmp_path)) as server:
        client = await server.client()
        assert (await ask(client, ANSWERS_PATH, b'{"reader": "me"}'))[0] == 401
        assert await ask(client, ANSWERS_PATH, b'{"reader": "me"}', api_key="the-key") == (200, [])
        for body in (b"", b"[]", b'{"reader": ""}', b'{"reader": 1}', b'{"reader": "%b"}' % (b"x" * 129)):
            assert (await ask(client, ANSWERS_PATH, body, api_key="the-key"))[0] == 400


@pytest.mark.attack(
    "client/copies",
    asset="the server",
    threat="copies of requests take the places of requests, or load and unload models",
    control="turned away when anybody would have to wait; taken for predictions only",
)
async def test_a_copy_takes_nobodys_place() -> None:
    """With one of two places taken a copy is turned away at once, and the request that comes next is answered.

    Metrics do not count it as a failed request; it is answered when there is room again.
    """
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(concurrent=2, queue_seconds=0.05), threads=4)
    async with inside(service) as server:
        first, second, other = [await server.client() for _ in range(3)]
        first.ask("POST", INFER, question(1))
        await eventually(lambda: len(model.rows) == 1)

        status, refused = await ask(other, INFER, question(2), **{COPY: "1"})
        second.ask("POST", INFER, question(3))
        await eventually(lambda: len(model.rows) == 2)
        model.opened.set()

        assert (status, "this is a copy" in refused["error"]) == (503, True)
        assert [(await client.answer()).status for client in (first, second)] == [200, 200]
        assert (await ask(other, INFER, question(4), **{COPY: "1"}))[0] == 200
        metrics = service.telemetry.exposition().decode()
    assert 'ultramarine_server_rejected_total{reason="copy"} 1.0' in metrics
    assert 'code="503"' not in metrics
    assert len(model.rows) == 3


async def test_a_copy_is_turned_away_while_others_wait() -> None:
    """A copy is refused if a request waits for the only thread, and if others came while its body came."""
    model = Doubling()
    model.opened.clear()
    async with inside(service_of(model), body_limit=10_000) as server:
        copy, first, second = [await server.client() for _ in range(3)]
        body = question(2)
        copy.send(
            f"POST {INFER} HTTP/1.1\r\n{COPY_HEADER}: 1\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body[:5]
        )
        first.ask("POST", INFER, question(1))
        second.ask("POST", INFER, question(3))
        await eventually(lambda: server.service.has_room is False and len(model.rows) == 1)
        copy.send(body[5:])
        assert (await copy.answer()).status == 503
        assert (await ask(copy, INFER, body, **{COPY: "1"}))[0] == 503
        model.opened.set()
        assert [(await client.answer()).status for client in (first, second)] == [200, 200]
    assert len(model.rows) == 2


class Labelled(Doubling):
    """Gives a class beside the numbers."""

    def __init__(self) -> None:
        super().__init__()
        outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP64", (-1, 2)))
        self.signature = Signature(self.signature.inputs, outputs)

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        x = super().predict(inputs, outputs)["y"]
        made = {"label": x[:, 0].astype(np.int64), "probabilities": x}
        return {name: made[name] for name in outputs}


@pytest.mark.attack("client/copies")
async def test_a_copy_changes_nothing() -> None:
    """A copy that loads or unloads a model, or reads answers, is not carried out."""
    async with inside(service_of(Doubling())) as server:
        client = await server.client()
        for path in ("/v2/repository/models/double/unload", "/v2/repository/index", ANSWERS_PATH):
            status, refused = await ask(client, path, b"{}", **{COPY: "1"})
            assert (status, "takes no copies" in refused["error"]) == (403, True)
        assert 'code="403"' not in server.service.telemetry.exposition().decode()


async def test_infer_and_score_tell_the_same_of_the_same_answer() -> None:
    """So that it does not matter by which of them a client asks."""
    service: Service = service_of(Labelled())
    async with inside(service) as server:
        client = await server.client()
        await ask(client, ANSWERS_PATH, b'{"reader": "me"}')
        await ask(client, INFER, question(1), **{COMPARED: "me a"})
        await ask(client, "/score", b'{"data": [[1, 1]]}', **{COMPARED: "me b"})
        _, answers = await ask(client, ANSWERS_PATH, b'{"reader": "me"}')
    assert dict(answers)["a"] == dict(answers)["b"]
    assert [output[1] for output in dict(answers)["a"]] == [LABELS, LARGEST]
