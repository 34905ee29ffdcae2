"""Ends of a Sweep: by its coordinator's report and files, by a failed Job, and the remains after that."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    DIGEST,
    NOW,
    condition,
    ended_container,
    kinds_of,
    model,
    seen,
    sweep,
    sweep_job,
    sweep_pod,
    version,
)
from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import facts
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import BestTrial, Fetched, SweepSummary
from ultramarine_contract.training_records import InputRecord, SourceRecord, TerminationRecord
from ultramarine_operator.kinds.sweep.plan import plan, questions
from ultramarine_operator.kinds.sweep.registration import LABEL_SWEEP_UID
from ultramarine_operator.runs.registration import LABEL_OUTPUT
from ultramarine_operator.shared.plan import Obj, Seen
from ultramarine_operator.shared.questions import ReadText

PREFIX = "s3://lake/team-a/sweeps/hpo/Sweep-hpo-uid/"
SUMMARY = ReadText(f"{PREFIX}summary.json")
OUTPUT = contract.OutputRecord(f"{PREFIX}trials/3/model/0123456789abcdef/", DIGEST, 1000, "sklearn")
BEST = BestTrial(3, (0.25,), {"lr": 0.01}, {"model": OUTPUT})
GOOD = SweepSummary("Succeeded", "MaxTrialsReached", "10 trials are over", succeeded=9, failed=1, best=(BEST,))
REGISTERING = {"registerBest": "churn", "trialTemplate": {"spec": {"command": ["a"], "outputs": {"model": {}}}}}


def over(hpo: Obj[Any], reported: SweepSummary | None = GOOD, answer: Any = GOOD, *more: Manifest) -> Seen:
    """The coordinator has ended well, said `told`, and stored `answer`; its workers still run."""
    wording = ended_container(0, "Completed", reported.to_json().decode() if reported else "", "coordinator")
    children = (
        sweep_job(hpo, "coordinator", "Complete", completionTime="2030-01-01T11:59:00Z"),
        sweep_job(hpo, "workers", active=2),
        *((sweep_pod(hpo, "coordinator", "Succeeded", **wording),) if reported else ()),
        sweep_pod(hpo, "workers"),
    )
    stored = answer.to_json().decode() if isinstance(answer, SweepSummary) else answer
    return seen(*children, related=more, answers={SUMMARY: stored} if stored is not None else {})


def test_kubernetes_keeps_the_deadline_where_no_coordinator_does() -> None:
    """Its Job has the deadline and two minutes; what kept the coordinator from it is told, where that is known."""
    hpo = sweep(activeDeadlineSeconds=60)
    late = sweep_job(hpo, "coordinator", "Failed", "DeadlineExceeded")
    assert late["spec"]["activeDeadlineSeconds"] == 180
    assert "activeDeadlineSeconds" not in sweep_job(sweep(), "coordinator")["spec"]
    crashed = sweep_pod(hpo, "coordinator", "Failed", **ended_container(1, message="no room"))
    for its_pods, why in (
        ((), "=60; see the events of Job hpo-coordinator"),
        ((crashed,), "=60: pod hpo-coordinator-0-abcde exited with code 1"),
    ):
        got = plan(hpo, seen(late, *its_pods), NOW)
        assert (got.status["state"], condition(got, "Failed")["reason"]) == ("Failed", "DeadlineExceeded")
        assert f"it has not ended within spec.activeDeadlineSeconds{why}" in condition(got, "Failed")["message"]
    late["status"]["conditions"][0]["lastTransitionTime"] = "2030-01-01T11:59:58Z"
    assert plan(hpo, seen(late), NOW).status["state"] == "Running", "the pod's last message is awaited"


def test_the_summary_is_asked_for_only_at_the_end():
    """A sweep that goes on asks the storage nothing, nor does one that has ended."""
    hpo = sweep()

    assert questions(hpo, seen(sweep_job(hpo, "coordinator"))) == ()
    assert questions(hpo, over(hpo)) == (SUMMARY,)
    assert questions(sweep(plan(hpo, over(hpo), NOW).status), over(hpo)) == ()


def test_a_sweep_succeeds_by_what_its_coordinator_said():
    """Counts and the best are the stored ones, reason and message those of the last words."""
    hpo = sweep({"startTime": "2030-01-01T11:30:00Z"})
    got = plan(hpo, over(hpo, structs.replace(GOOD, best=())), NOW)

    assert got.status["state"] == "Succeeded"
    assert condition(got, "Succeeded")["reason"] == "MaxTrialsReached"
    assert condition(got, "Succeeded")["message"] == "10 trials are over; the best value is 0.25"
    assert got.status["best"] == [{"trial": 3, "values": {"loss": 0.25}, "params": {"lr": 0.01}}]
    assert (got.status["progress"], got.status["duration"]) == ("10/10", "29m0s")
    assert [event.reason for event in got.events] == ["Succeeded"]


@pytest.mark.parametrize(
    ("many", "answer", "words"),
    [
        (1, "all", "10 trials are over; the Pareto front has 1 trial"),
        (3, "all", "10 trials are over; the Pareto front has 3 trials"),
        (100, "all", "10 trials are over; the Pareto front has 100 or more trials"),
        (2, StorageError("ObjectNotFound", "gone"), "10 trials are over; the Pareto front has 2 or more trials"),
        (0, "all", "10 trials are over"),
    ],
)
def test_of_several_objectives_the_message_tells_of_the_front(many: int, answer: Any, words: str):
    """No value is the best of two objectives: what counts is how many trials none is better than."""
    objectives = [{"metric": "loss"}, {"metric": "size"}]
    hpo = sweep(objective=None, objectives=objectives)
    reported = structs.replace(GOOD, best=tuple(BestTrial(n, (float(n), -float(n)), {"lr": 0.01}) for n in range(many)))
    got = plan(hpo, over(hpo, reported, reported if answer == "all" else answer), NOW)

    assert condition(got, "Succeeded")["message"] == words
    assert len(got.status.get("best") or []) == min(many, 10)


def test_the_storage_tells_when_the_pod_is_gone():
    """Deleted pods lose nothing, since the summary is stored."""
    hpo = sweep()

    assert plan(hpo, over(hpo, None), NOW).status["state"] == "Succeeded"


def test_last_words_are_enough_where_the_summary_is_lost():
    """A summary that was deleted from the storage costs the best trials, and not the outcome."""
    hpo = sweep()
    got = plan(hpo, over(hpo, structs.replace(GOOD, best=()), StorageError("gone", "ObjectNotFound")), NOW)

    assert got.status["state"] == "Succeeded"
    assert "best" not in got.status


def test_a_storage_that_does_not_answer_is_asked_again():
    """The outcome waits until the summary was read."""
    hpo = sweep()
    got = plan(hpo, over(hpo, GOOD, StorageError("away", "Unreachable", transient=True)), NOW)

    assert condition(got, "Running")["reason"] == "ReadingSummary"
    assert got.after == timedelta(seconds=15)


def test_a_storage_that_refuses_does_not_keep_the_sweep_open():
    """If the operator may not read the summary, the coordinator's termination message is enough."""
    hpo = sweep()
    refused = StorageError("no", "AccessDenied")

    assert plan(hpo, over(hpo, GOOD, refused), NOW).status["state"] == "Succeeded"
    assert condition(plan(hpo, over(hpo, None, refused), NOW), "Running")["reason"] == "ReadingSummary"


