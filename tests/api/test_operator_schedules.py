"""Schedules before a real API server, with the real operator and the real command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bare import PLATFORM, eventually
from stories import reasons, status, there, until
from ultramarine_operator.kinds.schedule.testing import BEFORE, LEAP_DAYS, LEAP_RUN, MANUAL_RUN, NAME, TEMPLATE
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.testing import applied

COMMAND = Path(sys.executable).parent / "ultramarine"


def schedule(**spec):
    """A Schedule whose times are over: it runs once its last time lies far enough in the past."""
    return applied("Schedule", NAME, {**LEAP_DAYS, **spec})


def accepted(api):
    return find(status(api, "sched", NAME), "Accepted") or {}


def let_pass(api, spec=None):
    """Let five years pass in which the operator was away."""
    eventually("it is suspended", lambda: status(api, "sched", NAME).get("state") == "Suspended")
    api.status("sched", NAME, {"lastScheduleTime": BEFORE})
    api.apply(schedule(suspend=False, **(spec or {})))


def begun(api):
    """Wait until the run of the last time exists."""
    eventually("the run exists", lambda: there(api, "tj", LEAP_RUN))


def command(api, *words, code=0):
    """Run the command in the namespace."""
    argv = [str(COMMAND), "--kubeconfig", str(api.cluster.kubeconfig), "-n", api.namespace, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_schedule_catches_up_once(api, operator, node):
    """After an absence the newest time has its run, once, whatever becomes of the operator; an Event tells the rest."""
    api.apply(schedule())
    let_pass(api)
    begun(api)
    until(api, LEAP_RUN, "Pending")
    operator.kill()
    operator.start()
    node.start_pod(LEAP_RUN)
    node.succeed(LEAP_RUN, node.upload(LEAP_RUN))

    until(api, LEAP_RUN, "Succeeded")
    eventually("the end is seen", lambda: status(api, "sched", NAME).get("lastSuccessfulTime"))
    assert status(api, "sched", NAME)["lastScheduleTime"] == "2024-02-29T00:00:00Z"
    assert status(api, "sched", NAME)["lastMissedTime"] == "2020-02-29T00:00:00Z"
    assert [job["metadata"]["name"] for job in api.all("tj")] == [LEAP_RUN]
    eventually("the Events are there", lambda: {"Started", "MissedTimes"} <= reasons(api, NAME))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"kind": "TrainingJob", "spec": {"comand": ["true"]}}, "spec.template.spec.comand"),
        ({"kind": "TrainingJob", "spec": {"command": []}}, "spec.template.spec.command"),
        ({"kind": "TrainingJob", "spec": {"command": ["true"], "nodes": 1000000}}, "spec.template.spec.nodes"),
        ({"kind": "Sweep", "spec": {"trialTemplate": {"spec": {"command": []}}}}, "spec.template.spec."),
    ],
)
def test_an_invalid_template_names_its_field(api, operator, template, words):
    """Accepted is False with the field in the template that the API server refuses; a correction takes effect."""
    api.apply(schedule(template=template))
    eventually("it is refused", lambda: accepted(api).get("status") == "False")
    assert words in accepted(api)["message"]
    assert status(api, "sched", NAME)["state"] == "Invalid"

    api.apply(schedule())
    eventually("it is accepted", lambda: accepted(api).get("status") == "True")


def test_a_run_of_the_command_counts(api, operator, node):
    """A run by `schedule trigger` belongs to the Schedule, holds up the next run with Forbid, and is listed."""
    forbid = {"concurrencyPolicy": "Forbid"}
    api.apply(PLATFORM, schedule(**forbid))
    eventually("it is suspended", lambda: status(api, "sched", NAME).get("state") == "Suspended")
    run = command(api, "schedule", "trigger", NAME).split()[0]
    assert run.startswith(f"{NAME}-m")
    assert len(run) == len(MANUAL_RUN)
    assert api.get("tj", run)["spec"]["command"] == TEMPLATE["spec"]["command"]
    eventually("it is counted", lambda: status(api, "sched", NAME).get("activeRuns") == 1)
    let_pass(api, forbid)

    eventually("it waits", lambda: (find(status(api, "sched", NAME), "Ready") or {}).get("reason") == "RunActive")
    assert NAME in command(api, "schedule", "list")
    node.start_pod(run)
    node.succeed(run, node.upload(run))
    begun(api)
    api.run("delete", "sched", NAME)
    assert "does not exist" in command(api, "schedule", "trigger", NAME, code=1)


def test_a_moved_alias_starts_one_run(api, operator, node):
    """What the alias was is not an event; after a move and two kills there is one run, which says why it began."""
    api.apply(applied("Model", "churn", {"aliases": {"champion": "1"}}))
    api.apply(applied("Schedule", NAME, {"triggers": [{"modelAlias": "churn@champion"}], "template": TEMPLATE}))
    eventually("the alias is seen", lambda: status(api, "sched", NAME).get("triggers"))
    assert api.all("tj") == []
    operator.kill()
    api.run("patch", "mdl", "churn", "--type=merge", "-p", '{"spec": {"aliases": {"champion": "2"}}}')
    operator.start()
    eventually("the run exists", lambda: api.all("tj"))
    operator.kill()
    operator.start()
    eventually("the event is over", lambda: status(api, "sched", NAME).get("lastEventTime"))

    (run,) = api.all("tj")
    assert run["metadata"]["annotations"]["ultramarine.dev/triggered-by"] == "churn@champion is version 2"
