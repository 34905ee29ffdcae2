"""Test material of Schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ultramarine.resources.schedule import MAX_SCHEDULE_NAME, ScheduleSpec
from ultramarine_contract.meta import API_VERSION, Manifest

from ...runs.queues import LABEL_QUEUE
from ...shared.conditions import timestamp
from ...shared.plan import Obj, Plan, Platform
from ...shared.testing import (
    NOW,
    Life,
    Material,
    Neighbour,
    World,
    applied,
    clash,
    named,
    rule,
    seen,
    stored,
    until_none,
    until_state,
)
from .plan import plan
from .runs import run_name

TEMPLATE: Manifest = {"kind": "TrainingJob", "spec": {"command": ["true"]}}
DAILY: Manifest = {"cron": "0 3 * * *", "template": TEMPLATE}
NAME = "nightly"
# Times that are over, whenever a test runs: a status with an older lastScheduleTime makes the newest of them due.
LEAP_DAYS: Manifest = {"cron": "0 0 29 2 *", "end": "2024-12-31T00:00:00Z", "suspend": True, "template": TEMPLATE}
BEFORE = "2019-01-01T00:00:00Z"
LEAP_RUN = run_name(NAME, datetime(2024, 2, 29, tzinfo=UTC))


def schedule(spec: Manifest | None = None, status: Manifest | None = None, **meta: Any) -> Obj[ScheduleSpec]:
    """The Schedule nightly as the API server returns it, with a template that was admitted."""
    accepted = {"type": "Accepted", "status": "True", "reason": "Valid", "observedGeneration": 1}
    before = {"conditions": [accepted], **(status or {})}
    manifest = stored("Schedule", NAME, {**DAILY, **(spec or {})}, before, **meta)
    return Obj(manifest, ScheduleSpec.model_validate(manifest["spec"]))


def due_run(platform: Platform) -> Plan:
    """A Schedule whose time has come, in a queue of Kueue."""
    former = {"lastScheduleTime": timestamp(NOW - timedelta(days=1))}
    return plan(schedule({}, former, labels={LABEL_QUEUE: "night"}), seen(platform=platform), NOW)


async def _is_back(world: World) -> None:
    """Let the Schedule begin again after five years in which the operator was away."""
    await until_state(world, "Schedule", NAME, "Suspended")
    await world.edit("Schedule", NAME, {"status": {"lastScheduleTime": BEFORE}}, subresource="status")
    await world.edit("Schedule", NAME, {"spec": {"suspend": False}})


async def _catches_up(world: World) -> None:
    await _is_back(world)
    world.decide(LEAP_RUN, "succeeds")
    await until_state(world, "TrainingJob", LEAP_RUN, "Succeeded")
    await world.until("the end is seen", lambda: world.status("Schedule", NAME).get("lastSuccessfulTime"))


async def _forgets(world: World) -> None:
    await _is_back(world)
    world.decide(LEAP_RUN, "fails")
    await world.until("the time is over", lambda: world.status("Schedule", NAME).get("lastScheduleTime", "") > BEFORE)
    await until_none(world, "TrainingJob")


async def _with_a_manual_run(world: World) -> None:
    """Start a run by hand, as the command does, that is still there when a time comes."""
    await until_state(world, "Schedule", NAME, "Suspended")
    owner = world.get("Schedule", NAME)
    assert owner is not None
    reference = {"apiVersion": API_VERSION, "kind": "Schedule", "name": NAME, "uid": owner["metadata"]["uid"]}
    run = applied("TrainingJob", MANUAL_RUN, TEMPLATE["spec"], ownerReferences=[{**reference, "controller": True}])
    await world.apply(run)
    await until_state(world, "TrainingJob", MANUAL_RUN, "Running")
    await world.until("the run is counted", lambda: world.status("Schedule", NAME).get("activeRuns"))
    await _is_back(world)


async def _waits(world: World) -> None:
    await _with_a_manual_run(world)
    await world.until("it waits", lambda: "RunActive" in str(world.status("Schedule", NAME).get("conditions")))
    world.decide(LEAP_RUN, "succeeds")
    world.decide(MANUAL_RUN, "succeeds")
    await until_state(world, "TrainingJob", LEAP_RUN, "Succeeded")


async def _replaces(world: World) -> None:
    await _with_a_manual_run(world)
    world.decide(LEAP_RUN, "succeeds")
    await until_state(world, "TrainingJob", LEAP_RUN, "Succeeded")


MANUAL_RUN = f"{NAME}-m1577836800"


async def _follows(world: World) -> None:
    """Move an alias, so that one run begins."""
    await until_state(world, "Schedule", NAME, "Active")
    await world.until("the alias is seen", lambda: "champion" in str(world.status("Schedule", NAME).get("triggers")))
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await world.until("a run exists", lambda: world.all("TrainingJob"))
    (run,) = world.all("TrainingJob")
    world.decide(run["metadata"]["name"], "succeeds")
    await world.until("the event is over", lambda: world.status("Schedule", NAME).get("lastEventTime"))
    await until_state(world, "TrainingJob", run["metadata"]["name"], "Succeeded")


MOVES: Manifest = {"triggers": [{"modelAlias": "churn@champion"}], "template": TEMPLATE}


def _complete(_: Manifest, spec: Manifest) -> None:
    spec |= {"cron": DAILY["cron"], "template": TEMPLATE}
    if "triggers" in spec:
        spec["triggers"] = [{"datasetVersion": "raw"}]
    if "timeZone" in spec:
        spec["timeZone"] = "Europe/Berlin"
    for name, moment in (("start", "2027-01-01T00:00:00Z"), ("end", "2099-01-01T00:00:00+02:00")):
        if name in spec:
            spec[name] = moment


def _leap(**spec: object) -> tuple[Manifest, ...]:
    return (applied("Schedule", NAME, {**LEAP_DAYS, **spec}),)


MATERIAL = Material(
    kind="Schedule",
    whole={
        "metadata": {"name": NAME},
        "spec": {
            "cron": "30 2 * * MON-FRI",
            "timeZone": "Europe/Berlin",
            "triggers": [
                {"datasetVersion": "raw"},
                {"modelAlias": "churn@champion"},
                {"pipeline": "clean"},
                {"schedule": "hourly"},
            ],
            "debounceSeconds": 60,
            "start": "2027-01-01T00:00:00Z",
            "end": "2099-01-01T00:00:00Z",
            "suspend": False,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulRunsHistoryLimit": 7,
            "failedRunsHistoryLimit": 2,
            "template": TEMPLATE,
        },
    },
    least=DAILY,
    defaults={
        "debounceSeconds": 0,
        "suspend": False,
        "concurrencyPolicy": "Allow",
        "successfulRunsHistoryLimit": 3,
        "failedRunsHistoryLimit": 1,
    },
    edit={"successfulRunsHistoryLimit": 5},
    free=({"cron": "@hourly"}, {"suspend": True}, {"concurrencyPolicy": "Replace"}),
    rules=(
        named("metadata.name must have at most 28", "a" * MAX_SCHEDULE_NAME, "a" * (MAX_SCHEDULE_NAME + 1)),
        named("metadata.name must not contain a dot", "a-b", "a.b"),
        clash("end must be later than start", {}, {"start": "2027-01-01T00:00:00Z", "end": "2026-12-31T00:00:00Z"}),
        clash("give cron, triggers or both", {}, {"cron": None, "triggers": []}),
        clash(
            "give one of datasetVersion, modelAlias, pipeline and schedule",
            {"triggers": [{"pipeline": "clean"}]},
            {"triggers": [{}]},
            {"triggers": [{"pipeline": "clean", "schedule": "hourly"}]},
        ),
        rule("must not name the Schedule itself", {}, {"triggers": [{"schedule": NAME}]}),
        clash("spec.template.kind must be one of", {}, {"template": {"kind": "Model"}}),
    ),
    lives=(
        Life(
            "catches up",
            _leap(),
            _catches_up,
            edits=({"successfulRunsHistoryLimit": 5},),
            refused=(({"template": {"kind": "Model"}}, "must be one of"),),
        ),
        Life("forgets a failed run", _leap(failedRunsHistoryLimit=0), _forgets),
        Life("waits for an earlier run", _leap(concurrencyPolicy="Forbid"), _waits),
        Life(
            "follows an alias",
            (applied("Model", "churn", {"aliases": {"champion": "1"}}), applied("Schedule", NAME, MOVES)),
            _follows,
        ),
        Life("replaces an earlier run", _leap(concurrencyPolicy="Replace"), _replaces),
    ),
    samples=(due_run,),
    complete=_complete,
    neighbour=Neighbour(lambda name, _: applied("Schedule", name, DAILY), ready=True),
)
