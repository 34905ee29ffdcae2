"""How a gang ends, and what disturbs it: whole trainers as processes of their own, each with its own clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import (
    CheckpointRecord,
    CheckpointTask,
    GangTask,
    InputRecord,
    TerminationRecord,
    TrainingTask,
)
from unit.conftest import free_port

PATIENCE = 120.0
SILENCE = 30.0  # seconds after which a node counts as lost; far less than an hour, and more than a busy machine takes
HOUR = 3600
ALMOST = 840  # seconds: the storage bears a clock that is 15 minutes wrong

# The trainer with shorter times, and a wall clock that is wrong by as many seconds as the file `clock` says. It kills
# itself where DIE says: just before its outputs are stored, or just after.
PROGRAM = """
import datetime, functools, os, signal, sys, time
from pathlib import Path
base = Path(sys.argv[1])
true = datetime.datetime, time.time

def wrong():
    return float((base / "clock").read_text())

class Kind(type):
    def __instancecheck__(cls, one):
        return isinstance(one, true[0])

class Clock(true[0], metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=wrong())

datetime.datetime, time.time = Clock, lambda: true[1]() + wrong()

from ultramarine_contract import common as contract
contract.GANG_PORT = int(os.environ["PORT"])
from ultramarine_trainer.data import checkpoints
from ultramarine_trainer.gang import member as gang
from ultramarine_trainer.attempt import run
gang.Times = functools.partial(gang.Times, heartbeat=0.2, silence=float(os.environ["SILENCE"]), connect=1.0,
                               retry=0.1, blame=0.3, look=0.2, tell=0.2, tick=0.02)
checkpoints.Times = functools.partial(checkpoints.Times, look=0.1, first_pause=0.1)
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if os.environ["DIE"] == "before":
    run.Attempt._store_outputs = die
if os.environ["DIE"] == "after":
    gang.Gang.conclude = die
places = run.Places(source=base / "source", work=base / "work", inputs=base / "inputs", outputs=base / "outputs",
                    checkpoints=base / "checkpoints", termination_log=base / "log", image=base / "image",
                    input_waits=(0.1,), output_waits=(0.1, 0.1), log_patience=2)
sys.exit(run.run(sys.argv[2:], os.environ, places))
"""

# A command that notes that it runs, and then does what the test orders.
OBEY = """
echo $NODE_RANK >> $0/ran
while :; do
    if mv $0/order-$NODE_RANK order 2> /dev/null; then . ./order; fi
    sleep 0.05
done
"""


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


@dataclass(frozen=True)
class Pod:
    """One pod of the job: its folder and the trainer in it."""

    base: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        return (self.base / "stderr").read_text()

    @property
    def starts(self) -> list[str]:
        """The numbers of the common starts that it took part in."""
        return [line.split()[2].rstrip(":") for line in self.said.splitlines() if ": start " in line]

    def says(self, words: str) -> None:
        until(lambda: words in self.said)

    def set_clock(self, seconds: float) -> None:
        """Have its wall clock wrong by so much from now on."""
        (self.base / "clock.new").write_text(str(seconds))
        (self.base / "clock.new").rename(self.base / "clock")

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def record(self) -> TerminationRecord:
        return TerminationRecord.from_json((self.base / "log").read_text())


class Job:
    """A job of several nodes, on loopback."""

    def __init__(self, folder: Path, storage: Storage, bucket: str) -> None:
        self.folder, self.storage = folder, storage
        self.prefix = f"s3://{bucket}/runs/churn/"
        self.environment = os.environ | {"ULTRAMARINE_STORAGE_ENDPOINT": storage.name, "PORT": str(free_port())}
        self.pods: list[Pod] = []

    def pod(self, index: int, *, nodes: int = 2, clock: float = 0, die: str = "", **task: Any) -> Pod:
        """Start a pod of that index, or the next one of its place."""
        base = self.folder / f"pod-{len(self.pods)}"
        base.mkdir()
        (base / "image").mkdir()
        (base / "clock").write_text(str(clock))
        text = TrainingTask(output_prefix=self.prefix, gang=GangTask(nodes=nodes, leader="localhost"), **task).to_json()
        own = {
            "ULTRAMARINE_TASK": text,
            "ULTRAMARINE_POD": f"churn-{index}-{len(self.pods)}",
            "JOB_COMPLETION_INDEX": str(index),
            "SILENCE": str(SILENCE),
            "DIE": die,
        }
        with (base / "stdout").open("wb") as stdout, (base / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(base), "sh", "-c", OBEY, str(self.folder)],
                env=self.environment | own,
                stdout=stdout,
                stderr=stderr,
            )
        self.pods.append(Pod(base, process))
        return self.pods[-1]

    def order(self, rank: int, script: str) -> None:
        """Have the command of that rank do something."""
        (self.folder / "order").write_text(script)
        (self.folder / "order").rename(self.folder / f"order-{rank}")

    @property
    def ran(self) -> list[int]:
        """The ranks of all commands that were started, sorted."""
        file = self.folder / "ran"
        return sorted(int(line) for line in file.read_text().split()) if file.exists() else []

    def result(self) -> TerminationRecord:
        return TerminationRecord.from_json(self.storage.read(self.prefix + "result.json").decode())

    def latest(self) -> CheckpointRecord:
        return CheckpointRecord.from_json(self.storage.read(self.prefix + "checkpoints/latest.json"))

    def close(self) -> None:
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.process.terminate()
        for pod in self.pods:
            pod.end()


@pytest.fixture
def job(tmp_path: Path, storage: Storage, bucket: str) -> Iterator[Job]:
    """A job whose storage is the test's S3 server."""
    job = Job(tmp_path, storage, bucket)
    yield job
    job.close()


