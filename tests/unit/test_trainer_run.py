"""Whole training attempts: the trainer as a process of its own, against a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, preload
from ultramarine_contract.common import ArtifactManifest
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord, TrainingContext, TrainingTask
from unit.packages import stored_environment

preload("ultramarine_trainer.attempt.run")
PROGRAM = """
import os, sys
from pathlib import Path
from ultramarine_trainer.attempt.places import Places
from ultramarine_trainer.attempt.run import run
base = Path(sys.argv[1])
places = Places(source=base / "source", work=base / "work", inputs=base / "inputs", outputs=base / "outputs",
                environment=base / "environment",
                termination_log=base / "log", image=base / "image", input_waits=(0.1,), output_waits=(0.1, 0.1))
places.image.mkdir(exist_ok=True)
sys.exit(run(sys.argv[2:], os.environ, places))
"""


class Pod:
    """A folder that stands for a training pod's mounts, and the trainer in it."""

    def __init__(self, base: Path, endpoint: str, bucket: str) -> None:
        self.base = base
        self.prefix = f"s3://{bucket}/runs/churn/"
        self.environment = os.environ | {"ULTRAMARINE_STORAGE_ENDPOINT": endpoint}
        (base / "log").touch()

    def start(self, *command: str, **task: Any) -> subprocess.Popen[str]:
        """Start the trainer on a task, some of whose fields may be of its context; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.base), *command],
            env=self._variables(task),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **task: Any) -> tuple[int, TerminationRecord, str, str]:
        """Run the trainer to its end; return exit code, termination record, stdout and stderr."""
        output, errors = self.base / "stdout", self.base / "stderr"
        for file in (output, errors):
            file.write_bytes(b"")
        process = Fork(PROGRAM, str(self.base), *command, env=self._variables(task), stdout=output, stderr=errors)
        try:
            code = process.wait(240)
        finally:
            process.kill()
        return code, self.record(), output.read_text(), errors.read_text()

    def _variables(self, task: dict[str, Any]) -> dict[str, str]:
        context = {name: task.pop(name) for name in TrainingContext.__struct_fields__ if name in task}
        text = TrainingTask(**({"output_prefix": self.prefix} | task)).to_json()
        variables = {"ULTRAMARINE_TASK": text, "ULTRAMARINE_CONTEXT": TrainingContext(**context).to_json()}
        return variables | self.environment

    def record(self) -> TerminationRecord:
        return TerminationRecord.from_json((self.base / "log").read_text())


@pytest.fixture
def pod(tmp_path: Path, storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(tmp_path, storage.name, bucket)


def test_a_good_run_stores_its_outputs_and_says_where(pod: Pod, storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Inputs arrive, source runs, metrics are read, outputs are stored; record and result.json say the same."""
    storage.write(f"s3://{bucket}/lake/train.csv", b"1,2\n")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/train.py").write_text(
        "import os, pathlib, sys\n"
        f"base = pathlib.Path({str(tmp_path)!r})\n"
        "assert (base / 'inputs/data/train.csv').read_text() == '1,2\\n'\n"
        "assert sys.stdin.read() == '' and not [n for n in os.environ if n.startswith(('AWS_', 'ULTRAMARINE_T'))]\n"
        "(base / 'outputs/model/model.skops').write_bytes(b'model')\n"
        "(base / 'outputs/report/index.html').write_bytes(b'<p>')\n"
        "print('x' * 1000000)\n"
        "print('epoch=1 loss=0.5')\n"
        "print('epoch=2 loss=0.25 lr=nan')\n"
        "print('ignored=1', file=sys.stderr)\n"
    )

    code, record, stdout, stderr = pod.run(
        sys.executable,
        "train.py",
        inputs={"data": f"s3://{bucket}/lake/"},
        outputs={"model": "auto", "report": ""},
    )

    assert code == 0, stderr
    assert record.metrics == {"epoch": 2.0, "loss": 0.25}
    assert record.outputs["model"].format == "sklearn"
    assert record.outputs["model"].uri.startswith(pod.prefix + "model/")
    assert (record.reason, record.message, record.tail) == ("", "", "")
    assert TerminationRecord.from_json(storage.read(pod.prefix + "result.json").decode()) == record
    manifest = ArtifactManifest.from_json(storage.read(record.outputs["report"].uri + "manifest.json"))
    assert manifest.digest == record.outputs["report"].digest
    assert "x" * 1000000 in stdout
    assert "ignored=1" in stderr
    assert "ultramarine-trainer: input data: 1 file, 4 bytes" in stderr