@pytest.mark.parametrize("answer", [StorageError("gone", "ObjectNotFound"), "no JSON", '{"outcome": ""}'])
def test_without_any_outcome_it_has_failed(answer):
    """Neither last words nor a summary: the sweep says so, and where its journal is to be found."""
    hpo = sweep()
    got = plan(hpo, over(hpo, None, answer), NOW)

    assert condition(got, "Failed")["reason"] == "SummaryLost"
    assert "status.journal.uri" in got.status["failure"]["hint"]


def test_a_sweep_fails_with_the_words_of_its_coordinator():
    """Its reason, its sentence, and what the trial printed last."""
    hpo = sweep()
    bad = SweepSummary("Failed", "CanaryFailed", "trial 1 exited with code 2\nline\nno such file", failed=1)
    got = plan(hpo, over(hpo, bad, bad), NOW)

    assert (got.status["state"], condition(got, "Failed")["reason"]) == ("Failed", "CanaryFailed")
    assert got.status["failure"] == {
        "reason": "CanaryFailed",
        "message": "trial 1 exited with code 2",
        "tail": "line\nno such file",
    }
    assert got.status["trials"]["failed"] == 1


def test_a_deadline_that_passed_before_any_trial_names_what_kept_them_back():
    """Fewer trials would not have helped, since no worker could start."""
    hpo = sweep(activeDeadlineSeconds=60)
    late = SweepSummary("Failed", "DeadlineExceeded", "it has run for 60 s; ask for fewer trials")
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    stuck = sweep_pod(
        hpo, "workers", "Pending", containerStatuses=[{"name": "trainer", "image": "wrong:1", "state": state}]
    )

    def ends(summary: SweepSummary) -> str:
        at_end = over(hpo, summary, summary)
        return condition(plan(hpo, replace(at_end, children=(*at_end.children, stuck)), NOW), "Failed")["message"]

    assert ends(late).startswith(
        "no trial ran within spec.activeDeadlineSeconds=60: cannot pull image wrong:1 for pod hpo-workers-0-abcde"
    )
    assert ends(structs.replace(late, failed=1)) == "it has run for 60 s; ask for fewer trials"


