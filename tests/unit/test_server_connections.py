"""Connections as bad clients use them: half requests, slow ones, large ones, many at once, and none at all."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_inside import Doubling, Inside, eventually, inside, question, service_of
from ultramarine_server.authentication import KeyRing
from ultramarine_server.errors import BadRequest
from ultramarine_server.http import connection
from ultramarine_server.http.messages import Response, inflate

INFER = "/v2/models/double/infer"


@pytest.fixture
async def server() -> AsyncIterator[Inside]:
    """A server with a body limit of 1000 bytes."""
    async with inside(service_of(Doubling())) as server:
        yield server


def numbers(body: bytes) -> list[float]:
    """The values of an answer."""
    data: list[float] = json.loads(body)["outputs"][0]["data"]
    return data


async def test_requests_sent_at_once_are_answered_in_their_order(server: Inside) -> None:
    """Pipelined requests, quick ones and slow ones mixed, get their answers one after the other."""
    client = await server.client()
    for value in range(20, 40):
        client.ask("POST", INFER, question(value))
        client.ask("GET", "/v2/health/live")

    for value in range(20, 40):
        assert numbers((await client.answer()).body) == [2 * value, 2 * value]
        assert json.loads((await client.answer()).body) == {"live": True}


async def test_a_request_may_come_byte_by_byte(server: Inside) -> None:
    """The division of the bytes into packets changes nothing."""
    client = await server.client()
    body = question(1)
    for byte in f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body:
        client.send(bytes([byte]))
        await client.writer.drain()

    assert numbers((await client.answer()).body) == [2, 2]


async def test_a_chunked_body_is_one_body(server: Inside) -> None:
    """A client that does not know the length before sends chunks."""
    client = await server.client()
    body = question(1)
    client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in (body[:10], body[10:]):
        client.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    client.send("0\r\n\r\n")

    assert numbers((await client.answer()).body) == [2, 2]


async def test_a_trailer_is_no_header_of_the_next_request(tmp_path: Path) -> None:
    """Bytes behind the body of a request authenticate no further request on the connection."""
    (tmp_path / "primary").write_text("first-key")
    async with inside(service_of(Doubling()), KeyRing(tmp_path)) as server:
        client = await server.client()
        client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send("1\r\n[\r\n0\r\napi-key: first-key\r\n\r\n")
        client.ask("GET", "/v2")

        assert (await client.answer()).status == 401
        assert (await client.answer()).status == 401


async def test_a_whole_address_is_a_path(server: Inside) -> None:
    """Requests as they are sent to a proxy are understood."""
    client = await server.client()
    client.ask("GET", "http://somewhere:80/v2/health/live?x=http://y/z")

    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ("hello\r\n\r\n", 400, "this is not an HTTP request"),
        ("GET /v2 HTTP/9.9\r\n\r\n", 400, "this is not an HTTP request"),
        (f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400, "this is not an HTTP request"),
        (
            f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            400,
            "not an HTTP request",
        ),
        (
            f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "not an HTTP",
        ),
        (f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "not an HTTP request"),
        ("GET /v2 HTTP/1.1\r\nhost: x\r\nbad\x01name: x\r\n\r\n", 400, "this is not an HTTP request"),
        ("GET /v2 HTTP/1.1\r\nx: " + "a" * 40_000 + "\r\n\r\n", 431, "the head of the request is larger than"),
        ("GET /v2?" + "a" * 40_000, 431, "the head of the request is larger than"),
    ],
)
async def test_what_is_no_request_is_answered_and_ended(server: Inside, request_: str, status: int, words: str) -> None:
    """A malformed head or body gets an error in JSON, and the connection ends, so that nothing is read into it."""
    client = await server.client()
    client.send(request_)

    answer = await client.answer()

    assert answer.status == status
    assert words in answer.error
    assert answer.headers["connection"] == "close"
    assert await client.ended() == b""
    assert server.service.telemetry.in_flight == 0


async def test_what_follows_a_broken_request_is_not_answered(server: Inside) -> None:
    """Requests before are answered, and bytes after may be of another origin, so the connection ends."""
    client = await server.client()
    client.ask("GET", "/v2/health/live")
    client.send("nonsense\r\n\r\nGET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")

    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 400
    assert await client.ended() == b""


@pytest.mark.parametrize(
    ("version", "header", "stays"), [("1.1", "close", False), ("1.0", "", False), ("1.1", "", True)]
)
async def test_a_connection_ends_when_its_client_says_so(
    server: Inside, version: str, header: str, stays: bool
) -> None:
    """`connection: close` and HTTP/1.0 end it after the answer; HTTP/1.1 keeps it."""
    client = await server.client()
    lines = [f"GET /v2/health/live HTTP/{version}", "host: x", *([f"connection: {header}"] if header else []), "", ""]
    client.send("\r\n".join(lines))

    assert ((await client.answer()).headers.get("connection") != "close") is stays
    if stays:
        client.ask("GET", "/v2/health/live")
        assert (await client.answer()).status == 200
    else:
        assert await client.ended() == b""


async def test_a_client_that_waits_is_told_to_go_on(server: Inside) -> None:
    """`Expect: 100-continue` gets its 100 before the body, where the head is acceptable."""
    client = await server.client()
    body = question(1)
    client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n")

    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    assert numbers((await client.answer()).body) == [2, 2]


async def test_another_expectation_is_refused(server: Inside) -> None:
    """An unknown expectation is refused."""
    client = await server.client()
    client.ask("POST", INFER, b"", expect="a-miracle")

    assert (await client.answer()).status == 417


async def test_head_and_options_tell_about_a_path(server: Inside) -> None:
    """HEAD is GET without the body; OPTIONS says what is allowed; both leave the connection in order."""
    client = await server.client()
    client.ask("HEAD", "/v2/health/live")
    head = await client.answer(bodiless=True)
    client.ask("OPTIONS", INFER)
    options = await client.answer()

    assert (head.status, head.headers["content-length"]) == (200, "13")
    assert (options.status, options.headers["allow"]) == (200, "POST, OPTIONS")


async def test_an_offer_to_change_the_protocol_is_passed_over(server: Inside) -> None:
    """curl --http2 offers h2c with each request, and is answered by HTTP/1.1."""
    client = await server.client()
    client.ask("GET", "/v2/health/live", connection="Upgrade, HTTP2-Settings", upgrade="h2c", http2_settings="AAMA")

    assert (await client.answer()).status == 200


async def test_a_refused_body_is_not_kept(tmp_path: Path) -> None:
    """A client without a key makes the server hold nothing, and keeps the connection for another try."""
    (tmp_path / "primary").write_text("first-key")
    async with inside(service_of(Doubling()), KeyRing(tmp_path)) as server:
        client = await server.client()
        client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n" + " " * 800)

        assert (await client.answer()).status == 401
        await eventually(lambda: server.service.telemetry.in_flight == 0)
        assert server.listener.held == 0
        client.send(b" " * 100)
        client.ask("POST", INFER, question(1), api_key="first-key")
        assert (await client.answer()).status == 200


async def test_unfinished_bodies_have_a_bound_all_together() -> None:
    """Many clients that each send most of a body cannot fill the memory: the last of them are sent away."""
    async with inside(service_of(Doubling())) as server:
        for _ in range(connection.HELD_BODIES + 1):
            client = await server.client()
            client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + " " * 990)
        last = await server.client()
        last.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + " " * 990)

        answer = await last.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.listener.held <= (connection.HELD_BODIES + 1) * 1000


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("GET /v2/health/live HTTP/1.1\r\nhost:", 408),
        (f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n[", 408),
        ("", 0),
    ],
)
async def test_who_does_not_go_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: str, status: int) -> None:
    """Half a head, half a body and silence each have their time; then the connection ends."""
    for name in ("HEAD_SECONDS", "BODY_STALL_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(connection, name, 0.1)
    async with inside(service_of(Doubling())) as server:
        client = await server.client()
        client.send(sent)

        if status:
            assert (await client.answer()).status == status
        assert await client.ended() == b""
        await eventually(lambda: not server.listener.connections)
        assert server.service.telemetry.in_flight == 0


async def test_who_does_not_read_is_not_written_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends requests and takes no answer is cut off, and holds few answers until then."""
    monkeypatch.setattr(connection, "WRITE_STALL_SECONDS", 0.1)
    async with inside(service_of(Doubling()), body_limit=10_000_000) as server:
        client = await server.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(40):
            client.ask("POST", INFER, question(*range(20, 20_020)))

        await eventually(lambda: not server.listener.connections)
        assert server.service.telemetry.in_flight == 0


