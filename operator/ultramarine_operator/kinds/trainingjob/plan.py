"""What should be, given a TrainingJob and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import JOB, TRAINING_JOB, Manifest, Ref, controller_uid
from ultramarine_contract.sweep_records import STOPPED_EARLY
from ultramarine_contract.training_records import TerminationRecord

from ...runs import queues
from ...shared import pods, states, waiting
from ...shared.conditions import find, parse_timestamp
from ...shared.plan import Plan, Platform, Seen
from ...shared.questions import Question, ReadText
from ..training import check_spelling
from ..trials import task_of
from . import history, memory, status
from .manifests import Job, output_prefix, ranks_service, source_config_map, training_job
from .registration import registered, to_register

STORAGE_RETRY = timedelta(seconds=15)
SOON = timedelta(milliseconds=200)
LAST_WORDS = timedelta(seconds=1)
LONGEST_LAG = timedelta(seconds=20)
YOUNG = timedelta(seconds=10)
CHANGING = ("suspend", "backoffLimit", "activeDeadlineSeconds")  # of a Job that is there
STARTING_REASON = "PodStarting"
MAX_UNREAD = 200  # characters
STARTING = states.pending(STARTING_REASON, "its pod is starting")


def plan(job: Job, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `job`, given only what was seen."""
    wanted = _wanted(job, seen, now)
    return replace(wanted, status=job.status, events=()) if _goes_without_saying(job, wanted.status, now) else wanted


def _goes_without_saying(job: Job, new: Manifest, now: datetime) -> bool:
    """Whether it is a trial that begins, has just begun or is about to end: of many, and each word costs a write."""
    condition, known = find(new, "Running"), job.status.get("conditions") or job.status.get("state")
    if condition is None or task_of(job.manifest) is None or find(job.status, "Reconciled") is not None:
        return False
    if condition.get("reason") == STARTING_REASON:
        return not known
    if new.get("state") == "Running" and "activeSince" not in new:
        return True  # its Job will be seen started in a moment, which is told together with this
    was_running = job.status.get("state") == new.get("state") == "Running"
    is_young = now - parse_timestamp(str(new.get("startTime"))) < YOUNG
    return was_running and (condition.get("reason") == "Finishing" or is_young)


def _wanted(job: Job, seen: Seen, now: datetime) -> Plan:
    child = _own_job(job, seen)
    if states.is_over(job.status):
        return _after_the_end(job, child, now)
    own_pods = _own_pods(child, seen)
    facts = status.gathered(job, child, own_pods, seen, now)
    if child is None:
        return _without_job(job, seen, facts, now)
    if child["metadata"].get("deletionTimestamp"):
        ending = states.pending("JobEnding", "its last Job is being deleted, and its pods end first")
        state = _suspended(job) if job.spec.suspend else ending
        return _plan(job, state, facts, now)
    if done := _job_condition(child, "Complete"):
        if not _succeeded_pods(own_pods) and _is_fresh(done, now):
            # Jobs and pods are watched apart: the pod's last words may be a moment behind.
            state = states.finishing("Finishing", "the command has succeeded; what its pod said last is awaited")
            return _plan(job, state, facts, now, after=LAST_WORDS)
        return _succeeded(job, seen, child, own_pods, facts, now)
    if job.spec.on_out_of_memory is not None:
        more = _more_memory(job, child, own_pods, facts, now)
        if more is not None:
            return more
    for pod in pods.failures(own_pods):
        if (verdict := pods.verdict(pod)).reason == pods.IMAGE_NOT_SUITABLE:
            return _give_up(job, verdict, child, facts, now)  # no other attempt finds another image
    if failure := _job_condition(child, "Failed"):
        return _failed(job, child, failure, own_pods, facts, now)
    if job.spec.suspend and queues.is_queued(job.manifest):
        # Its Job's own `suspend` is the queue's; without the Job the queue gives its place to another.
        return _plan(job, _suspended(job), facts, now, delete=(Ref.to(JOB, child),))
    apply = _children(job, seen, child, facts)
    running = _running(job, own_pods)
    awaited = [] if job.spec.suspend else _awaited(job, own_pods, running)
    again = "correct spec.image, and run it again as a new TrainingJob"
    patience = waiting.Patience(awaited, job.spec.pending_deadline_seconds, facts.get("imageErrorSince"), now, again)
    if (hopeless := patience.hopeless()) is not None:
        return _give_up(job, hopeless, child, facts, now)
    refused = waiting.refusal(child, own_pods, seen)
    if not own_pods and not job.spec.suspend:
        return replace(_without_pods(job, child, refused, seen.platform, now), apply=apply)
    state = _unfinished(job, child, own_pods, running, refused)
    if state == STARTING:
        facts = status.kept(job, seen.platform)  # the name of a pod that does nothing yet is not worth a write
    if causes := _causes(own_pods):
        facts = {**facts, "failure": pods.failure(pods.verdict(causes[-1]))}
    return _plan(job, state, facts, now, apply=apply, after=waiting.sooner(patience.next_look(), refused))


