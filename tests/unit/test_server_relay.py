"""The relay before a container: bytes pass as they are, and a sample of the JSON exchanges is captured."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ports import free_port
from serving_process import environment
from ultramarine_contract.serving_records import CollectTask, ServingTask
from ultramarine_server.collecting import passing
from ultramarine_server.collecting.captures import MAX_CAPTURE, Captures
from ultramarine_server.collecting.passing import ConnectionParser, Removal, Room
from ultramarine_server.collecting.relay import _Client

REDACTED = ("secret", "age")
INFER = "/v2/models/iris/infer"


def application(pieces: asyncio.Queue[bytes]) -> web.Application:
    """A server of all shapes of answers; its stream sends what the test puts into the queue, until an empty piece."""

    async def reply(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"given": body, "secret": 1}, status=int(request.query.get("status", 200)))

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def compressed(request: web.Request) -> web.Response:
        response = web.json_response({"size": len(await request.read())})
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async def unending(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.force_close()
        await response.prepare(request)
        await response.write(b'{"until": "the end"}')
        return response

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while piece := await pieces.get():
            await response.write(piece)
        return response

    async def infer(request: web.Request) -> web.Response:
        asked = await request.json()
        tensor = {"name": "predict", "datatype": "INT64", "shape": [1], "data": [2]}
        return web.json_response({"id": asked["id"], "model_name": "iris", "outputs": [tensor]})

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    made = web.Application(client_max_size=2**30)
    made.router.add_post("/reply", reply)
    made.router.add_get("/page", page)
    made.router.add_post("/compressed", compressed)
    made.router.add_post("/unending", unending)
    made.router.add_post("/stream", stream)
    made.router.add_post(INFER, infer)
    made.router.add_get("/socket", echo)
    return made


class Rig:
    """A server with the relay before it."""

    def __init__(self, folder: Path) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.captures = Captures(1, Removal(REDACTED), folder)
        self.room, self.folder, self.port = Room(), folder, free_port()

    async def start(self) -> None:
        server = free_port()
        self._runner = web.AppRunner(application(self.pieces))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", server).start()
        address = "127.0.0.1", server
        make = asyncio.get_running_loop().create_server
        self._relay = await make(lambda: _Client(self.captures, self.room, address), "127.0.0.1", self.port)

    async def rows(self) -> list[dict[str, Any]]:
        """End both, and return what was captured."""
        self._relay.close()
        await self._runner.cleanup()
        await asyncio.to_thread(self.captures.close)
        return lines_in(self.folder)


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.start()
    yield rig
    await rig.rows()


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{rig.port}") as session:
        yield session


async def test_json_is_captured_without_redacted_members(rig: Rig, client: aiohttp.ClientSession) -> None:
    """A row has the path without its query, the request's id, and both bodies; members of redacted names are null."""
    body = {"age": 41, "rows": [{"age": 1, "x": 2}]}
    async with client.post("/reply?token=t", json=body, headers={"x-request-id": "first"}) as answer:
        assert (await answer.json())["given"] == body
    [row] = await rig.rows()
    assert (row["request_id"], row["path"], row["status"]) == ("first", "/reply", 200)
    assert json.loads(row["request"]) == {"age": None, "rows": [{"age": None, "x": 2}]}
    assert json.loads(row["response"])["secret"] is None


async def test_tensors_have_the_columns_of_the_platforms_server(rig: Rig, client: aiohttp.ClientSession) -> None:
    """Infer of the Open Inference Protocol becomes flat tensors and the id of the document; a redacted one is null."""
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [1, 1], "data": [[3]]},
        {"name": "size", "datatype": "FP64", "shape": [1, 2], "data": [[1, 2]]},
    ]
    async with client.post(INFER, json={"id": "q", "inputs": inputs}) as answer:
        assert answer.status == 200
    [row] = await rig.rows()
    assert row["inference_id"] == "q"
    assert [tensor["data"] for tensor in json.loads(row["request"])] == [None, [1, 2]]
    assert json.loads(row["response"]) == [{"name": "predict", "datatype": "INT64", "shape": [1], "data": [2]}]


async def test_every_shape_of_an_answer_is_read(rig: Rig, client: aiohttp.ClientSession) -> None:
    """Compressed bodies, answers without a length, errors, HEAD and pages pass on one client, and JSON is captured."""
    packed = gzip.compress(b'{"big": [1, 2, 3]}')
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    async with client.head("/page") as answer:
        assert answer.headers["content-length"] == "5"
    async with client.post("/compressed", data=packed, headers=headers) as answer:
        assert (await answer.json())["size"] > 0
    async with client.get("/page") as answer:
        assert await answer.text() == "hello"
    async with client.post("/reply?status=422", json=[1]) as answer:
        assert answer.status == 422
    async with client.post("/unending", json=2) as answer:
        assert await answer.text() == '{"until": "the end"}'
    rows = await rig.rows()
    assert [(row["path"], row["request"], row["response"] and json.loads(row["response"])) for row in rows] == [
        ("/compressed", '{"big":[1,2,3]}', {"size": 18}),
        ("/reply", "[1]", None),
        ("/unending", "2", {"until": "the end"}),
    ]


