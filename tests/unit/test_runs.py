"""The life of everything that runs to its end, told by a kind with one Job that runs/ has never heard of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW, PLATFORM, child, endpoint, pod, training_job
from pydantic import BaseModel
from ultramarine.resources.base import ConditionStatus, RunStatus
from ultramarine.resources.onlineendpoint import OnlineEndpointStatus
from ultramarine.resources.trainingjob_status import TrainingJobStatus
from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.meta import Manifest, Resource
from ultramarine_operator import runs
from ultramarine_operator.runs import Closing, Done, Failed, JobView, Lost, ResultReader, Unanswered
from ultramarine_operator.shared import states, statuses
from ultramarine_operator.shared.conditions import Condition, merge
from ultramarine_operator.shared.plan import Obj, Plan, Seen
from ultramarine_operator.shared.pods import Verdict

BUILD = Resource("ultramarine.example.com", "v1", "builds", "Build")
URI = "s3://lake/team-a/builds/base/result"
ENDED = "2030-01-01T11:59:00Z"


class BuildSpec(BaseModel):
    ttl_seconds_after_finished: int | None = None


class BuildStatus(RunStatus):
    image: str = ""


def image(text: str) -> str:
    """Read the result of a build. Raises ValueError for any other text."""
    if not text.startswith("sha256:"):
        raise ValueError("not an image")
    return text


READER = ResultReader(image, URI, container="build")


def plan(build: Obj[BuildSpec], seen: Seen, now: datetime) -> Plan:
    """Plan a build as the docstring of runs/ shows it."""
    job = JobView.find(build, build.name, seen)
    if states.is_over(build.status):
        return runs.after_end(build, BUILD, now, [(job.ref, timedelta())] if job and job.goes_on else [])
    status = runs.former(build, BuildStatus)
    if job is None:
        return runs.planned(build, states.pending("PodStarting", "its pod is starting"), status, now)
    match READER.outcome(job, seen, now):
        case Done(record):
            status.image = record
            return runs.finish(build, states.succeeded("built"), status, now, job=job)
        case Lost(message):
            return runs.finish(build, states.failed("ResultLost", message), status, now, job=job)
        case Failed() as failed:
            verdict = failed.causes[-1].verdict if failed.causes else None
            why = verdict.sentence if verdict else failed.message
            return runs.finish(build, states.failed(failed.reason, why), status, now, job=job)
        case Closing() | Unanswered() as early:
            return runs.planned(build, states.finishing("Finishing", "it ends"), status, now, after=early.after)
    return runs.planned(build, states.pending("PodStarting", "its pod runs"), status, now)


def build(status: Manifest | None = None, **spec: Any) -> Obj[BuildSpec]:
    meta = {"name": "base", "namespace": "team-a", "uid": "build-uid", "generation": 1, "resourceVersion": "1"}
    manifest = {"apiVersion": "v1", "kind": "Build", "metadata": meta, "spec": spec, "status": status or {}}
    return Obj(manifest, BuildSpec(**spec))


def its_job(condition: str = "", since: str = ENDED) -> Manifest:
    ended = {"type": condition, "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": since}
    return child("Job", "base", build(), {}, {"conditions": [ended] if condition else []})


def its_pod(phase: str, message: str, code: int = 0) -> Manifest:
    state = {"terminated": {"exitCode": code, "message": message}}
    made = pod(build(), "base-abcde", phase, containerStatuses=[{"name": "build", "state": state}])
    made["metadata"]["ownerReferences"] = [{"uid": its_job()["metadata"]["uid"], "controller": True}]
    return made


def seen(*children: Manifest, answer: object = None) -> Seen:
    return Seen(PLATFORM, children, answers={READER.question: answer} if answer is not None else {})


def test_the_result_is_in_the_termination_message() -> None:
    """A build ends with the message of its pod, by the clock of its Job, and waits for its TTL."""
    planned = plan(
        build(ttl_seconds_after_finished=90), seen(its_job("Complete"), its_pod("Succeeded", "sha256:1")), NOW
    )
    assert (planned.status["state"], planned.status["image"]) == ("Succeeded", "sha256:1")
    assert (planned.status["completionTime"], planned.after) == (ENDED, timedelta(seconds=30))


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("sha256:2", "Succeeded"),
        (StorageError("gone", "ObjectNotFound"), "Failed"),
        (StorageError("away", "Unavailable"), "Running"),
        ("no image", "Failed"),
        (None, "Running"),
    ],
)
def test_without_a_message_the_storage_decides(answer: object, state: str) -> None:
    """The storage is asked, again later if it cannot answer; a result that it does not have is lost."""
    here = seen(its_job("Complete"), its_pod("Succeeded", "a log line"), answer=answer)
    assert READER.questions(JobView.of(here.children[0], here)) == (READER.question,)
    planned = plan(build(), here, NOW)
    assert planned.status["state"] == state
    assert planned.after == (timedelta(seconds=15) if state == "Running" else None)


def test_any_error_is_an_answer() -> None:
    """Whoever takes an error for a question that was not asked would make the Job again."""
    answer = READER.stored(seen(answer=UltramarineError("failed to ask", "ObjectNotFound")))
    assert isinstance(answer, Unanswered)
    assert (answer.was_asked, answer.message) == (True, "failed to ask")


def test_a_message_that_was_not_seen_yet_is_awaited() -> None:
    """Jobs and pods are watched apart: a Job that has just ended waits for its pod's message, a second each time."""
    for condition in ("Complete", "Failed"):
        planned = plan(build(), seen(its_job(condition, since="2030-01-01T11:59:55Z")), NOW)
        assert (planned.status["state"], planned.after) == ("Running", timedelta(seconds=1))


