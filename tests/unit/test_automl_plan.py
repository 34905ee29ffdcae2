"""The plan of an AutoMLJob: one child after another, within the time, and what its status says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from ultramarine.resources.automl import AutoMLJobSpec
from ultramarine.resources.sweep import SweepSpec
from ultramarine_contract.automl import AutoMLTask
from ultramarine_contract.errors import InvalidSpec, StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.automljob.plan import plan, questions
from ultramarine_operator.kinds.automljob.testing.samples import (
    PREPARED,
    STARTED,
    SUMMARY,
    finished,
    job,
    job_child,
    prepared,
    searched,
    summary_of,
)
from ultramarine_operator.shared.conditions import find, timestamp
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.testing import DIGEST, NOW, seen

REGISTERING = {"outputs": {"model": {"registerAs": "churn"}}, "limits": {"timeoutSeconds": 120}}


def after(own: Obj[AutoMLJobSpec], done: Plan) -> Obj[AutoMLJobSpec]:
    """The job with the status that a plan has written."""
    return Obj({**own.manifest, "status": done.status}, own.spec)


def made(done: Plan) -> Manifest:
    """The one child that a plan makes."""
    (child,) = done.apply
    return child


def task_in(child: Manifest) -> AutoMLTask:
    """The task in the command of a child."""
    spec = child["spec"].get("trialTemplate", {}).get("spec") or child["spec"]
    return AutoMLTask.from_json(spec["source"]["inline"]["task.json"])


def message(done: Plan, type: str = "Running") -> str:
    """The message of a condition."""
    return str((find(done.status, type) or {}).get("message"))


def test_it_begins_with_the_table() -> None:
    """The first child reads the data; no clock runs before its first pod."""
    done = plan(job(), seen(), NOW)
    child = made(done)

    assert (child["kind"], child["metadata"]["name"]) == ("TrainingJob", "churn-prepare")
    assert child["spec"]["inputs"] == {"data": {"uri": "s3://lake/churn.csv"}}
    words = ["ultramarine-automl", "prepare", "--data", "$(inputs.data)", "--prepared", "$(outputs.prepared)"]
    assert child["spec"]["command"] == words
    assert (done.status["state"], done.status["phase"]) == ("Pending", "Preparing")
    assert "deadline" not in done.status


def test_the_clock_starts_with_the_first_pod() -> None:
    """The deadline is the start of the first pod and the timeout."""
    own = job(**REGISTERING)
    done = plan(own, seen(job_child(own, "prepare", "Running", startTime=STARTED)), NOW)

    assert done.status["startTime"] == STARTED
    assert done.status["deadline"] == timestamp(NOW + timedelta(seconds=60))
    assert done.after == timedelta(seconds=60 + 20)
    assert (done.status["state"], done.apply) == ("Running", ())


def test_the_search_has_the_time_without_a_reserve() -> None:
    """It reads the prepared table, begins with the portfolio, keeps candidates, and leaves time for the last job."""
    own = job(**REGISTERING)
    done = plan(own, seen(prepared(own)), NOW)
    spec = made(done)["spec"]

    assert spec["trialTemplate"]["spec"]["inputs"] == {"prepared": PREPARED}
    assert spec["budget"] == {"seconds": 30}  # of 60 that are left
    assert spec["keepOutputs"] == 40
    assert spec["objective"] == {"metric": "score", "goal": "minimize"}
    assert all(set(trial) <= set(spec["searchSpace"]) for trial in spec["algorithm"]["initialTrials"])
    assert SweepSpec.model_validate(spec).limits.max_trials == 200
    assert message(done) == "the search begins"


def test_few_trials_bound_the_portfolio() -> None:
    """A Sweep refuses more first trials than trials."""
    own = job(limits={"maxTrials": 3, "parallelTrials": 8})
    spec = made(plan(own, seen(prepared(own)), NOW))["spec"]

    assert len(spec["algorithm"]["initialTrials"]) == 3
    assert (spec["limits"]["parallelTrials"], spec["keepOutputs"]) == (3, 3)


def test_its_progress_is_that_of_the_search() -> None:
    """The leaderboard has the best trials so far."""
    own = job(**REGISTERING)
    done = plan(own, seen(prepared(own), searched(own, "Running")), NOW)

    assert message(done).startswith("12 of 200 trials, best log_loss 0.11")
    assert done.status["leaderboard"] == [{"algorithm": "logistic", "score": 0.11, "params": {"logistic_C": 1.0}}]
    assert (done.status["progress"], done.status["bestScore"]) == ("12/200", "log_loss 0.11")


def test_the_last_job_gets_the_candidates() -> None:
    """It has the rest of the time, and registers the model."""
    own = job(**REGISTERING)
    child = made(plan(own, seen(prepared(own), searched(own)), NOW))

    folder = "s3://lake/team-a/sweeps/churn-search/Sweep-churn-search-uid/trials/"
    assert child["spec"]["inputs"] == {"prepared": PREPARED, "candidates": {"uri": folder}}
    assert child["spec"]["outputs"] == {"model": {"registerAs": "churn"}, "report": {}}
    assert child["spec"]["activeDeadlineSeconds"] == 80
    assert task_in(child).deadline == (NOW + timedelta(seconds=60)).timestamp()


def test_the_end_has_the_summary() -> None:
    """The status has the model, the leaderboard, the test score, guardrails, report and code."""
    own = job(**REGISTERING)
    last = finished(own)
    children = (prepared(own), searched(own), last)
    own = after(own, plan(own, seen(*children[:2]), NOW))
    assert questions(own, seen(*children)) == (summary_of(last),)
    done = plan(own, seen(*children, answers={summary_of(last): SUMMARY.to_json()}), NOW)

    status = done.status
    assert (status["state"], status["modelVersion"]) == ("Succeeded", "churn-1")
    assert status["best"] == {
        "algorithm": "ensemble",
        "score": 0.1,
        "std": 0.01,
        "fitSeconds": 0.0,
        "p95Milliseconds": 0.0,
        "mebibytes": 0.0,
    }
    assert status["leaderboard"][0]["fitSeconds"] == 0.2
    assert status["test"] == {"score": 0.12, "low": 0.1, "high": 0.14, "baseline": 0.69, "rows": 114}
    assert status["guardrails"][0]["name"] == "imbalance"
    assert status["report"]["uri"].endswith("/report/aaaa/report.html")
    assert status["code"]["uri"].endswith("/report/aaaa/train.py")
    assert status["jobs"] == ["TrainingJob/churn-prepare", "Sweep/churn-search", "TrainingJob/churn-finish"]
    assert message(done, "Succeeded") == "ensemble, log_loss 0.1, 0.12 on test rows; 12 trials"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (None, "Running"),
        (StorageError("the storage does not answer", "Unreachable", transient=True), "Running"),
        (StorageError("nothing is there", "NotFound"), "Failed"),
        ("{", "Failed"),
    ],
)
def test_a_summary_that_cannot_be_read(answer: Any, state: str) -> None:
    """A storage that is away is asked again; a lost summary fails the job."""
    own = job(**REGISTERING)
    last = finished(own)
    answers = {} if answer is None else {summary_of(last): answer}
    done = plan(own, seen(prepared(own), searched(own), last, answers=answers), NOW)

    assert done.status["state"] == state
    assert state == "Failed" or done.after is not None


def test_a_deleted_child_of_the_past_is_not_made_again() -> None:
    """Its result is in the status."""
    own = job(**REGISTERING)
    begun = plan(own, seen(prepared(own), searched(own)), NOW)
    again = plan(after(own, begun), seen(), NOW)

    assert made(again)["metadata"]["name"] == "churn-finish"


def test_the_dataset_is_pinned_once() -> None:
    """A first child that is made again reads the version that the former one has found."""
    own = job(data={"dataset": "churn@latest", "target": "churned"})
    pin = {"version": "churn-3", "uri": "s3://lake/churn/3/", "digest": DIGEST}
    begun = plan(own, seen(job_child(own, "prepare", "Running", datasets={"data": pin})), NOW)
    again = plan(after(own, begun), seen(), NOW)

    assert begun.status["dataset"] == pin
    assert made(again)["spec"]["inputs"] == {"data": {"dataset": "churn@3"}}


def test_suspension_stops_the_clock() -> None:
    """The child is held; the rest of the time counts from the moment in which the job goes on."""
    own = job({"startTime": STARTED, "deadline": timestamp(NOW + timedelta(seconds=40))}, suspend=True)
    going = searched(own, "Running")
    held = plan(own, seen(prepared(own), going), NOW)
    assert (held.status["state"], held.status["secondsLeft"]) == ("Suspended", 40)
    assert made(held)["spec"]["suspend"] is True
    assert "deadline" not in held.status

    later, on = NOW + timedelta(hours=9), job(held.status)
    going["spec"]["suspend"] = True
    goes_on = plan(on, seen(prepared(on), going), later)
    assert goes_on.status["deadline"] == timestamp(later + timedelta(seconds=40))
    assert made(goes_on)["spec"]["suspend"] is False


def test_a_suspended_job_has_a_suspended_child() -> None:
    """It is the same whether it is suspended from the first moment or later."""
    begun = plan(job(suspend=True), seen(), NOW)

    assert made(begun)["spec"]["suspend"] is True
    assert begun.status["state"] == "Suspended"


def test_suspension_ends_the_last_job() -> None:
    """Its command has the deadline; another one is made when the job goes on."""
    own = job({"startTime": STARTED, "deadline": timestamp(NOW + timedelta(seconds=40))}, suspend=True)
    held = plan(own, seen(prepared(own), searched(own), job_child(own, "finish", "Running")), NOW)

    assert [ref.name for ref in held.delete] == ["churn-finish"]
    assert held.status["state"] == "Suspended"


def test_cancellation_reaches_the_child() -> None:
    """The job ends, and its child for good."""
    own = job(cancel=True)
    done = plan(own, seen(prepared(own), searched(own, "Running")), NOW)

    assert done.status["state"] == "Cancelled"
    assert made(done)["spec"]["cancel"] is True


def test_the_deadline_ends_all() -> None:
    """A child that neither ends nor is ended by its own limit fails the job soon after the deadline."""
    own = job({"startTime": STARTED, "deadline": STARTED}, **REGISTERING)
    done = plan(own, seen(prepared(own), searched(own, "Pending")), NOW)

    assert done.status["failure"]["reason"] == "DeadlineExceeded"
    assert made(done)["spec"]["cancel"] is True


def test_the_programs_sentence_is_the_failure() -> None:
    """A mistake of the author is one sentence, the last line of the log."""
    own = job()
    sentence = "target churnd is not a column of the table. Did you mean churned?"
    failure = {"reason": "CommandFailed", "exitCode": 203, "message": "command exited with code 203", "tail": sentence}
    done = plan(own, seen(job_child(own, "prepare", "Failed", failure=failure)), NOW)

    assert done.status["state"] == "Failed"
    assert (done.status["failure"]["message"], message(done, "Failed")) == (sentence, sentence)


def test_a_search_without_success_fails() -> None:
    """The message is that of the Sweep."""
    own = job()
    failure = {"reason": "NoneSucceeded", "message": "no trial succeeded; 3 failed"}
    done = plan(own, seen(prepared(own), job_child(own, "search", "Failed", failure=failure)), NOW)

    assert done.status["failure"]["reason"] == "SearchFailed"
    assert done.status["failure"]["message"] == "Sweep churn-search: no trial succeeded; 3 failed"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"metric": "rmse"}, "classification has no metric rmse"),
        ({"algorithms": {"block": ["svn"]}}, "no algorithm svn to block"),
    ],
)
def test_what_no_search_can_do_is_refused(spec: Manifest, words: str) -> None:
    """The message names the values that exist."""
    with pytest.raises(InvalidSpec, match=words):
        plan(job(**spec), seen(), NOW)
