"""Order of waiting requests in a pool: in the test's event loop, with models that answer when the test lets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import numpy as np
import pytest
from builders import DIGEST
from serving_inside import Doubling, eventually
from serving_pool import write
from ultramarine_contract.catalogue import CatalogueEntry
from ultramarine_server.errors import LoadError, Problem
from ultramarine_server.inference.limits import Limits
from ultramarine_server.inference.running import Runner
from ultramarine_server.inference.service import Service
from ultramarine_server.models.model import Loaded
from ultramarine_server.protocol.tensors import Inference, Tensor
from ultramarine_server.repository import pool as pools
from ultramarine_server.repository.fetching import Catalogue, Fetched, FetchRequest
from ultramarine_server.repository.pool import Pool
from ultramarine_server.telemetry import PoolTelemetry, Telemetry

SIZE = 2**20  # bytes of each model's files; the bound holds one


class Files:
    """Has every model's files, and counts how often it was asked; `there` is cleared to let it wait."""

    def __init__(self) -> None:
        self.there, self.asked = asyncio.Event(), 0
        self.there.set()

    @asynccontextmanager
    async def fetched(self, request: FetchRequest) -> AsyncIterator[Fetched]:
        self.asked += 1
        await self.there.wait()
        yield Fetched(request.model, SIZE)


class World:
    """A pool of m0 and m1, which double, and of one that cannot be read."""

    def __init__(self, folder: Path, seconds: float = 20) -> None:
        names = ("m0", "m1", "broken")
        write(folder, [CatalogueEntry(name, "1", f"s3://b/{name}", DIGEST[:-1] + name[-1], "onnx") for name in names])
        self.models = WeakValueDictionary[str, Doubling]()
        self.files, self.reads = Files(), 0
        self.counts, telemetry = PoolTelemetry(), Telemetry()
        catalogue, fetcher = Catalogue(folder), cast(Any, self.files)
        self.pool = Pool(catalogue, fetcher, self.read, SIZE + SIZE // 2, seconds, self.counts)
        self.service = Service(self.pool, Runner(2, Limits(), telemetry), telemetry, controlled=True)

    def read(self, entry: CatalogueEntry, folder: str) -> Loaded:
        self.reads += 1
        if entry.model == "broken":
            raise LoadError("it is broken", "ModelCorrupt")
        model = self.models[entry.model] = Doubling()
        return Loaded(entry.model, entry.version, "test", model)

    async def ask(self, name: str) -> float:
        """Ask a model for the double of 4."""
        row = Tensor("x", "FP64", np.array([[4.0, 4.0]]))
        [answer] = await self.service.infer(Inference(name, (row,)))
        return float(answer.array[0, 0])

    def states(self) -> dict[str, str]:
        return {entry["name"]: entry["state"] for entry in self.service.index()}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_request_that_is_being_answered_keeps_its_model(world: World) -> None:
    """m1 needs m0's place: m0 is let go, ends its answer well, counts until then, and only then m1 is loaded."""
    assert await world.ask("m0") == 8
    opened, rows = world.models["m0"].opened, world.models["m0"].rows
    opened.clear()
    first = asyncio.create_task(world.ask("m0"))
    await eventually(lambda: len(rows) == 2)
    second = asyncio.create_task(world.ask("m1"))
    await eventually(lambda: world.states()["m0"] == "UNAVAILABLE")
    await asyncio.sleep(0.1)

    assert not first.done()
    assert not second.done()
    assert world.counts.now()[1] == SIZE
    opened.set()
    assert await first == 8
    assert await second == 8
    assert world.counts.evictions == 1
    await eventually(lambda: world.counts.now() == (1, SIZE))


async def test_a_failed_load_is_remembered_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request does not load again; a request after the time, or a `load`, tries again."""
    for _ in range(2):
        with pytest.raises(Problem, match="ModelCorrupt: it is broken") as refused:
            await world.ask("broken")
        assert (refused.value.status, refused.value.retry_after) == (503, pools.FAILED_SECONDS)
    assert world.reads == 1
    with pytest.raises(Problem, match="it is broken"):
        await world.service.load("broken")
    assert world.reads == 2
    monkeypatch.setattr(pools, "FAILED_SECONDS", 0.0)
    world.pool._failures.clear()
    for _ in range(2):
        with pytest.raises(Problem, match="it is broken"):
            await world.ask("broken")
    assert world.reads == 4


async def test_a_load_that_takes_too_long_is_504_and_goes_on(tmp_path: Path) -> None:
    """A waiting request gets an answer in time; the next request gets the model that was loaded meanwhile."""
    world = World(tmp_path, seconds=0.05)
    world.files.there.clear()
    with pytest.raises(Problem, match="its load goes on") as late:
        await world.ask("m0")
    assert late.value.status == 504
    world.files.there.set()
    await eventually(lambda: world.states()["m0"] == "READY")
    assert await world.ask("m0") == 8
    assert world.files.asked == 1


async def test_so_many_requests_wait_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a request for a model that is not loaded is sent away; one for a loaded model is answered."""
    assert await world.ask("m0") == 8
    world.files.there.clear()
    monkeypatch.setattr(pools, "MAX_WAITING", 2)
    waiting = [asyncio.create_task(world.ask("m1")) for _ in range(2)]
    await eventually(lambda: world.files.asked == 2)
    with pytest.raises(Problem, match="2 requests wait for models") as refused:
        await world.ask("m1")
    assert refused.value.status == 503
    assert await world.ask("m0") == 8
    world.files.there.set()
    assert await asyncio.gather(*waiting) == [8, 8]


async def test_who_hangs_up_ends_no_load_of_others(world: World) -> None:
    """The request that began a load is cancelled: the one that waits for the same load is answered."""
    world.files.there.clear()
    first, second = asyncio.create_task(world.ask("m0")), asyncio.create_task(world.ask("m0"))
    await eventually(lambda: world.files.asked == 1)
    first.cancel()
    await asyncio.sleep(0)
    world.files.there.set()
    assert await second == 8
    assert world.files.asked == 1