def test_the_best_trial_is_registered():
    """The Model is made if there is none, and the version says which sweep, trial and run in MLflow it is of."""
    run = {"runId": "a" * 32, "uri": "http://mlflow.lab/#/runs/a"}
    hpo = sweep({"mlflow": run}, **REGISTERING)
    got = plan(hpo, over(hpo), NOW)

    assert kinds_of(got.create) == ["Model/churn", "ModelVersion/churn-1"]
    made = got.create[1]
    assert made["metadata"]["labels"] == {LABEL_SWEEP_UID: "Sweep-hpo-uid", LABEL_OUTPUT: "model"}
    assert made["spec"] == {
        "model": "churn",
        "version": "1",
        "uri": OUTPUT.uri,
        "digest": DIGEST,
        "format": {"name": "sklearn"},
        "lineage": {"sweep": "hpo", "trial": 3, "metrics": {"loss": 0.25}, "mlflow": run},
    }
    assert (got.status["state"], condition(got, "Running")["reason"]) == ("Running", "Registering")


def test_the_best_trial_is_traced_to_its_image_code_and_inputs():
    """The status has what the best trial fetched, beside the image of the workers; its lineage shows the digests."""
    spec = {"command": ["a"], "outputs": {"model": {}}, "inputs": {"table": {"uri": "s3://lake/table/"}}}
    spec["source"] = {"git": {"url": "https://git.lab/churn", "ref": "main"}}
    hpo = sweep(registerBest="churn", trialTemplate={"spec": spec})
    fetched = Fetched(SourceRecord(DIGEST, "c" * 40), {"table": InputRecord(DIGEST, 7, 1)})
    summary = structs.replace(GOOD, best=(structs.replace(BEST, fetched=fetched),))
    here = over(hpo, summary, summary)
    for pod in here.of("Pod"):
        pod["status"].setdefault("containerStatuses", [{"name": "trainer", "imageID": f"registry/train@{DIGEST}"}])
    registering = plan(hpo, here, NOW)
    assert registering.create[1]["spec"]["lineage"]["gitCommit"] == "c" * 40
    assert registering.status["inputs"] == {"table": {"digest": DIGEST, "bytes": 7, "files": 1}}

    labels = {LABEL_SWEEP_UID: "Sweep-hpo-uid", LABEL_OUTPUT: "model"}
    later = sweep(registering.status, registerBest="churn", trialTemplate={"spec": spec})
    done = plan(later, over(later, summary, summary, model(), version(4, labels=labels)), NOW)
    (end,) = facts({**hpo.manifest, "status": done.status})
    assert {part.name: (part.uri, part.digest) for part in end.used} == {
        "image": ("registry/train", DIGEST),
        "code": (f"git+https://git.lab/churn@{'c' * 40}", DIGEST),
        "table": ("s3://lake/table/", DIGEST),
    }