def test_a_failure_names_the_pod_that_failed() -> None:
    planned = plan(build(), seen(its_job("Failed"), its_pod("Failed", "no such base image", 3)), NOW)
    assert planned.status["state"] == "Failed"
    assert "no such base image" in str(planned.status["conditions"])


def test_after_the_end_its_job_goes_and_then_the_build() -> None:
    """The status stays, a Job that goes on is deleted, and the build by its TTL."""
    over = plan(build(), seen(its_job("Complete"), its_pod("Succeeded", "sha256:1")), NOW).status
    ended = build(over, ttl_seconds_after_finished=90)
    planned = plan(ended, seen(its_job()), NOW)
    assert (planned.status["image"], [ref.name for ref in planned.delete]) == ("sha256:1", ["base"])
    assert planned.delete[0].resource.kind == "Job"
    later = plan(ended, seen(), NOW + timedelta(seconds=31))
    assert [ref.resource for ref in later.delete] == [BUILD]


def test_a_damaged_field_is_left_out() -> None:
    """A field that does not validate goes; the others stay, and the pass does not stop."""
    damaged = {"attempts": "many", "pod": "churn-0", "metrics": {"latest": "high"}, "usage": {"cpuSeconds": -1}}
    former = runs.former(training_job(status=damaged), TrainingJobStatus)
    assert former.model_dump(exclude_unset=True) == {"pod": "churn-0", "metrics": {}}


@pytest.mark.parametrize(
    ("damaged", "sound"),
    [
        (
            {"attemptHistory": [{"pod": "a"}, {"pod": 7}, {"pod": "c"}]},
            {"attempt_history": [{"pod": "a"}, {"pod": "c"}]},
        ),
        ({"attemptHistory": [{"pod": "a"}, {"node": 1}, 7]}, {"attempt_history": [{"pod": "a"}]}),
        ({"metrics": {"latest": {"loss": 0.5, "auc": "high"}}}, {"metrics": {"latest": {"loss": 0.5}}}),
        ({"inputs": {"a": {"bytes": 1}, "b": {"bytes": -1}}}, {"inputs": {"a": {"bytes": 1}}}),
        ({"progress": {"step": 3, "percent": 101}, "pod": "a"}, {"pod": "a"}),
        ({"attemptHistory": [{"pod": "a"}] * 21, "pod": "a"}, {"pod": "a"}),
    ],
)
def test_only_the_damaged_entry_is_left_out(damaged: Manifest, sound: Manifest) -> None:
    """Entries of lists and mappings go one by one; a part of another form goes whole."""
    former = runs.former(training_job(status=damaged), TrainingJobStatus)
    assert former.model_dump(exclude_unset=True) == sound


def test_a_damaged_entry_with_a_list_of_its_own_is_left_out() -> None:
    """An entry that needs its list goes when that list is damaged; its neighbours stay."""
    known = [{"version": "a-1", "inputs": 7}, {"version": "a-2", "inputs": []}]
    former = endpoint(status={"signatures": {"versions": ["a-2"], "known": known}}).manifest
    status = statuses.former(Obj(former, None), OnlineEndpointStatus).signatures
    assert status is not None
    assert [entry.version for entry in status.known] == ["a-2"]


def test_a_verdict_is_cut_to_its_limits() -> None:
    """Pods choose these texts: one that is too long would keep the status from being written."""
    long = "x" * 10_000
    failure = runs.failure(Verdict(long, long, 1, long, long, long))
    assert [len(text) for text in (failure.reason, failure.pod, failure.message, failure.tail, failure.hint)] == [
        256,
        253,
        4096,
        8192,
        1024,
    ]
    [merged] = merge([], [Condition("Failed", True, long, long)], 1, NOW)
    assert ConditionStatus.model_validate(merged).reason == long[:1024]


@pytest.mark.parametrize("waits", [False, True])
def test_a_missed_deadline_is_final_unless_the_kind_waits(waits: bool) -> None:
    """A kind whose pod ends by itself at the deadline waits for its message."""
    job = its_job("Failed", since="2030-01-01T11:59:55Z")
    job["status"]["conditions"][0]["reason"] = "DeadlineExceeded"
    outcome = runs.failed(JobView.of(job, seen(job)), NOW, waits_at_deadline=waits)
    assert isinstance(outcome, Closing if waits else Failed)


def test_another_objects_job_is_not_found() -> None:
    """A Job of that name which another object controls is not the build's."""
    foreign = its_job("Complete")
    foreign["metadata"]["ownerReferences"] = [{"uid": "another", "controller": True}]
    assert JobView.find(build(), "base", replace(seen(), children=(foreign,))) is None