def test_the_commands_own_failure_is_the_verdict(pod: Pod) -> None:
    """Exit code, message and last lines are the command's, and so is its error's own line; nothing is uploaded."""
    stack = ['  File "train.py", line 1, in fit', "KeyError: 'label'", "  [bt] (8) libxgboost.so"]
    said = "\n".join(stack)
    script = f"echo loss=0.5; cat >&2 <<'END'\n{said}\nEND\nexit 3"
    code, record, _, stderr = pod.run("sh", "-c", script, outputs={"model": "auto"})

    assert code == 3
    assert (record.reason, record.message) == ("CommandFailed", "command exited with code 3")
    assert set(record.tail.splitlines()) == {"loss=0.5", *stack}
    assert record.words == "KeyError: 'label'"
    assert record.metrics == {"loss": 0.5}
    assert "ultramarine-trainer: CommandFailed: command exited with code 3" in stderr


def test_a_kill_is_named_with_its_likely_cause(pod: Pod) -> None:
    """SIGKILL from outside is mostly the kernel's answer to too much memory."""
    code, record, _, _ = pod.run("sh", "-c", "kill -9 $$")

    assert code == 137
    assert record.message == "command was killed by SIGKILL; probably out of memory: raise spec.resources"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "no command is given"),
        (["no-such-program"], "'no-such-program' was not found"),
        (["./train.sh"], "'./train.sh' is not executable"),
    ],
)
def test_a_command_that_cannot_start_is_not_retried(pod: Pod, tmp_path: Path, command: list[str], words: str) -> None:
    """The code tells the Job that another attempt would end the same way."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/train.sh").write_text("echo hello")

    code, record, _, _ = pod.run(*command)

    assert (code, record.reason) == (203, "CommandNotFound")
    assert words in record.message


def test_a_missing_input_is_not_retried(pod: Pod, bucket: str) -> None:
    """The command does not start, and the message has the URI."""
    code, record, stdout, _ = pod.run("echo", "started", inputs={"data": f"s3://{bucket}/absent.csv"})

    assert (code, record.reason) == (203, "InputNotFound")
    assert f"s3://{bucket}/absent.csv" in record.message
    assert "started" not in stdout


def test_wrong_storage_keys_are_not_retried(pod: Pod, bucket: str) -> None:
    """The message sends people to the Secret."""
    pod.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"

    code, record, _, _ = pod.run("echo", inputs={"data": f"s3://{bucket}/a.csv"})

    assert (code, record.reason) == (203, "AccessDenied")
    assert "storage Secret" in record.message


def test_an_absent_storage_is_worth_another_attempt(pod: Pod) -> None:
    """After its own patience the trainer leaves with the code for trying again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pod.environment["ULTRAMARINE_STORAGE_ENDPOINT"] = f"http://127.0.0.1:{listener.getsockname()[1]}"

    code, record, _, stderr = pod.run("echo", inputs={"data": "s3://bucket/a.csv"})

    assert (code, record.reason) == (75, "Unreachable")
    assert "next attempt in 0.1 s" in stderr


@pytest.mark.parametrize(
    ("script", "reason"), [("true", "OutputEmpty"), ("touch ../outputs/model/x.bin", "OutputInvalid")]
)
def test_outputs_that_are_no_model_are_refused(pod: Pod, script: str, reason: str) -> None:
    """A command that succeeds without a result has not succeeded."""
    code, record, _, _ = pod.run("sh", "-c", script, outputs={"model": "auto"})

    assert (code, record.reason) == (203, reason)


def test_a_half_done_upload_is_finished_by_the_next_attempt(pod: Pod, storage: Storage, bucket_folder: Path) -> None:
    """Attempts that make the same content end at the same URI; what is there is not sent again."""
    script = "printf model > ../outputs/model/model.onnx; printf card > ../outputs/model/card.md"
    _, first, _, _ = pod.run("sh", "-c", script, outputs={"model": "onnx"})
    inside = bucket_folder / first.outputs["model"].uri.split("/", 3)[3]
    (inside / "manifest.json").unlink()
    (inside / "card.md").unlink()
    (bucket_folder / "runs/churn/result.json").unlink()
    kept = (inside / "model.onnx").stat().st_mtime_ns

    code, second, _, _ = pod.run("sh", "-c", script, outputs={"model": "onnx"})

    assert code == 0
    assert second.outputs == first.outputs
    assert (inside / "model.onnx").stat().st_mtime_ns == kept
    assert (inside / "card.md").read_bytes() == b"card"
    assert storage.artifact_digest(first.outputs["model"].uri).digest == first.outputs["model"].digest


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Read the process' stdout up to this line."""
    assert process.stdout
    for read in process.stdout:
        if read.strip() == line:
            return
    pytest.fail(f"{line!r} was never printed")