@pytest.mark.parametrize(("format", "compiled"), [("sklearn", {"to": "onnx"}), ("onnx", None)])
def test_the_best_trials_version_is_compiled_where_that_is_asked(format, compiled):
    """As a TrainingJob's: with what the output of the template says, unless it is ONNX already."""
    spec = {"command": ["a"], "outputs": {"model": {"compile": {"to": "onnx", "onFailure": "Fail"}}}}
    hpo = sweep(registerBest="churn", trialTemplate={"spec": spec})
    summary = structs.replace(
        GOOD, best=(structs.replace(BEST, outputs={"model": structs.replace(OUTPUT, format=format)}),)
    )
    made = plan(hpo, over(hpo, summary, summary), NOW).create[1]["spec"]

    assert made["format"] == {"name": format}
    if compiled is None:
        assert "compile" not in made
    else:
        assert (made["compile"]["to"], made["compile"]["onFailure"]) == ("onnx", "Fail")


def test_the_best_trial_is_registered_once():
    """A pass that finds the version that carries the sweep's uid makes no other, and says its name."""
    hpo = sweep(**REGISTERING)
    labels = {LABEL_SWEEP_UID: "Sweep-hpo-uid", LABEL_OUTPUT: "model"}
    got = plan(hpo, over(hpo, GOOD, GOOD, model(), version(4, labels=labels)), NOW)

    assert got.create == ()
    assert (got.status["state"], got.status["modelVersion"]) == ("Succeeded", "churn-4")
    assert got.status["best"][0]["modelVersion"] == "churn-4"


@pytest.mark.attack(
    "training/sweep-output",
    asset="a sweep's result",
    threat="a summary names an output of another namespace as the best trial's",
    control="what is not below the sweep's own prefix, or that of the best trial's TrainingJob, is not registered",
)
@pytest.mark.parametrize(
    ("best", "words"),
    [
        ((), "no trial has succeeded"),
        ((structs.replace(BEST, outputs={}),), "trial 3 has no output 'model'"),
        (
            (structs.replace(BEST, outputs={"model": structs.replace(OUTPUT, uri="s3://lake/team-b/x/")}),),
            "trial 3 has no output",
        ),
    ],
)
def test_nothing_to_register_is_a_failure(best, words):
    """A Sweep with registerBest and without a version has failed; an output elsewhere is not accepted."""
    hpo = sweep(**REGISTERING)
    summary = structs.replace(GOOD, best=best)
    got = plan(hpo, over(hpo, summary, summary), NOW)

    assert condition(got, "Failed")["reason"] == "NothingToRegister"
    assert words in got.status["failure"]["message"]


@pytest.mark.parametrize("which", ["coordinator", "workers"])
def test_who_ends_first_is_no_trouble(which):
    """Pods and Jobs end one after another: in between the sweep is said to be finishing, and not to wait for pods."""
    hpo = sweep()
    jobs = (sweep_job(hpo, "coordinator", active=1), sweep_job(hpo, "workers", active=1))
    got = plan(hpo, seen(*jobs, sweep_pod(hpo, which, "Succeeded")), NOW)

    assert (got.status["state"], condition(got, "Running")["reason"]) == ("Running", "Finishing")


