"""Ends of a TrainingJob: lost results, pods that cannot start, and wrong clocks of nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import (
    DIGEST,
    NOW,
    condition,
    ended_container,
    job,
    kinds_of,
    model_output,
    pod,
    seen,
    training_job,
)
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.sweep_records import STOPPED_EARLY, TrialTask
from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord
from ultramarine_operator.kinds.trainingjob.plan import plan, questions
from ultramarine_operator.shared import pods
from ultramarine_operator.shared.conditions import parse_timestamp, timestamp
from ultramarine_operator.shared.plan import Obj, Plan, Seen
from ultramarine_operator.training.trials import ANNOTATION_TRIAL

PREFIX = "s3://lake/team-a/trainingjobs/churn/TrainingJob-churn-uid/"
COMPLETED = "2030-01-01T11:59:00Z"  # a minute before NOW
AHEAD = timedelta(hours=1)  # so much is the clock of a node wrong
NOT_THERE = StorageError("result.json does not exist", "ObjectNotFound")


def after(churn: Obj[Any], planned: Plan) -> Obj[Any]:
    """The same job when that plan's status was written."""
    return replace(churn, manifest={**churn.manifest, "status": planned.status})


def at(moment: datetime) -> str:
    """A moment as the API writes it."""
    return timestamp(moment)


# A result that is lost, and the time to live


def without_pods(churn: Obj[Any], answer: str | StorageError) -> Seen:
    """Its Job is complete, its pods are gone, and that is what the storage says of the result."""
    done = job(churn, "Complete", succeeded=1, startTime="2030-01-01T11:30:00Z", completionTime=COMPLETED)
    (question,) = questions(churn, seen(done))
    return seen(done, answers={question: answer})


@pytest.mark.parametrize("answer", [NOT_THERE, StorageError("too large", "TooLarge"), "no record"])
def test_a_job_whose_result_is_lost_lives_for_its_ttl(answer: str | StorageError) -> None:
    """The verdict is written first; the object goes when its time is over, counted from the end of the command."""
    churn = training_job(ttlSecondsAfterFinished=90)
    lost = plan(churn, without_pods(churn, answer), NOW)
    assert (lost.status["state"], lost.status["failure"]["reason"]) == ("Failed", "ResultLost")
    assert (lost.status["completionTime"], lost.delete, lost.after) == (COMPLETED, (), timedelta(seconds=30))

    failed = after(churn, lost)
    early = plan(failed, seen(), NOW + timedelta(seconds=29))
    assert (early.status["state"], early.delete, early.after) == ("Failed", (), timedelta(seconds=1))
    (ref,) = plan(failed, seen(), NOW + timedelta(seconds=30)).delete
    assert (ref.resource.kind, ref.name, ref.uid) == ("TrainingJob", "churn", "TrainingJob-churn-uid")


def test_a_time_to_live_that_is_over_already_does_not_hide_the_verdict() -> None:
    """Found lost long after its end, as by an operator that was away: status first, deletion in the pass after it."""
    churn = training_job(ttlSecondsAfterFinished=0)
    lost = plan(churn, without_pods(churn, NOT_THERE), NOW)
    assert (lost.status["failure"]["reason"], lost.delete, lost.after) == ("ResultLost", (), timedelta())
    assert [event.reason for event in lost.events] == ["ResultLost"]

    assert [ref.resource.kind for ref in plan(after(churn, lost), seen(), NOW).delete] == ["TrainingJob"]


def test_a_job_whose_result_may_still_be_had_is_not_deleted() -> None:
    """While the storage does not answer nothing is lost, and no time to live runs, however long that takes."""
    churn = training_job(ttlSecondsAfterFinished=0)
    for hours in (0, 24, 720):
        away = plan(
            churn, without_pods(churn, StorageError("away", "Unreachable", transient=True)), NOW + hours * AHEAD
        )
        assert (condition(away, "Running")["reason"], away.delete) == ("ReadingResult", ())
        assert "completionTime" not in away.status
        churn = after(churn, away)

    record = TerminationRecord(outputs={"report": model_output()}).to_json()
    assert plan(churn, without_pods(churn, record), NOW).status["state"] == "Succeeded"