# Node 0 is lost around the end


def test_a_new_node_0_does_not_run_what_is_stored(job: Job) -> None:
    """Killed after its result was stored: its successor ends with that result, and who waits for it ends as well."""
    first, second = job.pod(0, die="after", outputs={"model": ""}), job.pod(1, outputs={"model": ""})
    job.order(0, "echo accuracy=0.5; printf model > ../outputs/model/weights; exit 0")
    job.order(1, "exit 0")
    assert first.end() == -signal.SIGKILL

    successor = job.pod(0, outputs={"model": ""})

    assert (successor.end(), second.end()) == (0, 0)
    assert job.ran == [0, 1]
    assert successor.record() == job.result()
    assert (successor.record().metrics, successor.record().outputs["model"].bytes) == ({"accuracy": 0.5}, 5)
    assert "this job is done already: its result is stored" in successor.said


def test_a_new_node_0_runs_again_what_is_not_stored(job: Job) -> None:
    """Killed before its result was stored: all run once more, and the result is that of the second run."""
    first, second = job.pod(0, die="before", outputs={"model": ""}), job.pod(1, outputs={"model": ""})
    job.order(0, "printf lost > ../outputs/model/weights; exit 0")
    job.order(1, "exit 0")
    assert first.end() == -signal.SIGKILL

    successor = job.pod(0, outputs={"model": ""})
    until(lambda: job.ran == [0, 0, 1, 1])
    job.order(0, "printf kept! > ../outputs/model/weights; exit 0")
    job.order(1, "exit 0")

    assert (successor.end(), second.end()) == (0, 0)
    assert (second.starts, successor.starts) == (["1", "2"], ["2"])
    assert job.result().outputs["model"].bytes == 5
    assert "all nodes start again: node 0 was lost before its result was stored" in second.said


def test_who_waits_for_a_start_ends_when_the_result_turns_up(job: Job) -> None:
    """The old node 0 was slower to die than its successor to start: nobody runs, and node 0 tells what is stored."""
    first, second = (job.pod(index, nodes=3, outputs={"model": ""}) for index in (0, 1))
    for pod in (first, second):
        pod.says("waiting for 1 of 3 nodes: localhost-2")
    known = TerminationRecord(
        metrics={"accuracy": 0.5}, productive_seconds=12.5, inputs={"data": InputRecord("sha256:aa", 4, 1)}
    )
    job.storage.write(job.prefix + "result.json", known.to_json().encode())

    assert (first.end(), second.end()) == (0, 0)
    assert first.record() == known
    assert job.ran == []
    assert "this job is done already: its result is stored" in second.said


# Outputs of an earlier start


def test_outputs_of_an_earlier_start_are_not_stored(job: Job) -> None:
    """Node 1 fails, and all start again: what node 0 wrote before is gone, whatever it was."""
    outputs = {"model": "", "report": ""}
    first, broken = job.pod(0, outputs=outputs), job.pod(1, outputs=outputs)
    stale = "touch stale .stale; mkdir sub; touch sub/stale; ln -s sub link"
    job.order(0, f"(cd ../outputs/model; {stale}); touch ../outputs/report/stale $0/wrote")
    until((job.folder / "wrote").exists)
    job.order(1, "exit 3")
    assert broken.end() == 3

    second = job.pod(1, outputs=outputs)
    until(lambda: job.ran == [0, 0, 1, 1])
    write = "for name in model report; do printf new > ../outputs/$name/weights; done"
    job.order(0, f"ls -A ../outputs/* > $0/left; {write}; exit 0")
    job.order(1, "exit 0")

    assert (first.end(), second.end()) == (0, 0)
    assert (job.folder / "left").read_text().split() == ["../outputs/model:", "../outputs/report:"]
    for name in outputs:
        stored = job.storage.objects(f"{job.prefix}{name}/")
        assert {path.partition("/")[2] for path in stored} == {"weights", "manifest.json"}


# A rank that never starts


