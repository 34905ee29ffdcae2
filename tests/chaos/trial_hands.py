"""The coordinator of a Sweep whose trials are TrainingJobs: it remembers, posts what it wants, and hears what ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import hands
from msgspec.structs import replace
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest, controller_uid
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, SweepTask, TrialTask, WantedTrial
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds.sweep.manifests import COORDINATOR
from ultramarine_operator.shared.pods import is_running

if TYPE_CHECKING:
    from world import World

ACCOUNT = "trials"  # the ServiceAccount of the pods that speak
PAUSE = 0.1  # seconds between two posts
LOST = 3  # of so many answers one does not arrive


@dataclass
class Memory:
    """Memory of a sweep: its journal, and facts that only the running coordinator has."""

    task: SweepTask
    ended: dict[int, Manifest] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)  # by the story
    started: int = 0
    parallel: int = 0
    pod: str = ""
    held: set[int] = field(default_factory=set)  # of those that are paused, by the operator's last answer
    _unwritten: int | None = None  # the trial whose end is not in the journal yet

    @property
    def live(self) -> list[int]:
        return [number for number in range(self.started) if number not in self.ended and number not in self.paused]

    @property
    def is_complete(self) -> bool:
        return len(self.ended) == self.task.max_trials

    def taken_over(self, pod: str) -> None:
        """Another pod speaks from now on, and goes on by the journal."""
        if self._unwritten is not None:
            del self.ended[self._unwritten]
        self.parallel, self.pod, self.held, self._unwritten = 0, pod, set(), None

    def tell(self, end: Manifest) -> bool:
        """Take the end of a trial, if it has not been told before."""
        if is_news := end["trial"] in self.live:
            self.ended[end["trial"]] = end
        return is_news

    def hear(self, answer: Manifest) -> None:
        """Take the operator's answer, and begin what may begin: that is told when the end before it is written."""
        self.parallel, self.held = answer["parallel"], set(answer["held"])
        for end in answer["ended"]:
            if self.tell(end):
                self._unwritten = end["trial"]
        leaving = self.paused - self.held
        while len(self.live) + len(leaving) < self.parallel and self.started < self.task.max_trials:
            self.started += 1
            self._unwritten = None

    def summary(self) -> SweepSummary:
        """Return the progress of the sweep; the best trial is the first one that has succeeded."""
        ends = [end["outcome"] for end in self.ended.values()]
        counts = {word.lower(): ends.count(word) for word in ("Succeeded", "Stopped", "Failed")}
        counts["stopped"] += len(self.paused)
        wanted = tuple(WantedTrial(number, {"lr": 0.001 * (number + 1)}) for number in self.live)
        well = sorted(number for number, end in self.ended.items() if end["outcome"] == "Succeeded")
        paused = tuple(sorted(self.paused))
        best = tuple(map(self._best, well[:1]))
        return SweepSummary(running=len(wanted), wanted=wanted, paused=paused, best=best, **counts)

    def _best(self, number: int) -> BestTrial:
        end = self.ended[number]
        outputs = {name: contract.OutputRecord(**record) for name, record in end["outputs"].items()}
        values = tuple(end["metrics"][objective["metric"]] for objective in self.task.objectives)
        return BestTrial(number, values, {"lr": 0.001 * (number + 1)}, outputs)


