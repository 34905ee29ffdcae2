"""Many models behind one endpoint: the server and the container beside it, over real sockets and a real storage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from serving_pool import PoolServer, adder, pooling, stored
from tritonclient.utils import InferenceServerException
from unit.conftest import ObjectStore, eventually, free_port

MODELS = 6


@pytest.fixture
def pool(object_store: ObjectStore, bucket_folder: Path, tmp_path: Path) -> Iterator[PoolServer]:
    """Models m0 to m5, which add their own number, and one whose content is not what was registered."""
    entries = [stored(bucket_folder, f"m{number}", adder(number)) for number in range(MODELS)]
    broken = stored(bucket_folder, "broken", b"not an ONNX model")
    changed = stored(bucket_folder, "changed", adder(7), digest="sha256:" + "0" * 64)
    with pooling(object_store, tmp_path, [*entries, broken, changed]) as server:
        yield server


def answer_of(response: httpx.Response) -> float:
    """The one number of an answer."""
    assert response.status_code == 200, response.text
    return float(response.json()["outputs"][0]["data"][0])


def test_each_model_answers_by_its_name(pool: PoolServer) -> None:
    """The name in the path chooses the model, which is loaded for the first request; the index tells which are."""
    assert pool.server.get("/v2/health/ready").status_code == 200
    assert {entry["state"] for entry in pool.index().values()} == {"UNAVAILABLE"}
    for number in range(MODELS):
        assert answer_of(pool.add(f"m{number}", 10)) == 10 + number
    answer = pool.add("m3").json()
    scores = httpx.post(f"{pool.server.url}/score?model=m3", json={"data": [[1.0]]}, timeout=30)

    assert (answer["model_name"], answer["model_version"]) == ("m3", "1")
    assert scores.json() == {"predictions": [[4.0]]}
    assert set(pool.index(ready=True)) == {f"m{number}" for number in range(MODELS)}
    assert pool.metric("loaded_models") == MODELS
    assert pool.metric('model_loads_total{result="ok"}') == MODELS
    assert pool.metric("model_load_seconds_count") == MODELS


def test_metadata_readiness_and_openapi_are_each_models_own(pool: PoolServer) -> None:
    """A path with a name is answered for that model; the error of a path without one says how to name it."""
    metadata = pool.server.get("/v2/models/m2").json()
    page = pool.server.get("/openapi.json?model=m2").json()
    unnamed = httpx.post(f"{pool.server.url}/score", json={"data": [[1.0]]}, timeout=30)

    assert (metadata["name"], metadata["versions"]) == ("m2", ["1"])
    assert "/v2/models/m2/infer" in page["paths"]
    assert "/score?model=m2" in page["paths"]
    assert unnamed.status_code == 400
    assert "/score?model=NAME" in unnamed.json()["error"]
    assert pool.server.get("/v2/models/m4/ready").json() == {"name": "m4", "ready": True}
    assert pool.server.get("/v2/models/m9/ready").status_code == 404
    assert pool.server.get("/v2/models/m2/versions/7").status_code == 404


def test_grpc_asks_by_name_too(object_store: ObjectStore, bucket_folder: Path, tmp_path: Path) -> None:
    """Metadata, readiness, inference and the index of gRPC are those of the model that the request names."""
    entries = [stored(bucket_folder, f"m{number}", adder(number)) for number in range(2)]
    port = free_port()
    with pooling(object_store, tmp_path, entries, "--grpc-port", str(port)):
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        asked = triton.InferInput("x", [1, 1], "FP32")
        asked.set_data_from_numpy(np.array([[5]], np.float32))
        metadata = client.get_model_metadata("m0")
        answers = {name: client.infer(name, [asked]) for name in ("m0", "m1")}
        states = {model.name: model.state for model in client.get_model_repository_index().models}

        assert (metadata.name, metadata.versions) == ("m0", ["1"])
        assert {name: float(answer.as_numpy("y")[0, 0]) for name, answer in answers.items()} == {"m0": 5, "m1": 6}
        assert {name: answer.get_response().model_version for name, answer in answers.items()} == {"m0": "1", "m1": "1"}
        assert states == {"m0": "READY", "m1": "READY"}
        assert client.is_model_ready("m1")
        with pytest.raises(InferenceServerException, match="unknown"):
            client.infer("m2", [asked])


def test_a_broken_model_harms_no_other(pool: PoolServer) -> None:
    """Its requests get 503 with the reason, which is remembered for a while; the others answer."""
    for name, reason in (("broken", "ModelCorrupt"), ("changed", "DigestMismatch")):
        first, second = pool.add(name), pool.add(name)

        assert first.status_code == second.status_code == 503
        assert reason in first.json()["error"]
        assert int(second.headers["retry-after"]) >= 1
        assert reason in pool.index()[name]["reason"]
        assert pool.server.get(f"/v2/models/{name}/ready").status_code == 400
    assert pool.metric('model_loads_total{result="failed"}') == 2
    assert answer_of(pool.add("m1")) == 1


def test_requests_of_one_model_wait_for_one_load(pool: PoolServer) -> None:
    """Twenty at once to a model that is not loaded: all are answered, and it was loaded once."""
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: answer_of(pool.add("m5", 1)), range(20)))

    assert answers == [6.0] * 20
    assert pool.metric('model_loads_total{result="ok"}') == 1


def test_a_new_catalogue_is_followed_without_a_restart(
    pool: PoolServer, bucket_folder: Path, object_store: ObjectStore
) -> None:
    """A model appears, one moves to a version 2, which the version 1 bridges while it is loaded, and one goes."""
    assert answer_of(pool.add("m1")) == 1
    entries = [stored(bucket_folder, "m1", adder(101), "2"), stored(bucket_folder, "m9", adder(9))]
    pool.catalogue(entries)
    eventually(lambda: pool.add("m9").status_code == 200)

    eventually(lambda: answer_of(pool.add("m1")) == 101)
    assert pool.add("m1").json()["model_version"] == "2"
    assert pool.add("m2").status_code == 404
    assert set(pool.index()) == {"m1", "m9"}


@pytest.mark.attack(
    "model/pool-keys",
    asset="storage keys",
    threat="a model of a pool has something else fetched with them, or leaves something for who has them",
    control="the fetching container takes a model's name and digest and looks the place up itself; it shares no "
    "writable folder with the server",
)
def test_the_fetcher_brings_nothing_but_what_the_catalogue_names(pool: PoolServer, tmp_path: Path) -> None:
    """A client of its socket can name a model, but not a place: the answer is a refusal."""

    async def ask(line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "models" / "fetch.sock"))
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return answer

    other = b'{"model": "m1", "digest": "sha256:' + b"1" * 64 + b'", "uri": "s3://elsewhere/keys"}\n'

    assert b"NotInCatalogue" in asyncio.run(ask(other))
    assert b"NotUnderstood" in asyncio.run(ask(b"[1]\n"))
    assert b"NotUnderstood" in asyncio.run(ask(b"\xff\n"))


@pytest.mark.slow
def test_the_fetcher_can_be_started_again(pool: PoolServer) -> None:
    """While it is away new models get 503 and loaded ones answer."""
    assert answer_of(pool.add("m0")) == 0
    pool.fetcher.kill()
    pool.fetcher.wait()
    assert answer_of(pool.add("m0")) == 0
    failed = pool.add("m1")

    assert failed.status_code == 503
    assert "FetcherGone" in failed.json()["error"]


@pytest.mark.slow
def test_the_least_recently_asked_one_makes_room(
    object_store: ObjectStore, bucket_folder: Path, tmp_path: Path
) -> None:
    """Of twelve models of 4 MiB and more each not all fit into 30: who was asked longest ago goes, and comes back."""
    large = 2**20  # numbers of 4 bytes
    entries = [stored(bucket_folder, f"m{number}", adder(number, large)) for number in range(12)]

    def ask(name: str) -> None:
        assert pool.server.get(f"/v2/models/{name}").status_code == 200

    with pooling(object_store, tmp_path, entries, pool_bytes=30 * 2**20) as pool:
        for number in range(12):
            ask(f"m{number}")
            ask("m0")
        loaded = set(pool.index(ready=True))
        evicted = pool.metric("model_evictions_total")
        ask("m1")

        assert "m0" in loaded
        assert "m1" not in loaded
        assert evicted == 12 - len(loaded)
        assert pool.metric("loaded_bytes") <= 30 * 2**20
        assert "m1" in pool.index(ready=True)


def test_a_model_larger_than_the_bound_is_refused(
    object_store: ObjectStore, bucket_folder: Path, tmp_path: Path
) -> None:
    """It says so, and lets no other go."""
    entries = [stored(bucket_folder, "small", adder(1)), stored(bucket_folder, "large", adder(2, 2**20))]
    with pooling(object_store, tmp_path, entries, pool_bytes=2**20) as pool:
        assert answer_of(pool.add("small")) == 1
        refused = pool.server.get("/v2/models/large")

        assert refused.status_code == 503
        assert "TooLarge" in refused.json()["error"]
        assert set(pool.index(ready=True)) == {"small"}


def test_load_and_unload_need_keys_and_work_by_name(
    object_store: ObjectStore, bucket_folder: Path, tmp_path: Path
) -> None:
    """With a key a model can be loaded before it is asked, and taken out of memory; the next request loads it."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "primary").write_text("k")
    entries = [stored(bucket_folder, "m1", adder(1))]
    with pooling(object_store, tmp_path, entries, "--keys-dir", str(tmp_path / "keys"), auth="key") as pool:
        key = {"api-key": "k"}

        def tell(what: str, name: str = "m1") -> int:
            url = f"{pool.server.url}/v2/repository/models/{name}/{what}"
            return httpx.post(url, headers=key, timeout=30).status_code

        assert tell("load") == 200
        assert pool.metric("loaded_models") == 1
        assert tell("unload") == 200
        assert pool.metric("loaded_models") == 0
        (bucket_folder / "m1-1.onnx").unlink()  # It was fetched once, and is loaded again from the pod's own folder.
        assert answer_of(pool.add("m1", headers=key)) == 1
        assert tell("load", "m2") == 404


def test_load_and_unload_are_refused_on_an_open_endpoint(pool: PoolServer) -> None:
    """A client without a key must not take a model away from the others."""
    url = f"{pool.server.url}/v2/repository/models/m1/unload"
    assert httpx.post(url, timeout=30).status_code == 403
