"""Plan of an AutoMLJob: three children one after another, and what their statuses say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ultramarine.resources.automl import AutoMLJobStatus
from ultramarine_contract import automl
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import AUTOML_JOB, SWEEP, TRAINING_JOB, Manifest, Ref, Resource, controller_uid

from ... import runs
from ...shared import states
from ...shared.conditions import Condition, find, health, parse_timestamp, timestamp
from ...shared.plan import Plan, Platform, Seen
from ...shared.questions import Question, ReadText
from ...training.composing import edited
from . import results
from .children import Job, finish_job, grace, prepare_job, search_sweep, seconds_left, task_of

RETRY = timedelta(seconds=5)  # after the storage did not answer


@dataclass(frozen=True)
class Stage:
    """Part of the work that one child does; `take` writes what it has come to into the status."""

    suffix: str
    phase: str
    resource: Resource
    make: Callable[[Job, AutoMLJobStatus, Platform, datetime], Manifest]
    reason: str  # of a failure


PREPARE = Stage("prepare", "Preparing", TRAINING_JOB, prepare_job, "PreparationFailed")
SEARCH = Stage("search", "Searching", SWEEP, search_sweep, "SearchFailed")
FINISH = Stage("finish", "Finishing", TRAINING_JOB, finish_job, "FinishFailed")
STAGES = (PREPARE, SEARCH, FINISH)


def questions(job: Job, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the summary once the last child has succeeded."""
    if states.is_over(job.status) or not (job.status.get("candidates") and job.status.get("prepared")):
        return ()
    question = _summary(_child(job, FINISH, seen))
    return (question,) if question is not None else ()


def plan(job: Job, seen: Seen, now: datetime) -> Plan:
    """Return the child that works now, and the progress of the job. Raises InvalidSpec."""
    if states.is_over(job.status):
        return runs.after_end(job, AUTOML_JOB, now)
    task = task_of(job)
    status = runs.former(job, AutoMLJobStatus, without={"phase"})
    status.metric = automl.metric_of(task)
    stage, child = _current(job, status, seen)
    status.phase, status.jobs = stage.phase, _names(job, stage)
    _keep_time(job, status, seen, now)
    word = _word(child)
    if child is not None and word == "Succeeded":
        return _done(job, child, status, seen, now)
    if job.spec.cancel:
        return _stopped(job, stage, child, states.cancelled(), status, now)
    if child is not None and word in ("Failed", "Invalid", "Stopped", "Cancelled"):
        status.failure = results.failure(stage.reason, child)
        return runs.finish(job, states.failed(stage.reason, status.failure.message), status, now)
    left = seconds_left(status, now) + grace(job) if status.deadline else None
    if left is not None and left <= 0:
        message = f"no model within limits.timeoutSeconds={job.spec.limits.timeout_seconds}; raise it, or do less"
        status.failure = results.overrun(message)
        return _stopped(job, stage, child, states.failed("DeadlineExceeded", message), status, now)
    if child is None:
        return _begun(job, stage, status, seen, now)
    after = None if left is None else timedelta(seconds=left)
    if job.spec.suspend:
        return _held(job, stage, child, status, now)
    apply = (edited(job, child, suspend=False),) if child["spec"].get("suspend") else ()
    return runs.planned(job, _state(stage, child, status), status, now, apply=apply, after=after)


def _current(job: Job, status: AutoMLJobStatus, seen: Seen) -> tuple[Stage, Manifest | None]:
    """Return the stage that the job is at, with its child; stages that have ended are in the status."""
    child = _child(job, PREPARE, seen)
    if status.prepared is None:
        results.take_dataset(child, status)
        if child is None or _word(child) != "Succeeded":
            return PREPARE, child
        status.prepared = results.output(child, "prepared")
    child = _child(job, SEARCH, seen)
    if status.candidates is None:
        if child is None:
            return SEARCH, None
        results.take_search(child, status)
        if _word(child) != "Succeeded":
            return SEARCH, child
        status.candidates = results.candidates(child, seen.platform)
    return FINISH, _child(job, FINISH, seen)


def _child(job: Job, stage: Stage, seen: Seen) -> Manifest | None:
    """Return the child of a stage; None if it does not exist."""
    child = seen.look(stage.resource.kind, f"{job.name}-{stage.suffix}")
    return child if child is not None and controller_uid(child) == job.uid else None


def _names(job: Job, last: Stage) -> list[str]:
    """Return the children up to a stage, as KIND/NAME."""
    return [f"{stage.resource.kind}/{job.name}-{stage.suffix}" for stage in STAGES[: STAGES.index(last) + 1]]