async def test_who_leaves_frees_what_was_done_for_them() -> None:
    """A client that closes while its request waits counts no longer, and the next one is answered."""
    model = Doubling()
    model.opened.clear()
    async with inside(service_of(model)) as server:
        for _ in range(3):
            client = await server.client()
            client.ask("POST", INFER, question(1))
        await eventually(lambda: server.service.telemetry.in_flight == 3)
        for client in server.clients:
            client.writer.close()
        await eventually(lambda: server.service.telemetry.in_flight == 0)
        model.opened.set()

        client = await server.client()
        client.ask("POST", INFER, question(2))
        assert numbers((await client.answer()).body) == [4, 4]
        assert len(model.rows) < 4  # those that had not begun were never computed


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(question(1), mtime=0)),
        ("gzip", gzip.compress(question(1)[:9], mtime=0) + gzip.compress(question(1)[9:], mtime=0)),
        ("deflate", zlib.compress(question(1))),
        ("deflate", zlib.compress(question(1), wbits=-15)),
        ("identity", question(1)),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),  # what gzip makes has the second in it
)
async def test_a_compressed_body_is_inflated(server: Inside, encoding: str, body: bytes) -> None:
    """Both encodings, whatever wrapping and however many members."""
    client = await server.client()
    client.ask("POST", INFER, body, content_encoding=encoding)

    assert numbers((await client.answer()).body) == [2, 2]


