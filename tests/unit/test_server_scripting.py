"""Headers between clients and a scoring script, in both directions, with a worker made for the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serving_inside import Inside, eventually, inside, service_of
from ultramarine_contract.common import GATEWAY_HEADER
from ultramarine_server.authentication import Holder, KeyRing
from ultramarine_server.models.model import Signature
from ultramarine_server.workers.scripts import Script

JSON_TYPE = ("content-type", "application/json")


class _Worker:
    """Worker that keeps the header of each request, and gives the answer that it was made with."""

    facts: Mapping[str, Any] = {"raw": True}

    def __init__(self, answer: Mapping[str, Any], body: bytes = b"{}") -> None:
        self._answer, self._body = answer, body
        self.headers: dict[str, str] = {}

    def ask(self, header: Mapping[str, Any], body: bytes = b"") -> tuple[Mapping[str, Any], bytes]:
        self.headers = header["headers"]
        return self._answer, self._body


def scripted(worker: Any, keys: KeyRing | None = None) -> Any:
    """Serve the worker's script in this event loop."""
    return inside(service_of(Script(worker, Signature((), ())), scripted=True), keys)


async def is_quiet(server: Inside) -> None:
    """Wait until no request is in flight."""
    await eventually(lambda: server.service.telemetry.in_flight == 0)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (("x-user", "Łukasz"), "a value of header 'x-user'"),
        (("x-user", "a\r\nx-injected: b"), "a value of header 'x-user'"),
        (("x-user", "a\x07"), "a value of header 'x-user'"),
        (("content-type", "text/Ł"), "a value of header 'content-type'"),
        (("x user", "a"), "the header name 'x user'"),
        (("x-user:", "a"), "the header name 'x-user:'"),
        (("", "a"), "the header name ''"),
        (("x-ł", "a"), "the header name 'x-ł'"),
    ],
)
async def test_a_header_that_http_does_not_have_is_named(header: tuple[str, str], words: str) -> None:
    """The client gets 500 with the header's name, and the connection goes on."""
    async with scripted(_Worker({"status": 200, "headers": [header]})) as server:
        client = await server.client()
        for _ in range(2):
            client.ask("POST", "/score")
            answer = await client.answer()

            assert (answer.status, "x-injected" in answer.headers) == (500, False)
            assert words in answer.error
        await is_quiet(server)


async def test_headers_of_the_connection_stay_those_of_the_server() -> None:
    """Lengths and hop-by-hop headers of a script are dropped; its others pass, Latin-1 included."""
    dropped = ["Content-Length", "Transfer-Encoding", "Upgrade", "Trailer", "TE", "Keep-Alive", "Connection"]
    headers = [*((name, "7") for name in dropped), ("x-user", "Zoë"), JSON_TYPE]
    async with scripted(_Worker({"status": 200, "headers": headers})) as server:
        client = await server.client()
        client.send(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        head = (await client.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")

    names = [line.partition(":")[0] for line in head[1:] if line]
    assert sorted(names) == ["content-length", "content-type", "date", "x-request-id", "x-user"]
    assert "content-length: 2" in head
    assert "x-user: zoë" in head


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, "0"), (304, None)])
async def test_an_answer_without_a_body_has_none(status: int, length: str | None) -> None:
    """A body beside such a status would be read as the next answer."""
    async with scripted(_Worker({"status": status, "headers": [("etag", "a")]}, b"HTTP/1.1 200 OK")) as server:
        client = await server.client()
        for _ in range(2):
            client.ask("POST", "/score")
            answer = await client.answer(bodiless=True)

            assert (answer.status, answer.headers.get("content-length")) == (status, length)
            assert answer.headers["etag"] == "a"


@pytest.mark.parametrize(
    ("holder", "passed"),
    [("client", ["x-own"]), ("gateway", ["x-own"]), (None, ["api-key", "authorization", "x-own"])],
)
async def test_a_script_gets_no_credentials(tmp_path: Path, holder: Holder | None, passed: list[str]) -> None:
    """Headers that open the endpoint or prove the gateway end in the server; others reach the script."""
    (tmp_path / "primary").write_text("secret")
    worker = _Worker({"status": 200, "headers": [JSON_TYPE]})
    sent = {"api-key": "secret", "authorization": "Bearer secret", GATEWAY_HEADER: "secret", "x-own": "a"}
    async with scripted(worker, KeyRing(tmp_path, holder) if holder else None) as server:
        client = await server.client()
        client.ask("POST", "/score", **sent)
        answer = await client.answer()

    assert answer.status == 200
    assert sorted(set(worker.headers) & set(sent)) == passed