def test_the_time_to_live_of_a_lost_job_may_still_be_changed() -> None:
    """A longer TTL gives time for an inspection, up to no limit."""
    churn = training_job(ttlSecondsAfterFinished=60)
    lost = plan(churn, without_pods(churn, NOT_THERE), NOW)
    for ttl, left in ((3600, timedelta(minutes=59)), (None, None)):
        spec: Manifest = {"ttlSecondsAfterFinished": ttl} if ttl else {}
        edited = after(training_job(**spec), lost)
        again = plan(edited, seen(), NOW)
        assert (again.delete, again.after) == ((), left)


def test_a_lost_job_is_not_begun_anew() -> None:
    """Its children may go before itself, and a record that turns up late changes nothing."""
    churn = training_job(ttlSecondsAfterFinished=3600)
    lost = after(churn, plan(churn, without_pods(churn, NOT_THERE), NOW))

    assert questions(lost, seen()) == ()
    again = plan(lost, seen(), NOW)
    assert (again.apply, again.create, again.status["failure"]) == ((), (), lost.status["failure"])


def test_an_end_in_the_future_only_makes_the_life_longer() -> None:
    """The control plane's clock may be ahead of ours: the job is then deleted late, and never early."""
    churn = training_job(ttlSecondsAfterFinished=60)
    live = job(churn, "Complete", succeeded=1, startTime="2030-01-01T11:30:00Z", completionTime=at(NOW + AHEAD))
    (question,) = questions(churn, seen(live))
    lost = plan(churn, seen(live, answers={question: NOT_THERE}), NOW)

    assert lost.after == AHEAD + timedelta(seconds=60)
    assert plan(after(churn, lost), seen(), NOW + AHEAD).delete == ()


# Images


def without_image(churn: Obj[Any], reason: str, wording: str, node: int = 0) -> Manifest:
    """A pod whose image cannot be had, for that reason of the kubelet's."""
    container = {"name": "trainer", "image": "no:1", "state": {"waiting": {"reason": reason, "message": wording}}}
    return pod(churn, f"churn-{node}-abcde", "Pending", node, containerStatuses=[container])


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_what_no_waiting_changes_ends_the_job_at_once(reason: str) -> None:
    """A name that is none, and an image that may not be pulled and is not there; even with a long patience."""
    churn = training_job(pendingDeadlineSeconds=86400, backoffLimit=5)
    got = plan(churn, seen(job(churn, active=1), without_image(churn, reason, "couldn't parse it")), NOW)

    assert (got.status["state"], got.status["failure"]["reason"]) == ("Failed", reason)
    assert "cannot pull image no:1 for pod churn-0-abcde: couldn't parse it" in got.status["failure"]["message"]
    assert got.status["failure"]["hint"] == "correct spec.image, and run it again as a new TrainingJob"
    assert condition(got, "Failed")["reason"] == reason


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ImageInspectError"])
@pytest.mark.parametrize(
    ("wording", "patience"),
    [
        ("rpc error: code = NotFound desc = failed to pull: no:1: not found", timedelta(minutes=2)),
        ("manifest unknown: manifest unknown", timedelta(minutes=2)),
        ("repository does not exist or may require authorization", timedelta(minutes=2)),
        ("failed to authorize: 401 Unauthorized", timedelta(minutes=2)),
        ("pull access denied", timedelta(minutes=2)),
        ("unexpected status: 403 Forbidden", timedelta(minutes=2)),
        ("dial tcp: lookup registry.example.com: no such host", timedelta(minutes=10)),
        ("toomanyrequests: you have reached your pull rate limit", timedelta(minutes=10)),
        ("unexpected status: 503 Service Unavailable", timedelta(minutes=10)),
        ("", timedelta(minutes=10)),
    ],
)
def test_an_image_is_waited_for_as_its_registry_answers(reason: str, wording: str, patience: timedelta) -> None:
    """An answer that there is none ends the job after two minutes; no answer after ten, and never an hour."""
    churn = training_job()
    live, waiting = job(churn, active=1), without_image(churn, reason, wording)
    first = plan(churn, seen(live, waiting), NOW)
    assert (first.status["state"], condition(first, "Running")["reason"]) == ("Pending", reason)
    assert first.after == patience

    former = after(churn, first)
    assert plan(former, seen(live, waiting), NOW + patience - timedelta(seconds=1)).status["state"] == "Pending"
    late = plan(former, seen(live, waiting), NOW + patience)
    assert (late.status["state"], late.status["failure"]["reason"]) == ("Failed", reason)


