"""Containers of authors behind an endpoint: what passes the gateway, and what keeps a container from answering."""

from __future__ import annotations

import asyncio
import io
import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import grpc
import pyarrow.parquet
import pytest
from conftest import NAMESPACE, Manifest, Platform, condition
from manifests import model_version

MODEL = "own-server"
PROGRAM = Path(__file__).with_name("container_server.py").read_bytes()
FAILING = ("silent", "sick", "loopback", "exits", "leaks", "foreign", "absent", "tampered")
KEPT = f"s3://ultramarine/{NAMESPACE}/captures/"


CALLS = """
import grpc
from concurrent.futures import ThreadPoolExecutor

def each(requests, context):
    for request in requests:
        yield request * 2

handlers = {"Double": grpc.stream_stream_rpc_method_handler(each)}
server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("own.Numbers", handlers)])
server.add_insecure_port("0.0.0.0:9000")
server.start()
server.wait_for_termination()
"""  # a server of a service that the platform does not know


def served(platform: Platform, mode: str = "", **container: Any) -> Manifest:
    """An endpoint whose container runs the program in its model."""
    whole = {
        "image": platform.settings.images.trainer,
        "command": ["python", f"/mnt/model/{MODEL}.py"],
        "ports": {"http": 8000},
        "readiness": {"path": "/health"},
        "liveness": {"path": "/alive", "periodSeconds": 1},
        "startupSeconds": 15 if mode else 120,
        **container,
    }
    deployment = {
        "name": "blue",
        "model": f"{MODEL}@1",
        "container": whole,
        "env": [{"name": "MODE", "value": mode}],
        "resources": {"limits": {"memory": "96Mi"}},
        "requestSettings": {"timeoutSeconds": 5},
    }
    name = f"own-{mode}".rstrip("-")
    return {"kind": "OnlineEndpoint", "metadata": {"name": name}, "spec": {"deployments": [deployment]}}


@pytest.fixture(scope="module")
def own(platform: Platform) -> Iterator[Platform]:
    """All of them at once: one that works, and those that do not."""
    uri = platform.put(f"{MODEL}.py", PROGRAM)
    platform.apply(
        model_version(MODEL, 1, uri, PROGRAM),
        served(platform),
        kept(platform),
        *(served(platform, mode) for mode in ("silent", "sick", "loopback", "exits", "leaks")),
        served(platform, "foreign", command=["/bin/cat"], args=["/no/such/file"]),
        served(platform, "absent", image="ultramarine/no-such-image:1"),
        called(platform),
        tampered(platform),
    )
    yield platform
    platform.delete("oe", "own", "own-kept", "own-called", *(f"own-{mode}" for mode in FAILING))


def kept(platform: Platform) -> Manifest:
    """An endpoint whose container works, and whose JSON is captured without one member."""
    whole = served(platform)
    whole["metadata"]["name"] = "own-kept"
    whole["spec"]["dataCollector"] = {"samplingRate": 1, "uri": KEPT, "redact": ["secret"]}
    return whole


def called(platform: Platform) -> Manifest:
    """An endpoint whose container speaks gRPC alone."""
    container = {
        "image": platform.settings.images.server,
        "command": ["python", "-c", CALLS],
        "ports": {"grpc": 9000},
        "readiness": {},
    }
    deployments = [{"name": "blue", "container": container}]
    return {"kind": "OnlineEndpoint", "metadata": {"name": "own-called"}, "spec": {"deployments": deployments}}


def tampered(platform: Platform) -> Manifest:
    """An endpoint whose model was changed after its version became ready."""
    uri = platform.put("own-tampered.py", PROGRAM)
    platform.apply(model_version("own-tampered", 1, uri, PROGRAM))
    platform.wait("mv", "own-tampered-1", lambda status: condition(status, "Ready").get("status") == "True")
    platform.put("own-tampered.py", PROGRAM + b"# changed")
    whole = served(platform, "tampered")
    whole["spec"]["deployments"][0]["model"] = "own-tampered@1"
    return whole


def captures(platform: Platform) -> list[dict[str, Any]]:
    """All captures that are stored."""
    with platform.target.bucket(NAMESPACE) as storage:
        listed = storage.list_objects_v2(Bucket="ultramarine", Prefix=f"{NAMESPACE}/captures/own-kept/")
        keys = [entry["Key"] for entry in listed.get("Contents", [])]
        files = [storage.get_object(Bucket="ultramarine", Key=key)["Body"].read() for key in keys]
    return [row for file in files for row in pyarrow.parquet.read_table(io.BytesIO(file)).to_pylist()]


def test_json_of_a_container_is_captured(own: Platform) -> None:
    """Each request and its answer are in the bucket, without redacted members and the query of the path."""
    own.ready("own-kept", f"{MODEL}-1")
    ids = [uuid4().hex for _ in range(20)]
    with own.client("own-kept") as client:
        for number, name in enumerate(ids):
            body = {"number": number, "secret": "hidden"}
            answer = client.post("/any/path?token=t", json=body, headers={"x-request-id": name})
            assert answer.json()["given"] == body
    end = time.monotonic() + 180
    while len(rows := [row for row in captures(own) if row["request_id"] in ids]) < len(ids):
        assert time.monotonic() < end, rows
        time.sleep(1)
    row = next(row for row in rows if row["request_id"] == ids[7])
    assert (row["path"], row["status"], row["deployment"]) == ("/any/path", 200, "blue")
    assert json.loads(row["request"]) == {"number": 7, "secret": None}
    assert json.loads(row["response"])["given"] == {"number": 7, "secret": None}


