"""A bucket that goes away in the middle of training: a trainer as a process of its own, against a real S3 server."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import ended_container, pod, training_job
from forks import Fork, preload
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import CheckpointRecord, CheckpointTask, TerminationRecord, TrainingTask
from ultramarine_operator.shared import pods

preload("ultramarine_trainer.attempt.run")
PATIENCE = 120.0

# The trainer with shorter times: checkpoints are looked for, and the log is sent, all the time.
PROGRAM = """
import functools, os, sys
from pathlib import Path
from ultramarine_trainer.progress import archive
from ultramarine_trainer.data import checkpoints
from ultramarine_trainer.attempt import run
checkpoints.Times = functools.partial(checkpoints.Times, look=0.1, first_pause=0.1, longest_pause=0.2)
archive.Limits = functools.partial(archive.Limits, first_send=0.1, longest_send=0.2, first_pause=0.1, longest_pause=0.2)
base = Path(sys.argv[1])
places = run.Places(source=base / "source", work=base / "work", inputs=base / "inputs", outputs=base / "outputs",
                    checkpoints=base / "checkpoints", termination_log=base / "log", image=base / "image",
                    input_waits=(0.1,), output_waits=(0.1,) * int(os.environ.get("PATIENCE", "2")), log_patience=5)
sys.exit(run.run(sys.argv[2:], os.environ, places))
"""

# A command that counts its steps and keeps each tenth, unless there is a file `still`, until there is a file `end`.
COMMAND = """
import os, sys, time
from pathlib import Path
base, kept = Path(sys.argv[1]), Path(sys.argv[1]) / "checkpoints/state"
(base / "runs").open("a").write("x")
step = int(kept.read_text()) if kept.exists() else 0
while not (base / "end").exists():
    step += 1
    print(f"step={step} loss={1 / step}")
    if step % 10 == 0 and not (base / "still").exists():
        (base / "new").write_text(str(step))
        os.replace(base / "new", kept)
    time.sleep(0.05)
(base / "outputs/model/weights").write_text(str(step))
sys.exit(int((base / "end").read_text()))
"""


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


class Job:
    """A job of one pod whose bucket, a folder of the S3 server's, the test can move out of sight."""

    def __init__(self, base: Path, storage: Storage, bucket: Path) -> None:
        self.base, self.storage, self.bucket = base, storage, bucket
        self.prefix = f"s3://{bucket.name}/runs/churn/"
        self.environment = os.environ | {"ULTRAMARINE_STORAGE_ENDPOINT": storage.name, "ULTRAMARINE_POD": "churn-0-abc"}
        self.process: Fork | None = None
        (base / "image").mkdir()
        (base / "outputs/model").mkdir(parents=True)

    def start(self, **task: Any) -> None:
        """Start the trainer and wait for its first checkpoint."""
        self.run(**task)
        self.says("is stored: ")

    def run(self, **task: Any) -> None:
        text = TrainingTask(output_prefix=self.prefix, checkpoint=CheckpointTask(), **task).to_json()
        output, errors = self.base / "stdout", self.base / "stderr"
        for file in (output, errors):
            file.write_bytes(b"")
        command = (sys.executable, "-c", COMMAND, str(self.base))
        variables = self.environment | {"ULTRAMARINE_TASK": text}
        self.process = Fork(PROGRAM, str(self.base), *command, env=variables, stdout=output, stderr=errors)

    @property
    def away(self) -> Path:
        return self.base / "bucket"

    def lose(self) -> CheckpointRecord:
        """Take the bucket away, wait until the trainer has noticed it, and return the last checkpoint that was kept."""
        assert self.process is not None
        # Not in the middle of a request: for a write that is under way the server makes the folder again.
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        self.bucket.rename(self.away)
        self.process.send_signal(signal.SIGCONT)

        def noticed() -> bool:
            shutil.rmtree(self.bucket, ignore_errors=True)
            return "the checkpoint cannot be stored now: bucket" in self.said

        until(noticed)
        return CheckpointRecord.from_json((self.away / "runs/churn/checkpoints/latest.json").read_bytes())

    def bring_back(self) -> None:
        self.away.rename(self.bucket)

    @property
    def said(self) -> str:
        return (self.base / "stderr").read_text()

    def says(self, words: str) -> None:
        until(lambda: words in self.said)

    @property
    def step(self) -> int:
        """The last step that the command has printed."""
        lines = (self.base / "stdout").read_text().split("\n")[:-1]
        return int(lines[-1].split()[0].removeprefix("step=")) if lines else 0

    @property
    def runs(self) -> int:
        """How often the command was started."""
        return len((self.base / "runs").read_text())

    def end(self, code: int = 0) -> int:
        """Have the command end with that code, and return the trainer's."""
        (self.base / "new-end").write_text(str(code))
        (self.base / "new-end").rename(self.base / "end")
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def record(self) -> TerminationRecord:
        return TerminationRecord.from_json((self.base / "log").read_text())

    def latest(self) -> CheckpointRecord:
        return CheckpointRecord.from_json(self.storage.read(self.prefix + "checkpoints/latest.json"))

    def log(self) -> str:
        """The archived log, whole."""
        into = self.base / "archive"
        entries = self.storage.download(self.prefix + "logs/churn-0-abc/", into)
        return b"".join((into / entry.path).read_bytes() for entry in entries).decode()


@pytest.fixture
def job(tmp_path: Path, storage: Storage, bucket_folder: Path) -> Iterator[Job]:
    """A job whose bucket is the test's."""
    job = Job(tmp_path, storage, bucket_folder)
    yield job
    if job.process and job.process.poll() is None:
        job.process.terminate()
        job.wait()


