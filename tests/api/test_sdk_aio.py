"""The client for asyncio against a real API server and a real object storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import ultramarine
from api.test_sdk import fail, job, succeed
from bare import Api, whole
from ultramarine.kube.errors import NotFound
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.storage import Storage


@pytest.fixture
def connect(bare: Cluster, client: ultramarine.Client) -> Callable[[], ultramarine.AsyncClient]:
    """Makes a client for asyncio."""
    return lambda: ultramarine.AsyncClient(kubeconfig=str(bare.kubeconfig), namespace=client.namespace)


async def test_the_twin_submits_and_waits(connect: Callable[[], ultramarine.AsyncClient], api: Api) -> None:
    """Calls are awaited, and runs at the same time."""
    async with connect() as client:
        runs = await asyncio.gather(*(client.submit(job(f"churn-{number}")) for number in range(3)))
        waits = asyncio.gather(*(run.wait(60) for run in runs))
        for run in runs:
            await asyncio.to_thread(succeed, api, run.name)
        await waits

        assert {item["metadata"]["name"] for item in await client.list("tj")} == {run.name for run in runs}
        assert [await run.state() for run in runs] == ["Succeeded"] * 3
        with pytest.raises(NotFound):
            await client.get("tj", "absent")


async def test_the_twin_streams(connect: Callable[[], ultramarine.AsyncClient], api: Api) -> None:
    """Updates come as they happen, and a failure of the stream is raised."""
    async with connect() as client:
        run = await client.submit(job())
        states = []
        async for update in run.stream():
            states.append(update.state)
            if len(states) == 1:
                await asyncio.to_thread(fail, api, run.name)
        assert states == ["Pending", "Failed"]

        other = await client.submit(job("other"))
        updates = other.stream()
        await anext(updates)
        await other.delete()
        with pytest.raises(ultramarine.RunFailed, match="deleted"):
            await anext(updates)


def test_a_cancelled_wait_and_stream_end_at_once(connect: Callable[[], ultramarine.AsyncClient]) -> None:
    """The program ends while the run goes on: no thread holds the loop."""

    async def program() -> list[BaseException | None]:
        async with connect() as client:
            run = await client.submit(job())
            begun = asyncio.Event()

            async def follow() -> None:
                async for _ in run.stream():
                    begun.set()

            tasks = [asyncio.create_task(run.wait()), asyncio.create_task(follow())]
            await begun.wait()
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in asyncio.run(program())] == [asyncio.CancelledError] * 2


async def test_the_twin_has_the_results(
    connect: Callable[[], ultramarine.AsyncClient], api: Api, store: Storage
) -> None:
    """What is a property of a run is awaited; stored log lines are iterated."""
    async with connect() as client:
        run = await client.submit(job())
        store.write("s3://lake/logs/churn-0/000.log", b"loss=0.5\n")
        times = {"startTime": "2026-12-01T10:00:00Z", "completionTime": "2026-12-01T10:01:00Z"}
        results = {"modelVersion": "churn-1", "metrics": {"latest": {"loss": 0.5}}, "logs": {"uri": "s3://lake/logs/"}}
        await asyncio.to_thread(succeed, api, run.name, **times, **results)

        assert await run.wait(60) is run
        assert await run.model_version() == "churn-1"
        assert await run.latest_metrics() == {"loss": 0.5}
        assert str(await run.duration()) == "0:01:00"
        assert (await run.object())["metadata"]["name"] == run.name
        assert [update.text async for update in run.logs()] == ["loss=0.5"]


async def test_the_twin_of_a_sweep_is_one(connect: Callable[[], ultramarine.AsyncClient]) -> None:
    """Its metrics are the trials' learning curves, not those of a job."""
    async with connect() as client:
        run = await client.submit(ultramarine.Sweep(name="hpo", **whole("Sweep")["spec"]))

        assert isinstance(run, ultramarine.AsyncSweepRun)
        assert list(await run.metrics()) == ["trial", "step", "name", "value"]
        assert await run.best() is None


async def test_the_twin_has_data_datasets_models_and_endpoints(
    connect: Callable[[], ultramarine.AsyncClient], api: Api, tmp_path: Path
) -> None:
    """Files go there and back, versions are registered, and an endpoint's traffic is changed."""
    (tmp_path / "churn.csv").write_text("a,b\n1,2\n")
    api.apply(whole("OnlineEndpoint"))
    async with connect() as client:
        sent = await client.data.put(tmp_path / "churn.csv")
        received = await client.data.get("churn.csv", tmp_path / "copy.csv")
        added = await client.datasets.add(tmp_path / "churn.csv", "churn")
        with pytest.raises(NotFound, match="churn"):
            await client.models.versions("churn")
        endpoint = client.endpoint("churn")
        shares = {entry["name"]: 0 for entry in (await endpoint.object())["spec"]["deployments"]}
        await endpoint.set_traffic(shares | {next(iter(shares)): 100})

        assert sent.uri == f"s3://lake/{client.namespace}/churn.csv"
        assert received.path.read_text() == "a,b\n1,2\n"
        assert added.is_new
        assert [version["spec"]["version"] for version in await client.datasets.versions("churn")] == ["1"]
        assert (await endpoint.object())["spec"]["traffic"][next(iter(shares))] == 100
        assert await endpoint.traffic() == {}