@pytest.mark.attack("client/bad-bodies")
def test_a_body_of_very_many_streams_is_refused() -> None:
    """Each stream of nothing costs a look at what follows it: a million of them would take the server for hours."""
    with pytest.raises(BadRequest, match="more than 10000 gzip streams"):
        inflate(gzip.compress(b"") * 10_001, "gzip", 2**26)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "words"),
    [
        ("gzip", gzip.compress(b" " * 1001, mtime=0), 413, "larger than 1000 bytes when it is inflated"),
        ("gzip", gzip.compress(b" " * 600, mtime=0) * 2, 413, "larger than 1000 bytes when it is inflated"),
        ("deflate", zlib.compress(b" " * 500_000), 413, "larger than 1000 bytes when it is inflated"),
        ("gzip", gzip.compress(question(1), mtime=0)[:-9], 400, "ends in the middle of its gzip stream"),
        ("gzip", b"plain", 400, "the body is not gzip, as content-encoding says"),
        ("deflate", b"plain", 400, "as content-encoding says"),
        ("zstd", b"plain", 415, "content-encoding zstd is not supported"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),  # what gzip makes has the second in it
)
async def test_a_bomb_or_a_broken_stream_is_refused(
    server: Inside, encoding: str, body: bytes, status: int, words: str
) -> None:
    """The limit counts what is inflated, and stops there."""
    client = await server.client()
    client.ask("POST", INFER, body, content_encoding=encoding)

    answer = await client.answer()
    assert answer.status == status
    assert words in answer.error


async def test_a_body_without_end_is_cut_off(server: Inside) -> None:
    """After sixteen times the limit the server stops reading; its answer can still be read."""
    client = await server.client()
    client.send(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(20):
        client.send(b"3e8\r\n" + b" " * 1000 + b"\r\n")

    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await client.ended() == b""


@pytest.mark.parametrize("path", ["later", "at once"])
async def test_an_answer_that_cannot_be_written_is_500(
    server: Inside, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A defect that raises while an answer is written costs one answer, neither the connection nor the draining."""
    broken = Response(headers={"x-user": "\u0141ukasz"})

    async def later() -> Response:
        return broken

    monkeypatch.setattr(server.listener.app, "answer", lambda request: broken if path == "at once" else later())
    client = await server.client()
    for _ in range(2):
        client.ask("POST", INFER, question(1))
        answer = await client.answer()

        assert answer.status == 500
        assert f"log has the reason under {answer.headers['x-request-id']}" in answer.error
    await eventually(lambda: server.service.telemetry.in_flight == 0)


@pytest.mark.parametrize("failing", ["answer", "record"])
async def test_a_defect_of_the_application_costs_one_answer(
    server: Inside, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """An exception of the answering task, or of the record behind it, leaves connection and counter as they are."""

    async def raises() -> Response:
        raise RuntimeError("a defect")

    def record(*arguments: object) -> None:
        raise RuntimeError("a defect")

    if failing == "answer":
        monkeypatch.setattr(server.listener.app, "answer", lambda request: raises())
    else:
        monkeypatch.setattr(server.listener.app, "record", record)
    client = await server.client()
    for _ in range(2):
        client.ask("POST", INFER, question(1))
    for _ in range(2):
        assert (await client.answer()).status == (500 if failing == "answer" else 200)
    await eventually(lambda: server.service.telemetry.in_flight == 0)


async def test_a_connection_that_closes_early_releases_the_request_before() -> None:
    """A pipelined body beyond all limits closes the connection while the request before it is being answered."""
    model = Doubling()
    model.opened.clear()
    async with inside(service_of(model)) as server:
        client = await server.client()
        client.ask("POST", INFER, question(1))
        await eventually(lambda: len(model.rows) == 1)
        client.ask("POST", INFER, b"x" * 20_000)
        await eventually(lambda: server.service.telemetry.in_flight == 1)
        model.opened.set()
        await client.ended()
        await eventually(lambda: server.service.telemetry.in_flight == 0)
