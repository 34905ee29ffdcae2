"""What a coordinator keeps of a trial that has ended: of ten thousand it must not be much."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from ultramarine_contract.searchspace import read_space
from ultramarine_contract.storage import Storage
from ultramarine_sweep.samplers.stopping import Stopper
from ultramarine_sweep.samplers.suggest import Suggester
from ultramarine_sweep.service.coordinator import Coordinator, Times
from ultramarine_sweep.service.recording import Recorder
from ultramarine_sweep.state.journal import Journal
from ultramarine_trainer.trials.connection import Connection
from unit.sweeping import task_of

SPACE = {
    "lr": {"logUniform": {"min": 1e-5, "max": 1}},
    "depth": {"int": {"min": 1, "max": 12}},
    "optimizer": {"choice": ["adam", "sgd", "lion"]},
}
ASHA = {"type": "asha", "minSteps": 2}
BEFORE, MORE = 150, 400  # trials until it is warm, and those that are counted


@asynccontextmanager
async def coordinating(storage: Storage, bucket: str, algorithm: str) -> AsyncIterator[str]:
    """A coordinator as it is in a pod, on loopback."""
    task = task_of(f"s3://{bucket}/", space=SPACE, max_trials=10_000, early_termination=ASHA)
    book = Journal(storage, f"s3://{bucket}/journal/", "one", lambda line: None)
    suggester = Suggester(read_space(SPACE), task.objectives, {"type": algorithm})
    stopper, recorder = Stopper(ASHA, task.objectives[0]), Recorder(task, "", lambda line: None)
    coordinator = Coordinator(task, "token", book, suggester, stopper, lambda summary: None, recorder, Times(tick=0.1))
    port = await coordinator.listen(0)
    running = asyncio.create_task(coordinator.run())
    yield f"http://127.0.0.1:{port}"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def work(url: str, many: int) -> None:
    """Take so many trials, tell five values of each, and end them well."""
    connection, finished = Connection(url, "token", 30), None
    for _ in range(many):
        trial = connection.post("/lease", {"worker": "hpo-workers-0-abcde", "finished": finished})["trial"]
        own = {"trial": trial["number"], "attempt": trial["attempt"]}
        points = [{"name": "loss", "step": step, "value": trial["params"]["lr"] / step} for step in range(1, 6)]
        connection.post("/report", {"worker": "hpo-workers-0-abcde", **own, "points": points})
        metrics = {"loss": points[-1]["value"]}
        finished = own | {"outcome": "Succeeded", "seconds": 0.01, "metrics": metrics, "message": ""}
    connection.post("/lease", {"worker": "hpo-workers-0-abcde", "finished": finished})


def allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "bound"), [("random", 1300), ("nsga2", 1800)])
async def test_a_trial_that_has_ended_takes_little(storage: Storage, bucket: str, algorithm: str, bound: int) -> None:
    """With three parameters and five values a kilobyte, and 600 bytes more where the algorithm looks at it."""
    async with coordinating(storage, bucket, algorithm) as url:
        tracemalloc.start()
        try:
            await asyncio.to_thread(work, url, BEFORE)
            before = allocated()
            await asyncio.to_thread(work, url, MORE)
            each = (allocated() - before) / MORE
        finally:
            tracemalloc.stop()

    assert each < bound
