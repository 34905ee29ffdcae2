"""A Schedule with triggers: which events start a run, how many events have one run, and that none has two."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import NOW, child, condition, ours, seen
from ultramarine_contract.errors import InvalidSpec
from ultramarine_operator.kinds.schedule.plan import plan
from ultramarine_operator.kinds.schedule.runs import ANNOTATION_EVENT, event_run_name
from ultramarine_operator.kinds.schedule.testing import NAME, TEMPLATE, schedule
from ultramarine_operator.kinds.schedule.triggers import topics_of
from ultramarine_operator.shared.conditions import timestamp

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
RAW = {"datasetVersion": "raw"}


def dataset(version):
    return ours("Dataset", "raw", {}, {"latestReadyVersion": version})


def model(latest="", **aliases):
    return ours("Model", "churn", {"aliases": aliases}, {"latestReadyVersion": latest})


def pipeline_run(name, end, state="Succeeded", pipeline="clean"):
    return ours("PipelineRun", name, {"pipeline": pipeline}, {"state": state, "completionTime": end})


def other_schedule(end=None):
    return ours("Schedule", "hourly", {}, {"lastSuccessfulTime": end} if end else {})


class Passes:
    """Passes over a Schedule one after another, each with the status that the one before wrote."""

    def __init__(self, *triggers, **spec):
        self.spec = {"cron": None, "triggers": list(triggers or (RAW,)), **spec}
        self.status, self.children, self.now = {}, [], NOW
        self.made = None

    @property
    def owner(self):
        return schedule(self.spec, self.status)

    def planned(self, *objects, after=SECOND):
        """Return the plan of a pass that sees these objects."""
        self.now += after
        there = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
        look = lambda kind, name: there.get((kind, name))  # noqa: E731
        return plan(self.owner, seen(*self.children, related=objects, look=look), self.now)

    def go(self, *objects, after=SECOND):
        """Carry out the plan of a pass; return the names of the runs that it makes."""
        self.made = self.planned(*objects, after=after)
        self.status = self.made.status
        for run in self.made.apply:
            self.children.append(child(run["kind"], run["metadata"]["name"], self.owner, run["spec"], {}))
        return [run["metadata"]["name"] for run in self.made.apply]

    def settle(self, *objects):
        """Carry out passes until one changes nothing; return the names of all runs that they make."""
        runs = []
        while True:
            former, made = self.status, self.go(*objects)
            runs += made
            if not made and former == self.status:
                return runs

    def end(self, state="Succeeded"):
        """Let all runs end."""
        for run in self.children:
            run["status"] = {"state": state, "completionTime": timestamp(self.now)}


CASES = {
    "a dataset": (RAW, [dataset("1")], [dataset("2")], "Dataset raw has version 2"),
    "its first version": (RAW, [], [dataset("1")], "Dataset raw has version 1"),
    "an alias": (
        {"modelAlias": "churn@champion"},
        [model(champion="1")],
        [model(champion="2")],
        "churn@champion is version 2",
    ),
    "a new alias": ({"modelAlias": "churn@champion"}, [model()], [model(champion="2")], "churn@champion is version 2"),
    "a model": ({"modelAlias": "churn@latest"}, [model("1")], [model("10")], "Model churn has version 10"),
    "a pipeline": (
        {"pipeline": "clean"},
        [pipeline_run("a", "2030-01-01T00:00:00Z")],
        [pipeline_run("b", "2030-01-01T11:00:00Z"), pipeline_run("c", "2030-01-01T12:00:00Z", pipeline="other")],
        "a run of Pipeline clean succeeded",
    ),
    "a schedule": (
        {"schedule": "hourly"},
        [other_schedule()],
        [other_schedule("2030-01-01T11:00:00Z")],
        "a run of Schedule hourly succeeded",
    ),
}


@pytest.mark.parametrize(("trigger", "before", "after", "event"), CASES.values(), ids=list(CASES))
def test_an_event_starts_one_run(trigger, before, after, event):
    """What there was when the trigger came is not an event; the run is named after the moment, with the event."""
    passes = Passes(trigger)
    assert passes.settle(*before) == []
    assert condition(passes.made, "Ready")["reason"] == "AwaitsEvent"
    assert passes.go(*after) == []  # the status has the event before its run is made
    assert passes.made.after == timedelta()

    (run,) = passes.planned(*after).apply
    assert run["metadata"]["annotations"][ANNOTATION_EVENT] == event
    assert (run["kind"], run["spec"]) == (TEMPLATE["kind"], TEMPLATE["spec"])
    assert passes.settle(*after) == [run["metadata"]["name"]]
    assert passes.status["lastEventTime"]
    assert "pendingEvent" not in passes.status
    assert topics_of(passes.owner.manifest) > {f"schedule {NAME}"}


def test_the_run_of_an_event_is_told():
    """An Event has the run and why it began."""
    passes = Passes()
    passes.settle(dataset("1"))
    passes.go(dataset("2"))
    (name,) = passes.go(dataset("2"))
    passes.go(dataset("2"))

    (event,) = passes.made.events
    assert (event.reason, event.message) == (
        "Started",
        f"TrainingJob {name} is the run because Dataset raw has version 2",
    )


@pytest.mark.parametrize(
    ("trigger", "before", "after"),
    [
        (RAW, [dataset("2")], [dataset("1")]),
        (RAW, [dataset("2")], [dataset("")]),
        ({"modelAlias": "churn@champion"}, [model(champion="2")], [model()]),
        ({"pipeline": "clean"}, [pipeline_run("a", "2030-01-01T09:00:00Z")], []),
        ({"pipeline": "clean"}, [], [pipeline_run("a", "2030-01-01T09:00:00Z", "Failed")]),
        ({"schedule": "hourly"}, [other_schedule("2030-01-01T09:00:00Z")], []),
    ],
)
def test_no_event(trigger, before, after):
    """A version that goes, a removed alias, a deleted run and a failed one start nothing, and neither does a return."""
    passes = Passes(trigger)

    assert passes.settle(*before) == passes.settle(*after) == passes.settle(*before) == []


def test_events_within_the_debounce_time_have_one_run():
    """The run begins that long after the first event, however many follow; later events have a run of their own."""
    passes = Passes(RAW, {"modelAlias": "churn@champion"}, debounceSeconds=60)
    passes.settle(dataset("1"), model(champion="1"))
    assert passes.go(dataset("2"), model(champion="1")) == []
    begun = passes.now
    assert passes.go(dataset("3"), model(champion="1")) == []
    assert passes.made.after == MINUTE - SECOND
    assert passes.go(dataset("3"), model(champion="2"), after=MINUTE - 2 * SECOND) == []
    assert passes.go(dataset("3"), model(champion="2")) == [event_run_name(NAME, begun)]

    assert passes.settle(dataset("3"), model(champion="2")) == []
    assert passes.settle(dataset("4"), model(champion="2")) == []
    passes.now += MINUTE
    assert len(passes.settle(dataset("4"), model(champion="2"))) == 1


def test_a_killed_operator_repeats_no_run():
    """Whether the pass that makes the run, or the one before, dies before its status is written: one run, no more."""
    passes = Passes()
    passes.settle(dataset("1"))
    passes.planned(dataset("2"))  # and dies: nothing was written
    passes.go(dataset("2"))
    before = passes.status
    (name,) = passes.go(dataset("2"))
    passes.status = before  # it dies between the run and the status

    assert passes.settle(dataset("2")) == []
    assert [run["metadata"]["name"] for run in passes.children] == [name]


def test_an_event_while_its_run_is_made_has_a_run_of_its_own():
    """The run may have resolved @latest before that event; its name is another one, even in the same second."""
    passes = Passes()
    passes.settle(dataset("1"))
    passes.go(dataset("2"))
    (first,) = passes.go(dataset("3"), after=timedelta())
    passes.go(dataset("3"), after=timedelta())
    (second,) = passes.go(dataset("3"))

    assert first < second
    assert passes.settle(dataset("3")) == []


@pytest.mark.parametrize("policy", ["Forbid", "Replace"])
def test_an_event_waits_for_an_earlier_run(policy):
    """With Forbid until its end; with Replace the earlier run is deleted. Events meanwhile join the run that waits."""
    passes = Passes(concurrencyPolicy=policy)
    passes.settle(dataset("1"))
    (first,) = passes.settle(dataset("2"))
    assert passes.settle(dataset("3")) == passes.settle(dataset("4")) == []
    assert condition(passes.made, "Ready")["message"].startswith(
        f"the run because Dataset raw has version 3 waits for the end of TrainingJob {first}"
    )
    assert [ref.name for ref in passes.made.delete] == ([first] if policy == "Replace" else [])
    passes.end()

    assert len(passes.settle(dataset("4"))) == 1


def test_a_suspended_schedule_keeps_its_event():
    """Events come while it is suspended; one run begins when it goes on."""
    passes = Passes(suspend=True)
    assert passes.settle(dataset("1")) == passes.settle(dataset("2")) == passes.settle(dataset("3")) == []
    passes.spec["suspend"] = False

    assert len(passes.settle(dataset("3"))) == 1


def test_a_late_event_is_missed():
    """An event whose run could not begin within startingDeadlineSeconds starts none, and an Event says so."""
    passes = Passes(concurrencyPolicy="Forbid", startingDeadlineSeconds=60)
    passes.settle(dataset("1"))
    passes.settle(dataset("2"))
    passes.settle(dataset("3"))
    assert passes.go(dataset("3"), after=2 * MINUTE) == []
    assert "no run began although Dataset raw has version 3" in passes.made.events[0].message
    passes.end()

    assert passes.settle(dataset("3")) == []


def test_events_outside_of_start_and_end_start_nothing():
    """They are no events later either."""
    early = Passes(start=timestamp(NOW + MINUTE))
    early.settle(dataset("1"))
    early.settle(dataset("2"))
    early.now += MINUTE
    assert early.settle(dataset("2")) == []

    late = Passes(end=timestamp(NOW + MINUTE))
    late.settle(dataset("1"))
    late.now += MINUTE
    assert late.settle(dataset("2")) == []
    assert late.status["state"] == "Ended"


def test_times_and_events_go_together():
    """A time has its run, an event has its own, and the message names both."""
    passes = Passes(cron="0 * * * *")
    passes.settle(dataset("1"))
    assert condition(passes.made, "Ready")["message"].endswith("or after an event of datasetVersion/raw")
    passes.now = NOW + timedelta(hours=1)
    runs = passes.settle(dataset("2"))

    assert sorted(run.startswith(f"{NAME}-e") for run in runs) == [False, True]


def test_the_history_counts_runs_of_events():
    """Ended runs of events beyond the limit are deleted, and never the one that the status still names as pending."""
    passes = Passes(successfulRunsHistoryLimit=0)
    passes.settle(dataset("1"))
    passes.go(dataset("2"))
    before = passes.status
    passes.go(dataset("2"))
    passes.end()
    passes.status = before
    passes.go(dataset("2"))
    assert [ref.name for ref in passes.made.delete] == [passes.children[0]["metadata"]["name"]]
    passes.children.clear()
    assert passes.settle(dataset("2")) == []


def test_a_deleted_dataset_begins_again():
    """The first version of a Dataset of the same name is an event, whatever number the former one had reached."""
    passes = Passes()
    passes.settle(dataset("7"))
    passes.settle()

    assert len(passes.settle(dataset("1"))) == 1


def test_a_pipeline_that_would_start_itself_is_refused():
    """The message names the Pipeline and the remedy."""
    spec = {"kind": "PipelineRun", "spec": {"pipeline": "clean"}}
    with pytest.raises(InvalidSpec, match=r"Pipeline clean, which the template runs.*Remove that trigger"):
        Passes({"pipeline": "clean"}, template=spec).go()


def test_a_trigger_whose_object_does_not_exist_is_a_warning():
    """Accepted stays True, its message names the object, and the object's topic rings the Schedule."""
    passes = Passes(RAW, {"modelAlias": "churn@champion"}, {"pipeline": "clean"}, {"schedule": "hourly"})
    passes.go(dataset(""))
    accepted = condition(passes.made, "Accepted")
    absent = ("Model churn", "Pipeline clean", "Schedule hourly")
    assert accepted["status"] == "True"
    assert accepted["message"] == "; ".join(f"spec.triggers: {name} does not exist yet" for name in absent)
    passes.go(dataset(""), model(), ours("Pipeline", "clean", {}), other_schedule())
    assert condition(passes.made, "Accepted").get("message", "") == ""


def test_parameters_that_the_pipeline_refuses_are_a_warning():
    """The Pipeline may change before the next run, which rings the Schedule."""
    template = {"kind": "PipelineRun", "spec": {"pipeline": "clean", "parameters": {"rate": "fast", "rat": 1}}}
    step = {"name": "a", "trainingJob": {"command": ["true"]}}
    clean = ours("Pipeline", "clean", {"parameters": {"rate": {"type": "number"}}, "steps": [step]})
    passes = Passes(RAW, template=template)
    passes.go(dataset(""), clean)
    accepted = condition(passes.made, "Accepted")
    unknown = "spec.template.spec.parameters.rat: the pipeline has no such parameter (it has: rate)"
    wrong = "spec.template.spec.parameters.rate: expected number, got string"
    assert (accepted["status"], accepted["message"]) == ("True", f"{unknown}; {wrong}")
    assert "pipeline clean" in topics_of(passes.owner.manifest)
    passes.go(dataset(""))
    assert condition(passes.made, "Accepted").get("message", "") == ""
