"""Life of a TrainingJob between start and end: attempts, suspension, waiting, memory, several nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import (
    NOW,
    PLATFORM,
    condition,
    ended_container,
    job,
    kinds_of,
    pod,
    read,
    seen,
    succeeded_pod,
    training_job,
)
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord, TrainingTask
from ultramarine_operator.kinds.trainingjob import memory
from ultramarine_operator.kinds.trainingjob.manifests import training_job as make_job
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.shared.plan import Obj

QUEUE = "kueue.x-k8s.io/queue-name"
DIGEST = "sha256:" + "c" * 64
CHECKPOINT = "s3://lake/team-a/trainingjobs/churn/TrainingJob-churn-uid/checkpoints/cccc/"


def with_status(churn: Obj, status: Manifest) -> Obj:
    """The same job after that status was written."""
    return replace(churn, manifest={**churn.manifest, "status": status})


def queued(**spec) -> Obj:
    """A job in a queue of Kueue."""
    churn = training_job(**spec)
    return read({**churn.manifest, "metadata": {**churn.manifest["metadata"], "labels": {QUEUE: "team"}}})


def on_exit(action: str, code: int) -> Manifest:
    """A rule of a failure policy for one exit code."""
    return {"action": action, "onExitCodes": {"operator": "In", "values": [code]}}


def out_of_memory(churn: Obj, limit: str = "1Gi") -> Manifest:
    """A pod that was killed for its memory."""
    killed = pod(churn, phase="Failed", **ended_container(137, "OOMKilled"))
    killed["spec"]["containers"] = [{"name": "trainer", "resources": {"limits": {"memory": limit}}}]
    return killed


def checkpoint(step: int, time: str = "2030-01-01T11:40:00Z") -> CheckpointRecord:
    """A complete checkpoint."""
    return CheckpointRecord(CHECKPOINT, DIGEST, time, 100, step, 60.0)


def test_a_job_that_is_resumed_is_not_taken_for_one_without_pods():
    """Before 1.35 Kubernetes leaves a held Job its first startTime until it takes up the resumption."""
    churn = training_job({"activeSeconds": 60}, pendingDeadlineSeconds=60)
    held = job(churn, startTime="2030-01-01T10:00:00Z", conditions=[{"type": "Suspended", "status": "True"}])
    got = plan(churn, seen(held), NOW)

    assert (condition(got, "Running")["reason"], got.delete) == ("PodStarting", ())
    assert (got.status["activeSeconds"], got.status.get("activeSince")) == (60, None)


def test_a_cancelled_job_ends_for_good():
    """The status says so first; then its Job goes, and nothing is made again, whatever becomes of spec.suspend."""
    churn = training_job(cancel=True, suspend=True)
    live = job(churn, active=1, startTime="2030-01-01T11:59:00Z")
    got = plan(churn, seen(live, pod(churn)), NOW)

    assert (got.status["state"], got.apply, got.delete) == ("Cancelled", (), ())
    assert (condition(got, "Failed")["reason"], "failure" in got.status) == ("Cancelled", False)
    assert [(event.reason, event.type) for event in got.events if event.reason == "Cancelled"] == [
        ("Cancelled", "Normal")
    ]
    after = with_status(churn, got.status)
    deleted = plan(after, seen(live, pod(churn)), NOW)
    assert [ref.name for ref in deleted.delete] == ["churn"]
    gone = plan(after, seen(), NOW)
    assert (gone.status["state"], gone.apply, gone.create) == ("Cancelled", (), ())


def test_a_job_is_cancelled_before_it_has_a_pod():
    """It waits for an environment, or has just been made: no Job of it is ever made."""
    waiting = training_job(cancel=True, environment={"requirements": ["a"]})
    got = plan(waiting, seen(), NOW)

    assert (got.status["state"], got.apply, got.create) == ("Cancelled", (), ())


def test_a_result_that_is_stored_wins_over_a_cancellation():
    """A job whose command has succeeded before the operator read spec.cancel keeps its result."""
    churn = training_job(cancel=True)
    done = job(churn, succeeded=1, conditions=[{"type": "Complete", "status": "True"}])
    got = plan(churn, seen(done, succeeded_pod(churn)), NOW)

    assert got.status["state"] == "Succeeded"


def test_each_attempt_is_remembered_with_its_own_end():
    """The history has one line for each pod, with exit code and words, also when the pods are gone later."""
    churn = training_job(backoffLimit=2)
    reported = TerminationRecord(reason="CommandFailed", message="exited with code 3").to_json()
    broken = pod(churn, "churn-0-aaaaa", "Failed", **ended_container(3, message=reported))
    first = plan(churn, seen(job(churn, failed=1, active=1), broken, pod(churn, "churn-0-bbbbb")), NOW)
    lines = first.status["attemptHistory"]
    assert [(line["pod"], line.get("reason"), line.get("exitCode")) for line in lines] == [
        ("churn-0-aaaaa", "CommandFailed", 3),
        ("churn-0-bbbbb", None, None),
    ]

    later = plan(with_status(churn, first.status), seen(job(churn, failed=1, active=1)), NOW)
    assert later.status["attemptHistory"] == lines or condition(later, "Running")["reason"] == "PodStarting"
    gone = plan(with_status(churn, first.status), seen(job(churn, failed=1), broken), NOW)
    assert [line.get("reason") for line in gone.status["attemptHistory"]] == ["CommandFailed", "PodGone"]


def test_only_as_many_attempts_as_the_schema_holds_are_kept():
    """Of very many attempts the newest twenty stay."""
    churn = training_job(backoffLimit=100)
    failed = [pod(churn, f"churn-0-{i:05}", "Failed", **ended_container(1)) for i in range(30)]
    got = plan(churn, seen(job(churn, failed=30, active=1), *failed, pod(churn, "churn-0-zzzzz")), NOW)
    assert len(got.status["attemptHistory"]) == 20
    assert got.status["attempts"] == 31


def test_suspended_time_is_not_active_time():
    """activeDeadlineSeconds goes on where it stopped: the time before a suspension is taken off."""
    churn = training_job(activeDeadlineSeconds=3600)
    started = "2030-01-01T11:30:00Z"
    running = plan(churn, seen(job(churn, active=1, startTime=started), pod(churn)), NOW)
    assert running.status["activeSince"] == started

    held = with_status(training_job(activeDeadlineSeconds=3600, suspend=True), running.status)
    live = job(held)
    assert live["spec"]["suspend"] is True
    paused = plan(held, seen(live), NOW)
    assert "activeSince" not in paused.status
    assert paused.status["activeSeconds"] == 1800
    (expected,) = paused.apply
    assert (expected["spec"]["suspend"], expected["spec"]["activeDeadlineSeconds"]) == (True, 1800)

    again = with_status(churn, paused.status)
    (expected,) = plan(again, seen(expected), NOW + timedelta(hours=5)).apply
    assert (expected["spec"]["suspend"], expected["spec"]["activeDeadlineSeconds"]) == (False, 1800)


def test_a_deadline_edited_while_suspended_holds_at_once():
    """Whoever looks at the suspended Job sees the deadline that the spec says, as if the job had begun with it."""
    live = job(training_job(activeDeadlineSeconds=3600, suspend=True))
    edited = training_job(activeDeadlineSeconds=7200, suspend=True)
    (expected,) = plan(edited, seen(live), NOW).apply
    assert (expected["spec"]["suspend"], expected["spec"]["activeDeadlineSeconds"]) == (True, 7200)
    assert plan(edited, seen(expected), NOW).apply == ()


def test_an_image_that_cannot_be_had_ends_the_job_after_two_minutes():
    """Two minutes from the first error, however long the pod waited before; then its Job, too, is deleted."""
    churn = training_job()
    waiting = {"image": "no:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    pending = pod(churn, phase="Pending", containerStatuses=[waiting])
    live = job(churn, active=1)
    early = plan(churn, seen(live, pending), NOW)
    assert (early.status["state"], early.after) == ("Pending", timedelta(minutes=2))

    former = with_status(churn, early.status)
    assert plan(former, seen(live, pending), NOW + timedelta(minutes=1)).after == timedelta(minutes=1)
    late = plan(former, seen(live, pending), NOW + timedelta(minutes=2))
    assert late.status["failure"]["reason"] == "ImagePullBackOff"
    assert "cannot pull image no:1 for pod churn-0-abcde: not found" in late.status["failure"]["message"]
    assert late.delete == ()  # first the status, or a crash in between would start it anew

    (ref,) = plan(with_status(churn, late.status), seen(live, pending), NOW).delete
    assert (ref.resource.kind, ref.name, ref.uid) == ("Job", "churn", live["metadata"]["uid"])


def test_a_job_that_works_with_fewer_nodes_is_not_given_up():
    """An elastic job that has enough nodes bears with one that has no place, for ever."""
    reported = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    churn = training_job(framework="torch", nodes=2, elastic={"minNodes": 1}, pendingDeadlineSeconds=60)
    two = pod(churn, "churn-0-a"), pod(churn, "churn-1-a", "Pending", node=1, conditions=[reported])
    got = plan(churn, seen(job(churn, active=2), *two), NOW)
    assert (got.status["state"], got.after) == ("Running", None)


def test_an_elastic_job_that_has_succeeded_is_not_given_up_at_its_end():
    """Node 0's pod has ended well and its Job has not said so yet; nor does a gap of node 0 count against others."""
    reported = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    churn = training_job(framework="torch", nodes=2, elastic={"minNodes": 1}, pendingDeadlineSeconds=60)
    waiting = pod(churn, "churn-1-a", "Pending", node=1, conditions=[reported])
    ended = pod(churn, "churn-0-a", "Succeeded", **ended_container(0, "Completed"))
    got = plan(churn, seen(job(churn, active=1, succeeded=1), ended, waiting), NOW)
    assert condition(got, "Running")["reason"] == "Finishing"

    evicted = pod(churn, "churn-0-a", "Failed", reason="Evicted")
    assert plan(churn, seen(job(churn, active=1), evicted, waiting), NOW).status["state"] == "Pending"


