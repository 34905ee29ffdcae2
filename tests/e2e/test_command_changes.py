"""Changes that are looked at before they are made, and runs that are ended, by the command on the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Platform
from manifests import training_job
from person import Person, data_scientist


@pytest.fixture
def ada(platform: Platform, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A data scientist with rights in one namespace."""
    return Person(tmp_path, data_scientist(platform, "command-changes", tmp_path_factory.mktemp("ada")))


def test_a_change_is_planned(ada: Person, platform: Platform) -> None:
    """`plan` says what a file would create, keep, change and not be able to change, and does none of it."""
    job = training_job("changes-job", "print('x=1')", outputs={}, command=["python", "train.py"])
    model = {"kind": "Model", "metadata": {"name": "changes-model"}, "spec": {"retention": {"versions": 5}}}
    ada.write("files.yaml", job, model)
    platform.delete("tj", "changes-job")
    platform.delete("mdl", "changes-model")

    planned = ada.run("plan", "files.yaml").stdout
    assert "TrainingJob/changes-job would be created" in planned
    assert "Model/changes-model would be created" in planned

    ada.run("apply", "files.yaml")
    assert ada.run("plan", "files.yaml").stdout.count("stays as it is") == 2
    model["spec"] = {"retention": {"versions": 7}}
    job["spec"]["command"] = ["python", "other.py"]
    ada.write("files.yaml", job, model)
    planned = ada.run("plan", "files.yaml", code=1).stdout
    assert "TrainingJob/changes-job cannot be changed like this" in planned
    assert "spec.retention.versions: 5 -> 7" in planned
    assert platform.get("mdl", "changes-model")["spec"]["retention"]["versions"] == 5


def test_a_run_is_ended(ada: Person, platform: Platform) -> None:
    """`cancel` ends the pods and leaves the object."""
    job = training_job("changes-held", "import time; time.sleep(600)", outputs={}, command=["python", "train.py"])
    ada.run("submit", "--detach", ada.write("job.yaml", job))
    platform.wait("tj", "changes-held", lambda status: status.get("state") == "Running")
    ada.run("cancel", "changes-held")
    platform.wait("tj", "changes-held", lambda status: status.get("state") != "Running")
    assert "changes-held" in ada.run("describe", "tj", "changes-held").stdout
    ada.run("delete", "tj", "changes-held")