@pytest.mark.parametrize("name", ["own", "own-kept"])
def test_a_container_streams_behind_the_gateway(own: Platform, name: str) -> None:
    """Events arrive one by one, for longer than the timeout; a WebSocket echoes; the container gets no keys."""
    own.ready(name, f"{MODEL}-1")
    key = own.secret(f"{name}-keys")["primary"]
    with own.client(name) as client:
        count = 0
        with client.stream("GET", "/events") as answer:
            for line in answer.iter_lines():
                count += line.startswith("data:")
                if line == "data: 12":  # more than 5 s after the first
                    assert client.get("/enough").status_code == 200
        assert 13 <= count < 100
        names = client.get("/any/path?x=1").text.split()
        assert "host" in names
        assert not [name for name in names if name in ("authorization", "api-key") or "aws_" in name], names

    async def echo(url: str) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/socket", headers={"api-key": key}) as socket,
        ):
            await socket.send_str("hello")
            return await socket.receive_str()

    with own.target.reach(own.namespace, name, 80) as url:
        assert asyncio.run(echo(url)) == "hello"


def test_calls_of_any_service_stream_through_the_gateway(own: Platform) -> None:
    """Each message of a stream in both directions is answered before the next is sent; without a key none is."""
    own.wait("oe", "own-called", lambda status: condition(status, "Ready").get("status") == "True", 300)
    key = own.secret("own-called-keys")["primary"]
    said: queue.Queue[bytes] = queue.Queue()
    with (
        own.target.reach(own.namespace, "own-called", 9000) as url,
        grpc.insecure_channel(urlsplit(url).netloc) as channel,
    ):
        double = channel.stream_stream("/own.Numbers/Double")
        answers = double(iter(said.get, b""), metadata=[("authorization", f"Bearer {key}")], timeout=60)
        for message in (b"ab", b"cd", b"x" * 100_000):
            said.put(message)
            assert next(answers) == message * 2
        said.put(b"")
        assert list(answers) == []
        with pytest.raises(grpc.RpcError) as refused:
            next(double(iter([b"ab"]), timeout=60))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_body_in_chunks_arrives_whole(own: Platform) -> None:
    """A request without a length, in many chunks, reaches the container as it was sent."""
    own.ready("own", f"{MODEL}-1")
    text = json.dumps({"numbers": list(range(100_000))}).encode()
    with own.client("own") as client:
        answer = client.post("/any/path", content=(text[at : at + 10_000] for at in range(0, len(text), 10_000)))
    assert answer.json()["size"] == len(text)


def test_a_container_cannot_change_its_model(own: Platform) -> None:
    """The folder of the model is read-only."""
    own.ready("own", f"{MODEL}-1")
    with own.client("own") as client:
        assert client.get("/write").text == "Read-only file system"


def test_a_container_that_hangs_starts_again(own: Platform) -> None:
    """When its own liveness path fails, the kubelet restarts it, and it answers again."""
    own.ready("own-kept", f"{MODEL}-1")

    def restarts() -> int:
        (pod,) = own.pods_of("OnlineEndpoint", "own-kept")
        return max(int(container["restartCount"]) for container in pod["status"]["containerStatuses"])

    before = restarts()
    with own.client("own-kept") as client:
        assert client.get("/hang").status_code == 200
        own.wait("oe", "own-kept", lambda _: restarts() > before)
        own.wait("oe", "own-kept", lambda _: client.get("/alive").status_code == 200)


@pytest.mark.attack("client/no-key")
@pytest.mark.parametrize("path", ["/", "/health", "/v2/health/ready"])
def test_no_path_of_a_container_is_open(own: Platform, path: str) -> None:
    """Without a key the gateway refuses each path, health included."""
    own.ready("own", f"{MODEL}-1")
    with own.client("own", "wrong") as client:
        assert client.get(path).status_code == 401


def test_the_keys_of_a_container_rotate(own: Platform) -> None:
    """A new secondary key opens while the primary one still does; the one that it replaces opens no more."""
    own.ready("own", f"{MODEL}-1")
    old, new = own.secret("own-keys"), f"second-{uuid4().hex}"
    change = {"stringData": {"secondary": new}}
    own.kubectl("patch", "secret", "own-keys", "--type=merge", "-p", json.dumps(change))

    def code(key: str) -> int:
        with own.client("own", key) as client:
            return client.get("/any/path").status_code

    own.wait("oe", "own", lambda _: code(new) == 200)
    assert code(old["primary"]) == 200
    own.wait("oe", "own", lambda _: code(old["secondary"]) == 401)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("silent", "since GET /health at port 8000 did not succeed within startupSeconds"),
        ("sick", "since GET /health at port 8000 did not succeed within startupSeconds"),
        ("loopback", "let it listen at 0.0.0.0:8000 rather than 127.0.0.1"),
        ("exits", "exited with code 1: no weights in /mnt/model"),
        ("leaks", "used more memory than its limit"),
        ("foreign", "exited with code 1: /bin/cat: /no/such/file"),
        ("tampered", "the stored content is not what was registered; register it again or restore it"),
        ("absent", "cannot pull image ultramarine/no-such-image:1"),
    ],
)
def test_what_keeps_a_container_from_answering_is_named(own: Platform, mode: str, words: str) -> None:
    """Ready=False names the container or its image, the cause, and the remedy."""
    told = own.wait("oe", f"own-{mode}", lambda status: words in condition(status, "Ready").get("message", ""), 300)
    assert condition(told, "Ready")["status"] == "False"
    assert f"own-{mode}-" in condition(told, "Ready")["message"]
