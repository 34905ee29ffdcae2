"""The data collector on the real cluster: what was asked and answered is in the bucket, and no pod takes it along."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pyarrow.parquet
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import NAMESPACE, Platform
from manifests import endpoint, infer, model_version, onnx_model

NAME, BUCKET = "captured", "ultramarine"
SECRET = 1234.5  # a value of the input that is redacted


def kept(deployments: list[dict[str, Any]]) -> dict[str, Any]:
    """The endpoint: all requests are kept, without the values of x."""
    collector = {"samplingRate": 1, "uri": f"s3://{BUCKET}/{NAMESPACE}/captures/", "redact": ["x"]}
    return endpoint(NAME, "", deployments=deployments, dataCollector=collector)


@pytest.fixture(scope="module")
def collected(platform: Platform) -> Iterator[Platform]:
    """An ONNX model that adds 1, behind an endpoint with a data collector; nothing of an earlier run is left."""
    with platform.target.bucket(NAMESPACE) as storage:
        for key in keys(storage):
            storage.delete_object(Bucket=BUCKET, Key=key)
    content = onnx_model(1)
    platform.apply(model_version(NAME, 1, platform.put(f"{NAME}-1.onnx", content), content))
    platform.apply(kept([{"name": "blue", "model": f"{NAME}@1"}]))
    platform.ready(NAME, f"{NAME}-1")
    yield platform
    platform.delete("oe", NAME)


def keys(storage: Any) -> list[str]:
    """The objects of the endpoint's captures."""
    found = storage.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{NAMESPACE}/captures/{NAME}/")
    return [entry["Key"] for page in found for entry in page.get("Contents", [])]


def rows(platform: Platform) -> list[dict[str, Any]]:
    """All captures that are stored."""
    with platform.target.bucket(NAMESPACE) as storage:
        files = [storage.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys(storage)]
    return [row for file in files for row in pyarrow.parquet.read_table(io.BytesIO(file)).to_pylist()]


def stored(platform: Platform, enough: Callable[[list[dict[str, Any]]], bool], seconds: float) -> list[dict[str, Any]]:
    """Wait until what is stored is enough, and return it; return what there is when the time is over."""
    end = time.monotonic() + seconds
    while not enough(found := rows(platform)) and time.monotonic() < end:
        time.sleep(1)
    return found