@dataclass
class Coordinators:
    """All that speak in a namespace, to the operators behind `ports`."""

    world: World
    ports: list[int] = field(default_factory=list)
    memories: dict[str, Memory] = field(default_factory=dict)  # by the Sweep's uid
    _projected: dict[str, str] = field(default_factory=dict)  # tokens that pods post with, by their uids
    _answers: int = 0

    def of(self, sweep: str) -> Memory:
        """Return the memory of that Sweep's coordinator; empty before its first report."""
        uid = (self.world.get("Sweep", sweep) or {"metadata": {"uid": ""}})["metadata"]["uid"]
        return self.memories.get(uid) or Memory(SweepTask(sweep, uid, "", (), {}))

    async def speak(self) -> None:
        """Post for each one whose pod runs, for ever; one that has nothing more to do ends well."""
        await self.world.api.ask("POST", f"{self._accounts}", {"metadata": {"name": ACCOUNT}})
        while True:
            for job, task in list(self._jobs()):
                if (pod := self._running(job)) is not None:
                    memory = self.memories.setdefault(task.uid, Memory(task))
                    if memory.pod != pod["metadata"]["uid"]:
                        memory.taken_over(pod["metadata"]["uid"])
                    if memory.is_complete:
                        self.world.decide(job["metadata"]["name"], "succeeds")
                    elif token := await self._token(pod):
                        await self._post(memory, token)
            await asyncio.sleep(PAUSE)

    @property
    def _accounts(self) -> str:
        return f"/api/v1/namespaces/{self.world.namespace}/serviceaccounts"

    def _jobs(self) -> Iterator[tuple[Manifest, SweepTask]]:
        for job in self.world.all("Job"):
            if (task := search_of(job)) is not None and task.pod_per_trial:
                yield job, task

    def _running(self, job: Manifest) -> Manifest | None:
        its = (pod for pod in self.world.all("Pod") if controller_uid(pod) == job["metadata"]["uid"])
        return next((pod for pod in its if is_running(pod)), None)

    async def _token(self, pod: Manifest) -> str:
        """The token that the kubelet would project into a pod; nothing for one that has just gone."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if uid not in self._projected:
            bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
            spec = {"audiences": [contract.PROGRESS_AUDIENCE], "boundObjectRef": bound}
            try:
                made = await self.world.api.ask("POST", f"{self._accounts}/{ACCOUNT}/token", {"spec": spec})
            except LookupError:
                return ""
            self._projected[uid] = made["status"]["token"]
        return self._projected[uid]

    async def _post(self, memory: Memory, token: str) -> None:
        headers, body = {"Authorization": f"Bearer {token}"}, memory.summary().to_json()
        for port in self.ports:
            url = f"http://127.0.0.1:{port}/sweeps/{memory.task.sweep}"
            timeout = aiohttp.ClientTimeout(total=2)
            try:
                async with self.world.api.session.post(url, data=body, headers=headers, timeout=timeout) as answer:
                    told = json.loads(await answer.read()) if answer.status == 200 else None
            except (aiohttp.ClientError, TimeoutError):
                continue  # it is dead, or dies just now
            if told is not None:
                self._answers += 1
                if self._answers % LOST:
                    memory.hear(told)

    def trained(self, job: Manifest, pod: Manifest, outcome: str, said: TerminationRecord) -> None:
        """Let the trainer in a trial's pod tell the end of its trial, where it reaches the coordinator.

        Of trials with odd numbers it does not.
        """
        task, memory = trial_of(job), self.memories.get(self._sweep(job))
        if task is None or memory is None or task.trial % 2:
            return
        speaking = [its for each, search in self._jobs() if search == memory.task and (its := self._running(each))]
        if any(self.world.tokens.are_alike(pod, its) for its in speaking):
            outputs = {name: record.document() for name, record in said.outputs.items()}
            end = {"trial": task.trial, "outcome": outcome, "metrics": dict(said.metrics), "outputs": outputs}
            memory.tell(end)

    def _sweep(self, job: Manifest) -> str:
        """The uid of the Sweep whose trial a Job runs."""
        owner = (found for found in self.world.all("TrainingJob") if found["metadata"]["uid"] == controller_uid(job))
        return next((controller_uid(found) or "" for found in owner), "")

    def end(self, job: Manifest, well: bool) -> SweepSummary:
        """Store the summary of a sweep that is over, and give its coordinator's last words; what ran was stopped."""
        task = search_of(job)
        assert task is not None
        if not task.pod_per_trial:
            return hands.search_and_store(self.world.storage, job, well)
        told = self.memories[task.uid].summary()
        outcome, reason = ("Succeeded", "MaxTrialsReached") if well else ("Failed", "MaxFailedTrialsReached")
        message = f"{task.max_trials} trials are over" if well else "3 trials have failed"
        told = replace(told, outcome=outcome, reason=reason, message=message, wanted=(), paused=())
        told = replace(told, running=0, stopped=told.stopped + told.running)
        self.world.storage.write(task.prefix + contract.SUMMARY_NAME, told.to_json())
        return replace(told, best=())


def _variables(job: Manifest) -> dict[str, str]:
    env = job["spec"]["template"]["spec"]["containers"][0].get("env") or ()
    return {each["name"]: each["value"] for each in env if "value" in each}


def search_of(job: Manifest) -> SweepTask | None:
    """Return the search of a coordinator's Job; None for any other Job."""
    is_one = job["spec"]["template"]["spec"]["containers"][0]["name"] == COORDINATOR
    return SweepTask.from_json(_variables(job)[contract.ENV_SWEEP]) if is_one else None


def trial_of(job: Manifest) -> TrialTask | None:
    """Which trial a Job runs, if any."""
    told = _variables(job).get(contract.ENV_TRIAL)
    return TrialTask.from_json(told) if told else None