def test_no_job_works_without_node_0():
    """The others only wait for it: such a job is not running, and its patience ends."""
    reported = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    churn = training_job(framework="torch", nodes=3, elastic={"minNodes": 1}, pendingDeadlineSeconds=60)
    running = [pod(churn, f"churn-{node}-a", node=node) for node in (1, 2)]
    first = pod(churn, "churn-0-a", "Pending", conditions=[reported])
    got = plan(churn, seen(job(churn, active=3), first, *running), NOW)
    assert (got.status["state"], got.status["failure"]["reason"]) == ("Failed", "Unschedulable")


def test_a_registry_that_is_away_gets_more_patience():
    """Ten minutes, or what pendingDeadlineSeconds says, where the answer is not that there is no such image."""
    state = {"waiting": {"reason": "ErrImagePull", "message": "dial tcp: i/o timeout"}}
    for spec, patience in (({}, timedelta(minutes=10)), ({"pendingDeadlineSeconds": 7200}, timedelta(hours=2))):
        churn = training_job(**spec)
        pending = pod(churn, phase="Pending", containerStatuses=[{"image": "no:1", "state": state}])
        pending["metadata"]["creationTimestamp"] = "2030-01-01T12:00:00Z"
        assert plan(churn, seen(job(churn, active=1), pending), NOW).after == patience