def test_sigterm_reaches_the_whole_group_and_ends_with_143(pod: Pod) -> None:
    """The command may tidy up, even one behind a shell, and the end says that it was stopped."""
    tidy = (
        "import signal, time; signal.signal(15, lambda *_: (print('tidy=1'), exit(0))); print('ready'); time.sleep(60)"
    )
    with pod.start("sh", "-c", f"{sys.executable} -c {json.dumps(tidy)}; true") as process:
        wait_for(process, "ready")
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=240)

    assert process.returncode == 143, stderr
    assert "tidy=1" in stdout
    assert (pod.record().reason, pod.record().metrics) == ("Stopped", {"tidy": 1.0})


def test_sigterm_while_the_storage_hangs_ends_at_once(pod: Pod) -> None:
    """Before the command runs nothing is worth waiting for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pod.environment["ULTRAMARINE_STORAGE_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pod.start("echo", inputs={"data": "s3://bucket/a.csv"}) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=240)
            connection.close()

    assert process.returncode == 143
    assert (pod.record().reason, "before the command ran" in pod.record().message) == ("Stopped", True)


def test_output_is_passed_through_as_it_comes(pod: Pod) -> None:
    """A reader of the log sees a line while the command still runs, although Python would buffer it."""
    with pod.start(sys.executable, "-c", "import time; print('first'); time.sleep(600)") as process:
        wait_for(process, "first")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=240)


def test_daemons_left_behind_do_not_hold_the_pod(pod: Pod) -> None:
    """A background process of the command is ended, and the attempt still succeeds."""
    started = time.monotonic()

    code, _, _, _ = pod.run("sh", "-c", "sleep 600 & echo done")

    assert code == 0
    assert time.monotonic() - started < 300


def test_a_pod_without_task_says_who_starts_it(pod: Pod) -> None:
    """Started by hand, the image explains itself."""
    pod.environment["ULTRAMARINE_TASK"] = ""

    code, record, _, _ = pod.run("true")

    assert (code, record.reason) == (203, "TaskInvalid")
    assert "started by the operator" in record.message


def test_an_unwritable_termination_log_does_not_matter(pod: Pod, tmp_path: Path) -> None:
    """The verdict is then in the log and in the exit code only."""
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pod.start("true") as process:
        _, stderr = process.communicate(timeout=240)

    assert process.returncode == 0
    assert "cannot be written" in stderr


def test_storage_that_takes_nothing_is_found_out_before_the_command_runs(pod: Pod, tmp_path: Path) -> None:
    """A bucket that is not there costs no training: the command never starts, and the field is named."""
    code, record, *_ = pod.run(
        "touch", str(tmp_path / "ran"), outputs={"model": ""}, output_prefix="s3://no-such-bucket/runs/churn/"
    )

    assert (code, record.reason) == (203, "BucketNotFound")
    assert record.message.startswith("spec.outputs: bucket no-such-bucket")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("given", "where"), [(True, "work"), (False, "image")])
def test_the_command_starts_where_its_code_is(pod: Pod, tmp_path: Path, given: bool, where: str) -> None:
    """With a source in the work folder; without one in the image's own folder, if that has code."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image/train.py").touch()
    if given:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/other.py").touch()

    assert pod.run("pwd")[2].strip() == str(tmp_path / where)


def test_the_command_runs_in_its_environment(pod: Pod, storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Python, its packages and their programs come from the environment; the trainer itself does not change."""
    archive = stored_environment(storage, f"s3://{bucket}/environment.tar.zst", tmp_path / "built")
    script = "own-tool && python -c 'import own; print(own.PREFIX)' && python3 -c 'import own' && echo $VIRTUAL_ENV"
    code, record, stdout, stderr = pod.run("sh", "-c", script, environment=archive)
    folder = str(tmp_path / "environment")
    assert code == 0, stderr
    assert stdout.split() == ["own=1", folder, folder]
    assert f"from {archive.uri}" in stderr
    assert archive.digest.removeprefix("sha256:") in storage.read(f"{pod.prefix}attempts/pod.json").decode()

    storage.write(archive.uri, b"changed")
    (tmp_path / "environment/.unpacked").unlink()
    code, record, _, _ = pod.run("own-tool", environment=archive)
    assert (code, record.reason) == (203, "DigestMismatch")
    assert record.message.startswith("environment: ")


def test_an_optional_output_may_stay_empty(pod: Pod) -> None:
    """It is not among the outputs then; any other empty output fails the job."""
    outputs = {"data": "", "facts": ""}
    script = f"echo 1 > {pod.base}/outputs/facts/a"
    code, record, _, stderr = pod.run("sh", "-c", script, outputs=outputs, optional=("data",))
    assert (code, list(record.outputs)) == (0, ["facts"]), stderr
