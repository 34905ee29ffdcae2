"""Turns, batches and time: what happens to requests when more come than the model can answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from serving_inside import Doubling, eventually, inside, question, rows_of, service_of
from serving_process import ROWS, refused, serving, task_for
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import LoadError, Problem
from ultramarine_server.inference.limits import Limits
from ultramarine_server.inference.service import Service
from ultramarine_server.inference.warmup import warm_up
from ultramarine_server.protocol.tensors import Array, Inference, Tensor


async def values(service: Service, inference: Inference) -> list[float]:
    """The first column of the answer."""
    [tensor] = await service.infer(inference)
    return [float(value) for value in tensor.array[:, 0]]


def metric(service: Service, line: str) -> float:
    """The value of one line of the metrics."""
    text = service.telemetry.exposition().decode()
    return float(next(row.split()[-1] for row in text.splitlines() if row.startswith(line + " ")))


# Turns


async def test_who_finds_no_place_in_time_is_sent_away_with_a_time_to_come_back() -> None:
    """With one place taken the next request waits its milliseconds, then reads 503 and Retry-After."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(concurrent=1, queue_seconds=0.05))
    async with inside(service) as server:
        first, second = await server.client(), await server.client()
        first.ask("POST", "/v2/models/double/infer", question(1))
        await eventually(lambda: len(model.rows) == 1)
        second.ask("POST", "/v2/models/double/infer", question(2))

        answer = await second.answer()
        model.opened.set()

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "1 requests are being answered, and no place was free within 0.05 s" in answer.error
        assert (await first.answer()).status == 200
        assert model.rows == [1]
        assert metric(service, 'ultramarine_server_rejected_total{reason="queue"}') == 1


async def test_who_waits_gets_the_place_that_is_given_back() -> None:
    """Places go to those who waited longest, and all of them are answered."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(concurrent=1, queue_seconds=20))
    asked = [asyncio.create_task(values(service, rows_of(number))) for number in range(5)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 4)
    model.opened.set()

    assert await asyncio.gather(*asked) == [[0], [2], [4], [6], [8]]
    assert metric(service, "ultramarine_server_queue_length") == 0
    assert metric(service, "ultramarine_server_queue_seconds_count") == 5


async def test_a_client_that_leaves_the_queue_takes_no_place() -> None:
    """A client that goes away while it waits is forgotten, and all places are free again."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(concurrent=1, queue_seconds=20))
    first = asyncio.create_task(values(service, rows_of(1)))
    gone = [asyncio.create_task(values(service, rows_of(2))) for _ in range(3)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 3)
    for task in gone:
        task.cancel()
    model.opened.set()

    assert await first == [2]
    assert await values(service, rows_of(3)) == [6]
    assert model.rows == [1, 1]


async def test_an_answer_that_takes_too_long_is_a_504() -> None:
    """The client hears of it in time; the place is free when the model is really through."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(concurrent=1, queue_seconds=20, timeout_seconds=0.5))
    with pytest.raises(Problem) as caught:
        await service.infer(rows_of(1))
    assert (caught.value.status, str(caught.value)) == (504, "the model gave no answer within 0.5 s")
    assert metric(service, 'ultramarine_server_rejected_total{reason="timeout"}') == 1

    model.opened.set()
    assert await values(service, rows_of(2)) == [4]


async def test_a_model_that_fails_gives_its_place_back() -> None:
    """Failures are answered, and hold nothing up."""
    service = service_of(Doubling(), Limits(concurrent=1, queue_seconds=0))
    for _ in range(3):
        with pytest.raises(Problem) as caught:
            await service.infer(rows_of(13), "trace-1")
        assert (caught.value.status, str(caught.value)[-7:]) == (500, "trace-1")

    assert await values(service, rows_of(1)) == [2]


# Batches


async def test_requests_that_wait_are_computed_together() -> None:
    """While the model computes, what comes is gathered up to the limit; each gets its own rows back."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=4))
    asked = [asyncio.create_task(values(service, rows_of(n, n + 100))) for n in range(5)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 4)
    model.opened.set()

    assert await asyncio.gather(*asked) == [[2 * n, 2 * n + 200] for n in range(5)]
    assert model.rows == [2, 4, 4]
    assert metric(service, 'ultramarine_server_batch_rows_bucket{le="2.0"}') == 1
    assert metric(service, "ultramarine_server_batch_rows_sum") == 10


async def test_nobody_waits_for_company_alone() -> None:
    """With nothing in flight a request is computed at once, however long it might have waited for others."""
    service = service_of(Doubling(), Limits(batch_rows=32, batch_seconds=60))

    assert await asyncio.wait_for(values(service, rows_of(1)), 10) == [2]


