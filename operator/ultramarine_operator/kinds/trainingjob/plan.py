"""Plan of a TrainingJob: what should exist, given the job and what was seen of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources.trainingjob_status import Goodput, OutputStatus, TrainingJobStatus
from ultramarine_contract import common as contract
from ultramarine_contract.meta import TRAINING_JOB, Manifest
from ultramarine_contract.sweep_records import STOPPED_EARLY
from ultramarine_contract.training_records import TerminationRecord

from ... import runs
from ...runs import Closing, Done, Failed, JobView, Lost, Outcome, PodView, ResultReader, Unanswered, queues, waiting
from ...shared import pods, states
from ...shared.conditions import find, parse_timestamp
from ...shared.plan import Plan, Platform, Seen
from ...shared.questions import Question
from ...training import datasets, environment
from ...training.pods import check_spelling
from ...training.provenance import use
from ...training.trials import task_of
from . import memory, status
from .manifests import Job, command, output_prefix, ranks_service, source_config_map, training_job
from .registration import registered, stored_data, to_register

YOUNG = timedelta(seconds=10)
CHANGING = ("suspend", "backoffLimit", "activeDeadlineSeconds")  # of a Job that exists
STARTING_REASON = "PodStarting"
MAX_UNREAD = 200  # characters
STARTING = states.pending(STARTING_REASON, "its pod is starting")
RUN_AGAIN = "run it again as a new TrainingJob"


def plan(job: Job, seen: Seen, now: datetime) -> Plan:
    """Return what should exist for `job`, given only what was seen."""
    planned = _plan(job, seen, now)
    return replace(planned, status=job.status, events=()) if _is_quiet(job, planned.status, now) else planned


def _is_quiet(job: Job, new: Manifest, now: datetime) -> bool:
    """True for a trial that begins, has just begun or is about to end: a sweep has many, and each status is a write."""
    condition, has_status = find(new, "Running"), job.status.get("conditions") or job.status.get("state")
    if condition is None or task_of(job.manifest) is None or find(job.status, "Reconciled") is not None:
        return False
    if condition.get("reason") == STARTING_REASON:
        return not has_status
    if new.get("state") == "Running" and "activeSince" not in new:
        return True  # its Job will be seen started in a moment, and one status says both
    was_running = job.status.get("state") == new.get("state") == "Running"
    is_young = now - parse_timestamp(str(new.get("startTime"))) < YOUNG
    return was_running and (condition.get("reason") == "Finishing" or is_young)


def _plan(job: Job, seen: Seen, now: datetime) -> Plan:
    child = JobView.find(job, job.name, seen)
    if states.is_over(job.status):
        # A job that was given up has a Job that goes on trying.
        return runs.after_end(job, TRAINING_JOB, now, [(child.ref, timedelta())] if child and child.goes_on else [])
    facts = status.gathered(job, child, seen, now)
    if child is None:
        return _without_job(job, seen, facts, now)
    if child.is_leaving:
        ending = states.pending("JobEnding", "its last Job is being deleted, and its pods end first")
        return runs.planned(job, _suspended(job) if job.spec.suspend else ending, facts, now)
    outcome = _reader(job, seen.platform).outcome(child, seen, now)
    if child.complete and outcome:
        return _complete(job, seen, child, outcome, facts, now)
    if job.spec.cancel:
        return _cancelled(job, child, facts, now)
    if (more := _more_memory(job, child, facts, now)) is not None:
        return more
    for pod in child.failures:
        if (verdict := pod.verdict).reason == pods.IMAGE_NOT_SUITABLE:
            return _give_up(job, verdict, child, facts, now)  # no other attempt finds another image
    match outcome:
        case Closing():
            status.end(facts, child, now)
            state = states.finishing("Finishing", "the job has failed; the last message of its pod is awaited")
            return runs.planned(job, state, facts, now, after=outcome.after)
        case Failed():
            return _failed(job, child, outcome, facts, now)
    if job.spec.suspend and queues.is_queued(job.manifest):
        # Its Job's own `suspend` belongs to the queue; without the Job the queue gives its place to another.
        return runs.planned(job, _suspended(job), facts, now, delete=(child.ref,))
    return _unfinished(job, seen, child, facts, now)


def _unfinished(job: Job, seen: Seen, child: JobView, facts: TrainingJobStatus, now: datetime) -> Plan:
    apply = _children(job, seen, child, facts)
    running = _running(job, child)
    awaited = [] if job.spec.suspend else _awaited(job, child, running)
    limit, hint = job.spec.pending_deadline_seconds, "correct spec.image, and run it again as a new TrainingJob"
    patience = waiting.Patience(awaited, limit, facts.image_error_since, now, hint)
    if (hopeless := patience.hopeless()) is not None:
        return _give_up(job, hopeless, child, facts, now)
    refused = waiting.refusal(child, seen)
    if not child.pods and not job.spec.suspend:
        return replace(_without_pods(job, child, refused, seen.platform, now), apply=apply)
    state = _state(job, child, running, refused)
    if state == STARTING:
        facts = status.kept(job, seen.platform)  # the name of a pod that does nothing yet is not worth a write
    if causes := child.causes:
        facts.failure = runs.failure(causes[-1].verdict)
    return runs.planned(job, state, facts, now, apply=apply, after=waiting.sooner(patience.next_look(), refused))


def _children(job: Job, seen: Seen, child: JobView | None, facts: TrainingJobStatus) -> tuple[Manifest, ...]:
    made = training_job(job, seen.platform, memory.limit_in_status(job, facts.memory), facts.active_seconds)
    changed = made if child is None else queues.with_changes(child.manifest, made, CHANGING)
    children = (source_config_map(job), ranks_service(job), changed)
    return tuple(manifest for manifest in children if manifest is not None)


def _without_job(job: Job, seen: Seen, facts: TrainingJobStatus, now: datetime) -> Plan:
    """Plan a job that is new, or whose Job was deleted: by the operator, or by a user after it had ended."""
    answer = _reader(job, seen.platform).stored(seen)
    if isinstance(answer, Done) or (isinstance(answer, Lost) and answer.is_stored):
        return _complete(job, seen, None, answer, facts, now)
    if isinstance(answer, Unanswered) and answer.was_asked:
        message = f"its Job is gone; the storage is asked for its result: {answer.message}"
        return runs.planned(job, states.pending("ReadingResult", message), facts, now, after=answer.after)
    if job.spec.cancel:
        return _cancelled(job, None, facts, now)
    if job.spec.suspend and queues.is_queued(job.manifest):
        return runs.planned(job, _suspended(job), facts, now)
    if not job.status.get("startTime"):
        check_spelling(job.spec, "spec")
    if datasets.lacks_datasets(job):
        return _without_datasets(job, seen, facts, now)
    if environment.lacks_environment(job):
        return _without_environment(job, seen, facts, now)
    state = _suspended(job) if job.spec.suspend else STARTING
    return runs.planned(job, state, facts, now, apply=_children(job, seen, None, facts))


def _without_datasets(job: Job, seen: Seen, facts: TrainingJobStatus, now: datetime) -> Plan:
    """Plan a job whose datasets are not resolved yet; the status has their versions before the Job is made."""
    command(job)  # refused now, and not after the wait
    if job.spec.suspend:
        return runs.planned(job, _suspended(job), facts, now)
    match datasets.find_datasets(job, seen, now):
        case environment.Wait(state, _, after):
            return runs.planned(job, state, facts, now, after=after)
        case pods.Verdict() as verdict:
            return _failed_for(job, None, verdict, facts, now)
        case pins:
            facts.datasets = pins
            names = ", ".join(pin.version for pin in pins.values())
            state = states.pending(datasets.NOT_READY, f"it reads {names}; its pod follows")
            return runs.planned(job, state, facts, now, after=runs.SOON)


def _without_environment(job: Job, seen: Seen, facts: TrainingJobStatus, now: datetime) -> Plan:
    """Plan a job whose environment is not known yet; the status has it before the Job is made."""
    command(job)  # refused now, and not after the build
    if job.spec.suspend:
        return runs.planned(job, _suspended(job), facts, now)
    match environment.find_environment(job, seen, now):
        case environment.Wait(state, create, after):
            return runs.planned(job, state, facts, now, create=create, after=after)
        case pods.Verdict() as verdict:
            return _failed_for(job, None, verdict, facts, now)
        case pin:
            use(facts, pin)
            state = states.pending(environment.NOT_READY, f"Environment {pin.environment} is ready; its pod follows")
            return runs.planned(job, state, facts, now, after=runs.SOON)


def questions(job: Job, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the result if no pod has it, and the API server why a pod is lacking."""
    if states.is_over(job.status):
        return ()
    child = JobView.find(job, job.name, seen)
    if child is None and not job.status.get("startTime"):  # new, so that no earlier Job can have ended
        return ()
    return _reader(job, seen.platform).questions(child)


