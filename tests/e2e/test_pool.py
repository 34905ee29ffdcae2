"""Many models behind one endpoint on the real cluster: by name, without a restart, within a bound."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import Manifest, Platform, condition
from manifests import endpoint, infer, large_onnx_model, model_version, onnx_model

NAME, LABELS = "pool", {"e2e": "pool"}
SMALL = [f"pool-{number}" for number in range(20)]
LARGE = [f"pool-large-{number}" for number in range(10)]
MIB = 16  # the bound: ten models of more than 2 MiB do not fit
SECONDS = 300  # for a new catalogue: the kubelet looks once a minute, and may have a ConfigMap of a minute before


def register(platform: Platform, name: str, content: bytes, number: int = 1) -> None:
    """Make a version of a Model with the labels of the pool."""
    version = model_version(name, number, platform.put(f"{name}-{number}.onnx", content), content)
    version["metadata"]["labels"] = LABELS
    platform.apply({"kind": "Model", "metadata": {"name": name, "labels": LABELS}, "spec": {}}, version)


def settled(platform: Platform, message: str) -> Manifest:
    """Wait until the endpoint's one deployment is ready with that message."""

    def so(status: Manifest) -> bool:
        found = [(d["state"], d["message"], d["modelVersion"]) for d in status.get("deployments") or []]
        return found == [("Ready", message, "")] and condition(status, "Ready").get("status") == "True"

    return platform.wait("oe", NAME, so, SECONDS)


@pytest.fixture(scope="module")
def pool(platform: Platform) -> Iterator[Platform]:
    """Twenty models that add their number, ten large ones, a broken one, and one without a version, in one pod."""
    for number, name in enumerate(SMALL):
        register(platform, name, onnx_model(number))
    for number, name in enumerate(LARGE):
        register(platform, name, large_onnx_model(number + 1))
    register(platform, "pool-broken", b"not an ONNX model")
    platform.apply({"kind": "Model", "metadata": {"name": "pool-none", "labels": LABELS}, "spec": {}})
    many = {"selector": {"matchLabels": LABELS}, "maxLoadedMebibytes": MIB}
    platform.apply(endpoint(NAME, "", deployments=[{"name": "many", "pool": many}]))
    settled(platform, "32 models, 1 without a ready version: pool-none")
    yield platform
    platform.delete("oe", NAME)
    platform.kubectl("delete", "mv,mdl", "-l", "e2e=pool")


def the_pod(platform: Platform) -> Manifest:
    """The one pod of the pool."""
    [found] = platform.get("pod", "", "-l", f"ultramarine.dev/name={NAME},ultramarine.dev/deployment=many")
    return dict(found)


def metric(platform: Platform, name: str) -> float:
    """The value of a metric of the pod."""
    told = httpx.get(f"http://{the_pod(platform)['status']['podIP']}:8080/metrics", timeout=30).text
    found = re.search(rf"^ultramarine_server_{name} (\S+)$", told, re.M)
    assert found, name
    return float(found[1])


def value(answer: httpx.Response) -> float:
    """The one number of an answer."""
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


@pytest.mark.slow
def test_each_of_many_models_answers_and_a_broken_one_harms_none(pool):
    """By its name in the path, through the gateway; what cannot be loaded says why, and the server has no keys."""
    with pool.client(NAME) as client:
        for number, name in enumerate(SMALL):
            broken = client.post("/v2/models/pool-broken/infer", json=infer([[1.0]]))
            assert value(client.post(f"/v2/models/{name}/infer", json=infer([[1.0]]))) == 1 + number
            assert broken.status_code == 503
            assert "ModelCorrupt" in broken.json()["error"]
        index = {entry["name"]: entry for entry in client.post("/v2/repository/index").json()}
        score = client.post("/score?model=pool-7", json=[[1.0]])
        unknown = client.get("/v2/models/pool-none")

    assert set(index) == {*SMALL, *LARGE, "pool-broken"}
    assert {index[name]["state"] for name in SMALL} == {"READY"}
    assert "ModelCorrupt" in index["pool-broken"]["reason"]
    assert score.json() == {"predictions": [[8.0]]}
    assert unknown.status_code == 404
    environment = pool.kubectl("exec", the_pod(pool)["metadata"]["name"], "-c", "server", "--", "env")
    assert "AWS_" not in environment


@pytest.mark.slow
def test_a_new_model_and_a_new_version_come_without_a_restart(pool):
    """The catalogue reaches the pod within two minutes, and the version before answers until the new one is loaded."""
    before = the_pod(pool)["metadata"]["uid"]
    register(pool, "pool-new", onnx_model(100))
    register(pool, "pool-3", onnx_model(300), number=2)
    settled(pool, "33 models, 1 without a ready version: pool-none")
    end, began = time.monotonic() + SECONDS, time.monotonic()
    with pool.client(NAME) as client:
        while client.post("/v2/models/pool-new/infer", json=infer([[1.0]])).status_code != 200:
            assert value(client.post("/v2/models/pool-3/infer", json=infer([[1.0]]))) in (4, 301)
            assert time.monotonic() < end, "the new model never came"
            time.sleep(1)
        print(f"a new model answered {time.monotonic() - began:.0f} s after the catalogue was written")
        while (seen := client.post("/v2/models/pool-3/infer", json=infer([[1.0]])).json())["model_version"] != "2":
            assert time.monotonic() < end, seen
            time.sleep(0.2)
        assert value(client.post("/v2/models/pool-3/infer", json=infer([[1.0]]))) == 301
    assert the_pod(pool)["metadata"]["uid"] == before
    restarts = [status["restartCount"] for status in the_pod(pool)["status"]["containerStatuses"]]
    assert restarts == [0]


@pytest.mark.slow
def test_the_least_recently_asked_models_make_room_and_come_back(pool):
    """Ten models that do not fit together are asked twice, one after another: all answer, and the bound holds."""
    with pool.client(NAME) as client:
        for _ in range(2):
            for number, name in enumerate(LARGE):
                assert value(client.post(f"/v2/models/{name}/infer", json=infer([[2.0]]))) == 2 * (number + 1)
                assert metric(pool, "loaded_bytes") <= MIB * 2**20
        ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert metric(pool, "model_evictions_total") >= len(LARGE)
    assert LARGE[-1] in {entry["name"] for entry in ready}
    assert LARGE[0] not in {entry["name"] for entry in ready}
