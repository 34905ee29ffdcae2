"""AutoML on the real cluster: from a table in the bucket to a served model, within the time, whatever is killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from manifests import Manifest, endpoint
from person import Person, data_scientist
from sklearn.datasets import load_breast_cancer, load_diabetes


def automl(name: str, uri: str, **spec: Any) -> Manifest:
    """An AutoMLJob over a table with a column `target`."""
    whole = {
        "task": "classification",
        "data": {"uri": uri, "target": "target"},
        "metric": "roc_auc",
        "validation": {"folds": 3},
        "limits": {"timeoutSeconds": 120, "maxTrials": 40},
        "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}},
        **spec,
    }
    return {"kind": "AutoMLJob", "metadata": {"name": name}, "spec": whole}


def table() -> bytes:
    """The breast-cancer table as CSV."""
    return bytes(load_breast_cancer(as_frame=True).frame.to_csv(index=False).encode())


def pod_of(platform: Any, kind: str, name: str) -> str:
    """The name of a pod of a child that runs."""
    running = [pod for pod in platform.pods_of(kind, name) if pod["status"].get("phase") == "Running"]
    names = sorted(pod["metadata"]["name"] for pod in running if "coordinator" not in pod["metadata"]["name"])
    return names[0] if names else ""


def kill(platform: Any, kind: str, name: str) -> None:
    """Delete a running pod of a child, without a moment to end."""
    until = time.monotonic() + 60
    while not (pod := pod_of(platform, kind, name)):
        assert time.monotonic() < until, f"no pod of {kind} {name} runs"
        time.sleep(0.2)
    platform.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def test_a_table_becomes_a_served_model_though_pods_are_killed(platform):
    """A worker of the search and the pod of the last job are killed: the job ends well, within its time."""
    platform.apply(automl("cancer", platform.put("cancer.csv", table()), outputs={"model": {"registerAs": "cancer"}}))
    platform.wait("aml", "cancer", lambda s: s.get("leaderboard"), 90)
    kill(platform, "Sweep", "cancer-search")
    platform.wait("aml", "cancer", lambda s: s.get("phase") == "Finishing", 150)
    kill(platform, "TrainingJob", "cancer-finish")
    done = platform.wait("aml", "cancer", lambda s: s.get("state") in ("Succeeded", "Failed"), 120)

    assert done["state"] == "Succeeded", done
    assert done["best"]["score"] > 0.97
    assert len(done["leaderboard"]) >= 3
    assert done["test"]["low"] <= done["test"]["score"] <= done["test"]["high"]
    assert done["report"]["uri"].endswith("/report.html")
    assert done["modelVersion"] == "cancer-1"
    assert seconds(done["duration"]) <= 140
    platform.apply(endpoint("cancer", "cancer@1"))
    platform.ready("cancer", "cancer-1")
    line = next(line for line in platform.kubectl("get", "aml").splitlines() if line.startswith("cancer"))
    assert "roc_auc 0.9" in line
    platform.delete("oe", "cancer")


def seconds(text: str) -> int:
    """The seconds of a duration such as 1m52s."""
    minutes, _, rest = text.rpartition("m")
    return int(minutes or 0) * 60 + int(rest.removesuffix("s") or 0)


@pytest.fixture
def ada(platform: Any, tmp_path: Path) -> Person:
    """A data scientist with two tables in her folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    person = Person(folder, data_scientist(platform, "ada-automl", tmp_path))
    (folder / "diabetes.csv").write_bytes(load_diabetes(as_frame=True).frame.to_csv(index=False).encode())
    (folder / "cancer.csv").write_bytes(table())
    return person


def test_the_command_follows_a_search(ada):
    """A local table is uploaded; progress, leaderboard and version are printed."""
    words = (
        "--target",
        "target",
        "--task",
        "regression",
        "--minutes",
        "1.5",
        "--register",
        "diabetes",
        "--cpu",
        "500m",
    )
    done = ada.run("automl", "diabetes.csv", "--name", "diabetes", *words)

    assert "Running: preparing the table" in done.stderr
    assert "trials, best rmse" in done.stderr
    assert "Registered: diabetes-1" in done.stderr
    heading, first, *_ = done.stdout.splitlines()
    assert heading.split() == ["ALGORITHM", "SCORE", "STD", "FIT", "P95", "SIZE"]
    assert 40 < float(first.split()[1]) < 70


def test_a_mistake_is_one_sentence(platform, ada):
    """A target that the table lacks fails the job at once, with the nearest column."""
    sentence = "target targte is not a column of the table. Did you mean target?"
    done = ada.run("automl", "cancer.csv", "--name", "mistaken", "--target", "targte", code=1)

    assert sentence in done.stderr
    assert platform.status("aml", "mistaken")["failure"]["message"] == sentence