def test_a_bucket_that_comes_back_before_the_end_costs_nothing(job: Job, bucket: str, tmp_path: Path) -> None:
    """The command goes on meanwhile; then the newest checkpoint, the outputs and all of the log are stored."""
    job.start(outputs={"model": ""})
    before = job.lose()
    lost_at = job.step
    until(lambda: job.step >= lost_at + 25)  # two checkpoints more
    assert f"the checkpoint cannot be stored now: bucket {bucket} of {job.prefix}checkpoints/" in job.said
    job.bring_back()
    until(lambda: job.latest().step > lost_at)
    (tmp_path / "still").touch()
    assert job.end() == 0

    latest, record = job.latest(), job.record()
    assert (job.runs, record.reason, record.checkpoint) == (1, "", latest)
    assert latest.step >= lost_at > before.step
    assert latest.productive_seconds >= before.productive_seconds
    for kept in (latest, latest.previous):
        assert kept is not None
        job.storage.fetch_artifact(kept.uri, kept.digest, tmp_path / "back" / kept.digest)
        assert int((tmp_path / "back" / kept.digest / "state").read_text()) % 10 == 0
    assert job.storage.artifact_digest(record.outputs["model"].uri).digest == record.outputs["model"].digest
    steps = [line.split()[0] for line in job.log().splitlines() if line.startswith("step=")]
    assert steps == [f"step={step}" for step in range(1, job.step + 1)]
    assert "bytes of the log are missing" not in job.log()
    assert job.log().count("the checkpoint cannot be stored now: bucket") == 1


def test_a_bucket_that_comes_back_with_the_last_checkpoint_is_soon_enough(job: Job) -> None:
    """The command ends right after, and writes nothing more: what had to wait is stored, and the log with it."""
    job.start(outputs={"model": ""})
    before = job.lose()
    (job.base / "still").touch()
    kept = (job.base / "checkpoints/state").read_text()
    job.bring_back()
    assert job.end() == 0

    latest = job.latest()
    assert latest.digest != before.digest
    assert job.record().checkpoint == latest
    # The file and not its step is compared: the step is the last one read from the log, which may lag behind the file.
    job.storage.fetch_artifact(latest.uri, latest.digest, job.base / "back")
    assert (job.base / "back/state").read_text() == kept
    assert f"step={job.step} " in job.log()


def test_a_result_waits_for_its_bucket(job: Job) -> None:
    """A bucket that comes back when all else is done gets the outputs of the same run, and its log."""
    job.environment["PATIENCE"] = "600"
    job.start(outputs={"model": ""})
    job.lose()
    (job.base / "end").write_text("0")
    job.says("create it; next attempt in 0.1 s")
    job.bring_back()

    assert job.wait() == 0
    assert (job.runs, list(job.record().outputs)) == (1, ["model"])
    assert f"step={job.step} " in job.log()


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "field"), [({"model": ""}, "spec.outputs.model: "), ({}, "")])
def test_a_bucket_that_stays_away_is_named_with_what_to_do(
    job: Job, bucket: str, outputs: dict[str, str], field: str
) -> None:
    """The verdict is about the bucket and not the command, and knows the last checkpoint; the status has a hint."""
    job.start(outputs=outputs)
    kept = job.lose()
    lost_at = job.step
    until(lambda: job.step >= lost_at + 10)
    assert job.end() == 203

    record = job.record()
    assert (job.runs, record.reason, record.outputs) == (1, "BucketNotFound", {})
    assert record.message.startswith(f"{field}bucket {bucket} of {job.prefix}")
    assert record.message.endswith("; create it")
    assert (record.checkpoint, record.productive_seconds) == (kept, kept.productive_seconds)
    assert (
        f"the last checkpoint was not stored; the checkpoint (last step told: {kept.step}) is what is kept" in job.said
    )
    assert "bytes of the log are not stored" in job.said

    failed = pod(training_job(), phase="Failed", **ended_container(203, message=(job.base / "log").read_text()))
    verdict = pods.verdict(failed)
    assert (verdict.reason, verdict.exit_code) == ("BucketNotFound", 203)
    assert f"bucket {bucket} " in verdict.message
    assert verdict.hint == "create the bucket or correct the uri"
    assert "create it" not in verdict.sentence  # one remedy is enough


def test_a_command_that_fails_without_the_bucket_is_told_as_what_it_is(job: Job) -> None:
    """Its own exit code is the verdict; the bucket is in the log."""
    job.start()
    kept = job.lose()

    assert job.end(3) == 3
    assert (job.record().reason, job.record().checkpoint) == ("CommandFailed", kept)
    assert "does not exist" in job.said


@pytest.mark.slow
def test_the_next_attempt_does_not_begin_anew_without_the_bucket(job: Job, bucket: str) -> None:
    """The checkpoint may be in it: the command is not started from nothing, and resumes when the bucket is there."""
    job.start()
    kept = job.lose()
    assert job.end(3) == 3
    (job.base / "end").unlink()

    job.run()
    assert job.wait() == 203
    assert job.record().reason == "BucketNotFound"
    assert f"bucket {bucket} " in job.record().message
    assert job.runs == 1

    job.bring_back()
    job.run()
    job.says(f"resuming from the checkpoint (last step told: {kept.step})")
    assert job.end() == 0
    assert job.runs == 2
    assert job.latest().step >= kept.step