def test_what_a_pod_says_fits_the_status():
    """The command can write its pod's last words: numbers that the API server would refuse make them no record."""
    for wrong in ({"productive_seconds": -5.0}, {"step": 2**60}, {"step": -7}):
        with pytest.raises(ValueError, match="not a termination record"):
            TerminationRecord.from_json(TerminationRecord(reason="x", **wrong).to_json())
    churn = training_job()
    record = TerminationRecord(reason="CommandFailed", message="x", metrics={f"m{n}": 1.0 for n in range(50)})
    failed = pod(churn, phase="Failed", **ended_container(1, message=record.to_json()))
    assert len(plan(churn, seen(job(churn, failed=1), failed), NOW).status["metrics"]["latest"]) == 20


def test_a_pod_without_a_node_fails_with_the_schedulers_words():
    """pendingDeadlineSeconds ends the waiting; by default it waits for ever."""
    reported = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no gpu"}
    for seconds, state in ((None, "Pending"), (900, "Failed"), (3600, "Pending")):
        churn = training_job(**({"pendingDeadlineSeconds": seconds} if seconds else {}))
        got = plan(churn, seen(job(churn, active=1), pod(churn, phase="Pending", conditions=[reported])), NOW)
        assert got.status["state"] == state
    churn = training_job(pendingDeadlineSeconds=900)
    got = plan(churn, seen(job(churn, active=1), pod(churn, phase="Pending", conditions=[reported])), NOW)
    assert got.status["failure"]["reason"] == "Unschedulable"
    assert "0/1 nodes: no gpu" in got.status["failure"]["message"]
    assert "pendingDeadlineSeconds=900" in got.status["failure"]["hint"]

    # Its controller has not said yet when the Job began: it did when it was made.
    unseen = job(churn)
    unseen["metadata"]["creationTimestamp"] = "2029-12-31T23:00:00Z"
    got = plan(churn, seen(unseen, pod(churn, phase="Pending", conditions=[reported], startTime="")), NOW)
    assert (got.status["state"], got.status["startTime"]) == ("Failed", "2029-12-31T23:00:00Z")


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ({}, "Failed"),
        ({"podFailurePolicy": {"rules": [on_exit("Count", 137)]}}, "Pending"),
        ({"podFailurePolicy": {"rules": [on_exit("FailJob", 3)]}}, "Failed"),
    ],
)
def test_the_same_memory_is_tried_twice(spec, state):
    """A third attempt would fail like the first two, unless a rule of the author asks for it."""
    churn = training_job(backoffLimit=5, **spec)
    first, second = out_of_memory(churn), out_of_memory(churn)
    second["metadata"]["name"] = "churn-0-zzzzz"
    once = plan(churn, seen(job(churn, failed=1, startTime="2030-01-01T11:30:00Z"), first), NOW)
    assert (once.status["state"], condition(once, "Running")["reason"]) == ("Pending", "Retrying")

    got = plan(churn, seen(job(churn, failed=2, startTime="2030-01-01T11:30:00Z"), first, second), NOW)
    assert got.status["state"] == state
    if state == "Failed":
        failure = got.status["failure"]
        assert failure["reason"] == "OOMKilled"
        assert "two attempts ran out of memory" in failure["message"]
        assert "limit of 1Gi" in failure["message"]
        assert "onOutOfMemory" in failure["hint"]
        deleted = plan(with_status(churn, got.status), seen(job(churn, failed=2), first, second), NOW)
        assert [ref.name for ref in deleted.delete] == ["churn"]