@pytest.mark.parametrize("which", ["coordinator", "workers"])
def test_a_job_that_failed_fails_the_sweep(which):
    """A sweep needs coordinator and workers; the failed pod's termination message is the cause."""
    hpo = sweep()
    record = TerminationRecord(reason="ObjectNotFound", message="s3://lake/churn/ is not there")
    pod = sweep_pod(hpo, which, "Failed", **ended_container(203, message=record.to_json()))
    other = {"coordinator": "workers", "workers": "coordinator"}[which]
    jobs = (sweep_job(hpo, which, "Failed", "PodFailurePolicy"), sweep_job(hpo, other, active=1))
    got = plan(hpo, seen(*jobs, pod, sweep_pod(hpo, other)), NOW)

    assert condition(got, "Failed")["reason"] == "ObjectNotFound"
    assert got.status["failure"]["message"] == "s3://lake/churn/ is not there"
    assert got.status["failure"]["pod"] == f"hpo-{which}-0-abcde"


def test_last_words_of_a_failed_pod_are_waited_for():
    """Jobs and pods are watched apart: for a moment after a Job has failed its pods may not be seen."""
    hpo = sweep()
    job = sweep_job(hpo, "workers", "Failed", "BackoffLimitExceeded")
    job["status"]["conditions"][0]["lastTransitionTime"] = "2030-01-01T11:59:58Z"
    got = plan(hpo, seen(job, sweep_job(hpo, "coordinator")), NOW)

    assert (condition(got, "Running")["reason"], got.after) == ("Finishing", timedelta(seconds=1))


def test_what_goes_on_after_the_end_is_ended():
    """Workers without further trials are deleted after the status reports the end of the sweep."""
    hpo = sweep()
    there = over(hpo)
    first = plan(hpo, there, NOW)
    assert (first.delete, first.after) == ((), timedelta(milliseconds=200))

    second = plan(sweep(first.status), there, NOW)
    assert (second.delete, second.after) == ((), timedelta(seconds=5))  # who was told ends by itself until then
    third = plan(sweep(second.status), there, NOW + timedelta(seconds=5))
    assert [ref.name for ref in third.delete] == ["hpo-workers"]
    assert third.status == second.status == first.status


def test_the_end_is_known_by_the_coordinators_pod():
    """Its Job says so a second later: nothing waits for that, and the Job keeps its pod, whose log is still read."""
    hpo = sweep()
    wording = ended_container(0, "Completed", GOOD.to_json().decode(), "coordinator")
    jobs = (sweep_job(hpo, "coordinator", active=1), sweep_job(hpo, "workers", active=2))
    there = seen(*jobs, sweep_pod(hpo, "coordinator", "Succeeded", **wording), sweep_pod(hpo, "workers"))
    assert questions(hpo, there) == (SUMMARY,)

    reported = plan(hpo, replace(there, answers={SUMMARY: GOOD.to_json().decode()}), NOW).status
    assert (reported["state"], reported["completionTime"]) == ("Succeeded", "2030-01-01T12:00:00Z")

    now = plan(sweep(reported), there, NOW + timedelta(seconds=1))
    assert (now.delete, now.after) == ((), timedelta(seconds=4)), "workers that are about to end keep their pods"
    later = plan(sweep(reported), there, NOW + timedelta(seconds=5))
    assert [ref.name for ref in later.delete] == ["hpo-workers"]


