"""Files by the command, through the API server and the gateway's pod, with the rights of a data scientist."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from pathlib import Path

import pytest
from conftest import NAMESPACE, Platform
from manifests import TRAIN, sweep, training_job
from person import Person, data_scientist

CHECKPOINT = """
import sys, time
open("/mnt/checkpoints/step", "w").write("7")
time.sleep(3)
"""


@pytest.fixture(scope="module")
def kubeconfig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a data scientist with rights in one namespace."""
    return data_scientist(platform, "command-files", tmp_path_factory.mktemp("ada"))


@pytest.fixture
def ada(kubeconfig: Path, tmp_path: Path) -> Person:
    """The data scientist, with a cache of her own."""
    person = Person(tmp_path, kubeconfig)
    person.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    return person


def test_a_file_goes_there_and_back(ada: Person) -> None:
    """A large one in parts; the digest is the same, and listing and deletion see it."""
    content = random.Random(1).randbytes(40 * 2**20)
    (ada.folder / "large.bin").write_bytes(content)
    uri = ada.run("data", "put", "large.bin", "files/").stdout.strip()
    assert re.fullmatch(f"s3://.*/{NAMESPACE}/files/large.bin", uri)
    assert "same content" in ada.run("data", "put", "large.bin", "files/").stderr
    assert ada.run("data", "ls", "files").stdout == "files/large.bin\n"
    assert ada.run("data", "get", uri, "back.bin").stdout == "back.bin\n"
    assert hashlib.sha256((ada.folder / "back.bin").read_bytes()).digest() == hashlib.sha256(content).digest()
    ada.run("data", "rm", "files/large.bin")
    assert "does not exist" in ada.run("data", "get", "files/large.bin", code=1).stderr


