"""A sweep's coordinator, played by the test: its pod has a token of the real API server."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hands
import httpx
import pytest
from bare import Api, eventually
from operator_process import Node, Operator, free_port
from stories import status, until
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepSummary, WantedTrial
from ultramarine_contract.training_records import TerminationRecord

ACCOUNT = "trials"


@dataclass
class Coordinator:
    """Coordinator of the Sweep hpo, whose pod it starts; it also plays the pods of the trials."""

    api: Api
    operator: Operator
    node: Node
    token: str = ""
    succeeded: int = field(default=0)

    def start(self) -> None:
        """Let the coordinator's pod run."""
        self.api.run("create", "serviceaccount", ACCOUNT)
        self.token = self.run("hpo-coordinator")

    def run(self, name: str) -> str:
        """Make a Job's pod, let it run, and return the token that the kubelet would project into it."""
        pod = hands.pod_of(self.node.job_of(name), f"{name}-0-abcde")
        pod["spec"]["serviceAccountName"] = ACCOUNT  # by an admission plugin, elsewhere
        self.api.apply(pod)
        self.api.status("pod", f"{name}-0-abcde", {"phase": "Running", "startTime": hands.now()})
        self.api.status("job", name, {"active": 1, "ready": 1, "startTime": hands.now()})
        bound = [
            "--bound-object-kind=Pod",
            f"--bound-object-name={name}-0-abcde",
            f"--audience={contract.PROGRESS_AUDIENCE}",
        ]
        return self.api.run("create", "token", ACCOUNT, *bound).strip()

    def send(self, token: str, *numbers: int, **fields: Any) -> httpx.Response:
        """Post once, with a token, which trials need jobs."""
        trials = tuple(WantedTrial(number, {"lr": 0.001 * (number + 1)}) for number in numbers)
        summary = SweepSummary(wanted=trials, running=len(numbers), succeeded=self.succeeded, **fields)
        url = f"http://127.0.0.1:{self.operator.port}/sweeps/{self.api.namespace}/hpo"
        return httpx.post(url, content=summary.to_json(), headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def want(self, *numbers: int) -> Manifest:
        """Post which trials need jobs until the operator accepts it, and return the answer."""

        def answer() -> Manifest | None:
            got = self.send(self.token, *numbers)
            assert got.status_code in (200, 403, 429), got.text  # 403 until the watch has told of the pod
            return dict(got.json()) if got.status_code == 200 else None

        return eventually("the summary is taken", answer)

    def hears(self, number: int, *numbers: int) -> Manifest:
        """Post until the answer reports the end of a trial, and return that report."""

        def end() -> Manifest | None:
            ends = self.want(number, *numbers)["ended"]
            return next((dict(end) for end in ends if end["trial"] == number), None)

        return eventually(f"the end of trial {number} is reported", end)

    def finish(self, number: int, loss: float) -> None:
        """End the running pod of a trial with success, and wait for the state of its job."""
        succeed(self.api, number, loss)
        until(self.api, f"hpo-trial-{number}", "Succeeded")
        self.succeeded += 1

    @property
    def trials(self) -> dict[int, Manifest]:
        """The TrainingJobs of the namespace, by the numbers in their names."""
        return {int(job["metadata"]["name"].rpartition("-")[2]): job for job in self.api.all("tj")}

    def has(self, numbers: Collection[int], seconds: float = 20.0) -> dict[int, Manifest]:
        """Wait until exactly these trials have jobs, before a pass without an event, which comes after 30 s."""
        return eventually(f"there are jobs {numbers}", lambda: self._these(set(numbers)), seconds)

    def _these(self, numbers: set[int]) -> dict[int, Manifest]:
        there = self.trials
        return there if set(there) == numbers else {}


def succeed(api: Api, number: int, loss: float) -> None:
    """End the running pod of a trial, and its Job, with success."""
    name = f"hpo-trial-{number}"
    record = TerminationRecord(metrics={"loss": loss}).to_json()
    api.status("pod", f"{name}-0-abcde", hands.ended_pod(0, record))
    api.status("job", name, hands.complete_job())


def is_in(api: Api, word: str) -> bool:
    """True if the Sweep is in that state."""
    return status(api, "sw", "hpo").get("state") == word


def end(api: Api, node: Node) -> None:
    """End the coordinator with success."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in node.store.credentials.items():
            patch.setenv(key, value)
        record = hands.search_and_store(Storage(node.store.endpoint), node.job_of("hpo-coordinator"))
    pod = "hpo-coordinator-0-abcde"
    api.status("pod", pod, hands.ended_pod(0, record.to_json().decode(), name="coordinator"))
    api.status("job", "hpo-coordinator", hands.complete_job(indexed=False))


COORDINATOR = """
import os, sys
from pathlib import Path
from ultramarine_sweep.__main__ import _stopper, _suggester
from ultramarine_sweep.service.sweep import Parts, Places, run
base = Path(sys.argv[1])
sys.exit(run(os.environ, Parts(_suggester, _stopper), Places(base / "log", base / "token", int(sys.argv[2]))))
"""


@dataclass
class RealCoordinator:
    """The coordinator of the Sweep hpo as a process in the environment of its pod; `speaking` has that pod's token."""

    speaking: Coordinator
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it continues from its journal."""
        node = self.speaking.node
        (self.folder / "token").write_text(self.speaking.token)
        env = node.job_of("hpo-coordinator")["spec"]["template"]["spec"]["containers"][0]["env"]
        secret = self.speaking.api.get("secret", "hpo-sweep-token")["data"]["token"]
        variables = {variable["name"]: variable["value"] for variable in env if "value" in variable}
        variables |= {contract.ENV_SWEEP_TOKEN: base64.b64decode(secret).decode(), "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", COORDINATOR, str(self.folder), str(free_port())]
        with (self.folder / "said").open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **node.store.credentials, **variables}, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """Kill it; changes that are not in the journal are lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def last_words(self) -> str:
        """Return its termination message; empty before its end."""
        if self.process is None or self.process.poll() is None:
            return ""
        assert self.process.returncode == 0, (self.folder / "said").read_text()[-4000:]
        return (self.folder / "log").read_text()


def uids(jobs: dict[int, Manifest]) -> dict[int, str]:
    """Return the uids, which differ after a recreation."""
    return {number: job["metadata"]["uid"] for number, job in jobs.items()}
