"""A sweep for tests: a coordinator and workers as processes of their own, and the simplest that can be tried."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forks import Fork, preload
from ports import free_port
from ultramarine_contract.sweep_records import SweepSummary, SweepTask, WorkerTask
from ultramarine_contract.training_records import TrainingTask

preload(
    "ultramarine_sweep.samplers.stopping",
    "ultramarine_sweep.service.sweep",
    "ultramarine_trainer.trials.job",
    "ultramarine_trainer.trials.worker",
    "unit.sweeping",
)

COORDINATOR = """
import os, sys
from pathlib import Path
from ultramarine_sweep.service import recording
from ultramarine_sweep.service.coordinator import Times
from ultramarine_sweep.samplers.stopping import Stopper
from ultramarine_sweep.service.sweep import Parts, Places, run
from unit.sweeping import Counting, Threshold
base = Path(sys.argv[1])
times = Times(tick=0.1, ending=4.0, goodbye=2.0)
places = Places(base / "log", base / "token", int(sys.argv[2]), times,
                recording.Times(between=0.1, retry=0.2, rest=2.0))
threshold = os.environ.get("TEST_THRESHOLD")
rule = lambda task: Stopper(task.early_termination, task.objectives[0]) if task.early_termination else None
stopper = lambda task: Threshold(float(threshold)) if threshold else rule(task)
sys.exit(run(os.environ, Parts(lambda task, known: Counting(task, known), stopper), places))
"""

WORKER = """
import os, sys
from pathlib import Path
from ultramarine_trainer.attempt.places import Places
from ultramarine_trainer.attempt.run import run
from ultramarine_trainer.trials.worker import Worker
base = Path(sys.argv[1])
places = Places(source=base / "source", work=base / "work", inputs=base / "inputs", outputs=base / "outputs",
                checkpoints=base / "checkpoints", environment=base / "environment",
                termination_log=base / "log", image=base / "image",
                input_waits=(0.1,), output_waits=(0.1, 0.1))
places.image.mkdir(exist_ok=True)
sys.exit(run((), os.environ, places, Worker))
"""

TOKEN = "the-token"


class Counting:
    """Suggests the next whole number as x; `points` in the space is how many there are."""

    def __init__(self, task: SweepTask, known: Any = ()) -> None:
        self._points = int(task.space.get("points", 1 << 30))
        self.told = list(known)

    def ask(self, number: int) -> dict[str, Any] | None:
        x = number + 1
        assert str(x) != os.environ.get("TEST_STUMBLES"), "no such number"
        return {"x": x, "rate": x / 7, "kind": "plain"} if x <= self._points else None

    def tell(self, trial: Any) -> None:
        self.told.append(trial)


class Threshold:
    """Stops a trial whose value is above a bound."""

    pauses = False

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def add(self, number: int, step: int, value: float) -> str:
        return f"threshold: {value} at step {step} is above {self._bound}" if value > self._bound else ""

    def pause(self, number: int) -> bool:
        return False

    def promoted(self) -> int | None:
        return None

    def resume(self, number: int) -> None:
        raise AssertionError("nobody is paused")


def task_of(prefix: str, **fields: Any) -> SweepTask:
    """A sweep of ten trials that minimises the loss."""
    usual: dict[str, Any] = {"objectives": ({"metric": "loss"},), "space": {"points": 1 << 30}, "max_trials": 10}
    return SweepTask("team-a/hpo", "uid-1", prefix, **(usual | fields))


@dataclass
class Fleet:
    """Where a sweep's processes are, and what they are told."""

    base: Path
    endpoint: str
    bucket: str
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: str = "hpo"
    port: int = field(default_factory=free_port)
    processes: list[Fork] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return f"s3://{self.bucket}/sweeps/{self.folder}/"

    def coordinate(self, **task: Any) -> Fork:
        """Start the coordinator on a task."""
        return self._start(COORDINATOR, "coordinator", task_of(self.prefix, **task).to_json(), TOKEN, str(self.port))

    def work(self, name: str, *command: str, token: str = TOKEN, **task: Any) -> Fork:
        """Start a worker that runs this command, as a pod with this name."""
        text = WorkerTask(f"http://127.0.0.1:{self.port}", command).to_json()
        self.environment["ULTRAMARINE_TASK"] = TrainingTask(**({"output_prefix": self.prefix} | task)).to_json()
        return self._start(WORKER, name, text, token)

    def another_port(self) -> int:
        """A port for a second coordinator."""
        return free_port()

    def _start(self, program: str, name: str, sweep: str, token: str, *arguments: str) -> Fork:
        base = self.base / name
        base.mkdir(exist_ok=True)
        told = {"ULTRAMARINE_STORAGE_ENDPOINT": self.endpoint, "ULTRAMARINE_POD": name, "ULTRAMARINE_SWEEP": sweep}
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "ULTRAMARINE_SWEEP_TOKEN": token}
        environment = {**self.environment, **told, **path}
        self.processes.append(Fork(program, str(base), *arguments, env=environment, stdout=base / "stderr"))
        return self.processes[-1]

    def said(self, name: str) -> str:
        """All that a process has printed so far."""
        stderr = self.base / name / "stderr"
        return stderr.read_text() if stderr.exists() else ""

    def last_words(self) -> SweepSummary:
        return SweepSummary.from_json((self.base / "coordinator/log").read_bytes())

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