def test_the_kubelets_change_of_words_does_not_renew_the_patience() -> None:
    """It says ErrImagePull and ImagePullBackOff in turns; the time counts from the first of them."""
    churn = training_job()
    live = job(churn, active=1)
    for minute, reason in enumerate(("ErrImagePull", "ImagePullBackOff", "ErrImagePull")):
        got = plan(churn, seen(live, without_image(churn, reason, "not found")), NOW + timedelta(minutes=minute))
        churn = after(churn, got)

    assert got.status["failure"]["reason"] == "ErrImagePull"


def test_an_image_that_came_and_is_missed_again_is_waited_for_anew() -> None:
    """The next attempt's node may be one that has to pull it."""
    churn = training_job(backoffLimit=3)
    live = job(churn, active=1)
    churn = after(churn, plan(churn, seen(live, without_image(churn, "ErrImagePull", "not found")), NOW))
    churn = after(churn, plan(churn, seen(live, pod(churn)), NOW + timedelta(minutes=1)))
    assert "imageErrorSince" not in churn.status

    again = plan(churn, seen(live, without_image(churn, "ErrImagePull", "not found")), NOW + timedelta(minutes=5))
    assert (again.status["state"], again.after) == ("Pending", timedelta(minutes=2))


def test_one_node_without_an_image_ends_the_whole_gang() -> None:
    """The others run and wait for it in vain: the job says which pod it is."""
    churn = training_job(framework="torch", nodes=2)
    live, first = job(churn, active=2), pod(churn, "churn-0-abcde")
    missing = without_image(churn, "ErrImagePull", "not found", node=1)
    waiting = after(churn, plan(churn, seen(live, first, missing), NOW))
    got = plan(waiting, seen(live, first, missing), NOW + timedelta(minutes=2))

    assert (got.status["failure"]["reason"], got.status["failure"]["pod"]) == ("ErrImagePull", "churn-1-abcde")
    assert [ref.resource.kind for ref in plan(after(churn, got), seen(live, first), NOW).delete] == ["Job"]


def test_a_secret_that_is_missing_is_waited_for() -> None:
    """A missing Secret is not an image error: once it is created, the pod starts by itself."""
    churn = training_job()
    waiting = without_image(churn, "CreateContainerConfigError", 'secret "token" not found')
    got = plan(churn, seen(job(churn, active=1), waiting), NOW + timedelta(days=1))

    assert (got.status["state"], got.after) == ("Pending", None)
    assert "Secret token not found in team-a; create it" in condition(got, "Running")["message"]


def test_an_image_that_cannot_start_our_entry_point_is_its_own_reason() -> None:
    """An image that is there and is none of ours; no other attempt finds another, so the Job goes at once."""
    churn = training_job(image="python:3.11")
    wording = 'exec: "ultramarine-trainer": executable file not found in $PATH'
    broken = pod(churn, phase="Failed", **ended_container(128, "StartError", wording))
    live = job(churn, failed=1)
    got = plan(churn, seen(live, broken), NOW)

    assert condition(got, "Failed")["reason"] == "ImageNotSuitable"
    assert [ref.resource.kind for ref in plan(after(churn, got), seen(live, broken), NOW).delete] == ["Job"]
    assert (got.status["failure"]["reason"], got.status["failure"]["exitCode"]) == ("ImageNotSuitable", 128)
    assert "leave spec.image out" in got.status["failure"]["hint"]


@pytest.mark.parametrize(
    ("env", "program", "words"),
    [
        ([{"name": "PATH", "value": "/opt"}], "ultramarine-trainer", "remove PATH from env"),
        ([], "python3", "team-a/alpine:3 has no python3"),
        ([], "python3", "choose an image with Python 3.9 or newer"),
    ],
)
def test_what_keeps_an_entry_point_from_starting_is_named(env: list[Manifest], program: str, words: str) -> None:
    """The author's own PATH, or an image without Python; another base image would not help, or not be needed."""
    ended = ended_container(128, "StartError", f'exec: "{program}": executable file not found in $PATH')
    ended["containerStatuses"][0]["image"] = "team-a/alpine:3"
    broken = pod(training_job(), phase="Failed", **ended)
    broken["spec"]["containers"] = [{"name": "trainer", "env": env}]
    verdict = pods.verdict(broken)

    assert words in f"{verdict.message}; {verdict.hint}"


