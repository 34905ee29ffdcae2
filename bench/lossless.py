"""Ten minutes of steady requests while everything about an endpoint changes; no request may fail.

An open loop sends the same number of requests each second, whether or not earlier ones are answered, half of them on
new connections. Meanwhile one rollout is promoted, and another is rolled back by its gate. Five pods are deleted, the
node is drained, the keys are rotated, and the deployment is scaled up and down by its request rate. Run it by
PYTHONPATH=tests/e2e .venv/bin/python bench/lossless.py; `make lossless` does.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform as machine
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from conftest import Platform, restricted
from manifests import infer, model_version, onnx_model, training_job
from ultramarine_cluster import cluster, target
from ultramarine_cluster.paths import REPOSITORY

NAMESPACE = "ultramarine-lossless"
NAME = "lossless"
PATIENCE_SECONDS = 30.0
KUBELET_SECONDS = 100  # a changed Secret is in each pod's files after 90 at most, with a kubelet as most are
PODS = 5
RATE = 30  # requests a second while nothing is scaled
BUSY_RATE = 90
TARGET_RATE = 40  # for each pod, when it is scaled by its requests

# Answers as the others do, 80 ms later: the p99 gate has to see it.
SLOW = """
import sys
from pathlib import Path

(Path(sys.argv[1]) / "model.py").write_text('''
import time

class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }

    def predict(self, inputs):
        time.sleep(0.08)
        return {"y": inputs["x"] + 3}
''')
"""


@dataclass
class OpenLoop:
    """Requests with a variable rate and key; every answer is checked and counted."""

    url: str
    key: str
    rate: float = RATE
    seconds: list[float] = field(default_factory=list)  # of each right answer, from when its request was due
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _stop: bool = False
    _began: float = field(default_factory=time.monotonic)

    @contextmanager
    def running(self) -> Iterator[OpenLoop]:
        """Send from a thread until the block ends and the last request has its answer."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield self
        finally:
            self._stop = True
            thread.join()

    async def _run(self) -> None:
        patience = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        kept = aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(limit=0))
        fresh = aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(limit=0, force_close=True))
        async with kept, fresh, asyncio.TaskGroup() as group:
            due, number = time.monotonic(), 0
            while not self._stop:
                group.create_task(self._ask(kept if number % 2 else fresh, due))
                number += 1
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, session: aiohttp.ClientSession, due: float) -> None:
        try:
            headers = {"authorization": f"Bearer {self.key}"}
            body = infer([[0.0]])
            async with session.post(f"{self.url}/v2/models/{NAME}/infer", json=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 200:
                    self._failed(f"{answer.status} {text[:200]}")
                    return
                reply = await answer.json()
            if reply["outputs"][0]["data"] != [float(reply["model_version"])]:
                self._failed(f"wrong answer {text[:200]}")
                return
            self.versions[reply["model_version"]] += 1
            self.seconds.append(time.monotonic() - due)
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            self._failed(repr(error))

    def _failed(self, why: str) -> None:
        self.failures.append(f"{time.monotonic() - self._began:.1f} s: {why}")

    def percentile(self, share: float) -> float:
        """Return the latency quantile of the correct answers in milliseconds."""
        latencies = sorted(self.seconds)
        return latencies[min(len(latencies) - 1, math.ceil(share * len(latencies)) - 1)] * 1000


@dataclass
class Story:
    """Changes of the endpoint, in the order of the table."""

    cluster: Platform
    load: OpenLoop
    lines: list[tuple[str, float, int, int, str]] = field(default_factory=list)

    def act(self, what: str, does: Callable[[], str]) -> None:
        """Perform a step; record its duration, its requests and its failures."""
        began, asked, failed = time.monotonic(), len(self.load.seconds), len(self.load.failures)
        note = does()
        line = (
            what,
            time.monotonic() - began,
            len(self.load.seconds) - asked,
            len(self.load.failures) - failed,
            note,
        )
        self.lines.append(line)
        print(f"  {what}: {line[1]:.0f} s, {line[2]} answered, {line[3]} failed; {note}", flush=True)

    def endpoint(self, traffic: dict[str, int], **spec: Any) -> None:
        """Apply the endpoint with blue and green; their models and settings may change by name."""
        models = {"blue": f"{NAME}@1", "green": f"{NAME}@2"}
        deployments = [
            {"name": name, "model": model, **({} if "autoscale" in spec.get(name, {}) else {"replicas": 2})}
            | spec.pop(name, {})
            for name, model in models.items()
        ]
        whole = {"traffic": traffic, "deployments": deployments, **spec}
        self.cluster.apply({"kind": "OnlineEndpoint", "metadata": {"name": NAME}, "spec": whole})

    def phase(self, expected: str) -> str:
        """Wait until the rollout has ended in the expected phase; return its message."""
        status = self.cluster.wait(
            "oe", NAME, lambda s: (s.get("rollout") or {}).get("phase") in ("Promoted", "RolledBack"), seconds=400
        )
        assert status["rollout"]["phase"] == expected, status["rollout"]
        return str(status["rollout"].get("message", ""))

    def rollout(self) -> str:
        gates = {"errorRateIncrease": 0.05}
        self.endpoint(
            {"blue": 100}, rollout={"candidate": "green", "steps": [20, 50, 100], "stepSeconds": 5, "gates": gates}
        )
        note = self.phase("Promoted")
        self.endpoint({"green": 100})
        self.cluster.settled(NAME, {"green": 100}, seconds=300)
        return note

    def rollback(self) -> str:
        gates = {"errorRateIncrease": 0.05, "p99Ratio": 2}
        rollout = {"candidate": "blue", "steps": [30, 100], "stepSeconds": 5, "gates": gates}
        self.endpoint({"green": 100}, blue={"model": f"{NAME}@3"}, rollout=rollout)
        note = self.phase("RolledBack")
        self.endpoint({"green": 100})
        self.cluster.settled(NAME, {"green": 100}, seconds=300)
        return note

    def five_pods(self) -> str:
        for _ in range(PODS):
            pod = random.choice(self.pods())
            self.cluster.kubectl("delete", "pod", pod, "--wait=false")
            time.sleep(2)
            self.cluster.settled(NAME, {"green": 100}, seconds=300)
        return f"{PODS} pods of green deleted, one after another"

    def pods(self) -> list[str]:
        """Return the names of green's pods that are not terminating."""
        labels = f"ultramarine.dev/name={NAME},ultramarine.dev/deployment=green"
        pods = self.cluster.get("pod", "", "-l", labels)
        return [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def drain(self) -> str:
        """Drain the only node. It accepts no pods meanwhile, so the disruption budget must stop the drain."""
        node = self.cluster.get("pod", self.pods()[0])["spec"]["nodeName"]
        words = ["drain", node, f"--pod-selector=ultramarine.dev/name={NAME}", "--ignore-daemonsets"]
        argv = [*self.cluster.target.kubectl, *words, "--delete-emptydir-data", "--timeout=30s"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        finally:
            self.cluster.kubectl("uncordon", node)
        self.cluster.settled(NAME, {"green": 100}, seconds=300)
        evicted = (done.stdout + done.stderr).count("evicting pod")
        return f"evictions asked for: {evicted}; the budget let go of one pod at a time"

    def keys(self) -> str:
        """Replace the keys: the secondary first, then the clients' key, then the primary."""
        for entry in ("secondary", "primary"):
            new = os.urandom(16).hex()
            patch = f'{{"stringData": {{"{entry}": "{new}"}}}}'
            self.cluster.kubectl("patch", "secret", f"{NAME}-keys", "--type=merge", "-p", patch)
            time.sleep(KUBELET_SECONDS)
            self.load.key = new
        return f"both keys, clients moved {KUBELET_SECONDS} s after each"

    def scale(self) -> str:
        settings = {"minReplicas": 1, "maxReplicas": 3, "metric": "requestRate", "target": TARGET_RATE}
        self.endpoint({"green": 100}, green={"autoscale": {**settings, "scaleDownAfterSeconds": 20}})
        self.load.rate = BUSY_RATE
        pods = math.ceil(BUSY_RATE / TARGET_RATE)
        self._replicas(lambda now: now >= pods)
        time.sleep(20)
        self.load.rate = RATE
        self._replicas(lambda now: now == math.ceil(RATE / TARGET_RATE))
        time.sleep(15)
        return f"{RATE} to {BUSY_RATE} requests/s and back: up to {pods} pods, down to {math.ceil(RATE / TARGET_RATE)}"

    def _replicas(self, until: Callable[[int], bool]) -> None:
        def is_so(status: dict[str, Any]) -> bool:
            return any(d["name"] == "green" and until(d["readyReplicas"]) for d in status["deployments"])

        self.cluster.wait("oe", NAME, is_so, seconds=240)


def installed() -> Platform:
    """Yield the chart in a namespace of this benchmark, with two gateway pods."""
    to = target.embedded(cluster.up())
    restricted(to, NAMESPACE)
    to.run("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", str(REPOSITORY / "crds"))
    target.install(to, NAMESPACE, "crds.install=false", "gateway.replicas=2")
    return Platform(to, NAMESPACE)


def models(on: Platform) -> None:
    """Register versions 1 and 2, which add their number, and 3, which adds slowly."""
    for number in (1, 2):
        content = onnx_model(number)
        on.apply(model_version(NAME, number, on.put(f"{NAME}-{number}.onnx", content), content))
    outputs = {"model": {"registerAs": NAME, "format": "python"}}
    on.apply(training_job("slow", SLOW, outputs=outputs))
    assert on.ended("slow")["state"] == "Succeeded"
    on.kubectl("patch", "mv", f"{NAME}-3", "--type=merge", "-p", '{"spec": {"allowCodeExecution": true}}')


def main() -> None:
    """Run the story, then continue the requests until the time is over; exit 1 if a request has failed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=10, help="minimum duration (default 10)")
    seconds = arguments.parse_args().minutes * 60
    on = installed()
    try:
        models(on)
        first = Story(on, OpenLoop("", ""))
        first.endpoint({"blue": 100})
        first.cluster.settled(NAME, {"blue": 100}, seconds=300)
        key = on.secret(f"{NAME}-keys")["primary"]
        began = time.monotonic()
        with on.target.reach(NAMESPACE, NAME, 80) as url, OpenLoop(url, key).running() as load:
            story = Story(on, load)
            story.act("rollout, promoted", story.rollout)
            story.act("rollout, rolled back", story.rollback)
            story.act("pods deleted", story.five_pods)
            story.act("node drained", story.drain)
            story.act("keys rotated", story.keys)
            story.act("scaled up and down", story.scale)
            left = seconds - (time.monotonic() - began)
            story.act("nothing", lambda: time.sleep(max(0.0, left)) or "the rest of the time")
        report(story, time.monotonic() - began)
    finally:
        on.target.run("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=120s")
    if load.failures:
        raise SystemExit(f"{len(load.failures)} requests failed:\n" + "\n".join(load.failures[:20]))


def report(story: Story, seconds: float) -> None:
    """Print the table for docs/benchmarks.md."""
    load, total = story.load, len(story.load.seconds) + len(story.load.failures)
    print(f"\n{machine.platform()}, {os.cpu_count()} cores, Python {machine.python_version()}\n")
    print("| what happens | seconds | answered | failed | |\n|---|---|---|---|---|")
    for what, took, answered, failed, note in story.lines:
        print(f"| {what} | {took:.0f} | {answered} | {failed} | {note} |")
    # Of n requests without a failure, the rate of failures is below 3/n with 95 % confidence.
    print(f"| the whole | {seconds:.0f} | {len(load.seconds)} | {len(load.failures)} | of {total} |\n")
    if not load.failures:
        print(f"No failure in {total} requests: at most {3 / total:.5%} fail, with 95 % confidence.")
    print(f"p50 {load.percentile(0.5):.0f} ms, p99 {load.percentile(0.99):.0f} ms, from when each request was due.")
    print("answers by version: " + ", ".join(f"{v}: {n}" for v, n in sorted(load.versions.items())))


if __name__ == "__main__":
    main()