def _reader(job: Job, platform: Platform) -> ResultReader[TerminationRecord]:
    uri = output_prefix(job, platform) + contract.RESULT_NAME
    return ResultReader(TerminationRecord.from_json, uri, container=pods.TRAINER)


def _running(job: Job, child: JobView) -> list[PodView]:
    """Return the pods that run, if they suffice to work: node 0 is always needed."""
    running = [pod for pod in child.pods if pod.is_running]
    nodes = {pod.index for pod in running}
    return running if 0 in nodes and len(nodes) >= _min_nodes(job) else []


def _min_nodes(job: Job) -> int:
    return job.spec.elastic.min_nodes if job.spec.elastic else job.spec.nodes


def _awaited(job: Job, child: JobView, running: list[PodView]) -> list[PodView]:
    """Return the pods without which the job cannot work; any other may wait."""
    if running or any(pod.has_succeeded and pod.index == 0 for pod in child.pods):
        return []
    others = {pod.index for pod in child.pods if pod.is_running} - {0}
    if job.spec.elastic and len(others) >= _min_nodes(job) - 1:
        return [pod for pod in child.pods if pod.index == 0]
    return list(child.pods)


def _state(job: Job, child: JobView, running: list[PodView], refused: str) -> states.State:
    """Return the state of a job that has pods, or is suspended."""
    if job.spec.suspend:
        return _suspended(job)
    if running:
        return status.running(job, running)
    if any(pod.has_succeeded for pod in child.pods):
        return states.finishing("Finishing", "the command has succeeded; its Job is being closed")
    if (trouble := runs.first_trouble(reversed(child.pods))) is not None:
        return states.pending(trouble.reason, trouble.message)
    failures = child.failures
    alive = {pod.index for pod in child.pods if not pod.has_failed}
    if failures and failures[-1].index not in alive:
        message = f"attempt {len(failures)} failed: {failures[-1].verdict.sentence}"
        if child.makes_no_more_pods:
            return states.finishing("Finishing", f"{message}; no other attempt follows, and its Job is being closed")
        follows = waiting.no_pod(child, refused).message if refused else "another attempt follows"
        return states.pending("Retrying", f"{message}; {follows}")
    if refused:
        return states.pending("NoPod", waiting.no_pod(child, refused).message)
    return STARTING