def test_nodes_of_one_attempt_are_not_two_attempts():
    """Two nodes that ran out of memory together are tried once more."""
    churn = training_job(nodes=2, framework="none", backoffLimit=5)
    killed = [out_of_memory(churn) for _ in range(2)]
    for number, broken in enumerate(killed):
        broken["metadata"]["name"] = f"churn-{number}-aaaaa"
        broken["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(number)
    got = plan(churn, seen(job(churn, failed=2, startTime="2030-01-01T11:30:00Z"), *killed), NOW)

    assert got.status["state"] == "Pending"


def test_a_job_that_was_out_of_memory_gets_more():
    """The status says how much; the Job is deleted after that; the next one has it."""
    spec = {"resources": {"limits": {"memory": "1Gi"}}, "onOutOfMemory": {"maxMemory": "3Gi"}, "backoffLimit": 0}
    churn = training_job(**spec)
    failed = job(churn, "Failed", "BackoffLimitExceeded", failed=1)
    first = plan(churn, seen(failed, out_of_memory(churn)), NOW)
    assert (first.status["state"], first.status["memory"], first.delete) == ("Pending", "2048Mi", ())
    assert condition(first, "Running")["message"] == "1Gi of memory were not enough; the next attempt gets 2048Mi"

    after = with_status(churn, first.status)
    second = plan(after, seen(failed, out_of_memory(churn)), NOW)
    assert [ref.resource.kind for ref in second.delete] == ["Job"]
    assert second.apply == ()

    (made,) = plan(after, seen(), NOW).apply
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "2048Mi"


def test_no_more_memory_than_allowed():
    """When the most was not enough the job fails, and says what to raise."""
    churn = training_job(
        {"memory": "3Gi"},
        resources={"limits": {"memory": "1Gi"}},
        onOutOfMemory={"maxMemory": "3Gi"},
    )
    live = job(churn, failed=1, active=1)
    live["spec"] = make_job(churn, PLATFORM, "3Gi")["spec"]
    got = plan(churn, seen(live, out_of_memory(churn, "3Gi")), NOW)
    assert got.status["state"] == "Failed"
    assert (got.status["failure"]["reason"], "maxMemory" in got.status["failure"]["hint"]) == ("OOMKilled", True)


@pytest.mark.parametrize("reported", ["0", "much", "1e", "999Gi", "512Mi"])
@pytest.mark.parametrize("policy", [{}, {"onOutOfMemory": {"maxMemory": "3Gi"}}])
def test_a_limit_that_nobody_can_have_raised_is_not_believed(reported, policy):
    """Whoever may write the status can write anything there."""
    churn = training_job({"memory": reported}, resources={"limits": {"memory": "1Gi"}}, **policy)
    (made,) = plan(churn, seen(), NOW).apply
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"


@pytest.mark.parametrize(
    ("limit", "factor", "most", "more"),
    [
        ("1Gi", 2.0, "8Gi", "2048Mi"),
        ("1Gi", 1.1, "8Gi", "1127Mi"),
        ("6Gi", 2.0, "8Gi", "8Gi"),
        ("8Gi", 2.0, "8Gi", ""),
        ("9G", 2.0, "8Gi", ""),
        ("100M", 9.0, "1e9", "859Mi"),
        ("128974848", 2.0, "1Ti", "246Mi"),
    ],
)
def test_memory_is_multiplied_up_to_the_most(limit, factor, most, more):
    """Quantities of every notation, in whole Mi, up to the bound."""
    assert memory.raised(limit, factor, most) == more


def test_several_nodes_get_a_service_and_start_together():
    """A gang is an Indexed Job of as many pods, found by a headless Service; it ends when node 0 has ended well."""
    churn = training_job(framework="torch", nodes=3)
    got = plan(churn, seen(), NOW)
    assert kinds_of(got.apply) == ["Service/nodes-churn", "Job/churn"]
    service, made = got.apply
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (3, 3)
    assert made["spec"]["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert made["spec"]["template"]["spec"]["subdomain"] == "nodes-churn"


def test_a_gang_runs_when_all_of_it_runs():
    """Until then the job is Pending; an elastic one runs with fewer."""
    churn = training_job(framework="torch", nodes=2)
    live = job(churn, active=2)
    two = [pod(churn, "churn-0-a"), pod(churn, "churn-1-a", "Pending", node=1)]
    assert plan(churn, seen(live, *two), NOW).status["state"] == "Pending"
    two[1]["status"]["phase"] = "Running"
    got = plan(churn, seen(live, *two), NOW)
    assert got.status["state"] == "Running"
    assert condition(got, "Running")["message"].startswith("2 of 2 pods run; pod churn-0-a")

    elastic = training_job(framework="torch", nodes=2, elastic={"minNodes": 1})
    assert plan(elastic, seen(job(elastic, active=2), two[0]), NOW).status["state"] == "Running"


def test_the_first_failure_of_a_gang_is_the_cause():
    """Whichever node it was on; those that were stopped for it only follow."""
    churn = training_job(framework="torch", nodes=2)
    pods = []
    for node, finished, code in ((0, "2030-01-01T11:50:09Z", 143), (1, "2030-01-01T11:50:01Z", 7)):
        ended = ended_container(code)
        ended["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = finished
        pods.append(pod(churn, f"churn-{node}-a", "Failed", node=node, **ended))
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=2), *pods), NOW)
    assert (got.status["failure"]["pod"], got.status["failure"]["exitCode"]) == ("churn-1-a", 7)


