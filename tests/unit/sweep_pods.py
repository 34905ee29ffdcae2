"""A sweep whose trials have pods, for tests: a real coordinator, a real trainer for each pod, and a small operator."""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from builders import PLATFORM, sweep
from forks import Fork
from msgspec.structs import replace
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import SweepSummary, TrialTask
from ultramarine_contract.training_records import TerminationRecord, TrainingTask
from ultramarine_operator.kinds.sweep import podpertrial
from ultramarine_operator.kinds.trainingjob.manifests import command, pod_spec
from ultramarine_operator.shared.plan import Obj
from unit.sweeping import TOKEN, Fleet

POD = """
import os, sys
from pathlib import Path
from ultramarine_trainer.attempt.places import Places
from ultramarine_trainer.attempt.run import run
from ultramarine_trainer.trials.job import TrialAttempt
base = Path(sys.argv[1])
places = Places(source=base / "source", work=base / "work", inputs=base / "inputs", outputs=base / "outputs",
                checkpoints=base / "checkpoints", termination_log=base / "log", image=base / "image",
                input_waits=(0.1,), output_waits=(0.1, 0.1))
places.image.mkdir(exist_ok=True)
places.work.mkdir(exist_ok=True)
sys.exit(run(sys.argv[2:], os.environ, places, TrialAttempt))
"""