def _suspended(job: Job) -> states.State:
    """Return the state of a job that its author holds, or the sweep whose trial it is."""
    if task_of(job.manifest) is None:
        return states.suspended()
    return states.suspended("its sweep holds it: the trial is paused, or the sweep is suspended")


def _without_pods(job: Job, child: JobView, refused: str, platform: Platform, now: datetime) -> Plan:
    """Plan for a Job without pods: a started one gets a pod at once, or after a while if others have failed."""
    facts = status.kept(job, platform)
    if child.is_suspended and queues.is_queued(job.manifest):
        return runs.planned(job, queues.held(job.manifest, "it"), facts, now)
    if not child.started or child.active:
        return runs.planned(job, STARTING, facts, now)
    waited = now - _without_pods_since(job, parse_timestamp(child.started), now)
    if waited < waiting.MAX_NO_POD and not refused:
        return runs.planned(job, STARTING, facts, now, after=waiting.MAX_NO_POD - waited)
    missing = waiting.no_pod(child, refused)
    # Kubernetes waits before another attempt: that does not count as waiting for a pod.
    excused = waiting.MAX_BACK_OFF if child.failed else timedelta()
    left = waiting.left(job.spec.pending_deadline_seconds, waited - excused)
    if left == timedelta():
        hint = waiting.deadline_hint(job.spec.pending_deadline_seconds)
        return _give_up(job, pods.Verdict("NoPod", "", None, missing.message, "", hint), child, facts, now)
    after = waiting.sooner(left, refused)
    return runs.planned(job, states.pending(missing.reason, missing.message), facts, now, after=after)