@pytest.mark.slow
def test_a_late_rank_is_waited_for_by_name(job: Job) -> None:
    """The others run nothing without it, say in their logs which one it is, and start when it comes at last."""
    early = [job.pod(index, nodes=3) for index in (0, 1)]
    for pod in early:
        pod.says("waiting for 1 of 3 nodes: localhost-2")
    assert job.ran == []

    late = job.pod(2, nodes=3)
    for rank in range(3):
        job.order(rank, "exit 0")

    assert [pod.end() for pod in (*early, late)] == [0, 0, 0]
    assert job.ran == [0, 1, 2]


def test_who_is_stopped_while_a_rank_is_missing_says_that_nothing_ran(job: Job) -> None:
    """The deadline of a job whose third rank never came: no command was run, and no failure of one is told."""
    pods = [job.pod(index, nodes=3) for index in (0, 1)]
    for pod in pods:
        pod.says("waiting for 1 of 3 nodes: localhost-2")
    for pod in pods:
        pod.process.terminate()

    assert [pod.end() for pod in pods] == [143, 143]
    for pod in pods:
        assert pod.record().reason == "Stopped"
        assert pod.record().message.startswith("SIGTERM came before the command ran")
        assert pod.record().productive_seconds == 0
    assert job.ran == []


# Clocks that differ


@pytest.mark.slow
def test_nodes_whose_clocks_differ_agree_on_everything(job: Job) -> None:
    """Starts are numbered, the newest checkpoint is the last that was made, and no time is negative or too long.

    Node 0's clock goes back by half an hour with each of its starts, and node 1's is wrong the other way.
    """
    began = time.monotonic()
    keep: dict[str, Any] = {"checkpoint": CheckpointTask()}
    first, broken = job.pod(0, clock=ALMOST, **keep), job.pod(1, clock=-ALMOST, **keep)
    job.order(0, "printf one > ../checkpoints/state; echo step=1")
    first.says("the checkpoint (last step told: 1) is stored")
    one = job.latest()

    first.set_clock(0)
    job.order(1, "exit 3")
    assert broken.end() == 3
    second = job.pod(1, clock=ALMOST, **keep)
    first.says("resuming from the checkpoint (last step told: 1)")
    job.order(0, "cp ../checkpoints/state $0/seen-1; printf two > ../checkpoints/state; echo step=2")
    first.says("the checkpoint (last step told: 2) is stored")
    two = job.latest()
    job.order(0, "kill -9 $PPID; exit 0")
    assert first.end() == -signal.SIGKILL

    successor = job.pod(0, clock=-ALMOST, **keep)
    successor.says("resuming from the checkpoint (last step told: 2)")
    job.order(0, "cp ../checkpoints/state $0/seen-2; printf three > ../checkpoints/state; echo step=3; exit 0")
    job.order(1, "exit 0")
    assert (successor.end(), second.end()) == (0, 0)
    took = time.monotonic() - began

    three = job.latest()
    assert (first.starts, second.starts, successor.starts) == (["1", "2"], ["2", "3"], ["3"])
    assert one.time > two.time > three.time  # so that no clock could have told which is the newest
    assert [(job.folder / f"seen-{step}").read_text() for step in (1, 2)] == ["one", "two"]
    assert (three.step, three.previous and three.previous.uri) == (3, two.uri)
    assert 0 <= one.productive_seconds <= two.productive_seconds <= three.productive_seconds
    assert three.productive_seconds <= successor.record().productive_seconds <= took


@pytest.mark.slow
@pytest.mark.parametrize("jump", [pytest.param(-HOUR, marks=pytest.mark.slow), HOUR])
def test_a_clock_that_jumps_breaks_no_gang(job: Job, jump: int) -> None:
    """Set right by an hour while the command runs: nobody is lost, and the time worked is what it is."""
    began = time.monotonic()
    first, second = job.pod(0, checkpoint=CheckpointTask()), job.pod(1, checkpoint=CheckpointTask())
    until(lambda: job.ran == [0, 1])
    first.set_clock(jump)
    second.set_clock(-jump)
    time.sleep(3)
    first.set_clock(ALMOST if jump > 0 else -ALMOST)  # or the storage would not take the result
    job.order(0, "exit 0")
    job.order(1, "exit 0")

    assert (first.end(), second.end()) == (0, 0)
    assert (first.starts, second.starts) == (["1"], ["1"])
    assert 3 <= first.record().productive_seconds <= time.monotonic() - began


@pytest.mark.parametrize("clock", [pytest.param(-HOUR, marks=pytest.mark.slow), HOUR])
def test_a_clock_that_the_storage_does_not_bear_is_named(job: Job, clock: int) -> None:
    """An S3 server refuses requests of a time that is not now: the keys are not to blame, and another node may do."""
    pod = job.pod(0, nodes=1, clock=clock, outputs={"model": ""})

    assert pod.end() == 75
    assert pod.record().reason != "AccessDenied"
    assert "clock" in pod.record().message
    assert job.ran == []