def test_a_node_that_cannot_start_a_container_ends_no_training() -> None:
    """A runtime that is out of time or memory says nothing of the image: Kubernetes makes another attempt."""
    churn = training_job()
    wording = "failed to create containerd task: failed to create shim task: context deadline exceeded"
    broken = pod(churn, phase="Failed", **ended_container(128, "StartError", wording))
    got = plan(churn, seen(job(churn, failed=1), broken), NOW)

    assert (got.status["state"], got.delete) == ("Pending", ())
    assert condition(got, "Running")["reason"] == "Retrying"
    assert "cannot start: failed to create containerd task" in condition(got, "Running")["message"]


# More memory: the Job is made anew


def killed_for_memory(churn: Obj[Any], name: str, limit: str = "1Gi") -> Manifest:
    """A pod that was killed for its memory, with a checkpoint in its last words."""
    killed = pod(churn, name, "Failed", **ended_container(137, "OOMKilled"))
    killed["spec"]["containers"] = [{"name": "trainer", "resources": {"limits": {"memory": limit}}}]
    return killed


def test_a_job_made_anew_for_memory_keeps_its_counts() -> None:
    """Attempts, history, the time used, the first start and the checkpoint are the TrainingJob's, not its Job's."""
    spec: Manifest = {
        "resources": {"limits": {"memory": "1Gi"}},
        "onOutOfMemory": {"maxMemory": "4Gi"},
        "backoffLimit": 1,
        "activeDeadlineSeconds": 3600,
        "checkpoint": {},
    }
    kept = {"uri": f"{PREFIX}checkpoints/cccc/", "time": "2030-01-01T11:50:00Z", "bytes": 1, "step": 7}
    churn = training_job({"lastCheckpoint": kept}, **spec)
    reported = TerminationRecord(reason="CommandFailed", message="exited with code 3").to_json()
    broken = pod(churn, "churn-0-aaaaa", "Failed", **ended_container(3, message=reported))
    killed = killed_for_memory(churn, "churn-0-bbbbb")
    killed["metadata"]["creationTimestamp"] = "2030-01-01T11:40:00Z"
    old = job(churn, failed=2, startTime="2030-01-01T11:30:00Z")

    churn = after(churn, plan(churn, seen(old, broken, killed), NOW))  # the status says how much more
    deleting = plan(churn, seen(old, broken, killed), NOW)
    assert [ref.resource.kind for ref in deleting.delete] == ["Job"]
    churn = after(churn, deleting)
    old["metadata"]["deletionTimestamp"] = at(NOW)
    churn = after(churn, plan(churn, seen(old), NOW))

    gone = plan(churn, without_job(churn), NOW)
    assert kinds_of(gone.apply) == ["Job/churn"]
    assert gone.apply[0]["spec"]["activeDeadlineSeconds"] == 1800
    assert gone.apply[0]["spec"]["backoffLimit"] == 1
    churn = after(churn, gone)
    new = job(churn, active=1, startTime=at(NOW))
    new["metadata"]["uid"] = "the new Job's"
    running = pod(churn, "churn-0-ccccc", startTime=at(NOW))
    running["metadata"] |= {
        "creationTimestamp": at(NOW),
        "ownerReferences": [{"uid": "the new Job's", "controller": True}],
    }
    got = plan(churn, seen(new, running), NOW + timedelta(minutes=10)).status

    assert (got["state"], got["attempts"], got["memory"]) == ("Running", 3, "2048Mi")
    assert [(line["pod"], line.get("reason")) for line in got["attemptHistory"]] == [
        ("churn-0-aaaaa", "CommandFailed"),
        ("churn-0-bbbbb", "OOMKilled"),
        ("churn-0-ccccc", None),
    ]
    assert (got["startTime"], got["activeSeconds"], got["activeSince"]) == ("2030-01-01T11:30:05Z", 1800, at(NOW))
    assert got["lastCheckpoint"] == kept

    new["status"] = {"succeeded": 1, "startTime": at(NOW), "completionTime": at(NOW + timedelta(minutes=10))}
    new["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    record = TerminationRecord(productive_seconds=1500.0).to_json()
    running["status"] = {"phase": "Succeeded", "startTime": at(NOW), **ended_container(0, "Completed", record)}
    done = plan(churn, seen(new, running), NOW + timedelta(minutes=10)).status
    assert (done["state"], done["attempts"], done["activeSeconds"], done["duration"]) == (
        "Succeeded",
        3,
        2400,
        "39m55s",
    )
    assert done["goodput"] == {"productiveSeconds": 1500, "lostSeconds": 900}


def without_job(churn: Obj[Any]) -> Seen:
    """Its Job is gone, and the storage knows of no result."""
    (question,) = questions(churn, seen())
    return seen(answers={question: NOT_THERE})


# Clocks that are wrong


def durations(status: Manifest) -> list[int]:
    """All that a status says of how long something took, in seconds; of attempts the difference of their times."""
    reported = [int(status.get("activeSeconds", 0)), *(int(value) for value in status.get("goodput", {}).values())]
    lines = [line for line in status.get("attemptHistory", []) if "startTime" in line and "endTime" in line]
    reported += [
        int((parse_timestamp(line["endTime"]) - parse_timestamp(line["startTime"])).total_seconds()) for line in lines
    ]
    return [-1, *reported] if "-" in status.get("duration", "") else reported


def test_a_pod_from_the_future_makes_no_negative_time() -> None:
    """Its node's clock is an hour ahead of the control plane's and of ours: all durations are 0 at least."""
    churn = training_job(activeDeadlineSeconds=3600)
    start, end = at(NOW + AHEAD - timedelta(minutes=29)), at(NOW + AHEAD)
    live = job(churn, active=1, startTime="2030-01-01T11:30:00Z")
    running = plan(churn, seen(live, pod(churn, startTime=start)), NOW)
    assert min(durations(running.status)) >= 0

    record = TerminationRecord(productive_seconds=1700.0).to_json()
    ended = ended_container(0, "Completed", record)
    ended["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = end
    done = job(churn, "Complete", succeeded=1, startTime="2030-01-01T11:30:00Z", completionTime="2030-01-01T12:00:00Z")
    got = plan(after(churn, running), seen(done, pod(churn, phase="Succeeded", startTime=start, **ended)), NOW)

    assert min(durations(got.status)) >= 0
    assert (got.status["activeSeconds"], got.status["goodput"]) == (
        1800,
        {"productiveSeconds": 1700, "lostSeconds": 100},
    )


def test_an_attempt_from_the_future_does_not_end_before_it_began() -> None:
    """Its pod is deleted, and we, whose clock is right, say when it was seen to be gone."""
    churn = training_job(backoffLimit=2)
    running = plan(churn, seen(job(churn, active=1), pod(churn, startTime=at(NOW + AHEAD))), NOW)
    next_one = seen(job(churn, active=1, failed=1), pod(churn, "churn-0-bbbbb"))
    gone = plan(after(churn, running), next_one, NOW + timedelta(minutes=1)).status

    assert [line.get("reason") for line in gone["attemptHistory"] if line["pod"] == "churn-0-abcde"] == ["PodGone"]
    assert min(durations(gone)) >= 0


def test_a_job_from_the_future_uses_no_negative_time() -> None:
    """The controllers' clock is ahead: the job is suspended before it began, and nothing is taken off its deadline."""
    churn = training_job(activeDeadlineSeconds=3600)
    running = plan(churn, seen(job(churn, active=1, startTime=at(NOW + AHEAD)), pod(churn)), NOW)
    held = after(training_job(activeDeadlineSeconds=3600, suspend=True), running)
    paused = plan(held, seen(job(held)), NOW)

    assert int(paused.status.get("activeSeconds", 0)) == 0
    (expected,) = plan(after(training_job(activeDeadlineSeconds=3600), paused), seen(job(held)), NOW).apply
    assert expected["spec"]["activeDeadlineSeconds"] == 3600


def test_attempts_stand_in_their_order_whatever_their_nodes_clocks_say() -> None:
    """The first ran where the clock is an hour ahead, the second where it is right."""
    churn = training_job(backoffLimit=1)
    reported = TerminationRecord(reason="CommandFailed", message="exited with code 3").to_json()
    first = pod(churn, "churn-0-first", "Failed", startTime=at(NOW + AHEAD), **ended_container(3, message=reported))
    second = pod(churn, "churn-0-second", startTime=at(NOW))
    second["metadata"]["creationTimestamp"] = at(NOW)
    got = plan(churn, seen(job(churn, failed=1, active=1), second, first), NOW)

    assert [line["pod"] for line in got.status["attemptHistory"]] == ["churn-0-first", "churn-0-second"]


def test_who_was_stopped_is_not_the_cause_whatever_its_clock_says() -> None:
    """Node 1 failed, its clock an hour ahead; node 0 was stopped for it, and its earlier time makes it no culprit."""
    churn = training_job(framework="torch", nodes=2)
    failed = []
    for node, finished, code, record in (
        (0, NOW, 143, TerminationRecord(reason="Stopped", message="SIGTERM came while the command ran")),
        (1, NOW + AHEAD, 7, TerminationRecord(reason="CommandFailed", message="command exited with code 7")),
    ):
        ended = ended_container(code, message=record.to_json())
        ended["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = at(finished)
        failed.append(pod(churn, f"churn-{node}-a", "Failed", node=node, **ended))
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=2), *failed), NOW)

    assert (got.status["failure"]["pod"], got.status["failure"]["exitCode"]) == ("churn-1-a", 7)