async def test_a_stream_passes_piece_by_piece(rig: Rig, client: aiohttp.ClientSession) -> None:
    """Each piece arrives before the next is sent; the row has the request alone, however long the stream is."""
    async with client.post("/stream", json={"prompt": "hi"}) as answer:
        for piece in (b"data: 1\n\n", b"data: 2\n\n"):
            rig.pieces.put_nowait(piece)
            assert await answer.content.readany() == piece
        rig.pieces.put_nowait(b"x" * MAX_CAPTURE)
        rig.pieces.put_nowait(b"")
        assert len(await answer.content.read()) == MAX_CAPTURE
    [row] = await rig.rows()
    assert (row["request"], row["response"]) == ('{"prompt":"hi"}', None)


async def test_a_websocket_passes_unread(rig: Rig, client: aiohttp.ClientSession) -> None:
    """After its upgrade nothing of a connection is read or captured."""
    async with client.ws_connect("/socket") as socket:
        await socket.send_str("POST / HTTP/1.1")
        assert await socket.receive_str() == "POST / HTTP/1.1"
    assert await rig.rows() == []


async def test_large_bodies_pass_and_are_counted(rig: Rig, client: aiohttp.ClientSession) -> None:
    """Bodies above the limit arrive whole, in both directions, and count as lost by their size."""
    text = "x" * 20_000_000
    async with client.post("/reply", json=text) as answer:
        assert (await answer.json())["given"] == text
    assert await rig.rows() == []
    assert rig.captures.losses() == {"size": 1}
    assert rig.room.taken == 0


async def test_a_refused_connection_is_reset(tmp_path: Path) -> None:
    """Without a server the relay resets, since the gateway repeats such a request at another pod."""
    captures, port, nobody = Captures(1, Removal(()), tmp_path), free_port(), ("127.0.0.1", free_port())
    relay = await asyncio.get_running_loop().create_server(lambda: _Client(captures, Room(), nobody), "127.0.0.1", port)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://127.0.0.1:{port}/")
    relay.close()
    captures.close()


def test_exchanges_without_an_answer_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond MAX_OPEN sampled exchanges, bodies are not held; the end of a connection frees its places."""
    monkeypatch.setattr(passing, "MAX_OPEN", 2)
    captures, room = Captures(1, Removal(()), tmp_path), Room()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    connections = [ConnectionParser(captures, room) for _ in range(3)]
    for connection in connections:
        connection.ask(head)
    assert (room.taken, captures.losses()) == (2, {"buffer": 1})
    for connection in connections:
        connection.close()
    assert room.taken == 0
    captures.close()


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
def test_bytes_of_another_protocol_are_not_read(tmp_path: Path, data: bytes) -> None:
    """A connection that is not HTTP/1.1 is left alone for good."""
    captures = Captures(1, Removal(()), tmp_path)
    observed = ConnectionParser(captures, Room())
    observed.ask(data)
    observed.ask(b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1")
    observed.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    captures.close()
    assert lines_in(tmp_path) == []


async def test_the_command_serves_until_its_end(tmp_path: Path) -> None:
    """The process of the pod relays, and SIGTERM writes the last captures and what was lost."""
    rig = Rig(tmp_path / "unused")
    (tmp_path / "unused").mkdir()
    await rig.start()
    port, folder = free_port(), tmp_path / "captures"
    folder.mkdir()
    server = rig._runner.addresses[0][1]
    task = ServingTask("", "", "", "", "", collect=CollectTask("chat", "blue", "s3://lake/kept/", 1, REDACTED))
    to = ["--port", str(port), "--to-host", "127.0.0.1", "--to-port", str(server), "--captures-dir", str(folder)]
    env = environment() | {"ULTRAMARINE_TASK": task.to_json()}
    with subprocess.Popen(
        [sys.executable, "-m", "ultramarine_server", "relay", *to], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                for _ in range(600):
                    try:
                        async with session.post("/reply", json={"secret": 5}) as answer:
                            assert answer.status == 200
                        break
                    except aiohttp.ClientConnectionError:
                        assert process.poll() is None
                        await asyncio.sleep(0.1)
                async with session.post("/reply", json="x" * MAX_CAPTURE) as answer:
                    assert answer.status == 200
            process.terminate()
            assert await asyncio.to_thread(process.wait, 240) == 0
            assert process.stdout is not None
            assert "by reason: {'size': 1}" in process.stdout.read()
        finally:
            process.kill()
    await rig.rows()
    [row] = lines_in(folder)
    assert row["request"] == '{"secret":null}'
