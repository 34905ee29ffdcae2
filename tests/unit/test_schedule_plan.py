"""A Schedule: what begins when, what was missed, and what of the past is kept."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from builders import NOW, child, condition, seen
from ultramarine_contract.errors import InvalidSpec, UltramarineError
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.schedule.plan import LOOK_AGAIN, MAX_MISSED, plan, questions
from ultramarine_operator.kinds.schedule.runs import ANNOTATION_TIME, run_name
from ultramarine_operator.kinds.schedule.testing import NAME, TEMPLATE, schedule
from ultramarine_operator.shared.conditions import parse_timestamp, timestamp
from ultramarine_operator.shared.testing import PLATFORM

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = NOW.replace(hour=3)  # 3:00, nine hours ago
YESTERDAY = TODAY - DAY
RUNNABLE = [kind.name for kind in KINDS if kind.ends]


def ran(last=YESTERDAY, spec=None, **status):
    """The Schedule after the run for a time; its template was admitted."""
    return schedule(spec, {"lastScheduleTime": timestamp(last), **status})


def run_of(owner, time=YESTERDAY, state="Running", kind="TrainingJob", manual=False, **status):
    """A run for a time."""
    name = run_name(owner.name, time)
    name = name.replace(f"{NAME}-", f"{NAME}-m") if manual else name
    return child(kind, name, owner, TEMPLATE["spec"], {"state": state, **status})


def names(manifests):
    return [manifest["metadata"]["name"] for manifest in manifests]


def events(made):
    return [event.reason for event in made.events]


def carried_on(owner, made):
    """The Schedule with the status that a plan wrote."""
    spec = {name: value for name, value in owner.manifest["spec"].items()}
    return schedule(spec, made.status)


# ---- Beginning


def test_a_run_begins_at_its_time():
    """The run has a name that follows from its time, the template's spec, and its time in an annotation."""
    made = plan(ran(), seen(), NOW)

    (run,) = made.apply
    assert (run["kind"], run["metadata"]["name"]) == ("TrainingJob", f"nightly-{int(TODAY.timestamp())}")
    assert run["spec"] == TEMPLATE["spec"]
    assert run["metadata"]["annotations"][ANNOTATION_TIME] == timestamp(TODAY)
    assert run["metadata"]["ownerReferences"][0]["controller"] is True
    assert made.after == timedelta()


def test_a_time_counts_as_used_only_once_its_run_exists():
    """A refused create loses no run: lastScheduleTime changes when the run is seen."""
    owner = ran()
    before = plan(owner, seen(), NOW)
    after = plan(owner, seen(run_of(owner, TODAY)), NOW)

    assert before.status["lastScheduleTime"] == timestamp(YESTERDAY)
    assert (after.status["lastScheduleTime"], after.apply) == (timestamp(TODAY), ())
    assert events(after) == ["Started"]


def test_a_run_begins_once():
    """Neither a second pass nor another operator makes a second run for a time, even if the first run is over."""
    owner = carried_on(ran(), plan(ran(), seen(run_of(ran(), TODAY)), NOW))

    assert plan(owner, seen(run_of(owner, TODAY, "Succeeded")), NOW).apply == ()
    assert plan(owner, seen(), NOW + HOUR).apply == ()


def test_nothing_begins_before_its_time():
    """A new Schedule waits for the first time after its creation, and says when that is."""
    made = plan(schedule(), seen(), NOW)

    assert (made.apply, made.events) == ((), ())
    assert made.status["nextScheduleTime"] == timestamp(TODAY + DAY)
    assert condition(made, "Ready")["message"] == f"the next run begins at {(TODAY + DAY).isoformat()}"
    assert made.after == LOOK_AGAIN
    soon = plan(schedule(), seen(), TODAY + DAY - timedelta(seconds=7))
    assert soon.after == timedelta(seconds=7)


def test_times_are_those_of_the_zone():
    """3:00 in Berlin is 2:00 UTC in winter, and the message has the offset."""
    made = plan(schedule({"timeZone": "Europe/Berlin"}), seen(), NOW)

    assert made.status["nextScheduleTime"] == "2030-01-02T02:00:00Z"
    assert "2030-01-02T03:00:00+01:00" in condition(made, "Ready")["message"]


