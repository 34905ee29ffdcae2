"""The part of a sweep's coordinator, by hand: its pod speaks with a token that the real API server knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import hands
import httpx
import pytest
from bare import Api, eventually
from operator_process import Node, Operator
from stories import status, until
from ultramarine.outside.storage import Storage
from ultramarine.shared.contract import PROGRESS_AUDIENCE
from ultramarine.shared.meta import Manifest
from ultramarine.shared.sweep_records import SweepSummary, WantedTrial
from ultramarine.shared.training_records import TerminationRecord

ACCOUNT = "trials"


@dataclass
class Coordinator:
    """Speaks for the Sweep hpo, by the pod that it starts, and plays the pods of its trials."""

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
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={name}-0-abcde", f"--audience={PROGRESS_AUDIENCE}"]
        return self.api.run("create", "token", ACCOUNT, *bound).strip()

    def send(self, token: str, *wanted: int, **told: Any) -> httpx.Response:
        """Post once by that token that these trials are wanted."""
        trials = tuple(WantedTrial(number, {"lr": 0.001 * (number + 1)}) for number in wanted)
        summary = SweepSummary(wanted=trials, running=len(wanted), succeeded=self.succeeded, **told)
        url = f"http://127.0.0.1:{self.operator.port}/sweeps/{self.api.namespace}/hpo"
        return httpx.post(url, content=summary.to_json(), headers={"Authorization": f"Bearer {token}"}, timeout=10)

    def want(self, *wanted: int) -> Manifest:
        """Post until it is taken, and return what is answered."""

        def answer() -> Manifest | None:
            got = self.send(self.token, *wanted)
            assert got.status_code in (200, 403, 429), got.text  # 403 until the watch has told of the pod
            return dict(got.json()) if got.status_code == 200 else None

        return eventually("the summary is taken", answer)

    def hears(self, number: int, *wanted: int) -> Manifest:
        """Post until the answer says that this trial has ended, and return what it says."""

        def end() -> Manifest | None:
            told = self.want(number, *wanted)["ended"]
            return next((dict(one) for one in told if one["trial"] == number), None)

        return eventually(f"the end of trial {number} is told", end)

    def finish(self, number: int, loss: float) -> None:
        """Let a trial's pod, which runs, end well, and wait until its job knows."""
        name = f"hpo-trial-{number}"
        said = TerminationRecord(metrics={"loss": loss}).to_json()
        self.api.status("pod", f"{name}-0-abcde", hands.ended_pod(0, said))
        self.api.status("job", name, hands.complete_job())
        until(self.api, name, "Succeeded")
        self.succeeded += 1

    @property
    def trials(self) -> dict[int, Manifest]:
        """The TrainingJobs of the namespace, by the numbers in their names."""
        return {int(job["metadata"]["name"].rpartition("-")[2]): job for job in self.api.all("tj")}

    def has(self, numbers: Collection[int], seconds: float = 5.0) -> dict[int, Manifest]:
        """Wait until the trials that have jobs are these, which is sooner than the operator looks by itself."""
        return eventually(f"there are jobs {numbers}", lambda: self._these(set(numbers)), seconds)

    def _these(self, numbers: set[int]) -> dict[int, Manifest]:
        there = self.trials
        return there if set(there) == numbers else {}


def is_in(api: Api, word: str) -> bool:
    """Whether the Sweep is in that state."""
    return status(api, "sw", "hpo").get("state") == word


def end(api: Api, node: Node) -> None:
    """Let the coordinator end well."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in node.store.credentials.items():
            patch.setenv(key, value)
        said = hands.search_and_store(Storage(node.store.endpoint), node.job_of("hpo-coordinator"))
    pod = "hpo-coordinator-0-abcde"
    api.status("pod", pod, hands.ended_pod(0, said.to_json().decode(), name="coordinator"))
    api.status("job", "hpo-coordinator", hands.complete_job(indexed=False))


def uids(jobs: dict[int, Manifest]) -> dict[int, str]:
    """Who they are, so that one that was made anew is another."""
    return {number: job["metadata"]["uid"] for number, job in jobs.items()}
