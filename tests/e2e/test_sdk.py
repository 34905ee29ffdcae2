"""The SDK on the cluster: the guide as it stands, the commands over its runs, and a pod with a service account."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pathspec
import pytest
import ultramarine
import ultramarine_contract
import websockets
import yaml
from conftest import Platform
from manifests import sweep, training_job
from pages import ROOT, blocks
from person import API, Person, data_scientist
from ultramarine_contract.errors import UltramarineError


@pytest.fixture(scope="module")
def kubeconfig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a data scientist: her own certificate, and one ClusterRole in one namespace."""
    return data_scientist(platform, "sdk-grace", tmp_path_factory.mktemp("grace"))


@pytest.fixture(scope="module")
def client(kubeconfig: Path) -> ultramarine.Client:
    """The client of the data scientist."""
    return ultramarine.Client(kubeconfig=str(kubeconfig))


@pytest.fixture(scope="module")
def guide(platform: Platform, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of the guide's blocks, which run as one program of a user who may read the endpoint's keys."""
    right = ("--verb=get", "--resource=secrets", "--resource-name=sdk-wine-keys")
    platform.kubectl("delete", "role,rolebinding", "sdk-keys", "--ignore-not-found")
    platform.kubectl("create", "role", "sdk-keys", *right)
    platform.kubectl("create", "rolebinding", "sdk-keys", "--role=sdk-keys", "--user=sdk-grace")
    folder = tmp_path_factory.mktemp("guide")
    program = []
    for block in blocks(ROOT / "docs" / "sdk.md"):
        if block.language == "python" and (name := block.marker("file")):
            (folder / name).write_text(block.text)
        elif block.language == "python":
            program.append(block.text)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=folder,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (folder / "model" / "model.skops").stat().st_size > 0
    assert (folder / "best" / "model.skops").stat().st_size > 0
    assert "Best trials" in (folder / "report.html").read_text()
    return done.stdout


@pytest.fixture
def grace(kubeconfig: Path, tmp_path: Path) -> Person:
    """The data scientist at a terminal."""
    return Person(tmp_path, kubeconfig)


def test_the_guide_runs_as_it_stands(guide: str) -> None:
    """Log lines, a registered version, a table of metrics and one of trials are printed."""
    assert "accuracy=0.9" in guide
    assert "sdk-wine-1" in guide
    assert "values.accuracy" in guide
    assert guide.count("Succeeded") >= 6


def test_a_sweep_is_shown(guide: str, grace: Person, client: ultramarine.Client) -> None:
    """The table has each trial, the chart the best so far, and JSON the same values."""
    name = next(
        item["metadata"]["name"] for item in client.list("sw") if item["metadata"]["name"].startswith("sdk-wine-")
    )
    lines = grace.run("sweep", "show", name).stdout.splitlines()
    trials = json.loads(grace.run("sweep", "show", name, "-o", "json").stdout)["trials"]

    assert sum("Succeeded" in line for line in lines) == 6
    assert any("━" in line for line in lines)
    assert sorted(trial["number"] for trial in trials) == list(range(6))
    assert "report" in grace.run("describe", "sw", name).stdout
    log = grace.run("logs", name, "--trial", "2").stdout
    assert "ultramarine-trainer: trial 2 begins: " in log
    assert "accuracy=" in log
    assert "trial 3 begins: " not in log
    absent = grace.run("logs", name, "--trial", "9", code=1).stderr
    assert f"Sweep {name} has no trial 9. Its trials: 0 to 5." in absent
    address = grace.run("open", f"sw/{name}", "--no-browser").stdout.strip()
    assert "Best trials" in Path(address.removeprefix("file://")).read_text()


def test_a_running_sweep_has_trials(client: ultramarine.Client) -> None:
    """The journal is read while the coordinator writes it; a notebook shows the chart."""
    manifest = {**API, **sweep("sdk-live", limits={"maxTrials": 6, "parallelTrials": 1})}
    run = client.submit(manifest)
    run.wait(300)
    assert isinstance(run, ultramarine.SweepRun)
    trials = run.trial_list()

    assert [trial.number for trial in trials] == list(range(6))
    assert run.best is not None
    assert run.best.values["loss"] == min(trial.values["loss"] for trial in trials)
    assert "<svg" in run._repr_mimebundle_()["text/html"]


def test_a_job_is_repeated(guide: str, grace: Person, client: ultramarine.Client) -> None:
    """The printed manifest is submitted as it is, and runs the same code on the same data."""
    jobs = (item for item in client.list("tj") if item["metadata"]["name"].startswith("sdk-wine-"))
    job = next(job for job in jobs if job["status"]["state"] == "Succeeded")
    done = grace.run("repro", job["metadata"]["name"], "--name", "sdk-again")
    (grace.folder / "again.yaml").write_text(done.stdout)
    grace.run("submit", "again.yaml")
    again = client.get("tj", "sdk-again")

    assert again["spec"]["source"] == job["spec"]["source"]
    assert again["status"]["inputs"] == job["status"]["inputs"]
    assert again["status"]["metrics"]["latest"] == job["status"]["metrics"]["latest"]


def test_a_failure_is_described(grace: Person, client: ultramarine.Client) -> None:
    """Cause, reason and remedy come before everything else."""
    run = client.submit({**API, **training_job("sdk-failing", "raise KeyError('age')")})
    with pytest.raises(ultramarine.RunFailed, match="KeyError: 'age'"):
        run.wait(300)
    page = grace.run("describe", "tj", "sdk-failing").stdout

    assert "sdk-failing: Failed" in page.splitlines()[0]
    assert "What happened: " in page
    assert "What to do: " in page
    assert "KeyError: 'age'" in page


def test_a_run_without_a_page_says_so(grace: Person, client: ultramarine.Client) -> None:
    """`open` names what could be opened."""
    job = training_job("sdk-plain", "print('x=1')", outputs={}, command=["python", "train.py"])
    run = client.submit({**API, **job})
    run.wait(300)
    if not run.status.get("mlflow"):
        assert "has no page" in grace.run("open", "sdk-plain", code=1).stderr
    with pytest.raises(UltramarineError):
        client.run("absent")
    run.delete()


MAIN = """
import ultramarine

client = ultramarine.Client()
names = [job["metadata"]["name"] for job in client.list("tj")]
print(client.namespace, "sdk-in-pod" in names, client.storage.folders(client.platform.prefix)[:1] != [])
"""


def test_a_pod_uses_its_service_account(platform: Platform, client: ultramarine.Client) -> None:
    """Without a kubeconfig the client works in the namespace of its pod, with the rights of its account."""
    platform.kubectl("delete", "pod,configmap,rolebinding,serviceaccount", "sdk-bot", "--ignore-not-found")
    platform.kubectl("create", "serviceaccount", "sdk-bot")
    account = f"--serviceaccount={platform.namespace}:sdk-bot"
    platform.kubectl("create", "rolebinding", "sdk-bot", "--clusterrole=ultramarine-data-scientist", account)
    client.submit({**API, **training_job("sdk-in-pod", "print(1)", outputs={}, command=["python", "train.py"])}).wait(
        300
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for package in (ultramarine, ultramarine_contract, websockets, pathspec):
            folder = Path(str(package.__file__)).parent
            for path in folder.rglob("*.py"):
                archive.add(path, path.relative_to(folder.parent))
    code = {
        "code.tar.gz": base64.b64encode(packed.getvalue()).decode(),
        "main.py": base64.b64encode(MAIN.encode()).decode(),
    }
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    pod = {
        "serviceAccountName": "sdk-bot",
        "restartPolicy": "Never",
        "volumes": [{"name": "code", "configMap": {"name": "sdk-bot"}}],
        "containers": [
            {
                "name": "main",
                "image": platform.settings.images.trainer,
                "command": [
                    "sh",
                    "-c",
                    "cd /tmp && tar -xzf /code/code.tar.gz && cp /code/main.py . && python3 main.py",
                ],
                "volumeMounts": [{"name": "code", "mountPath": "/code"}],
                "securityContext": {**restricted, "seccompProfile": {"type": "RuntimeDefault"}},
            }
        ],
    }
    manifests = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sdk-bot"}, "binaryData": code},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sdk-bot"}, "spec": pod},
    ]
    platform.kubectl("create", "-f", "-", input=yaml.safe_dump_all(manifests))
    platform.wait("pod", "sdk-bot", lambda status: status.get("phase") in ("Succeeded", "Failed"))

    assert platform.kubectl("logs", "sdk-bot").split() == [platform.namespace, "True", "True"]