@pytest.mark.parametrize("kind", RUNNABLE)
def test_any_kind_that_ends_can_be_a_run(kind):
    """Each kind whose objects run to an end can be a template, and its runs are replaced and forgotten."""
    spec = {"template": {"kind": kind, "spec": {}}, "concurrencyPolicy": "Replace", "successfulRunsHistoryLimit": 0}
    assert [run["kind"] for run in plan(ran(spec=spec), seen(), NOW).apply] == [kind]

    owner = ran(spec=spec)
    for state in ("Running", "Succeeded"):
        assert plan(owner, seen(run_of(owner, state=state, kind=kind)), NOW).delete


def test_the_kinds_that_can_run_are_found():
    """The CRD names every kind that ends, and no other."""
    kind = next(kind for kind in KINDS if kind.name == "Schedule")

    assert {"TrainingJob", "Sweep"} <= {child.kind for child in kind.children} == set(RUNNABLE)
    assert kind.rules[-1][1] == f"spec.template.kind must be one of {', '.join(RUNNABLE)}"


def test_runs_go_into_the_queue_and_name_the_requester():
    """The labels of Kueue and the user who made the Schedule are those of each run."""
    platform = PLATFORM.__class__(**{**PLATFORM.__dict__, "knows_requester": True})
    meta = {"labels": {"kueue.x-k8s.io/queue-name": "night"}, "annotations": {ANNOTATION_REQUESTED_BY: "ada"}}
    owner = schedule({}, {"lastScheduleTime": timestamp(YESTERDAY)}, **meta)

    (run,) = plan(owner, seen(platform=platform), NOW).apply
    assert run["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert run["metadata"]["annotations"][ANNOTATION_REQUESTED_BY] == "ada"


# ---- Bounds


def test_start_and_end_bound_the_times():
    """No run begins before start or after end; the last one makes the Schedule Ended."""
    later = plan(schedule({"start": "2030-03-01T00:00:00Z"}), seen(), NOW)
    assert (later.apply, later.status["nextScheduleTime"]) == ((), "2030-03-01T03:00:00Z")

    over = plan(ran(TODAY, {"end": "2030-01-02T00:00:00Z"}), seen(), NOW + DAY)
    assert (over.apply, over.status["state"], over.after) == ((), "Ended", None)
    assert "nextScheduleTime" not in over.status


def test_a_time_at_the_very_bounds_counts():
    """start and end themselves are times at which a run may begin."""
    exact = timestamp(TODAY)

    assert plan(ran(spec={"start": exact, "end": exact}), seen(), NOW).apply
    assert not plan(ran(spec={"start": timestamp(TODAY + HOUR)}), seen(), NOW).apply


def test_suspended_schedules_start_nothing():
    """No run begins while suspend is true; afterwards the newest missed time has its run."""
    made = plan(ran(spec={"suspend": True}), seen(), NOW)
    assert (made.apply, made.events, made.after, made.status["state"]) == ((), (), None, "Suspended")
    assert "nextScheduleTime" not in made.status

    assert plan(ran(YESTERDAY - 4 * DAY), seen(), NOW).apply


# ---- Missed times


def test_after_an_absence_the_newest_time_has_a_run():
    """Of several missed times one run begins, and an Event tells of the others once."""
    owner = ran(YESTERDAY - 3 * DAY)
    first = plan(owner, seen(), NOW)

    assert names(first.apply) == [run_name(NAME, TODAY)]
    assert events(first) == ["MissedTimes"]
    assert "3 times passed without a run" in first.events[0].message
    assert first.status["lastMissedTime"] == timestamp(YESTERDAY)
    owner = carried_on(owner, first)
    assert events(plan(owner, seen(run_of(owner, TODAY)), NOW)) == ["Started"]


def test_a_long_absence_is_counted_up_to_a_hundred():
    """After years of minutes a pass is as short as ever, and the Event says more than 100."""
    made = plan(ran(NOW - 2000 * DAY, {"cron": "* * * * *"}), seen(), NOW)

    assert names(made.apply) == [run_name(NAME, NOW)]
    assert f"more than {MAX_MISSED} times passed" in made.events[0].message


def test_a_run_that_would_be_too_late_is_missed():
    """After startingDeadlineSeconds a time has no run any more; one within it has."""
    late = plan(ran(spec={"startingDeadlineSeconds": 3600}), seen(), NOW)
    assert (late.apply, events(late)) == ((), ["MissedTimes"])
    assert f"no run began at {TODAY.isoformat()}" in late.events[0].message
    again = plan(carried_on(ran(spec={"startingDeadlineSeconds": 3600}), late), seen(), NOW)
    assert (again.events, again.status) == ((), late.status)

    assert plan(ran(spec={"startingDeadlineSeconds": 3600}), seen(), TODAY + HOUR).apply


def test_a_run_whose_time_was_not_written_down_is_not_missed():
    """A run that was made right before the operator died counts, even when the next time has come."""
    owner = ran(YESTERDAY - DAY)

    assert events(plan(owner, seen(run_of(owner, YESTERDAY, "Succeeded")), NOW)) == []


# ---- Concurrency


def test_runs_go_on_together_by_default():
    """With Allow a run begins while an earlier one goes on; both are active."""
    owner = ran()
    made = plan(owner, seen(run_of(owner)), NOW)

    assert names(made.apply) == [run_name(NAME, TODAY)]
    assert made.status["active"] == [{"kind": "TrainingJob", "name": run_name(NAME, YESTERDAY)}]
    assert made.status["activeRuns"] == 1


def test_forbid_waits_for_the_end_of_the_earlier_run():
    """With Forbid a run begins when the earlier one has ended; the condition says what it waits for."""
    owner = ran(spec={"concurrencyPolicy": "Forbid"})
    made = plan(owner, seen(run_of(owner)), NOW)

    assert (made.apply, made.delete, events(made)) == ((), (), ["RunActive"])
    assert f"waits for the end of TrainingJob {run_name(NAME, YESTERDAY)}" in condition(made, "Ready")["message"]
    owner = carried_on(owner, made)
    assert plan(owner, seen(run_of(owner)), NOW).events == ()
    assert names(plan(owner, seen(run_of(owner, state="Failed")), NOW).apply) == [run_name(NAME, TODAY)]


def test_forbid_gives_up_at_the_deadline():
    """A run that waits beyond startingDeadlineSeconds is missed, and the pass comes at that moment."""
    owner = ran(spec={"concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 60})
    waiting = plan(owner, seen(run_of(owner)), TODAY)
    assert (events(waiting), waiting.after) == (["RunActive"], timedelta(minutes=1))

    assert events(plan(owner, seen(run_of(owner)), TODAY + timedelta(seconds=61))) == ["MissedTimes"]


def test_replace_deletes_the_earlier_run_first():
    """With Replace the earlier run is deleted, and the new one begins when it is gone."""
    owner = ran(spec={"concurrencyPolicy": "Replace"})
    made = plan(owner, seen(run_of(owner)), NOW)

    assert ([ref.name for ref in made.delete], made.apply) == ([run_name(NAME, YESTERDAY)], ())
    assert plan(owner, seen(), NOW).apply


def test_a_manual_run_counts():
    """A run that a user started holds up the next one with Forbid, and its time is not one of the Schedule."""
    owner = ran(spec={"concurrencyPolicy": "Forbid"})
    made = plan(owner, seen(run_of(owner, TODAY, manual=True)), NOW)

    assert (made.apply, made.status["lastScheduleTime"]) == ((), timestamp(YESTERDAY))


# ---- History


def test_old_runs_are_deleted():
    """Of the runs that ended, the newest are kept: by default 3 that succeeded and 1 that failed."""
    owner = ran(TODAY)
    succeeded = [run_of(owner, TODAY - days * DAY, "Succeeded") for days in range(5)]
    failed = [run_of(owner, TODAY - days * DAY, "Failed", kind="Sweep") for days in (5, 6)]

    made = plan(owner, seen(*succeeded, *failed), NOW)
    assert sorted(ref.name for ref in made.delete) == sorted(run_name(NAME, TODAY - days * DAY) for days in (3, 4, 6))
    assert (
        plan(ran(TODAY, {"successfulRunsHistoryLimit": 9, "failedRunsHistoryLimit": 9}), seen(*failed), NOW).delete
        == ()
    )


def test_a_run_is_kept_until_its_time_is_written_down():
    """A limit of 0 deletes no run whose time could begin a second run."""
    owner = ran(spec={"successfulRunsHistoryLimit": 0})
    run = run_of(owner, TODAY, "Succeeded")
    first = plan(owner, seen(run), NOW)

    assert first.delete == ()
    assert [ref.name for ref in plan(carried_on(owner, first), seen(run), NOW).delete] == [run_name(NAME, TODAY)]


def test_the_status_tells_of_the_newest_run():
    """The newest run with its state, and the end of the newest that succeeded, also once that run is deleted."""
    owner = ran(TODAY)
    end = timestamp(TODAY + HOUR)
    runs = run_of(owner, TODAY, "Failed"), run_of(owner, YESTERDAY, "Succeeded", completionTime=end)
    status = plan(owner, seen(*runs), NOW).status

    assert (status["lastRun"], status["lastRunState"]) == (run_name(NAME, TODAY), "Failed")
    assert status["lastSuccessfulTime"] == end
    assert plan(ran(TODAY, lastSuccessfulTime=end), seen(), NOW).status["lastSuccessfulTime"] == end


# ---- Template


def unseen(spec=None):
    """A Schedule whose template was not checked yet."""
    return schedule(spec, {"conditions": []})


def test_the_template_is_checked_once():
    """The API server is asked about a run of the template, and not again until the spec changes."""
    (question,) = questions(unseen(), seen())

    asked = json.loads(question.text)
    assert (asked["kind"], asked["spec"], asked["metadata"]["namespace"]) == ("TrainingJob", TEMPLATE["spec"], "team-a")
    assert questions(schedule(), seen()) == ()
    made = plan(unseen(), seen(answers={question: ""}), NOW)
    assert condition(made, "Accepted")["status"] == "True"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            'TrainingJob.ultramarine.dev "nightly-0946684800" is invalid: spec.command: Required value',
            "spec.template.spec.command: Required value",
        ),
        (
            'Sweep in version "v1alpha1" cannot be handled as a Sweep: strict decoding error: unknown field '
            '"spec.trialTemplate.spec.comand"',
            'unknown field "spec.template.spec.trialTemplate.spec.comand"',
        ),
    ],
)
def test_an_invalid_template_is_refused_by_its_field(answer, message):
    """The objection of the API server becomes the condition Accepted, with the field as the Schedule has it."""
    (question,) = questions(unseen(), seen())

    with pytest.raises(InvalidSpec) as refusal:
        plan(unseen(), seen(answers={question: answer}), NOW)
    assert refusal.value.message.endswith(message)


def test_an_api_server_that_does_not_answer_decides_nothing():
    """The status stays as it is, and the question is asked again."""
    (question,) = questions(unseen(), seen())
    made = plan(unseen(), seen(answers={question: UltramarineError("no answer", "Unreachable")}), NOW)

    assert (made.status, made.apply) == (unseen().status, ())
    assert made.after


@pytest.mark.parametrize("text", ["0000-12-31t23:59:59Z", "9999-12-31T23:59:59+00:00", "nonsense"])
def test_damaged_times_in_a_status_stop_nothing(text):
    """Whoever may write a status may have damaged its times: the Schedule goes on."""
    owner = schedule({}, {"lastScheduleTime": text, "lastMissedTime": text, "lastSuccessfulTime": text})

    assert parse_timestamp(plan(owner, seen(), NOW).status["nextScheduleTime"]) == TODAY + DAY
