"""Copies whose answers are compared: a real Envoy and agent before servers of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from gateway_rig import Gateway, Pod, ask, deployment, eventually, free_port, pods, routes, who_answers
from test_figures import answering, figures
from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER
from ultramarine_contract.routes import PIN_HEADER, DeploymentFigures, RouteAuth
from ultramarine_gateway.config.routes import COPIED_BYTES
from ultramarine_gateway.memory import Memory
from ultramarine_gateway.pods.comparing import compare
from ultramarine_server.authentication import Holder, KeyRing
from ultramarine_server.protocol.tensors import Array
from unit.serving_inside import Doubling, inside, service_of

INFER = "/v2/models/double/infer"
ROW = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}
KEY = {"api-key": "the-key"}


class Turned(Doubling):
    """Has the other column as the largest."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"y": super().predict(inputs, outputs)["y"][:, ::-1]}


class Failing(Doubling):
    """Answers nothing."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        raise RuntimeError("always")


@asynccontextmanager
async def deployed(
    gateway: Gateway, candidate: Doubling, keys: KeyRing | None = None, **more: RouteAuth
) -> AsyncIterator[tuple[int, str]]:
    """blue answers 90 percent and green 10, which gets copies of all the others; the gateway's port, the agent's."""
    port = free_port()
    async with (
        inside(service_of(Doubling()), keys) as blue,
        inside(service_of(candidate), keys) as green,
        answering(gateway) as address,
    ):
        gateway.serve("churn-blue", Pod("blue", port=blue.port))
        gateway.serve("churn-green", Pod("green", port=green.port))
        comparing = asyncio.create_task(compare(gateway.agent))
        try:
            await gateway.use(
                routes(port, deployment("blue", 90), deployment("green", 10, compare_percent=100), **more)
            )
            yield port, address
        finally:
            comparing.cancel()


async def asked(
    client: ClientSession, port: int, address: str, headers: Mapping[str, str], row: object = ROW
) -> DeploymentFigures:
    """The candidate's figures, when thirty copies were compared; requests are sent one after another until then.

    A server keeps answers from the first question on, so those to the first requests are not there.
    """
    for _ in range(100):
        for _ in range(10):
            async with client.post(f"http://127.0.0.1:{port}{INFER}", json=row, headers=headers) as answer:
                assert answer.status in (200, 400, 500)
        counts = (await figures(address, lambda seen: True))["green"]
        if counts.compared >= 30:
            return counts
        await asyncio.sleep(0.1)
    pytest.fail(f"only {counts.compared} copies were compared")


@pytest.mark.parametrize(
    ("auth", "holder"),
    [
        (RouteAuth("key", keys_secret="churn-keys"), "client"),
        (RouteAuth("none", proof_secret="churn-keys"), "gateway"),
    ],
)
async def test_a_candidate_that_answers_alike_agrees(
    gateway: Gateway,
    client: ClientSession,
    tmp_path: Path,
    auth: RouteAuth,
    holder: Holder,
) -> None:
    """Pods that want a key are asked with one, be it the second; one x-request-id for all requests does no harm.

    So are pods that answer their gateway alone: requests, copies and the agent's own questions.
    """
    (tmp_path / "primary").write_text("the-key")
    gateway.keys("churn-keys", primary="a-newer-key", secondary="the-key")
    async with deployed(gateway, Doubling(), KeyRing(tmp_path, holder), auth=auth) as (port, address):
        counts = await asked(client, port, address, KEY | {"x-request-id": "same"})
    assert (counts.agreed, counts.unlike) == (counts.compared, 0)


@pytest.mark.parametrize(("candidate", "unlike"), [(Turned(), False), (Failing(), True)])
async def test_a_candidate_that_answers_otherwise_does_not_agree(
    gateway: Gateway, client: ClientSession, candidate: Doubling, unlike: bool
) -> None:
    """An error cannot be compared, unlike another answer. Copies do not count as the candidate's requests."""
    async with deployed(gateway, candidate) as (port, address):
        counts = await asked(client, port, address, {})
    assert counts.agreed == 0
    assert counts.unlike == (counts.compared if unlike else 0)
    assert counts.requests < counts.compared, "a tenth of the requests, and no copy"


@pytest.mark.parametrize(("values", "alike"), [([1, 2], False), ([1, 2, 3], False), ([], True)])
async def test_refusals_agree_only_with_refusals(
    gateway: Gateway, client: ClientSession, values: list[float], alike: bool
) -> None:
    """The champion takes two columns and the candidate three: 4xx against an answer is a disagreement, either way."""
    inputs = [{"name": "x", "datatype": "FP64", "shape": [1, len(values)], "data": values}] if values else []
    async with deployed(gateway, Doubling((-1, 3))) as (port, address):
        counts = await asked(client, port, address, {}, {"inputs": inputs})
    assert counts.agreed == (counts.compared if alike else 0)
    assert counts.unlike == counts.compared - counts.agreed