def chained(name: str, moment: datetime, step: int, before: CheckpointRecord | None = None) -> CheckpointRecord:
    """A complete checkpoint that was made after another one, by that clock."""
    uri = f"{PREFIX}checkpoints/{name}/"
    return CheckpointRecord(uri, DIGEST, at(moment), 100, step, 10.0 * step, before)


@pytest.mark.parametrize("missed", [0, 2])
def test_the_newest_checkpoint_is_the_last_of_the_chain_whatever_its_clock_says(missed: int) -> None:
    """The first attempt's node was an hour ahead: what the second one keeps is newer, though not all of it was told."""
    churn = training_job(checkpoint={}, backoffLimit=1)
    newest = chained("old", NOW + AHEAD, 10)
    record = TerminationRecord(reason="CommandFailed", message="x", checkpoint=newest).to_json()
    failed = pod(churn, "churn-0-aaaaa", "Failed", **ended_container(1, message=record))
    churn = after(churn, plan(churn, seen(job(churn, failed=1), failed), NOW))
    assert churn.status["lastCheckpoint"]["step"] == 10

    second = pod(churn, "churn-0-bbbbb")
    second["metadata"]["creationTimestamp"] = at(NOW)
    for step in range(missed + 1):
        newest = chained(f"new-{step}", NOW + timedelta(minutes=step), 20 + step, newest)
    live = seen(job(churn, failed=1, active=1), failed, second)
    running = plan(churn, replace(live, report=Progress(30, checkpoint=newest)), NOW)
    assert running.status["lastCheckpoint"]["step"] == newest.step

    record = TerminationRecord(reason="CommandFailed", message="x", checkpoint=newest).to_json()
    second["status"] |= {"phase": "Failed", **ended_container(1, message=record)}
    ended = plan(
        after(churn, running), seen(job(churn, "Failed", "BackoffLimitExceeded", failed=2), failed, second), NOW
    )
    assert ended.status["lastCheckpoint"]["step"] == newest.step