def _children(job: Job, seen: Seen, child: Manifest | None, facts: Manifest) -> tuple[Manifest, ...]:
    wanted = training_job(job, seen.platform, memory.known(job, facts), facts.get("activeSeconds") or 0)
    changed = wanted if child is None else queues.with_changes(child, wanted, CHANGING)
    made = (source_config_map(job), ranks_service(job), changed)
    return tuple(manifest for manifest in made if manifest is not None)


def _without_job(job: Job, seen: Seen, facts: Manifest, now: datetime) -> Plan:
    """It is new, or its Job was deleted: by ourselves, or by somebody who cleaned up a job that was done."""
    answer = seen.answers.get(_result(job, seen))
    if isinstance(answer, str):
        return _succeeded(job, seen, {}, [], facts, now)
    if isinstance(answer, StorageError) and answer.reason != "ObjectNotFound":
        message = f"its Job is gone; whether it was done is asked of the storage: {answer.message}"
        return _plan(job, states.pending("ReadingResult", message), facts, now, after=STORAGE_RETRY)
    if job.spec.suspend and queues.is_queued(job.manifest):
        return _plan(job, _suspended(job), facts, now)
    if not job.status.get("startTime"):
        check_spelling(job.spec, "spec")
    state = _suspended(job) if job.spec.suspend else STARTING
    return _plan(job, state, facts, now, apply=_children(job, seen, None, facts))


