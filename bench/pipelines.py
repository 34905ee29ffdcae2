"""Cost of pipelines: an identical rerun, the overhead of a step, a fan-out, imports by SQL, and profiles.

etcd, API server, object storage and operator are real, as is the storage of outputs and cache records. Pods are
simulated: each one succeeds at once, so the figures are those of the platform alone. Run it by `make pipelines`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from typing import Any

import hands
from api.bare import eventually
from api.operator_process import Operator
from chaos.world import Api
from data_figures import imports, profiles
from figures import Row, Seen, made, watched
from ground import Ground, asking, bare
from serving import processor
from sights import AT_ONCE, Memory, each_job, table
from ultramarine_contract import common as contract
from ultramarine_contract.meta import JOB, PIPELINE, PIPELINE_RUN, POD, TRAINING_JOB, Manifest, Resource
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord

NAMESPACE = "pipelines"
CALM_SECONDS = 2.0  # without a write of the operator, after which a run is complete
START_SECONDS = 300.0  # of an operator on a busy machine, at most
LAYERS, WIDTH = 4, 5
PROCESS = "process_cpu_seconds_total"
MERGE = "application/merge-patch+json"


def training(name: str, before: str = "", salt: str = "") -> Manifest:
    """Return the spec of a job that reads the output at a URI, and has an output of its own."""
    inputs = {"inputs": {"before": {"uri": before}}} if before else {}
    return {"command": ["fit", name, salt], "outputs": {"model": {}}, **inputs}


def layered() -> list[Manifest]:
    """Return LAYERS times WIDTH steps, each of which reads the output of one of the layer before."""
    return [
        {
            "name": f"l{layer}-{number}",
            "trainingJob": training("layered", f"$(steps.l{layer - 1}-{number}.outputs.model)" if layer else "")
            | {"parameters": {"step": f"{layer}-{number}"}},
        }
        for layer, number in product(range(LAYERS), range(WIDTH))
    ]


def chained(count: int, salt: str) -> list[Manifest]:
    """Return steps each of which reads the output of its predecessor."""
    reads = ["", *(f"$(steps.s{number}.outputs.model)" for number in range(count - 1))]
    return [
        {"name": f"s{number}", "trainingJob": training(f"s{number}", before, salt)}
        for number, before in enumerate(reads)
    ]


@dataclass
class Kubelet:
    """Simulated Job controller and kubelet whose pods succeed as soon as a watch reports their Job."""

    api: Api
    storage: Storage
    pods: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the end of the block."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def finish(job: Manifest) -> None:
            async with gate:
                await self._finish(job)

        async with each_job(self.api, NAMESPACE, finish):
            yield

    async def _finish(self, job: Manifest) -> None:
        name, start = job["metadata"]["name"], hands.now()
        pod = f"{name}-0-abcde"
        await self.api.ask("POST", POD.path(NAMESPACE), hands.pod_of(job, pod))
        self.pods += 1
        record = await asyncio.to_thread(self._store, job)
        ended = {"startTime": start, **hands.ended_pod(0, record.to_json())}
        await self.api.ask("PATCH", POD.path(NAMESPACE, pod, "status"), {"status": ended}, MERGE)
        complete = {"status": {"startTime": start, **hands.complete_job()}}
        await self.api.ask("PATCH", JOB.path(NAMESPACE, name, "status"), complete, MERGE)

    def _store(self, job: Manifest) -> TerminationRecord:
        outputs = {"model": hands.upload(self.storage, job, f"weights of {job['metadata']['name']}")}
        record = TerminationRecord(outputs, {"accuracy": 0.97})
        hands.record_step(self.storage, job, record)
        uri = hands.task_of(job).output_prefix + contract.RESULT_NAME
        self.storage.write(uri, record.to_json().encode())
        return record


@dataclass
class Bench:
    """Operator, API server, and what a span costs."""

    api: Api
    operator: Operator
    kubelet: Kubelet
    runs: Seen
    jobs: Seen

    async def metrics(self) -> dict[str, float]:
        """Return every sample of the operator."""
        return await asyncio.to_thread(self.operator.metrics)

    async def writes(self) -> int:
        """Return the number of the operator's writes, once it has made none for a while."""
        count = -1
        while count != (now := (await asyncio.to_thread(self.operator.writes)).total()):
            count = now
            await asyncio.sleep(CALM_SECONDS)
        return count

    async def create(self, resource: Resource, manifest: Manifest) -> None:
        """Create an object."""
        await self.api.ask("POST", resource.path(NAMESPACE), manifest)

    async def ended(self, seen: Seen, name: str) -> Manifest:
        """Return the status of an object once it has succeeded."""
        while (state := (status := seen.status(name)).get("state")) != "Succeeded":
            if state in ("Failed", "Invalid", "Cancelled"):
                raise SystemExit(f"{name} is {state}: {status}")
            await asyncio.sleep(0.01)
        return status

    async def size(self, name: str) -> int:
        """Return the bytes of a run as the API server has it."""
        path = f"{self.api.url}{PIPELINE_RUN.path(NAMESPACE, name)}"
        async with self.api.session.get(path, ssl=self.api.tls) as answer:  # type: ignore[arg-type]
            return len(await answer.read())

    async def run(self, title: str, name: str, **spec: Any) -> Row:
        """Run a pipeline to its end, and return its cost."""
        count, pods, jobs = await self.writes(), self.kubelet.pods, len(self.jobs.objects)
        cpu, peak = (await self.metrics())[PROCESS], Memory(self.metrics)
        async with peak.watching():
            began = time.monotonic()
            await self.create(PIPELINE_RUN, made("PipelineRun", name, spec))
            status = await self.ended(self.runs, name)
            took = time.monotonic() - began
        written = await self.writes() - count
        steps = len([state for state in status["steps"] if "items" not in state])
        return {
            "run": title,
            "took": f"{took:.1f} s",
            "a step": f"{took / steps:.2f} s",
            "TrainingJobs": f"{len(self.jobs.objects) - jobs:,}",
            "pods": f"{self.kubelet.pods - pods:,}",
            "API writes": f"{written:,} = {written / steps:.2f} a step",
            "operator CPU": f"{(await self.metrics())[PROCESS] - cpu:.1f} s",
            "operator memory, most": f"{peak.most / 2**20:.0f} MiB",
            "run object": f"{await self.size(name) / 1024:.0f} KiB",
        }


