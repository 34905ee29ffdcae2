"""Cost of one job to the API server, and its delay until it has a pod, from the API server's audit log.

etcd, API server and operator are real, the operator with the chart's rights and its own account. Users, the Job
controller and the kubelets are simulated. Run it by
PYTHONPATH=tests:tests/api:tests/chaos .venv/bin/python bench/writes.py
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
import hands
import yaml
from api.accounts import account, admit
from builders import training
from chaos.world import Api, World
from ground import Ground, bare, played
from sights import each_job, percentiles, table
from ultramarine_cluster import cluster
from ultramarine_contract.meta import JOB, POD, TRAINING_JOB, Manifest
from ultramarine_contract.storage import Storage
from ultramarine_operator.shared.testing import until_state

NAMESPACE = "writes"
CALM_SECONDS = 3.0  # without a request of the operator, after which a life is complete
READS = ("get", "list", "watch")
NO_OUTPUT: Manifest = {"outputs": {}}
Story = Callable[[World, str], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """Request in the API server's audit log."""

    who: str
    verb: str
    resource: str
    name: str
    code: int
    received: float
    answered: float


@dataclass
class Record:
    """Audit log, read on from the last position."""

    log: Path
    place: int = 0

    def read(self) -> list[Request]:
        """Return new requests in this namespace, without the Lease."""
        with self.log.open("rb") as log:
            log.seek(self.place)
            lines = log.readlines()
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self.place += sum(map(len, lines))
        requests = []
        for event in map(json.loads, lines):
            what = event.get("objectRef", {})
            if what.get("namespace") == NAMESPACE and what.get("resource") != "leases":
                resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
                times = (_seconds(event[field]) for field in ("requestReceivedTimestamp", "stageTimestamp"))
                who = event["user"]["username"].rsplit(":", 1)[-1]
                code = event.get("responseStatus", {}).get("code", 0)
                requests.append(Request(who, event["verb"], resource, what.get("name", ""), code, *times))
        return requests

    async def calm(self) -> list[Request]:
        """Return new requests once the operator is idle."""
        requests = self.read()
        while True:
            await asyncio.sleep(CALM_SECONDS)
            more = self.read()
            requests += more
            if not any(request.who == "operator" for request in more):
                return requests


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def _succeeds(world: World, name: str) -> None:
    await until_state(world, "TrainingJob", name, "Running")
    world.decide(name, "succeeds")
    await until_state(world, "TrainingJob", name, "Succeeded")


async def _is_retried(world: World, name: str) -> None:
    await until_state(world, "TrainingJob", name, "Running")
    world.decide(name, "fails", "runs")
    await world.until("it runs again", lambda: world.status("TrainingJob", name).get("attempts") == 2)
    await _succeeds(world, name)


LIVES: dict[str, tuple[Manifest, Story]] = {
    "one pod": (NO_OUTPUT, _succeeds),
    "one pod, fails once and is retried": (NO_OUTPUT, _is_retried),
    "gang of 2": (NO_OUTPUT | {"nodes": 2, "framework": "none"}, _succeeds),
    "one pod, one output becomes a ModelVersion": ({}, _succeeds),
}


async def costs(world: World, record: Record, title: str, number: int) -> dict[str, str]:
    """Live one life `number` times in turn, and count the operator's writes."""
    spec, story = LIVES[title]
    counted: Counter[str] = Counter()
    for turn in range(number):
        name = f"job-{list(LIVES).index(title)}-{turn}"
        await record.calm()
        await world.apply(training(name, **spec))
        await story(world, name)
        counted.update(
            f"{request.verb} {request.resource}"
            for request in await record.calm()
            if request.who == "operator" and request.verb not in READS
        )
    shares = ", ".join(f"{what} {times / number:.1f}" for what, times in sorted(counted.items()))
    return {"life": title, "API writes": f"{counted.total() / number:.1f}", "of these": shares.replace(".0", "")}


@asynccontextmanager
async def pods_at_once(api: Api, names: list[str]) -> AsyncIterator[None]:
    """Run a Job controller that only creates the pod of each of these Jobs as soon as a watch reports it."""

    async def begin(job: Manifest) -> None:
        name = job["metadata"]["name"]
        if name not in names:  # a watch begins with what is there
            return
        await api.ask("POST", POD.path(NAMESPACE), hands.pod_of(job, f"{name}-0-abcde"))
        status = {"status": {"active": 1, "ready": 0, "startTime": hands.now()}}
        await api.ask("PATCH", JOB.path(NAMESPACE, name, "status"), status, "application/merge-patch+json")

    async with each_job(api, NAMESPACE, begin):
        await asyncio.sleep(1)
        yield