def _without_pods_since(job: Job, started: datetime, now: datetime) -> datetime:
    """Return since when a Job has had no pod, as far as that was seen: its last one may have run until a moment ago."""
    condition = find(job.status, "Running")
    if condition is None:
        return started
    return now if condition["status"] == "True" else max(started, parse_timestamp(str(condition["lastTransitionTime"])))


def _more_memory(job: Job, child: JobView, facts: TrainingJobStatus, now: datetime) -> Plan | None:
    """Plan the step after a pod ran out of memory: the status names the new limit, then the Job is made again.

    Without onOutOfMemory the second attempt that ran out of the same memory is the last.
    """
    policy = job.spec.on_out_of_memory
    killed = [pod for pod in child.pods if pod.has_bad_end and pod.verdict.reason == pods.OUT_OF_MEMORY]
    if policy is None and (again := memory.killed_again(job, killed)) is not None and child.goes_on:
        return _give_up(job, again, child, facts, now)
    if policy is None or not killed:
        return None
    limit = str(child.manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
    raised = memory.limit_in_status(job, facts.memory)
    if raised and memory.in_bytes(raised) > memory.in_bytes(limit):
        state = states.pending("Retrying", f"{limit} of memory were not enough; the next attempt gets {raised}")
        return runs.planned(job, state, facts, now, delete=(child.ref,))
    # Not from the Job's own limit: an admission policy may have lowered that, and the new one would be no higher.
    asked = raised or str(job.spec.resources.limits["memory"])
    if more := memory.raised(asked, policy.factor, str(policy.max_memory)):
        state = states.pending("Retrying", f"{limit} of memory were not enough; the next attempt gets {more}")
        facts.memory = more
        return runs.planned(job, state, facts, now, after=runs.SOON)
    verdict = replace(killed[0].verdict, hint="raise onOutOfMemory.maxMemory, or make it use less")
    return _give_up(job, verdict, child, facts, now)


def _give_up(job: Job, verdict: pods.Verdict, child: JobView, facts: TrainingJobStatus, now: datetime) -> Plan:
    """End a job that Kubernetes would go on with. The status says so first; its Job is deleted after that."""
    status.end(facts, child, now)
    facts.failure = runs.failure(verdict)
    return runs.finish(job, states.failed(verdict.reason, verdict.sentence), facts, now, goes_on=True)


def _cancelled(job: Job, child: JobView | None, facts: TrainingJobStatus, now: datetime) -> Plan:
    """End a job for its author. The status says so first; its Job is deleted after that."""
    status.end(facts, child, now)
    return runs.finish(job, states.cancelled(), facts, now, goes_on=child is not None)


def _complete(
    job: Job,
    seen: Seen,
    child: JobView | None,
    outcome: Outcome[TerminationRecord],
    facts: TrainingJobStatus,
    now: datetime,
) -> Plan:
    """Plan for a job whose command has succeeded; `child` is None if its Job is gone."""
    match outcome:
        case Done(record):
            return _succeeded(job, seen, child, record, facts, now)
        case Unanswered(message):
            state = states.finishing("ReadingResult", f"the result is being read from the storage: {message}")
            return runs.planned(job, state, facts, now, after=outcome.after)
        case Lost(why):
            message = f"the command succeeded, but its pod is gone and its result cannot be read: {why}"
            return _failed_for(
                job, child, pods.Verdict("ResultLost", facts.pod, None, message, "", RUN_AGAIN), facts, now
            )
        case _:
            state = states.finishing("Finishing", "the command has succeeded; the last message of its pod is awaited")
            return runs.planned(job, state, facts, now, after=Closing.after)


def _succeeded(
    job: Job,
    seen: Seen,
    child: JobView | None,
    record: TerminationRecord,
    facts: TrainingJobStatus,
    now: datetime,
) -> Plan:
    if create := to_register(job, record, seen):
        names = ", ".join(made["metadata"]["name"] for made in create if made["kind"].endswith("Version"))
        state = states.finishing("Registering", f"registering {names}")
        return runs.planned(job, state, facts, now, create=create, after=runs.SOON)
    versions, data = registered(job, seen), stored_data(job, record, seen)
    status.add_record(facts, record, output_prefix(job, seen.platform))
    facts.outputs = {
        name: _output(output, versions.get(name), data.get(name)) for name, output in record.outputs.items()
    }
    facts.model_version = ", ".join(versions.values())
    facts.goodput = Goodput(productive_seconds=int(record.productive_seconds))
    if facts.progress and facts.progress.model_fields_set:  # an empty one says nothing
        facts.progress = facts.progress.model_copy(update={"percent": 100, "eta_seconds": 0})
        facts.percent = "100%"
    status.end(facts, child, now)
    uploaded = f"uploaded {', '.join(sorted(facts.outputs))}" if facts.outputs else "the command has succeeded"
    names = ", ".join((*versions.values(), *data.values()))
    message = f"registered {names}" if names else uploaded
    if record.unread and not facts.metrics:
        message = f"{message}; status.metrics is empty: {record.unread[:MAX_UNREAD]}"
    return runs.finish(job, states.succeeded(message), facts, now)


def _output(output: contract.OutputRecord, version: str | None, data: str | None) -> OutputStatus:
    """Return an uploaded output as the status has it; `version` is its ModelVersion, `data` its DatasetVersion."""
    optional: dict[str, Any] = {
        "format": output.format[:63],
        "untrusted": output.untrusted[: contract.MAX_UNTRUSTED_TEXT],  # a sweep may learn of a trial's output only here
        "model_version": version,
        "dataset_version": data,
    }
    fields = {name: value for name, value in optional.items() if value}
    # Unchecked: a command can write its record by itself, and the API server refuses what does not fit.
    return OutputStatus.model_construct(uri=output.uri, digest=output.digest, bytes=output.bytes, **fields)


def _failed(job: Job, child: JobView, failed: Failed, facts: TrainingJobStatus, now: datetime) -> Plan:
    # Of several nodes the first failure is the cause, and later ones are often only its echo.
    cause = failed.causes[-1 if job.spec.nodes == 1 else 0] if failed.causes else None
    verdict = cause.verdict if cause else None
    if failed.missed_deadline:
        message = f"not finished within spec.activeDeadlineSeconds={job.spec.active_deadline_seconds}"
        hint = "allow it more time, or give it more resources"
        verdict = pods.Verdict(failed.reason, facts.pod, None, message, verdict.tail if verdict else "", hint)
    if verdict is None:
        verdict = pods.Verdict(failed.reason, facts.pod, None, failed.message, "", "see the events of its Job")
    facts.pod = verdict.pod or facts.pod
    if verdict.reason == STOPPED_EARLY and task_of(job.manifest) is not None:
        status.end(facts, child, now)
        return runs.finish(job, states.stopped(verdict.message), facts, now)
    return _failed_for(job, child, verdict, facts, now)


def _failed_for(
    job: Job, child: JobView | None, verdict: pods.Verdict, facts: TrainingJobStatus, now: datetime
) -> Plan:
    status.end(facts, child, now)
    facts.failure = runs.failure(verdict)
    return runs.finish(job, states.failed(facts.failure.reason, verdict.sentence), facts, now)
