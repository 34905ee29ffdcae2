"""Hours of churn for one operator process, and the slopes of memory, descriptors, tasks and queue age.

The API server and the object storage are real; tests/chaos simulates controllers and kubelets. Training jobs succeed,
fail, are suspended, register versions, and are deleted after a minute. Endpoints follow their models and are deleted.
So the number of objects stays about the same. Run it by `make soak HOURS=1`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from api.operator_process import Operator
from builders import serving, training
from chaos.world import World
from ground import Ground, asking, bare, played

NAMESPACE = "soak"
MODELS = 5
LIVES_SECONDS = 60.0  # how long a job stays after it was made
VERSIONS_KEPT = 20
SAMPLE_SECONDS = 10.0
WARM_UP = 0.15  # the share of the run that is left out of the slopes: caches and the allocator fill first


@dataclass(frozen=True)
class Sample:
    """Operator's process at one moment."""

    hours: float
    values: dict[str, float]


MEASURES = {
    "resident memory": "MiB",
    "open descriptors": "",
    "threads": "",
    "asyncio tasks": "",
    "queue age": "s",
    "due keys": "",
    "living objects": "",
}


def sample(operator: Operator, began: float, world: World) -> Sample:
    """Sample the process from outside, and its own metrics."""
    assert operator.process is not None
    proc = Path(f"/proc/{operator.process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    metrics = operator.metrics()
    values = (
        int(status["VmRSS"].split()[0]) / 1024,
        len(list((proc / "fd").iterdir())),
        int(status["Threads"]),
        metrics.get("ultramarine_asyncio_tasks", 0.0),
        metrics.get("ultramarine_queue_age_seconds", 0.0),
        metrics.get("ultramarine_queue_depth", 0.0),
        len(world.objects),
    )
    return Sample((time.monotonic() - began) / 3600, dict(zip(MEASURES, values, strict=True)))


def report(samples: list[Sample], lives: int, passes: float, failures: int) -> str:
    """Return a table: begin, end and maximum of each measure, and its growth after the warm-up."""
    kept = samples[int(len(samples) * WARM_UP) :]
    hours = [sample.hours for sample in kept]
    lines = [
        f"{lives} jobs lived in {samples[-1].hours:.2f} h, {passes:.0f} passes, {failures} of them by a bug.",
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        "",
        "| measure | after the warm-up | at the end | most | slope per hour |",
        "|---|---|---|---|---|",
    ]
    for name, unit in MEASURES.items():
        values = [sample.values[name] for sample in kept]
        slope = statistics.linear_regression(hours, values).slope
        shown = (values[0], values[-1], max(values))
        lines.append(
            f"| {name} | " + " | ".join(f"{v:.1f} {unit}".strip() for v in shown) + f" | {slope:+.2f} {unit} |"
        )
    return "\n".join(lines)


async def churn(world: World, rate: float, counted: list[int]) -> None:
    """Create, end and delete objects endlessly, `rate` jobs per second."""
    fates = itertools.cycle(("succeeds", "succeeds", "fails", "succeeds", "runs"))
    alive: list[tuple[float, str]] = []
    for number in itertools.count():
        name, fate = f"job-{number}", next(fates)
        world.decide(name, fate)  # type: ignore[arg-type]
        outputs = {"model": {"registerAs": f"model-{number % MODELS}"}}
        await world.apply(training(name, outputs=outputs, backoffLimit=0))
        counted[0] += 1
        alive.append((time.monotonic(), name))
        if fate == "runs":
            await world.edit("TrainingJob", name, {"spec": {"suspend": True}})
        while alive and time.monotonic() - alive[0][0] > LIVES_SECONDS:
            world.fates.pop(gone := alive.pop(0)[1], None)
            await world.delete("TrainingJob", gone)
        if number % 10 == 9:
            await tend(world, number // 10)
        await asyncio.sleep(1 / rate)


async def tend(world: World, turn: int) -> None:
    """Edit, delete and recreate endpoints, delete old versions, and clear the memory of the simulated controllers."""
    name = f"shop-{turn % MODELS}"
    if turn % 7 == 6:
        await world.delete("OnlineEndpoint", name)
    else:
        await world.apply(serving(name, f"model-{turn % MODELS}@latest"))
    versions = sorted(world.all("ModelVersion"), key=lambda v: int(v["metadata"]["resourceVersion"]))
    for version in versions[:-VERSIONS_KEPT]:
        await world.delete("ModelVersion", version["metadata"]["name"])
    world.sights.clear()
    world.renewals.clear()


async def soak(ground: Ground, operator: Operator, hours: float, rate: float) -> str:
    """Run, print the samples as they come, and return the report."""
    counted = [0]
    samples: list[Sample] = []
    async with asking(ground.kube) as api, played(api, NAMESPACE, ground.storage) as (world, tasks):
        tasks.append(asyncio.create_task(churn(world, rate, counted)))
        began = time.monotonic()
        while time.monotonic() - began < hours * 3600:
            done, _ = await asyncio.wait(tasks, timeout=SAMPLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a simulated controller that failed ends the run with its error
            samples.append(await asyncio.to_thread(sample, operator, began, world))
            if len(samples) % 6 == 0:
                shown = ", ".join(f"{name} {value:.1f}" for name, value in samples[-1].values.items())
                print(f"{samples[-1].hours * 60:6.1f} min  {counted[0]} jobs  {shown}", flush=True)
    metrics = operator.metrics()
    ended = {name: value for name, value in metrics.items() if name.startswith("ultramarine_reconciles_total")}
    bugs = sum(value for name, value in ended.items() if 'outcome="bug"' in name)
    return report(samples, counted[0], sum(ended.values()), int(bugs))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="duration (default 1)")
    parser.add_argument("--rate", type=float, default=1.0, help="new jobs per second (default 1)")
    chosen = parser.parse_args()
    with bare(NAMESPACE) as ground, ground.operator() as operator:
        operator.start()
        print(asyncio.run(soak(ground, operator, chosen.hours, chosen.rate)))


if __name__ == "__main__":
    main()