def test_only_node_0_tells_the_result():
    """Another node's record has no outputs, whichever pod ended last."""
    churn = training_job(framework="torch", nodes=2, outputs={"report": {}})
    record = TerminationRecord(outputs={"report": contract.OutputRecord("s3://lake/r/", DIGEST, 1)})
    first = pod(churn, "churn-0-a", "Succeeded", **ended_container(0, "Completed", record.to_json()))
    other = TerminationRecord().to_json()
    second = pod(churn, "churn-1-a", "Succeeded", node=1, **ended_container(0, "Completed", other))
    got = plan(churn, seen(job(churn, "Complete", succeeded=1), first, second), NOW)
    assert got.status["outputs"]["report"]["uri"] == "s3://lake/r/"


def test_the_queue_decides_and_is_not_fought():
    """A job in a queue is made suspended; what Kueue makes of `suspend` is never changed, in either direction."""
    churn = queued()
    (made,) = plan(churn, seen(), NOW).apply
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"][QUEUE] == "team"

    live = {**job(churn), "spec": {**made["spec"]}}
    live["metadata"]["labels"] = made["metadata"]["labels"]
    held = plan(churn, seen(live), NOW)
    assert (held.apply, condition(held, "Running")["reason"]) == ((), "Queued")
    live["spec"]["suspend"] = False
    assert plan(churn, seen(live, pod(churn)), NOW).apply == ()