async def test_a_pod_that_does_not_tell_is_complained_of_once(
    gateway: Gateway, client: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """A server of an earlier release has no such path: nothing is compared, and the log names the pod and says why."""
    port = free_port()
    async with pods("blue", "green") as (blue, green), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 100), deployment("green", compare_percent=100)))
        comparing = asyncio.create_task(compare(gateway.agent))

        def asked() -> list[str]:
            return [headers["path"] for headers in blue.got if headers["path"] == ANSWERS_PATH]

        await eventually("blue is asked again", lambda: len(asked()) >= 3)
        comparing.cancel()
        counts = await figures(address, lambda seen: True)

    messages = [record.getMessage() for record in caplog.records]
    lines = [message for message in messages if "cannot compare answers of the pod" in message]
    assert sorted(line.split()[7].split(":")[1] for line in lines) == sorted([str(blue.port), str(green.port)])
    assert counts["green"].compared == 0


@pytest.mark.attack("client/kept-answers")
async def test_copies_say_that_they_are_and_are_in_no_figures(gateway: Gateway, client: ClientSession) -> None:
    """Half of blue's requests are copied, under a name that both halves have; clients cannot say such things."""
    port = free_port()
    lies = {COMPARED_HEADER: "a lie", COPY_HEADER: "1", "x-request-id": "same"}
    async with pods("blue", "green") as (blue, green), answering(gateway) as address:
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        await gateway.use(routes(port, deployment("blue", 80), deployment("green", 20, compare_percent=50)))
        got = await who_answers(client, port, 400, headers=lies)
        await who_answers(client, port, 1, headers=lies | {PIN_HEADER: "blue"})
        named = [headers[COMPARED_HEADER] for headers in blue.got if COMPARED_HEADER in headers]
        await eventually("all copies are there", lambda: len(green.got) == got["green"] + len(named))
        counts = await figures(address, lambda seen: seen["green"].requests == got["green"])

    copies = [headers[COMPARED_HEADER] for headers in green.got if COPY_HEADER in headers]
    assert sorted(copies) == sorted(named)
    assert len(set(named)) == len(named)
    assert {name.split()[0] for name in named} == {gateway.agent.reader}
    assert not [headers for headers in blue.got if COPY_HEADER in headers]
    # 160 of 400; ten points are four standard deviations.
    assert 120 < len(named) < 200
    assert 40 < got["green"] < 120
    assert counts["green"].errors == 0


@pytest.mark.attack("client/copies")
async def test_copies_that_hang_cost_no_request(gateway: Gateway, client: ClientSession) -> None:
    """green answers copies late: sixteen are under way and others are not sent, while its own requests come through."""
    port = free_port()
    async with pods("blue", "green") as (blue, green):
        gateway.serve("churn-blue", blue)
        gateway.serve("churn-green", green)
        compared = deployment("green", compare_percent=100)
        await gateway.use(routes(port, deployment("blue", 100), compared))
        green.seconds = 30
        assert await who_answers(client, port, 200) == {"blue": 200}
        await eventually("copies came", lambda: len(green.got) >= 16)
        copies = len(green.got)
        green.seconds = 0
        assert await who_answers(client, port, 50, headers={PIN_HEADER: "green"}) == {"green": 50}
    assert copies <= 20  # each of Envoy's threads may be one ahead of the others


@pytest.mark.attack("client/copies")
async def test_who_does_not_read_copies_holds_up_no_request(gateway: Gateway, client: ClientSession) -> None:
    """green takes connections and reads nothing: short requests are copied, long ones are not, and all are answered."""
    port, deaf_port = free_port(), free_port()
    came = 0

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    server = await asyncio.start_server(deaf, "127.0.0.1", deaf_port)
    async with inside(service_of(Doubling()), body_limit=64_000_000) as blue:
        gateway.serve("churn-blue", Pod("blue", port=blue.port))
        gateway.serve("churn-green", Pod("green", port=deaf_port))
        await gateway.use(routes(port, deployment("blue", 100), deployment("green", compare_percent=100)))
        for size, copied in ((30_000_000, False), (COPIED_BYTES, False), (200_000, True)):
            async with client.post(
                f"http://127.0.0.1:{port}{INFER}", json=ROW | {"parameters": {"filler": "x" * size}}
            ) as answer:
                assert answer.status == 200, await answer.text()
            if copied:
                await eventually("the copy came", lambda: came == 1)
            assert came == int(copied)
    server.close()


@pytest.mark.attack("client/kept-answers")
async def test_what_servers_keep_is_not_open_at_the_gateway(gateway: Gateway, client: ClientSession) -> None:
    """Clients cannot read the answers of others, and no pod is asked."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100)))
        for path in (ANSWERS_PATH, f"{ANSWERS_PATH}?x", f"/x/..{ANSWERS_PATH}"):
            code, body = await ask(client, port, path)
            assert (code, "is not open here" in body["error"]) == (404, True)
        assert blue.got == []


async def test_a_gateway_pod_keeps_its_word(gateway: Gateway) -> None:
    """The agent that comes after a crash is known to the servers as the one before."""
    assert len(gateway.agent.reader) == 32
    assert Memory(gateway.folder / "memory").reader() == gateway.agent.reader
    (gateway.folder / "memory" / "word").write_text("")
    assert Memory(gateway.folder / "memory").reader() not in ("", gateway.agent.reader)