WAYS = {
    "single": "one by one, two a second",
    "file": "one after another, as kubectl apply does with a file",
    "many": "at once, by as many connections",
}


async def delays(api: Api, record: Record, number: int, way: str) -> dict[str, str]:
    """Apply `number` jobs, and read from the log when each was requested, had a Job, and had a pod."""
    names = [f"{way}-{turn:03}" for turn in range(number)]
    await record.calm()

    async def apply(name: str) -> None:
        path = f"{TRAINING_JOB.path(NAMESPACE, name)}?fieldManager=kubectl"
        await api.ask("PATCH", path, training(name, **NO_OUTPUT), "application/apply-patch+yaml")

    async with pods_at_once(api, names):
        if way == "many":
            await asyncio.gather(*map(apply, names))
        else:
            for name in names:
                await apply(name)
                await asyncio.sleep(0.5 if way == "single" else 0)
        await asyncio.sleep(CALM_SECONDS)
        seen = await record.calm()
    asked = {r.name: r for r in seen if (r.who, r.verb, r.resource) == ("world", "patch", "trainingjobs")}
    jobs = {r.name: r for r in seen if (r.who, r.verb, r.resource) == ("operator", "create", "jobs")}
    pods = {r.name.removesuffix("-0-abcde"): r for r in seen if (r.verb, r.resource) == ("create", "pods")}
    spans = {
        "apply → pod": [pods[name].answered - asked[name].received for name in names],
        "apply taken in by the API server": [asked[name].answered - asked[name].received for name in names],
        "ours: taken in → Job made": [jobs[name].answered - asked[name].answered for name in names],
        "Job → pod (played)": [pods[name].answered - jobs[name].answered for name in names],
    }
    shown = {what: " / ".join(f"{value * 1000:.0f}" for value in percentiles(took)) for what, took in spans.items()}
    return {f"{number} jobs, p50 / p99 in ms": WAYS[way]} | shown


async def measure(kube: cluster.Cluster, token: str, storage: Storage, repeats: int, number: int) -> None:
    """Run all measurements in turn."""
    config = yaml.safe_load(kube.kubeconfig.read_text())["clusters"][0]["cluster"]
    tls = ssl.create_default_context(cadata=base64.b64decode(config["certificate-authority-data"]).decode())
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=None)
    record = Record(kube.audit_log)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22, headers=headers) as session:
        api = Api(config["server"], session, tls)  # by a token: the audit log does not record the administrator
        print(
            f"\n{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Kubernetes v1.37.2, ", end=""
        )
        print(f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f} at the beginning\n")
        rows = [await delays(api, record, number, way) for way in WAYS]
        print(table(rows), flush=True)
        for name in ("trainingjobs", "jobs", "pods", "configmaps"):
            gone = ("delete", name, "--all", "-n", NAMESPACE, "--grace-period=0", "--force", "--wait=false")
            await asyncio.to_thread(kube.run, *gone)
        async with played(api, NAMESPACE, storage) as (world, _):
            rows = [await costs(world, record, title, repeats) for title in LIVES]
    print("\n" + table(rows), flush=True)


@contextmanager
def audited() -> Iterator[tuple[Ground, str]]:
    """Yield a bare cluster with an operator that has an account, and the token of a second account."""
    with bare(NAMESPACE) as ground:
        config = account(ground.kubectl, "operator", ground.folder)
        admit(ground.kubectl, "operator", "operator", "lease")
        everybody = account(ground.kubectl, "world", ground.folder).read_text()
        bind = ("--clusterrole=cluster-admin", f"--serviceaccount={NAMESPACE}:world")
        ground.kubectl.run("create", "clusterrolebinding", "world", *bind)
        with ground.operator(kubeconfig=config) as operator:
            operator.start()
            time.sleep(CALM_SECONDS)
            yield ground, yaml.safe_load(everybody)["users"][0]["user"]["token"]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each life (default 5)")
    parser.add_argument("--jobs", type=int, default=50, help="number of jobs to measure delays (default 50)")
    chosen = parser.parse_args()
    with audited() as (ground, token):
        asyncio.run(measure(ground.kube, token, ground.storage, chosen.repeats, chosen.jobs))


if __name__ == "__main__":
    main()