def test_suspending_a_queued_job_gives_its_place_back():
    """Its Job is deleted, and made anew when it goes on."""
    churn = queued(suspend=True)
    got = plan(churn, seen(job(churn, active=1), pod(churn)), NOW)
    assert [ref.resource.kind for ref in got.delete] == ["Job"]
    assert got.status["state"] == "Suspended"
    assert plan(churn, seen(), NOW).apply == ()


def test_progress_and_checkpoint_come_from_the_pod():
    """The pod's reports appear in the status: progress, metrics and the last checkpoint."""
    churn = training_job(checkpoint={})
    reported = Progress(50, 200, 25, 30, {"loss": 0.5}, checkpoint(40))
    got = plan(churn, replace(seen(job(churn, active=1), pod(churn)), report=reported), NOW)
    assert got.status["progress"] == {"step": 50, "totalSteps": 200, "percent": 25, "etaSeconds": 30}
    assert (got.status["percent"], got.status["score"]) == ("25%", "loss=0.5")
    assert got.status["lastCheckpoint"] == {
        "uri": CHECKPOINT,
        "time": "2030-01-01T11:40:00Z",
        "bytes": 100,
        "step": 40,
    }

    silent = plan(with_status(churn, got.status), seen(job(churn, active=1), pod(churn)), NOW)
    assert silent.status["progress"] == got.status["progress"]  # an operator that was started anew knows it still


def test_the_last_step_comes_with_the_last_words():
    """A command that is through before a post was due is at its last step all the same."""
    churn = training_job()
    record = TerminationRecord(step=60, total_steps=60).to_json()
    done = pod(churn, phase="Succeeded", **ended_container(0, "Completed", record))
    got = plan(churn, seen(job(churn, "Complete", succeeded=1), done), NOW)
    assert got.status["progress"] == {"step": 60, "totalSteps": 60, "percent": 100, "etaSeconds": 0}
    assert got.status["percent"] == "100%"


def test_a_command_without_steps_has_no_percentage_at_its_end():
    """A pod that reports metrics alone leaves the column Progress empty."""
    churn = training_job()
    done = pod(churn, phase="Succeeded", **ended_container(0, "Completed", TerminationRecord().to_json()))
    reported = replace(seen(job(churn, "Complete", succeeded=1), done), report=Progress(metrics={"loss": 0.5}))
    got = plan(churn, reported, NOW)
    assert (got.status["state"], got.status["score"]) == ("Succeeded", "loss=0.5")
    assert not {"progress", "percent"} & got.status.keys()


def test_an_older_checkpoint_never_replaces_a_newer_one():
    """The newest complete one wins, whoever tells of it last."""
    churn = training_job({"lastCheckpoint": {"uri": "s3://new/", "time": "2030-01-01T11:50:00Z"}}, checkpoint={})
    record = TerminationRecord(reason="CommandFailed", message="x", checkpoint=checkpoint(1)).to_json()
    got = plan(churn, seen(job(churn, failed=1), pod(churn, phase="Failed", **ended_container(1, message=record))), NOW)
    assert got.status["lastCheckpoint"]["uri"] == "s3://new/"


