"""The command on the cluster, as a data scientist with rights in one namespace uses it."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import yaml
from conftest import Platform
from manifests import TRAIN, training_job
from person import Person, data_scientist


@pytest.fixture(scope="module")
def kubeconfig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a data scientist: her own certificate, and one ClusterRole in one namespace."""
    return data_scientist(platform, "command-ada", tmp_path_factory.mktemp("ada"))


@pytest.fixture
def ada(kubeconfig: Path, tmp_path: Path) -> Person:
    """The data scientist."""
    return Person(tmp_path, kubeconfig)


def test_the_doctor_finds_the_way(ada: Person) -> None:
    """Each check passes with the rights of a data scientist."""
    out = ada.run("doctor").stdout
    assert "FAILED" not in out
    assert len(re.findall("^ok ", out, re.MULTILINE)) == 7


def test_a_script_is_trained_and_registered(ada: Person, platform: Platform) -> None:
    """The folder is uploaded once, the log appears, and the model has a version."""
    (ada.folder / "train.py").write_text(f"# {time.time()}: no earlier run has stored it\n{TRAIN}")
    (ada.folder / ".ultramarineignore").write_text("*.csv\n")
    (ada.folder / "large.csv").write_text("x" * 1000)
    words = ("submit", "train.py", "--register", "command-wine", "--name")
    done = ada.run(*words, "command-script", "--", "$(outputs.model)")
    assert "accuracy=1.0" in done.stdout
    assert "Succeeded" in done.stderr
    assert "Registered: command-wine-1" in done.stderr
    source = platform.get("tj", "command-script")["spec"]["source"]
    again = ada.run(*words, "command-again", "--", "$(outputs.model)")
    assert platform.get("tj", "command-again")["spec"]["source"] == source
    assert "Uploaded" in done.stderr
    assert "Uploaded" not in again.stderr
    assert "command-script" in ada.run("get", "tj").stdout


def test_a_failure_is_explained_and_has_an_exit_code(ada: Person) -> None:
    """The exit code is 1, the cause is on the terminal, and describe repeats it with the log's last line."""
    job = training_job("command-failing", "raise ValueError('column age is missing')")
    done = ada.run("submit", ada.write("job.yaml", job), code=1)
    assert "column age is missing" in done.stdout + done.stderr
    assert "Failed" in done.stderr
    assert "column age is missing" in ada.run("describe", "tj", "command-failing").stdout


def test_interruption_detaches_and_logs_follow(ada: Person) -> None:
    """Ctrl-C leaves the run alone; its log can be followed again, from the beginning and to the end."""
    script = "import time\nfor i in range(8):\n    print(f'line {i}', flush=True)\n    time.sleep(1)\n"
    process = ada.begin(
        "submit",
        ada.write("job.yaml", training_job("command-long", script, outputs={}, command=["python", "train.py"])),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "line 0\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "ultramarine logs -f command-long" in err
    lines = ada.run("logs", "-f", "command-long").stdout.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [f"line {i}" for i in range(8)]


def test_logs_outlive_their_pods(ada: Person, platform: Platform) -> None:
    """The log comes from the storage when the pod is gone."""
    ada.run(
        "submit",
        ada.write(
            "job.yaml",
            training_job("command-archived", "print('kept for ever')", outputs={}, command=["python", "train.py"]),
        ),
    )
    platform.kubectl("delete", "pod", "-l", "ultramarine.dev/name=command-archived", "--wait=true")
    deadline = time.monotonic() + 180
    while "kept for ever" not in ada.run("logs", "command-archived").stdout:
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_run_is_suspended_and_resumed(ada: Person, platform: Platform) -> None:
    """`suspend` ends the pods, `resume` starts the command again."""
    job = training_job("command-held", "import time; time.sleep(600)", outputs={}, command=["python", "train.py"])
    ada.run("submit", "--detach", ada.write("job.yaml", job))
    platform.wait("tj", "command-held", lambda status: status.get("state") == "Running")
    ada.run("suspend", "command-held")
    platform.wait("tj", "command-held", lambda status: status.get("state") == "Suspended")
    ada.run("resume", "command-held")
    platform.wait("tj", "command-held", lambda status: status.get("state") == "Running")
    assert "command-held deleted" in ada.run("delete", "tj", "command-held").stdout


def test_a_run_is_cancelled_for_good(ada: Person, platform: Platform) -> None:
    """`cancel` ends the pods and the run, which `resume` does not bring back."""
    job = training_job("command-cancelled", "import time; time.sleep(600)", outputs={}, command=["python", "train.py"])
    ada.run("submit", "--detach", ada.write("job.yaml", job))
    platform.wait("tj", "command-cancelled", lambda status: status.get("state") == "Running")

    assert "cancelled" in ada.run("cancel", "command-cancelled").stderr
    platform.wait("tj", "command-cancelled", lambda status: status.get("state") == "Cancelled")
    platform.kubectl("wait", "tj/command-cancelled", "--for=condition=Failed", "--timeout=60s")
    assert "has ended: Cancelled" in ada.run("resume", "command-cancelled", code=1).stderr
    assert "state: Cancelled" in ada.run("get", "tj", "command-cancelled", "-o", "yaml").stdout


def test_output_is_for_programs(ada: Person) -> None:
    """JSON, YAML and names are whole documents without colours, whatever else is printed."""
    ada.run("apply", ada.write("model.yaml", {"kind": "Model", "metadata": {"name": "command-model"}, "spec": {}}))
    document = json.loads(ada.run("get", "mdl", "command-model", "-o", "json").stdout)
    assert document["metadata"]["name"] == "command-model"
    assert yaml.safe_load(ada.run("get", "mdl/command-model", "-o", "yaml").stdout)["kind"] == "Model"
    assert ada.run("get", "mdl", "command-model", "-o", "name").stdout == "models/command-model\n"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("get", "trainingjbs"), "Did you mean trainingjobs?"),
        (("get", "tj", "absent"), "TrainingJob .*/absent does not exist"),
        (("--context", "absent", "get"), "context 'absent' is not in"),
        (("-n", "kube-system", "get", "tj"), "cannot list resource"),
        (("submit", "absent.yaml"), "absent.yaml does not exist"),
        (("submit",), "Run `ultramarine init`"),
    ],
)
def test_an_error_is_a_sentence_with_a_remedy(ada: Person, words: tuple[str, ...], cause: str) -> None:
    """No trace, one line that names the object, exit code 1."""
    err = ada.run(*words, code=1).stderr
    assert re.search(cause, err)
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_a_wrong_field_is_named(ada: Person) -> None:
    """The server's refusal names the field."""
    job = training_job("command-wrong")
    job["spec"]["nodez"] = 2
    assert "nodez" in ada.run("submit", ada.write("job.yaml", job), code=1).stderr


def test_the_command_survives_a_restarted_operator(ada: Person, platform: Platform) -> None:
    """A run is followed to its end while the operator dies."""
    script = "import time\nfor i in range(6):\n    print(i, flush=True)\n    time.sleep(1)\n"
    process = ada.begin(
        "submit",
        ada.write("job.yaml", training_job("command-killed", script, outputs={}, command=["python", "train.py"])),
    )
    assert process.stdout is not None
    process.stdout.readline()
    platform.kill_operator()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "5"