def questions(job: Job, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the result if no pod is left to tell it, and the API server why a pod is lacking."""
    if states.is_over(job.status):
        return ()
    child = _own_job(job, seen)
    if child is None:  # new, or its Job was deleted: training anew would be wrong if it was done
        return (_result(job, seen),) if job.status.get("startTime") else ()
    if waiting.lacks_pods(child):
        return (waiting.question(child),)
    if not _job_condition(child, "Complete") or _record(_own_pods(child, seen)) is not None:
        return ()
    return (_result(job, seen),)


def _result(job: Job, seen: Seen) -> ReadText:
    return ReadText(output_prefix(job, seen.platform) + contract.RESULT_NAME)


def _plan(
    job: Job,
    state: states.State,
    facts: Manifest,
    now: datetime,
    *,
    apply: tuple[Manifest, ...] = (),
    create: tuple[Manifest, ...] = (),
    delete: tuple[Ref, ...] = (),
    after: timedelta | None = None,
) -> Plan:
    new = states.build(job, state, facts, now)
    return Plan(new, apply=apply, create=create, delete=delete, events=states.diary(job, new), after=after)


def _own_job(job: Job, seen: Seen) -> Manifest | None:
    child = seen.one("Job", job.name)
    return child if child is not None and controller_uid(child) == job.uid else None


def _own_pods(child: Manifest | None, seen: Seen) -> list[Manifest]:
    if child is None:
        return []
    own = [pod for pod in seen.of("Pod") if controller_uid(pod) == child["metadata"]["uid"]]
    return sorted(own, key=history.place)


def _job_condition(child: Manifest, type: str) -> Mapping[str, str] | None:
    condition = find(child.get("status") or {}, type)
    return condition if condition is not None and condition.get("status") == "True" else None


def _running(job: Job, own_pods: list[Manifest]) -> list[Manifest]:
    """The pods that run, where these are enough to work: node 0 is always needed."""
    running = [pod for pod in own_pods if pods.is_running(pod)]
    nodes = {pods.node_index(pod) for pod in running}
    return running if 0 in nodes and len(nodes) >= _needed(job) else []


def _needed(job: Job) -> int:
    return job.spec.elastic.min_nodes if job.spec.elastic else job.spec.nodes


def _awaited(job: Job, own_pods: list[Manifest], running: list[Manifest]) -> list[Manifest]:
    """The pods without which the job cannot work: whoever else waits, may wait."""
    if running or _succeeded_pods(own_pods):
        return []
    others = {pods.node_index(pod) for pod in own_pods if pods.is_running(pod)} - {0}
    if job.spec.elastic and len(others) >= _needed(job) - 1:
        return [pod for pod in own_pods if pods.node_index(pod) == 0]
    return own_pods


def _unfinished(
    job: Job, child: Manifest, own_pods: list[Manifest], running: list[Manifest], refused: str
) -> states.State:
    if job.spec.suspend:
        return _suspended(job)
    if running:
        return status.running(job, running)
    if any((pod.get("status") or {}).get("phase") == "Succeeded" for pod in own_pods):
        return states.finishing("Finishing", "the command has succeeded; its Job is being closed")
    for pod in reversed(own_pods):
        if (trouble := pods.trouble(pod)) is not None:
            return states.pending(trouble.reason, trouble.message)
    failures = pods.failures(own_pods)
    alive = {pods.node_index(pod) for pod in own_pods if pod not in failures}
    if failures and pods.node_index(failures[-1]) not in alive:
        said = f"attempt {len(failures)} failed: {pods.verdict(failures[-1]).sentence}"
        if pods.is_last(child, failures):
            return states.finishing("Finishing", f"{said}; no other attempt follows, and its Job is being closed")
        follows = waiting.no_pod(child, refused).message if refused else "another attempt follows"
        return states.pending("Retrying", f"{said}; {follows}")
    if refused:
        return states.pending("NoPod", waiting.no_pod(child, refused).message)
    return STARTING


def _suspended(job: Job) -> states.State:
    """Held by its author, or by the sweep whose trial it is."""
    if task_of(job.manifest) is None:
        return states.suspended()
    return states.suspended("its sweep holds it: the trial is paused, or the sweep is suspended")


def _without_pods(job: Job, child: Manifest, refused: str, platform: Platform, now: datetime) -> Plan:
    """A Job that its controller has started gets a pod at once, or after a while where others have failed."""
    facts, counts = status.kept(job, platform), child.get("status") or {}
    if child["spec"].get("suspend") and queues.is_queued(job.manifest):
        return _plan(job, queues.held(job.manifest, "it"), facts, now)
    started = history.began(child)
    if not started or counts.get("active"):
        return _plan(job, STARTING, facts, now)
    waited = now - _since(job, parse_timestamp(started), now)
    if waited < waiting.NO_POD and not refused:
        return _plan(job, STARTING, facts, now, after=waiting.NO_POD - waited)
    missing = waiting.no_pod(child, refused)
    # To wait before another attempt is Kubernetes's way, and no sign that there will be none.
    excused = waiting.BACK_OFF if waiting.has_failed(child) else timedelta()
    left = waiting.left(job.spec.pending_deadline_seconds, waited - excused)
    if left == timedelta():
        hint = waiting.deadline_hint(job.spec.pending_deadline_seconds)
        return _give_up(job, pods.Verdict("NoPod", "", None, missing.message, "", hint), child, facts, now)
    after = waiting.sooner(left, refused)
    return _plan(job, states.pending(missing.reason, missing.message), facts, now, after=after)


def _since(job: Job, started: datetime, now: datetime) -> datetime:
    """Since when a Job has had no pod, as far as is known: its last one may have run until a moment ago."""
    told = find(job.status, "Running")
    if told is None:
        return started
    return now if told["status"] == "True" else max(started, parse_timestamp(str(told["lastTransitionTime"])))


def _more_memory(job: Job, child: Manifest, own_pods: list[Manifest], facts: Manifest, now: datetime) -> Plan | None:
    """What follows from a pod that was out of memory: the status says how much more, then the Job is made anew."""
    policy = job.spec.on_out_of_memory
    assert policy is not None
    container = child["spec"]["template"]["spec"]["containers"][0]
    limit = str(container["resources"]["limits"]["memory"])
    killed = [pod for pod in own_pods if pods.terminated(pod) and pods.verdict(pod).reason == pods.OUT_OF_MEMORY]
    if not killed:
        return None
    known = memory.known(job, facts)
    if known and memory.in_bytes(known) > memory.in_bytes(limit):
        state = states.pending("Retrying", f"{limit} of memory were not enough; the next attempt gets {known}")
        return _plan(job, state, facts, now, delete=(Ref.to(JOB, child),))
    # Not from what the Job has: an admission policy may have lowered that, and the answer would be no more than before.
    asked = known or str(job.spec.resources.limits["memory"])
    more = memory.raised(asked, policy.factor, str(policy.max_memory))
    if more:
        state = states.pending("Retrying", f"{limit} of memory were not enough; the next attempt gets {more}")
        return _plan(job, state, {**facts, "memory": more}, now, after=SOON)
    verdict = replace(pods.verdict(killed[0]), hint="raise onOutOfMemory.maxMemory, or make it use less")
    return _give_up(job, verdict, child, facts, now)


def _give_up(job: Job, verdict: pods.Verdict, child: Manifest, facts: Manifest, now: datetime) -> Plan:
    """End a job that Kubernetes would go on with. The status says so first; its Job is deleted after that."""
    facts = {**status.ended(facts, child, now), "failure": pods.failure(verdict)}
    return _plan(job, states.failed(verdict.reason, verdict.sentence), facts, now, after=SOON)


def _succeeded(job: Job, seen: Seen, child: Manifest, own_pods: list[Manifest], facts: Manifest, now: datetime) -> Plan:
    record = _record(own_pods)
    if record is None:
        answer = seen.answers.get(_result(job, seen))
        if isinstance(answer, StorageError) and answer.reason in ("ObjectNotFound", "TooLarge"):
            return _lost(job, child, facts, answer.message, now)
        if not isinstance(answer, str):
            said = answer.message if isinstance(answer, StorageError) else "not asked yet"
            state = states.finishing("ReadingResult", f"the result is being read from the storage: {said}")
            return _plan(job, state, facts, now, after=STORAGE_RETRY)
        try:
            record = TerminationRecord.from_json(answer)
        except ValueError as error:
            return _lost(job, child, facts, str(error), now)
    outputs: dict[str, Manifest] = {
        name: {"uri": out.uri, "digest": out.digest, "bytes": out.bytes} for name, out in record.outputs.items()
    }
    for name, out in record.outputs.items():
        if out.format:
            outputs[name]["format"] = out.format[:63]
        if out.untrusted:  # a sweep may learn of a trial's output only here
            outputs[name]["untrusted"] = out.untrusted[: contract.MAX_UNTRUSTED_TEXT]
    create = to_register(job, record, seen)
    if create:
        names = ", ".join(manifest["metadata"]["name"] for manifest in create if manifest["kind"] == "ModelVersion")
        state = states.finishing("Registering", f"registering {names}")
        return _plan(job, state, facts, now, create=create, after=SOON)
    versions = registered(job, seen)
    for name, version in versions.items():
        if name in outputs:  # the labels that say so are anybody's to write
            outputs[name]["modelVersion"] = version
    facts = status.with_record(facts, record, output_prefix(job, seen.platform))
    facts = {
        **facts,
        "outputs": outputs,
        "modelVersion": ", ".join(versions.values()),
        "goodput": {"productiveSeconds": int(record.productive_seconds)},
    }
    if facts.get("progress"):
        facts |= {"progress": {**facts["progress"], "percent": 100, "etaSeconds": 0}, "percent": "100%"}
    facts = status.ended(facts, child, now)
    uploaded = f"uploaded {', '.join(sorted(outputs))}" if outputs else "the command has succeeded"
    made = f"registered {', '.join(versions.values())}" if versions else uploaded
    if record.unread and not facts.get("metrics"):
        made = f"{made}; status.metrics is empty: {record.unread[:MAX_UNREAD]}"
    finished = _plan(job, states.succeeded(made), facts, now)
    return Plan(finished.status, events=finished.events, after=_time_to_live(job, finished.status, now))


def _lost(job: Job, child: Manifest, facts: Manifest, why: str, now: datetime) -> Plan:
    message = f"the command succeeded, but its pod is gone and its result cannot be read: {why}"
    lost = pods.Verdict("ResultLost", str(facts.get("pod", "")), None, message, "", "run it again as a new TrainingJob")
    facts = {**status.ended(facts, child, now), "failure": pods.failure(lost)}
    finished = _plan(job, states.failed("ResultLost", lost.sentence), facts, now)
    return replace(finished, after=_time_to_live(job, finished.status, now))


def _failed(
    job: Job,
    child: Manifest,
    condition: Mapping[str, str],
    own_pods: list[Manifest],
    facts: Manifest,
    now: datetime,
) -> Plan:
    facts = status.ended(facts, child, now)
    reason = str(condition.get("reason") or "JobFailed")
    causes = _causes(own_pods) or pods.failures(own_pods)
    if not causes and reason != "DeadlineExceeded" and _is_fresh(condition, now):
        # Jobs and pods are watched apart: the pod's last words may be a moment behind.
        state = states.finishing("Finishing", "the job has failed; what its pod said last is awaited")
        return _plan(job, state, facts, now, after=LAST_WORDS)
    # Of several nodes the first failure is the cause, and later ones are often only its echo.
    cause = causes[-1 if job.spec.nodes == 1 else 0] if causes else None
    verdict = pods.verdict(cause) if cause else None
    if reason == "DeadlineExceeded":
        seconds = job.spec.active_deadline_seconds
        verdict = pods.Verdict(
            reason,
            str(facts.get("pod", "")),
            None,
            f"not finished within spec.activeDeadlineSeconds={seconds}",
            verdict.tail if verdict else "",
            "allow it more time, or give it more resources",
        )
    if verdict is None:
        said = str(condition.get("message") or "the Job failed and its pods are gone")
        verdict = pods.Verdict(reason, str(facts.get("pod", "")), None, said, "", "see the events of its Job")
    facts = {**facts, "pod": verdict.pod or facts.get("pod")}
    if verdict.reason == STOPPED_EARLY and task_of(job.manifest) is not None:
        facts.pop("failure", None)
        state = states.stopped(verdict.message)
    else:
        facts["failure"] = pods.failure(verdict)
        state = states.failed(facts["failure"]["reason"], verdict.sentence)
    finished = _plan(job, state, facts, now)
    return Plan(finished.status, events=finished.events, after=_time_to_live(job, finished.status, now))


def _causes(own_pods: list[Manifest]) -> list[Manifest]:
    """The pods that failed by themselves, and were not stopped; the one that ended first comes first."""
    failures = [pod for pod in pods.failures(own_pods) if not pods.is_disrupted(pod)]
    failures.sort(key=lambda pod: pods.finished(pod) or str(pod["metadata"]["creationTimestamp"]))
    return [pod for pod in failures if pods.verdict(pod).reason != "Stopped"]


def _is_fresh(condition: Mapping[str, str], now: datetime) -> bool:
    told = condition.get("lastTransitionTime")
    return told is not None and abs(now - parse_timestamp(told)) < LONGEST_LAG


def _record(own_pods: list[Manifest]) -> TerminationRecord | None:
    """The result as the succeeded pod of node 0 told it, or nothing when no pod is left to tell."""
    records = history.last_records(_succeeded_pods(own_pods))
    return records[-1] if records else None


def _succeeded_pods(own_pods: list[Manifest]) -> list[Manifest]:
    succeeded = [pod for pod in own_pods if (pod.get("status") or {}).get("phase") == "Succeeded"]
    return [pod for pod in succeeded if pods.node_index(pod) == 0]


def _after_the_end(job: Job, child: Manifest | None, now: datetime) -> Plan:
    """A finished job is never judged anew, whatever becomes of its children; it only waits for its TTL."""
    # suspend and the like may still be edited: the status then speaks of the new generation.
    kept = [c for c in job.status.get("conditions") or [] if c.get("type") != "Reconciled"]
    new = {**job.status, "observedGeneration": job.generation, "conditions": kept}
    left = _time_to_live(job, new, now)
    if left is not None and left <= timedelta():
        return Plan(new, delete=(Ref.to(TRAINING_JOB, job.manifest),))
    # One that was given up has a Job that goes on trying.
    goes_on = child is not None and not (_job_condition(child, "Complete") or _job_condition(child, "Failed"))
    if child is not None and goes_on and not child["metadata"].get("deletionTimestamp"):
        return Plan(new, delete=(Ref.to(JOB, child),), after=left)
    return Plan(new, after=left)


def _time_to_live(job: Job, finished: Manifest, now: datetime) -> timedelta | None:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or "completionTime" not in finished:
        return None
    return max(timedelta(seconds=ttl) - (now - parse_timestamp(finished["completionTime"])), timedelta())