def test_a_transfer_has_a_bar_at_a_terminal(ada: Person, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The bar shows size and speed, and is gone at the end without a trace; an error is red."""
    (ada.folder / "large.bin").write_bytes(os.urandom(64 * 2**20))  # nothing that an earlier run has stored
    with ada.at_a_terminal(tmp_path_factory.mktemp("terminal")) as terminal:
        sent = terminal.type("ultramarine data put large.bin bars/")
        wrong = terminal.type("ultramarine data get bars/absent.bin")
    assert sent.exit_code == 0
    assert [line for line in sent.lines[1:] if "Uploaded" not in line and not line.startswith("s3://")] == []
    assert re.search(r"Uploading.*━.*MiB.*/s", terminal.recording.text)
    assert wrong.exit_code == 1
    assert "\x1b[31mError" in wrong.colours


def test_a_folder_of_small_files_goes_there_and_back(ada: Person) -> None:
    """Each file arrives, and a second upload sends only what is new."""
    for number in range(60):
        path = ada.folder / "many" / f"{number % 5}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"row {number}")
    ada.run("data", "put", "many")
    (ada.folder / "many" / "new.txt").write_text("new")
    assert "Uploaded 61 files" in (err := ada.run("data", "put", "many").stderr)
    assert "60 of them were there" in err
    ada.run("data", "get", "many", "back")
    names = {path.relative_to(ada.folder / "many") for path in (ada.folder / "many").rglob("*.txt")}
    assert {path.relative_to(ada.folder / "back") for path in (ada.folder / "back").rglob("*.txt")} == names
    assert ada.run("data", "rm", "-r", "--yes", "many").stderr == "Deleted 61 files.\n"


def test_an_interrupted_upload_continues(ada: Person) -> None:
    """A killed command leaves no object; the next one sends the rest."""
    (ada.folder / "large.bin").write_bytes(random.Random(2).randbytes(160 * 2**20))
    process = ada.begin("data", "put", "large.bin", "cut/")
    deadline = time.monotonic() + 180
    while not (parts := _parts(ada)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert "does not exist" in ada.run("data", "ls", "cut", code=1).stderr
    ada.run("data", "put", "large.bin", "cut/")
    assert parts < 20
    assert _parts(ada) == 0
    assert ada.run("data", "ls", "-l", "cut").stdout.split()[0] == str(160 * 2**20)
    ada.run("data", "rm", "cut/large.bin")


def _parts(ada: Person) -> int:
    files = (ada.folder / "cache").rglob("*.jsonl")
    return sum(max(0, len(path.read_text().splitlines()) - 1) for path in files)


# Exclusive: requests of other tests go through that pod too, and some count those that fail.
@pytest.mark.exclusive
def test_an_upload_survives_another_gateway_pod(ada: Person, platform: Platform) -> None:
    """The pod that the upload goes through is deleted; the command finds its successor."""
    (ada.folder / "large.bin").write_bytes(random.Random(3).randbytes(160 * 2**20))
    process = ada.begin("data", "put", "large.bin", "moved/")
    deadline = time.monotonic() + 180
    while not _parts(ada):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    gateways = ("pod", "-l", "app.kubernetes.io/component=gateway")
    platform.kubectl("delete", *gateways, "--grace-period=1", "--wait=false")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    platform.kubectl("rollout", "status", "deployment/ultramarine-gateway", "--timeout=300s")
    ada.run("data", "rm", "moved/large.bin")


def test_local_paths_of_a_manifest_reach_the_job(ada: Person, platform: Platform) -> None:
    """Code without its ignored files, and a folder as input, without a file that is not the user's."""
    folder = ada.folder / "project"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(b"1")
    (folder / "train.py").write_text(
        "import os\nprint(sorted(os.listdir('.')))\nprint(sorted(os.listdir('/mnt/inputs/images')))\n"
    )
    (folder / ".ultramarineignore").write_text("*.csv\n.ultramarineignore\nimages/\njob.yaml\n")
    (folder / "secret.csv").write_text("1")
    job = training_job("files-local", outputs={}, inputs={"images": {"path": "images"}}, command=["python", "train.py"])
    job["spec"]["source"] = {"path": "."}
    out = ada.run("submit", ada.write("project/job.yaml", job)).stdout
    assert "['train.py']\n['1.png']" in out


def test_results_are_downloaded(ada: Person, platform: Platform) -> None:
    """Outputs with their digests, the checkpoint, the archived log; and what is not there is named."""
    script = TRAIN + CHECKPOINT
    ada.run("submit", ada.write("job.yaml", training_job("files-results", script, checkpoint={})))
    assert ada.run("download", "files-results").stdout == "files-results/model\n"
    assert [path.name for path in (ada.folder / "files-results" / "model").iterdir()] == ["model.skops"]
    ada.run("download", "files-results")  # is there
    ada.run("download", "files-results", "all", "--checkpoints", "--outputs", "model")
    assert (ada.folder / "all" / "checkpoint" / "step").read_text() == "7"
    deadline = time.monotonic() + 180
    while ada.begin("download", "files-results", "--logs").wait(180):
        assert time.monotonic() < deadline
    logs = (ada.folder / "files-results" / "logs").rglob("*.log")
    assert "accuracy=" in "".join(log.read_text() for log in logs)
    assert "has no stored output modl. It has model." in (
        ada.run("download", "files-results", "--outputs", "modl", code=1).stderr
    )
    assert "only sweeps have one" in ada.run("download", "files-results", "--report", code=1).stderr


def test_a_sweeps_report_is_downloaded(ada: Person) -> None:
    """One HTML file."""
    ada.run("submit", ada.write("sweep.yaml", sweep("files-sweep", limits={"maxTrials": 3})))
    assert ada.run("download", "sw/files-sweep", "--report").stdout == "files-sweep/report.html\n"
    assert "<html" in (ada.folder / "files-sweep" / "report.html").read_text()[:500].lower()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("data", "put", "absent.csv"), r"absent\.csv does not exist on this machine"),
        (("data", "get", "absent.csv"), r"absent\.csv does not exist\. "),
        (("data", "get", "s3://ultramarine/kube-system/x.csv"), "has no right to s3://ultramarine/kube-system/x.csv"),
        (("data", "get", "a//b"), "is not a usable URI"),
        (("data", "rm", "-ry", "/"), "all results of the namespace"),
        (("-n", "kube-system", "data", "ls"), "cannot get resource|is not one of Ultramarine's"),
        (("download", "absent"), "absent does not exist"),
    ],
)
def test_an_error_is_a_sentence_with_a_remedy(ada: Person, words: tuple[str, ...], cause: str) -> None:
    """No trace, one line that names the object, exit code 1."""
    err = ada.run(*words, code=1).stderr
    assert re.search(cause, err)
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