def pods(platform: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.get("pod", "", "-l", f"ultramarine.dev/name={NAME}")
    return found


def ask_in_every_way(platform: Platform) -> set[str]:
    """Send 50 requests, by JSON, bytes, rows and gRPC, and return their ids."""
    opens = {"authorization": f"Bearer {platform.secret(f'{NAME}-keys')['primary']}"}
    values = np.array([[SECRET]], np.float32)
    with platform.client(NAME) as client:
        for number in range(20):
            headers = {"x-request-id": f"json-{number}"}
            assert client.post(f"/v2/models/{NAME}/infer", json=infer([[SECRET]]), headers=headers).status_code == 200
        for number in range(10):
            headers = {"x-request-id": f"score-{number}"}
            assert client.post("/score", json={"data": [[SECRET]]}, headers=headers).status_code == 200
    with platform.target.reach(NAMESPACE, NAME, 80) as url:
        http = triton_http.InferenceServerClient(urlsplit(url).netloc)
        for number in range(10):
            given = triton_http.InferInput("x", [1, 1], "FP32")
            given.set_data_from_numpy(values, binary_data=True)
            wanted = triton_http.InferRequestedOutput("y", binary_data=True)
            http.infer(NAME, [given], outputs=[wanted], headers={**opens, "x-request-id": f"binary-{number}"})
    with platform.target.reach(NAMESPACE, NAME, 9000) as url:
        grpc = triton_grpc.InferenceServerClient(urlsplit(url).netloc)
        for number in range(10):
            asked = triton_grpc.InferInput("x", [1, 1], "FP32")
            asked.set_data_from_numpy(values)
            grpc.infer(NAME, [asked], headers={**opens, "x-request-id": f"grpc-{number}"})
    ways = {"json": 20, "score": 10, "binary": 10, "grpc": 10}
    return {f"{way}-{number}" for way, count in ways.items() for number in range(count)}


@pytest.mark.slow
def test_fifty_requests_are_in_the_bucket_within_a_minute(collected):
    """Each way of asking gives the same columns, each request once; x is null, y is there, and the metrics agree."""
    ids = ask_in_every_way(collected)
    found = stored(collected, lambda there: len(there) >= len(ids), 60)

    assert sorted(row["request_id"] for row in found) == sorted(ids)
    for row in found:
        [asked], [answered] = json.loads(row["request"]), json.loads(row["response"])
        assert asked == {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": None}
        assert (answered["name"], answered["shape"], answered["data"]) == ("y", [1, 1], [SECRET + 1])
        assert (row["status"], row["endpoint"], row["deployment"]) == (200, NAME, "blue")
        assert (row["model"], row["version"]) == (NAME, "1")
    assert str(SECRET) not in str(found)
    [pod] = pods(collected)
    written = 'ultramarine_server_captures_total{reason="",result="written"} 50.0'
    end = time.monotonic() + 60
    url = f"http://{pod['status']['podIP']}:8080/metrics"
    while written not in (told := httpx.get(url, timeout=30).text):
        assert time.monotonic() < end, told
        time.sleep(0.2)


@pytest.mark.attack("model/collector-keys")
@pytest.mark.slow
def test_the_serving_container_has_no_storage_keys(collected):
    """Neither its spec nor its environment has them, and it shares nothing with the sidecar but the captures."""
    [pod] = pods(collected)
    spec = pod["spec"]
    [server] = spec["containers"]
    [sidecar] = [one for one in spec["initContainers"] if one["name"] == "collect"]
    mounts = [{mount["mountPath"] for mount in one["volumeMounts"]} for one in (server, sidecar)]
    look = "import os; print(*os.environ, *os.listdir('/mnt/captures'))"
    seen = collected.kubectl("exec", pod["metadata"]["name"], "-c", "server", "--", "python3", "-c", look)

    assert "envFrom" not in server
    assert sidecar["envFrom"] == [{"secretRef": {"name": "ultramarine-storage"}}]
    assert mounts[0] & mounts[1] == {"/mnt/captures"}
    assert "ULTRAMARINE_TASK" in seen
    assert "AWS_" not in seen


@pytest.mark.slow
def test_neither_a_rollout_nor_the_end_loses_a_capture(collected):
    """Requests go on while all pods are exchanged, and up to the end: each that was answered is stored, and once."""
    asked: list[str] = []

    def ask(client: httpx.Client, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            name = f"rolled-{len(asked)}"
            body, headers = infer([[SECRET]]), {"x-request-id": name}
            assert client.post(f"/v2/models/{NAME}/infer", json=body, headers=headers).status_code == 200
            asked.append(name)
            time.sleep(0.02)

    before = pods(collected)[0]["metadata"]["uid"]

    def exchanged() -> bool:
        return len(asked) % 25 == 0 and before not in {pod["metadata"]["uid"] for pod in pods(collected)}

    with collected.client(NAME) as client:
        collected.apply(kept([{"name": "blue", "model": f"{NAME}@1", "resources": {"requests": {"cpu": "11m"}}}]))
        ask(client, 180, exchanged)
        assert before not in {pod["metadata"]["uid"] for pod in pods(collected)}
        ask(client, 3)
    began = time.monotonic()
    collected.delete("oe", NAME)
    collected.kubectl("wait", "--for=delete", "pod", "-l", f"ultramarine.dev/name={NAME}", "--timeout=240s")
    print(f"{len(asked)} requests; the last pod was gone {time.monotonic() - began:.0f} s after its endpoint")
    found = [row["request_id"] for row in rows(collected) if row["request_id"].startswith("rolled-")]

    assert sorted(found) == sorted(asked)