async def reruns(bench: Bench) -> list[Row]:
    """Run a pipeline of LAYERS times WIDTH steps twice."""
    await bench.create(PIPELINE, made("Pipeline", "layered", {"steps": layered()}))
    count = LAYERS * WIDTH
    return [
        await bench.run(f"{count} steps, first run", "first", pipeline="layered"),
        await bench.run(f"{count} steps, identical rerun", "again", pipeline="layered"),
    ]


async def bare_jobs(bench: Bench, count: int, salt: str) -> float:
    """Return the seconds of TrainingJobs in a row; a watch tells when to create the next one."""
    began, before = time.monotonic(), ""
    for number in range(count):
        name = f"bare-{salt}-{number}"
        await bench.create(TRAINING_JOB, made("TrainingJob", name, training(name, before, salt)))
        before = (await bench.ended(bench.jobs, name))["outputs"]["model"]["uri"]
    return time.monotonic() - began


async def overhead(bench: Bench, count: int, repeats: int) -> Row:
    """Compare a chain of steps with the same jobs in a row, in turn; medians."""
    bare_seconds, run_seconds = [], []
    for turn in range(repeats):
        bare_seconds.append(await bare_jobs(bench, count, str(turn)))
        await bench.writes()
        began, name = time.monotonic(), f"chain-{turn}"
        spec = {"pipelineSpec": {"steps": chained(count, f"run {turn}")}}
        await bench.create(PIPELINE_RUN, made("PipelineRun", name, spec))
        await bench.ended(bench.runs, name)
        run_seconds.append(time.monotonic() - began)
        await bench.writes()
    jobs, run = statistics.median(bare_seconds), statistics.median(run_seconds)
    return {
        f"{count} jobs, each reads the output before": f"median of {repeats}",
        "TrainingJobs in a row": f"{jobs:.2f} s",
        "PipelineRun": f"{run:.2f} s",
        "overhead a step": f"{(run - jobs) / count:.3f} s",
    }


async def fan_out(bench: Bench, count: int, parallel: int) -> Row:
    """Run one step for each of `count` entries."""
    entries = {"items": list(range(count)), "parallel": parallel}
    job = training("fan", salt=str(parallel)) | {"parameters": {"part": "$(item)"}}
    steps = [{"name": "part", "forEach": entries, "trainingJob": job}]
    title = f"forEach of {count:,} entries, {parallel} at a time"
    return await bench.run(title, f"fan-{parallel}", pipelineSpec={"steps": steps})


async def measure(ground: Ground, operator: Operator, chosen: argparse.Namespace) -> None:
    """Run the measurements that need an operator."""
    async with asking(ground.kube) as api:
        kubelet = Kubelet(api, ground.storage)
        async with (
            kubelet.running(),
            watched(api, PIPELINE_RUN, NAMESPACE) as runs,
            watched(api, TRAINING_JOB, NAMESPACE) as jobs,
        ):
            bench = Bench(api, operator, kubelet, runs, jobs)
            print("\n" + table(await reruns(bench)), flush=True)
            print("\n" + table([await overhead(bench, chosen.chain, chosen.repeats)]), flush=True)
            if chosen.entries:
                rows = [await fan_out(bench, chosen.entries, parallel) for parallel in chosen.parallel]
                print("\n" + table(rows), flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", type=int, default=10, help="steps of the chain (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of the chain (default 3)")
    parser.add_argument("--entries", type=int, default=1000, help="entries of the fan-out, 0 for none (default 1000)")
    parser.add_argument("--parallel", type=int, nargs="+", default=[100], help="entries at a time (default 100)")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the import, 0 for none")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the CSV to profile, 0 for none")
    chosen = parser.parse_args()
    print(f"\n{processor()}, {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()},", end=" ")
    print(f"Kubernetes v1.37.2 (etcd and API server, simulated pods), Python {platform.python_version()},", end=" ")
    print(f"DuckDB {version('duckdb')}; load {os.getloadavg()[0]:.1f} at the beginning", flush=True)
    with bare(NAMESPACE) as ground, ground.operator() as operator:
        operator.launch()
        eventually("the operator leads", lambda: operator.leads, START_SECONDS)
        asyncio.run(measure(ground, operator, chosen))
    if chosen.rows:
        print("\n" + table(imports(chosen.rows)), flush=True)
    if chosen.megabytes:
        print("\n" + table(profiles(chosen.megabytes)), flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