def test_a_pod_that_nobody_has_seen_yet_is_awaited_when_its_job_is_done():
    """A Job that tells of its end before any pod shows is not closed at once, or that attempt would be told nowhere."""
    churn = training_job(outputs={})
    done = job(churn, "Complete", succeeded=1)
    ended = done["status"]["conditions"][0]["lastTransitionTime"]
    got = plan(churn, seen(done), datetime.fromisoformat(ended) + timedelta(seconds=1))

    assert condition(got, "Running")["reason"] == "Finishing"
    assert got.after == timedelta(seconds=1)


# A trial that its sweep has ended


def test_a_trial_that_was_stopped_early_has_not_failed() -> None:
    """Nothing says that it failed: no condition, no event, no field of its status; and it is never judged anew."""
    task = TrialTask(0, ("loss",))
    churn = training_job({"state": "Running"})
    sweep = {"apiVersion": API_VERSION, "kind": "Sweep", "name": "hpo", "controller": True}
    churn.manifest["metadata"] |= {"annotations": {ANNOTATION_TRIAL: task.to_json()}, "ownerReferences": [sweep]}
    record = TerminationRecord(reason=STOPPED_EARLY, message="it is among the worst")
    failed = job(churn, "Failed", failed=1)
    last = pod(churn, phase="Failed", **ended_container(203, message=record.to_json()))
    stopped = plan(churn, seen(failed, last), NOW)

    assert (stopped.status["state"], "failure" in stopped.status) == ("Stopped", False)
    reported = condition(stopped, "Succeeded")
    assert (reported["status"], reported["reason"], reported["message"]) == (
        "False",
        "StoppedEarly",
        "it is among the worst",
    )
    assert {"Failed", "Stalled", "Reconciling"}.isdisjoint(c["type"] for c in stopped.status["conditions"])
    assert [(event.type, event.reason) for event in stopped.events] == [("Normal", "StoppedEarly")]
    again = plan(after(churn, stopped), seen(failed, last), NOW + timedelta(hours=1))
    assert (again.status["state"], again.events) == ("Stopped", ())
