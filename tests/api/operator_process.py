"""The real operator as a process, and a test's hands that play the kubelet and the controllers of Jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hands
import httpx
import pytest
from bare import Api, eventually
from forks import Fork, preload
from ports import free_port as free_port
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord
from unit.conftest import ObjectStore

preload("ultramarine_operator.__main__")
BUCKET = "lake"
# What `python -m ultramarine_operator` does, in a process that has imported all.
FORKED = """
import os
from kubernetes.aio.config import kube_config as by_watches
from kubernetes.config import kube_config
from ultramarine_operator.__main__ import main
for library in (kube_config, by_watches):  # they have read the variable when they were imported
    library.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
main()
"""
WRITES = ("create", "update", "patch", "patch/status", "delete")


@dataclass
class Operator:
    """`python -m ultramarine_operator` for one namespace, with a port of its own for /readyz and /metrics."""

    api: Api
    store: ObjectStore
    log: Path
    port: int = field(default_factory=free_port)
    identity: str = "operator-0"  # as in a pod whose container is restarted: the Lease is its own still
    kubeconfig: Path | None = None  # by default the administrator's
    program: tuple[str, ...] = ("-m", "ultramarine_operator")
    forked: bool = False  # whether it starts at once, in place of the program
    gateway: str = ""  # HOST:PORT of the namespace's, if it has one
    gateway_api: str = ""  # the chart's value of that name, as JSON
    hears: bool = False  # whether pods may post how far they are
    records: bool = False  # whether it writes records of lineage and audit
    process: subprocess.Popen[bytes] | Fork | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.store.credentials,
            "PYTHONPATH": ":".join(sys.path),
            "KUBECONFIG": str(self.kubeconfig or self.api.cluster.kubeconfig),
            "HOSTNAME": self.identity,
        }

    @property
    def settings(self) -> Manifest:
        """Content of the settings file."""
        return {
            "namespaces": [self.api.namespace],
            "port": self.port,
            "images": {"trainer": "ultramarine/trainer:1", "server": "ultramarine/server:1"},
            "storage": {"endpoint": self.store.endpoint, "bucket": BUCKET, "secretName": "ultramarine-storage"},
            "records": {"enabled": self.records},
            "requester": self.records,
            "progress": {"url": f"http://127.0.0.1:{self.port}" if self.hears else ""},
            **({"gateway": {"address": self.gateway, "namespaces": [self.api.namespace]}} if self.gateway else {}),
            **({"gatewayApi": json.loads(self.gateway_api)} if self.gateway_api else {}),
        }

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        settings = self.log.with_suffix(".settings.yaml")
        settings.write_text(json.dumps(self.settings))
        options = ("--settings", str(settings))
        if self.forked:
            self.process = Fork(FORKED, *options, env=self.environment, stdout=self.log)
            return
        with self.log.open("ab") as log:
            command = [sys.executable, *self.program, *options]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def start(self) -> None:
        """Start it, and return when it has listed and leads."""
        self.launch()
        eventually("the operator leads", lambda: self.leads, 120)

    @property
    def leads(self) -> bool:
        """True if it reports that it holds the Lease."""
        return self.metric("ultramarine_leader") == 1

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        assert self.process is not None
        self.process.send_signal(number)

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body of /healthz or /readyz; status 0 while nobody answers."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30)
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    def kill(self) -> None:
        """SIGKILL: it can neither finish nor say good-bye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it gives the Lease back."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(120)
            self.process = None

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics; none while nobody answers."""
        if self.process is not None and self.process.poll() is not None:
            pytest.fail(f"the operator has ended:\n{self.log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
        except OSError:  # also a timeout, which is no URLError while the answer is read
            return {}
        return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}

    def metric(self, name: str) -> float:
        """One sample."""
        return self.metrics().get(name, 0.0)

    def lines(self) -> list[Manifest]:
        """The lines of its log, without one that is being written."""
        return [json.loads(line) for line in self.log.read_bytes().rpartition(b"\n")[0].splitlines()]

    def passes(self, kind: str) -> float:
        """Return the number of passes over objects of a kind that this process has ended."""
        return self.metric(f'ultramarine_reconciles_total{{kind="{kind}",outcome="ok"}}')

    def writes(self) -> Counter[str]:
        """The writing requests of this process, but for its Lease."""
        found: Counter[str] = Counter()
        for name, value in self.metrics().items():
            match = re.fullmatch(r'ultramarine_api_requests_total\{code=".*",kind="(.*)",verb="(.*)"\}', name)
            if match and match[1] != "Lease" and match[2] in WRITES:
                found[f"{match[2]} {match[1]}"] += int(value)
        return found


@dataclass
class Node:
    """Node and Job controller, simulated by hand."""

    api: Api
    store: ObjectStore

    def job_of(self, name: str) -> Manifest:
        """The Job of a TrainingJob, once it is there."""
        found = eventually(
            f"Job {name}", lambda: [job for job in self.api.all("jobs") if job["metadata"]["name"] == name]
        )
        return found[0]

    def start_pod(self, name: str) -> None:
        """Make the Job's pod, and let it run."""
        self.api.apply(hands.pod_of(self.job_of(name), f"{name}-0-abcde"))
        self.api.status("pod", f"{name}-0-abcde", {"phase": "Running", "startTime": hands.now()})
        self.api.status("job", name, {"active": 1, "ready": 1, "startTime": hands.now()})

    def see_deployment(self, name: str) -> None:
        """Say that a Deployment was seen, and has no pods yet."""
        self.api.status("deployment", name, {"observedGeneration": 1, "conditions": []})

    def upload(self, name: str, content: str = "weights") -> contract.OutputRecord:
        """Do the trainer's work: upload a model under the prefix that its task names."""
        with pytest.MonkeyPatch.context() as patch:
            for key, value in self.store.credentials.items():
                patch.setenv(key, value)
            return hands.upload(Storage(self.store.endpoint), self.job_of(name), content)

    def succeed(self, name: str, record: contract.OutputRecord | None = None) -> None:
        """Let the pod end well, with its record as its last words, and then its Job."""
        outputs = {} if record is None else {"model": record}
        said = TerminationRecord(outputs=outputs, metrics={"accuracy": 0.97}).to_json()
        self.api.status("pod", f"{name}-0-abcde", hands.ended_pod(0, said))
        self.api.status("job", name, hands.complete_job())