async def test_company_is_waited_for_while_others_compute() -> None:
    """With a thread free and one busy, requests gather until the batch is full."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=3, batch_seconds=60), threads=2)
    asked = [asyncio.create_task(values(service, rows_of(number))) for number in range(4)]
    await eventually(lambda: len(model.rows) == 2)
    model.opened.set()

    assert await asyncio.gather(*asked) == [[0], [2], [4], [6]]
    assert model.rows == [1, 3]


async def test_what_does_not_fit_together_is_computed_apart() -> None:
    """Inputs of other shapes never come into one batch."""
    model = Doubling((-1, -1))
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=8))
    shapes = [(1, 2), (1, 2), (1, 3), (1, 2), (1, 3)]
    asked = [
        asyncio.create_task(service.infer(Inference("double", (Tensor("x", "FP64", np.ones(shape)),))))
        for shape in shapes
    ]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 4)
    model.opened.set()

    assert [answer[0].shape for answer in await asyncio.gather(*asked)] == shapes
    assert sorted(model.rows) == [1, 2, 2]


async def test_a_model_without_free_rows_is_never_batched() -> None:
    """A signature of a fixed first size is asked request by request."""
    model = Doubling((1, 2))
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=8))
    asked = [asyncio.create_task(values(service, rows_of(number))) for number in range(3)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 2)
    model.opened.set()

    assert await asyncio.gather(*asked) == [[0], [2], [4]]
    assert model.rows == [1, 1, 1]


async def test_one_bad_request_spoils_no_batch() -> None:
    """When a batch fails each of its requests is tried alone, and only the bad one fails."""
    model = Doubling()
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=8))
    asked = [asyncio.create_task(values(service, rows_of(number))) for number in (1, 2, 13, 3)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 3)
    model.opened.set()

    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [[2], [4], [6]]
    assert isinstance(answers[2], Problem)


class Summing(Doubling):
    """Claims to answer each row, and answers all of them with one."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"y": super().predict(inputs, outputs)["y"].sum(axis=0, keepdims=True)}


async def test_a_model_that_mixes_rows_is_not_believed() -> None:
    """An answer with another number of rows goes to no client; its requests run alone."""
    model = Summing()
    model.opened.clear()
    service = service_of(model, Limits(batch_rows=8))
    asked = [asyncio.create_task(values(service, rows_of(number))) for number in (1, 2, 3)]
    await eventually(lambda: metric(service, "ultramarine_server_queue_length") == 2)
    model.opened.set()

    assert await asyncio.gather(*asked) == [[2], [4], [6]]


# Warm-up


def test_a_task_without_bounds_is_written_as_before() -> None:
    """Endpoints that ask for nothing keep their revision; bounds survive the way to the pod."""
    task = ServingTask("m", "1", "s3://b/m", "sha256:00", "onnx")
    asked = ServingTask("m", "1", "s3://b/m", "sha256:00", "onnx", max_concurrent_requests=8, timeout_seconds=5)

    assert "timeout_seconds" not in json.loads(task.to_json())
    assert ServingTask.from_json(asked.to_json()) == asked
    assert Limits.of(ServingTask.from_json(task.to_json())) == Limits()


def test_the_given_request_warms_the_model_up() -> None:
    """It is asked before anybody else's, and its size is what counts as quick."""
    model = Doubling()

    quick = warm_up(model, question(1, 2, 3).decode(), quick_seconds=0.5)

    assert model.rows[0] == 3
    assert quick >= 6


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("{", "the body is not JSON"),
        ('{"inputs": []}', "input 'x' is missing"),
        (question(13).decode(), "RuntimeError: thirteen"),
    ],
)
def test_a_warm_up_that_is_not_answered_is_said_before_listening(request_: str, words: str) -> None:
    """A request that its author expects to work, and does not, is a model that cannot be served."""
    with pytest.raises(LoadError, match=words) as caught:
        warm_up(Doubling(), request_, 0.001)
    assert caught.value.reason == "WarmupFailed"


def test_a_model_that_refuses_zeros_is_served_all_the_same() -> None:
    """Without a given request one of zeros is tried, and its failure is ignored."""

    class Refusing(Doubling):
        def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            raise ValueError("zeros")

    assert warm_up(Refusing(), "", 10) == 0


def test_bounds_and_warm_up_reach_the_process(models: Path, tmp_path: Path) -> None:
    """The server carries out its task: a bad warm-up ends it, and errors are logged."""
    code, record, _ = refused(models, task_for(models / "plain.onnx", warmup="{}"), "serve")
    assert (code, record.reason) == (1, "WarmupFailed")

    slow = task_for(models / "slow.skops", allow_code_execution=True, timeout_seconds=0.1, access_log_sampling=0)
    with serving(models, slow) as server:
        answer = server.infer(ROWS[:1], headers={"x-request-id": "late"})
        server.process.terminate()
        stdout, _ = server.process.communicate(timeout=240)

    assert answer.status_code == 504
    [line] = [json.loads(line) for line in stdout.splitlines()]
    assert (line["event"], line["requestId"], line["status"]) == ("request", "late", 504)


def test_a_share_of_good_answers_is_logged(models: Path) -> None:
    """With a share of one each answer is a line, probes aside; with none only errors are."""
    with serving(models, task_for(models / "plain.onnx", access_log_sampling=1)) as server:
        server.get("/v2/health/live")
        server.infer(ROWS[:1], "X", "FP32", headers={"x-request-id": "good"})
        server.process.terminate()
        stdout, _ = server.process.communicate(timeout=240)

    [line] = [json.loads(line) for line in stdout.splitlines()]
    assert (line["requestId"], line["status"], line["path"]) == ("good", 200, "/v2/models/cancer/infer")
    assert line["bytesIn"] > 0
    assert line["bytesOut"] > 0