def test_goodput_is_what_the_time_was_worth():
    """At the end: the seconds of work that were kept, and the rest of the active time."""
    churn = training_job()
    record = TerminationRecord(productive_seconds=1200.0).to_json()
    done = job(churn, "Complete", succeeded=1, startTime="2030-01-01T11:30:00Z", completionTime="2030-01-01T12:00:00Z")
    got = plan(churn, seen(done, pod(churn, phase="Succeeded", **ended_container(0, "Completed", record))), NOW)
    assert got.status["goodput"] == {"productiveSeconds": 1200, "lostSeconds": 600}
    assert got.status["activeSeconds"] == 1800
    assert got.status["logs"]["uri"] == "s3://lake/team-a/trainingjobs/churn/TrainingJob-churn-uid/logs/"


def test_all_values_of_the_metrics_are_found_by_the_status():
    """The folder is named beside the last values once a pod says that it stored a file there, and stays named."""
    folder = "s3://lake/team-a/trainingjobs/churn/TrainingJob-churn-uid/metrics/"
    churn = training_job(backoffLimit=1)
    reported = TerminationRecord(metrics={"loss": 0.5}, reason="CommandFailed", series=folder + "p.parquet")
    broken = pod(churn, "churn-0-aaaaa", "Failed", **ended_container(3, message=reported.to_json()))
    first = plan(churn, seen(job(churn, failed=1, active=1), broken, pod(churn, "churn-0-bbbbb")), NOW)
    assert first.status["metrics"] == {"latest": {"loss": 0.5}, "uri": folder}

    record = TerminationRecord(metrics={"loss": 0.25}).to_json()
    ended = pod(churn, "churn-0-bbbbb", "Succeeded", **ended_container(0, "Completed", record))
    done = plan(with_status(churn, first.status), seen(job(churn, "Complete", succeeded=1), broken, ended), NOW)
    assert done.status["metrics"] == {"latest": {"loss": 0.25}, "uri": folder}

    stray = TerminationRecord(metrics={"loss": 0.5}, series="s3://elsewhere/metrics/p.parquet").to_json()
    ended = pod(churn, phase="Succeeded", **ended_container(0, "Completed", stray))
    done = plan(churn, seen(job(churn, "Complete", succeeded=1), ended), NOW)
    assert done.status["metrics"] == {"latest": {"loss": 0.5}}


def test_a_jobs_failure_policy_comes_after_ours():
    """Evictions never count, whatever the rules say; then the rules of the spec, in their order."""
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 2]}}
    (made,) = plan(training_job(podFailurePolicy={"rules": [rule]}), seen(), NOW).apply
    rules = made["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert rules[1]["onExitCodes"]["values"] == [contract.EXIT_DO_NOT_RETRY]
    assert rules[2] == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [2, 3]},
    }


def test_a_streamed_input_is_a_url():
    """It is not fetched before the command starts, but served to it."""
    inputs = {"big": {"uri": "s3://lake/big/", "mode": "Stream"}, "small": {"uri": "s3://lake/small.csv"}}
    (made,) = plan(training_job(command=["$(inputs.big)", "$(inputs.small)"], inputs=inputs), seen(), NOW).apply
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["http://127.0.0.1:29399/big/", "/mnt/inputs/small"]
    task = TrainingTask.from_json(container["env"][0]["value"])
    assert (task.inputs, task.streams) == ({"small": "s3://lake/small.csv"}, {"big": "s3://lake/big/"})


def test_the_pods_go_where_the_template_says():
    """nodeSelector, affinity, priority and identity are the pod's own; a token comes with an identity only."""
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}
    template = {"nodeSelector": {"gpu": "a100"}, "priorityClassName": "high", "serviceAccountName": "reader"}
    template |= {"affinity": affinity}
    (made,) = plan(training_job(podTemplate=template), seen(), NOW).apply
    spec = made["spec"]["template"]["spec"]
    assert {name: spec[name] for name in template} == template
    assert spec["automountServiceAccountToken"] is True
    (plain,) = plan(training_job(), seen(), NOW).apply
    assert plain["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