def _word(child: Manifest | None) -> str:
    return str(((child or {}).get("status") or {}).get("state") or "")


def _keep_time(job: Job, status: AutoMLJobStatus, seen: Seen, now: datetime) -> None:
    """Write the deadline, which counts from the first pod, and not while the job is suspended."""
    first = (_child(job, PREPARE, seen) or {}).get("status") or {}
    if status.start_time is None and (started := first.get("startTime")):
        status.start_time = str(started)
        limit = timedelta(seconds=job.spec.limits.timeout_seconds)
        status.deadline = timestamp(max(parse_timestamp(str(started)), now - limit) + limit)
    if job.spec.suspend and not job.spec.cancel and status.deadline:
        status.seconds_left, status.deadline = max(int(seconds_left(status, now)), 0), None
    elif not job.spec.suspend and status.seconds_left is not None:
        status.deadline, status.seconds_left = timestamp(now + timedelta(seconds=status.seconds_left)), None


def _begun(job: Job, stage: Stage, status: AutoMLJobStatus, seen: Seen, now: datetime) -> Plan:
    """Begin a stage; of a suspended job only the first one, whose child is suspended too."""
    if job.spec.suspend and stage is not PREPARE:
        return runs.planned(job, states.suspended(), status, now)
    child = stage.make(job, status, seen.platform, now)
    if job.spec.suspend:
        child["spec"]["suspend"] = True
        return runs.planned(job, states.suspended(), status, now, apply=(child,))
    return runs.planned(job, _state(stage, None, status), status, now, apply=(child,))


def _held(job: Job, stage: Stage, child: Manifest, status: AutoMLJobStatus, now: datetime) -> Plan:
    """Suspend the child. The last job is deleted: its command has the deadline, which will be another one."""
    if stage is FINISH:
        delete = (Ref.to(stage.resource, child),)
        return runs.planned(job, states.suspended(), status, now, delete=delete)
    apply = () if child["spec"].get("suspend") else (edited(job, child, suspend=True),)
    return runs.planned(job, states.suspended(), status, now, apply=apply)


def _stopped(
    job: Job, stage: Stage, child: Manifest | None, state: states.State, status: AutoMLJobStatus, now: datetime
) -> Plan:
    """End the job, and its child for good."""
    apply = () if child is None or child["spec"].get("cancel") else (edited(job, child, cancel=True),)
    return replace(runs.finish(job, state, status, now), apply=apply)


def _state(stage: Stage, child: Manifest | None, status: AutoMLJobStatus) -> states.State:
    """Return the state of a job that goes on."""
    message = results.sentence(stage.phase, status)
    running = find((child or {}).get("status") or {}, "Running") or {}
    if running.get("status") != "True" and running.get("message"):
        message = f"{message}; {(child or {})['metadata']['name']}: {running['message']}"
    if not status.start_time:
        return states.pending(stage.phase, message)
    return "Running", (Condition("Running", True, stage.phase, message), *health(done=False, progress=message))


def _done(job: Job, child: Manifest, status: AutoMLJobStatus, seen: Seen, now: datetime) -> Plan:
    """End the job with the results of its last child."""
    question = _summary(child)
    answer = seen.answers.get(question) if question is not None else "{}"
    if answer is None or (isinstance(answer, UltramarineError) and getattr(answer, "transient", True)):
        why = answer.message if isinstance(answer, UltramarineError) else "it is being read"
        after = RETRY if answer is not None else timedelta()
        state = states.finishing("ReadingResult", f"the summary of {child['metadata']['name']}: {why}")
        return runs.planned(job, state, status, now, after=after)
    try:
        if isinstance(answer, UltramarineError):
            raise ValueError(answer.message)
        results.take_summary(automl.AutoMLSummary.from_json(answer), child, status)
    except ValueError as error:
        message = f"the summary of {child['metadata']['name']} cannot be read: {error}"
        status.failure = results.lost(message)
        return runs.finish(job, states.failed("ResultLost", message), status, now)
    return runs.finish(job, states.succeeded(results.sentence("", status)), status, now)


def _summary(child: Manifest | None) -> ReadText | None:
    """Return the question for the summary; None before the last child has succeeded."""
    report = results.output(child, "report") if child is not None and _word(child) == "Succeeded" else None
    return ReadText(f"{report.uri}{automl.SUMMARY_NAME}") if report is not None else None
