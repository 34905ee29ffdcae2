"""A schedule and the lineage of what it made, by the command with the rights of a data scientist."""

from __future__ import annotations

import pytest
from conftest import Platform, condition
from person import Person, data_scientist

NAME = "scheduled"
WRITE = "from pathlib import Path; Path('/mnt/outputs/model/model.txt').write_text('1')"


@pytest.fixture(scope="module")
def ada(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Person:
    folder = tmp_path_factory.mktemp("ada")
    return Person(folder, data_scientist(platform, "schedules-ada", folder))


def test_a_schedule_runs_and_its_run_has_a_record(platform, ada):
    """A triggered run belongs to the schedule, ends, and its record names the schedule that started it."""
    spec = {"command": ["python", "-c", WRITE], "outputs": {"model": {}}}
    template = {"kind": "TrainingJob", "spec": spec}
    schedule = {"kind": "Schedule", "metadata": {"name": NAME}, "spec": {"cron": "@yearly", "template": template}}
    ada.run("apply", ada.write("schedule.yaml", schedule))
    status = platform.wait("schedule", NAME, lambda status: status.get("state") == "Active")
    assert condition(status, "Accepted")["status"] == "True", status
    run = ada.run("schedule", "trigger", NAME).stdout.strip()

    assert platform.ended(run)["state"] == "Succeeded"
    status = platform.wait("schedule", NAME, lambda status: status.get("lastSuccessfulTime"))
    assert (status["lastRun"], status["lastRunState"]) == (run, "Succeeded")
    assert NAME in ada.run("schedule", "list").stdout
    ada.run("schedule", "suspend", NAME)
    assert platform.wait("schedule", NAME, lambda status: status.get("state") == "Suspended")
    ada.run("schedule", "resume", NAME)
    assert f"started by: Schedule/{NAME}" in ada.run("lineage", "trainingjob", run).stdout