def test_the_end_is_known_by_what_the_coordinator_posts_last():
    """Its pod says so a second later, and is not deleted meanwhile; what it posts before that ends nothing."""
    hpo = sweep()
    jobs = (sweep_job(hpo, "coordinator", active=1), sweep_job(hpo, "workers", active=2))
    there = seen(*jobs, sweep_pod(hpo, "coordinator"), sweep_pod(hpo, "workers"))
    for early in (GOOD, structs.replace(GOOD, outcome="", over=True)):
        assert questions(hpo, replace(there, report=early)) == ()
        assert plan(hpo, replace(there, report=early), NOW).status["state"] == "Running"

    last = replace(there, report=structs.replace(GOOD, over=True))
    assert questions(hpo, last) == (SUMMARY,)
    reported = plan(hpo, replace(last, answers={SUMMARY: GOOD.to_json().decode()}), NOW).status
    assert (reported["state"], reported["completionTime"]) == ("Succeeded", "2030-01-01T12:00:00Z")
    later = plan(sweep(reported), last, NOW + timedelta(seconds=5))
    assert [ref.name for ref in later.delete] == ["hpo-workers"]

    gone = replace(last, answers={SUMMARY: StorageError("gone", "ObjectNotFound")})
    assert plan(hpo, gone, NOW).status["bestValue"] == reported["bestValue"], "the posted one has the best trials, too"


def test_a_failed_trials_pod_and_code_are_the_verdicts():
    """As in a TrainingJob's: the code, the pod, the last lines, and the command that shows the rest."""
    hpo = sweep()
    wording = "the first trial failed: trial 0: command exited with code 2\nno such file"
    bad = SweepSummary("Failed", "CanaryFailed", wording, 2, "hpo-workers-1-abcde", failed=1)
    failure = plan(hpo, over(hpo, bad, bad), NOW).status["failure"]
    assert (failure["exitCode"], failure["pod"], failure["tail"]) == (2, "hpo-workers-1-abcde", "no such file")
    assert failure["hint"].endswith("kubectl -n team-a logs hpo-workers-1-abcde -c trainer")


def test_who_cannot_read_the_journal_takes_nothing_back():
    """Its last record has no trials; the counts in the status stay, except that of running ones."""
    former = {"trials": {"running": 2, "succeeded": 150, "stopped": 0, "failed": 2}, "progress": "152/200"}
    hpo = sweep(former | {"bestValue": "0.25"})
    bad = SweepSummary("Failed", "JournalDamaged", "segment 3 of the journal is missing")
    got = plan(hpo, over(hpo, bad, bad), NOW).status
    assert got["trials"] == former["trials"] | {"running": 0}
    assert (got["progress"], got["bestValue"], got["failure"]["reason"]) == ("152/200", "0.25", "JournalDamaged")

    nothing = plan(sweep(), over(sweep(), bad, bad), NOW).status
    assert (nothing["trials"], nothing["progress"]) == (dict.fromkeys(former["trials"], 0), "0/10")


def test_the_report_is_named_where_there_is_one():
    """Only a stored report is named: a sweep whose pictures failed has succeeded without one."""
    hpo = sweep()
    with_report = structs.replace(GOOD, report=True)
    got = plan(hpo, over(hpo, with_report, with_report), NOW).status
    assert got["report"] == {"uri": f"{PREFIX}report.html"}
    assert "report" not in plan(hpo, over(hpo), NOW).status


def test_a_finished_sweep_goes_when_its_time_is_over():
    """ttlSecondsAfterFinished counts from the end, and a pass follows when it is over."""
    hpo = sweep(ttlSecondsAfterFinished=120)
    reported = plan(hpo, over(hpo), NOW).status

    assert plan(sweep(reported, ttlSecondsAfterFinished=120), seen(), NOW).after == timedelta(seconds=60)
    assert [ref.name for ref in plan(sweep(reported, ttlSecondsAfterFinished=60), seen(), NOW).delete] == ["hpo"]


def test_a_finished_sweep_is_never_judged_anew():
    """The status of a finished sweep does not change with its children."""
    hpo = sweep()
    reported = plan(hpo, over(hpo), NOW).status
    again = plan(sweep(reported), seen(sweep_job(hpo, "coordinator", "Failed")), NOW)

    assert (again.status, again.apply, again.delete) == (reported, (), ())