class Pods:
    """The operator's part: hears the coordinator, has a job for each trial that is wanted, and a pod for each job.

    What jobs are made, and what is answered, is the kind's own work; how a job's status comes about is played here.
    """

    def __init__(self, fleet: Fleet, *words: str, parallel: int = 2, retries: int = 0, **template: Any) -> None:
        self.fleet, self.retries = fleet, retries
        self._template = {"command": list(words), **template}
        self.allow(parallel)
        self.jobs: dict[str, Manifest] = {}
        self.pods: dict[str, Fork] = {}
        self.started: list[int] = []  # numbers of trials, once for each pod
        self.refuses = False  # to answer
        self.broken: set[int] = set()  # trials whose pods cannot start
        self.timeout = 0
        self.summaries: list[SweepSummary] = []
        self.holds = True  # jobs whose trials are paused
        self.held: list[tuple[str, int]] = []  # jobs, once for each time, with the exit code of their pods
        self._lock = threading.Lock()
        pods = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                summary = SweepSummary.from_json(self.rfile.read(int(self.headers["Content-Length"])))
                body = b"" if pods.refuses else json.dumps(pods.hear(summary)).encode()
                self.send_response(503 if pods.refuses else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/sweeps/team-a/hpo"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def coordinate(self, **task: Any) -> Fork:
        """Start the coordinator."""
        (self.fleet.base / "coordinator").mkdir(exist_ok=True)
        (self.fleet.base / "coordinator/token").write_text("projected")
        return self.fleet.coordinate(progress=self.url, pod_per_trial=True, **task)

    def allow(self, parallel: int) -> None:
        """Let so many trials run at a time from now on."""
        self.sweep = sweep(
            execution="PodPerTrial",
            earlyTermination={"type": "asha", "minSteps": 1, "maxSteps": 9},
            limits={"maxTrials": 100, "parallelTrials": parallel},
            searchSpace={name: {"constant": 1} for name in ("x", "rate", "kind")},
            trialTemplate={"spec": self._template},
        )

    def hear(self, summary: SweepSummary) -> Manifest:
        """A pass, and the answer."""
        with self._lock:
            self.summaries.append(summary)
            self._look()
            for job in podpertrial.trial_jobs(self.sweep, summary, list(self.jobs.values()), PLATFORM):
                name = job["metadata"]["name"]
                if name in self.jobs:
                    if self.holds:
                        self._hold(name, job["spec"]["suspend"])
                    continue
                made = {**job, "status": {}}
                made["metadata"] |= {"uid": f"uid-{len(self.jobs)}"}
                self.jobs[name] = made
                self._start(made)
            told = podpertrial.answer(self.sweep, summary, self._child)
            assert told is not None
            return told

    def _child(self, kind: str, name: str) -> Manifest | None:
        return self.jobs.get(name) if kind == "TrainingJob" else None

    def delete(self, number: int) -> None:
        """Delete a trial's job by hand."""
        with self._lock:
            name = f"hpo-trial-{number}"
            self.pods[name].kill()
            self.pods.pop(name).wait()
            del self.jobs[name]

    def kill(self, number: int) -> None:
        """Kill a trial's pod."""
        self.pods[f"hpo-trial-{number}"].kill()

    def begin_again(self, number: int) -> None:
        """Give a trial's job another pod, as after a suspension, whatever the one before has come to."""
        with self._lock:
            name = f"hpo-trial-{number}"
            self.kill(number)
            self.pods[name].wait()
            self._start(self.jobs[name])

    def _hold(self, name: str, held: bool) -> None:
        """Suspend a job, whose pod is told to go, or let it go on with a new one."""
        job = self.jobs[name]
        job["spec"]["suspend"] = held
        job["status"] = {"state": "Suspended" if held else "Pending"}
        if held:
            self.pods[name].terminate()
            self.held.append((name, self.pods[name].wait(240)))
        else:
            self._start(job)

    def _start(self, job: Manifest) -> None:
        name = job["metadata"]["name"]
        told = TrialTask.from_json(job["metadata"]["annotations"]["ultramarine.dev/trial"])
        if told.trial in self.broken:
            message = "image nosuch:1 cannot be pulled"
            self._end(job, "Failed", failure={"reason": "ImagePullBackOff", "message": message})
            return
        read = Obj(job, TrainingJobSpec.model_validate(job["spec"]))
        variables = {each["name"]: each.get("value") for each in pod_spec(read, PLATFORM)["containers"][0]["env"]}
        task = TrainingTask.from_json(str(variables[contract.ENV_TASK]))
        there = replace(
            told,
            coordinator=f"http://127.0.0.1:{self.fleet.port}",
            objectives=("loss",),
            timeout_seconds=self.timeout,
        )
        base = self.fleet.base / name
        base.mkdir(exist_ok=True)
        environment = {
            **self.fleet.environment,
            contract.ENV_STORAGE_ENDPOINT: self.fleet.endpoint,
            contract.ENV_POD: name,
            contract.ENV_TASK: replace(task, output_prefix=f"{self.fleet.prefix}{name}/").to_json(),
            contract.ENV_TRIAL: there.to_json(),
            contract.ENV_SWEEP_TOKEN: TOKEN,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        process = Fork(POD, str(base), *command(read), env=environment, stdout=base / "stderr")
        self.pods[name] = process
        self.fleet.processes.append(process)
        self.started.append(told.trial)

    def _look(self) -> None:
        """Take in which pods have ended, as Kubernetes and the plan of a TrainingJob do."""
        for name, pod in list(self.pods.items()):
            job = self.jobs[name]
            if (code := pod.poll()) is None or job["spec"]["suspend"] or podpertrial.is_over(job):
                continue
            retries = job.setdefault("retries", 0)
            if code not in (0, contract.EXIT_DO_NOT_RETRY) and retries < self.retries:
                self.jobs[name]["retries"] += 1
                self._start(self.jobs[name])
                continue
            try:
                record = TerminationRecord.from_json((self.fleet.base / name / "log").read_text())
            except (OSError, ValueError):
                record = TerminationRecord(reason="OOMKilled", message="its pod was killed")
            outputs = {key: one.document() for key, one in record.outputs.items()}
            known = {"metrics": {"latest": dict(record.metrics)}, "outputs": outputs}
            words = {"reason": record.reason, "message": record.message, "tail": record.tail}
            failure = {} if code == 0 else {"failure": {**words, "exitCode": record.exit_code or code}}
            self._end(self.jobs[name], "Failed" if code else "Succeeded", **known, **failure)

    def _end(self, job: Manifest, condition: str, **known: Any) -> None:
        job["status"] = {"state": condition, "conditions": [{"type": condition, "status": "True"}], **known}

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
