"""What should be, given a TrainingJob and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from ...shared import contract, pods
from ...shared.conditions import find, is_true, parse_timestamp
from ...shared.errors import StorageError
from ...shared.meta import TRAINING_JOB, Manifest, Ref, controller_uid
from ...shared.plan import Plan, Question, ReadText, Seen
from . import status
from .manifests import Job, output_prefix, source_config_map, training_job, with_changes
from .registration import registered, to_register

STORAGE_RETRY = timedelta(seconds=15)
SOON = timedelta(milliseconds=200)
LAST_WORDS = timedelta(seconds=1)
LONGEST_LAG = timedelta(seconds=20)
NO_POD = timedelta(seconds=30)
STARTING = status.pending("PodStarting", "its pod is starting")


def plan(job: Job, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `job`, given only what was seen."""
    if is_true(job.status, "Succeeded") or is_true(job.status, "Failed"):
        return _after_the_end(job, now)
    wanted = training_job(job, seen.platform)
    source = source_config_map(job)
    child = _own_job(job, seen)
    own_pods = _own_pods(child, seen)
    facts = status.gathered(job, child, own_pods)
    changed = wanted if child is None else with_changes(child, wanted)
    apply = tuple(manifest for manifest in (source, changed) if manifest is not None)
    if child is None:
        answer = seen.answers.get(_result(job, seen))
        if isinstance(answer, str):  # done, and its Job was cleaned away by somebody
            return _succeeded(job, seen, {}, [], facts, now)
        if isinstance(answer, StorageError) and answer.reason != "ObjectNotFound":
            message = f"its Job is gone; whether it was done is asked of the storage: {answer.message}"
            return _plan(job, status.pending("ReadingResult", message), facts, now, after=STORAGE_RETRY)
        return _plan(job, status.suspended() if job.spec.suspend else STARTING, facts, now, apply=apply)
    if _job_condition(child, "Complete"):
        return _succeeded(job, seen, child, own_pods, facts, now)
    if failure := _job_condition(child, "Failed"):
        return _failed(job, child, failure, own_pods, facts, now)
    if not own_pods and not job.spec.suspend:
        waiting = _without_pods(job, child, status.gathered(job, None, []), now)
        return replace(waiting, apply=apply)
    state = _unfinished(job, own_pods)
    if state == STARTING:
        facts = status.gathered(job, None, [])  # the name of a pod that does nothing yet is not worth a write
    return _plan(job, state, facts, now, apply=apply)


def questions(job: Job, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the result only where no pod is left to tell it."""
    if is_true(job.status, "Succeeded") or is_true(job.status, "Failed"):
        return ()
    child = _own_job(job, seen)
    if child is None:  # new, or its Job was deleted: training anew would be wrong if it was done
        return (_result(job, seen),) if job.status.get("startTime") else ()
    if not _job_condition(child, "Complete") or _record(_own_pods(child, seen)) is not None:
        return ()
    return (_result(job, seen),)


def _result(job: Job, seen: Seen) -> ReadText:
    return ReadText(output_prefix(job, seen.platform) + contract.RESULT_NAME)


def _plan(
    job: Job,
    state: status.State,
    facts: Manifest,
    now: datetime,
    *,
    apply: tuple[Manifest, ...] = (),
    create: tuple[Manifest, ...] = (),
    after: timedelta | None = None,
) -> Plan:
    new = status.build(job, state, facts, now)
    return Plan(new, apply=apply, create=create, events=status.diary(job, new), after=after)


def _own_job(job: Job, seen: Seen) -> Manifest | None:
    child = seen.one("Job", job.name)
    return child if child is not None and controller_uid(child) == job.uid else None


def _own_pods(child: Manifest | None, seen: Seen) -> list[Manifest]:
    if child is None:
        return []
    own = [pod for pod in seen.of("Pod") if controller_uid(pod) == child["metadata"]["uid"]]
    return sorted(own, key=lambda pod: (pods.created(pod), str(pod["metadata"]["name"])))


def _job_condition(child: Manifest, type: str) -> Mapping[str, str] | None:
    condition = find(child.get("status") or {}, type)
    return condition if condition is not None and condition.get("status") == "True" else None


def _unfinished(job: Job, own_pods: list[Manifest]) -> status.State:
    if job.spec.suspend:
        return status.suspended()
    running = [pod for pod in own_pods if pods.is_running(pod)]
    if running:
        return status.running(running[-1])
    if any((pod.get("status") or {}).get("phase") == "Succeeded" for pod in own_pods):
        return status.finishing("Finishing", "the command has succeeded; its Job is being closed")
    for pod in reversed(own_pods):
        if (trouble := pods.trouble(pod)) is not None:
            return status.pending(trouble.reason, trouble.message)
    failures = [pod for pod in own_pods if (pod.get("status") or {}).get("phase") == "Failed"]
    if failures:
        sentence = pods.verdict(failures[-1]).sentence
        if len(failures) == len(own_pods):
            return status.pending("Retrying", f"attempt {len(failures)} failed: {sentence}; another attempt follows")
    return STARTING


def _without_pods(job: Job, child: Manifest, facts: Manifest, now: datetime) -> Plan:
    """A Job that its controller has started gets a pod at once; only Events, which nobody here reads, say why not."""
    counts = child.get("status") or {}
    if not counts.get("startTime") or counts.get("active"):
        return _plan(job, STARTING, facts, now)
    waited = now - parse_timestamp(str(counts["startTime"]))
    if waited < NO_POD:
        return _plan(job, STARTING, facts, now, after=NO_POD - waited)
    remedy = (
        f"kubectl -n {job.namespace} describe job {job.name} says why (a quota, a limit range, an admission policy)"
    )
    return _plan(job, status.pending("NoPod", f"Kubernetes makes no pod for its Job; {remedy}"), facts, now)


def _succeeded(job: Job, seen: Seen, child: Manifest, own_pods: list[Manifest], facts: Manifest, now: datetime) -> Plan:
    facts = status.ended(facts, child, now)
    record = _record(own_pods)
    if record is None:
        answer = seen.answers.get(_result(job, seen))
        if isinstance(answer, StorageError) and answer.reason in ("ObjectNotFound", "TooLarge"):
            return _lost(job, facts, answer.message, now)
        if not isinstance(answer, str):
            said = answer.message if isinstance(answer, StorageError) else "not asked yet"
            state = status.finishing("ReadingResult", f"the result is being read from the storage: {said}")
            return _plan(job, state, facts, now, after=STORAGE_RETRY)
        try:
            record = contract.TerminationRecord.from_json(answer)
        except ValueError as error:
            return _lost(job, facts, str(error), now)
    outputs: dict[str, Manifest] = {
        name: {"uri": out.uri, "digest": out.digest, "bytes": out.bytes} for name, out in record.outputs.items()
    }
    create = to_register(job, record, seen)
    if create:
        names = ", ".join(manifest["metadata"]["name"] for manifest in create if manifest["kind"] == "ModelVersion")
        state = status.finishing("Registering", f"registering {names}")
        return _plan(job, state, facts, now, create=create, after=SOON)
    versions = registered(job, seen)
    for name, version in versions.items():
        if name in outputs:  # the labels that say so are anybody's to write
            outputs[name]["modelVersion"] = version
    metrics = dict(record.metrics)
    facts = {
        **status.with_source(facts, record.source),
        "outputs": outputs,
        "modelVersion": ", ".join(versions.values()),
        "metrics": {"latest": metrics} if metrics else None,
        "score": status.score(metrics),
    }
    made = f"registered {', '.join(versions.values())}" if versions else f"{len(outputs)} outputs uploaded"
    finished = _plan(job, status.succeeded(made), facts, now)
    return Plan(finished.status, events=finished.events, after=_time_to_live(job, finished.status, now))


def _lost(job: Job, facts: Manifest, why: str, now: datetime) -> Plan:
    message = f"the command succeeded, but its pod is gone and its result record cannot be had: {why}"
    lost = pods.Verdict("ResultLost", str(facts.get("pod", "")), None, message, "", "run it again as a new TrainingJob")
    return _plan(job, status.failed("ResultLost", lost.sentence), {**facts, "failure": status.failure(lost)}, now)


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
    failures = [pod for pod in own_pods if (pod.get("status") or {}).get("phase") == "Failed"]
    if not failures and reason != "DeadlineExceeded" and _is_fresh(condition, now):
        # Jobs and pods are watched apart: the pod's last words may be a moment behind.
        state = status.finishing("Finishing", "the job has failed; what its pod said last is awaited")
        return _plan(job, state, facts, now, after=LAST_WORDS)
    # The first failure is the cause; later ones are often only its echo. Evictions are nobody's fault here.
    causes = [pod for pod in failures if not pods.is_disrupted(pod)] or failures
    verdict = pods.verdict(causes[0]) if causes else None
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
    facts = {**facts, "failure": status.failure(verdict)}
    finished = _plan(job, status.failed(reason, verdict.sentence), facts, now)
    return Plan(finished.status, events=finished.events, after=_time_to_live(job, finished.status, now))


def _is_fresh(condition: Mapping[str, str], now: datetime) -> bool:
    told = condition.get("lastTransitionTime")
    return told is not None and abs(now - parse_timestamp(told)) < LONGEST_LAG


def _record(own_pods: list[Manifest]) -> contract.TerminationRecord | None:
    """The result as the succeeded pod told it, or nothing when no pod is left to tell."""
    for pod in reversed(own_pods):
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") == 0:
                try:
                    return contract.TerminationRecord.from_json(str(ended.get("message") or ""))
                except ValueError:
                    continue
    return None


def _after_the_end(job: Job, now: datetime) -> Plan:
    """A finished job is never judged anew, whatever becomes of its children; it only waits for its TTL."""
    # suspend and the like may still be edited: the status then speaks of the new generation.
    kept = [c for c in job.status.get("conditions") or [] if c.get("type") != "Reconciled"]
    new = {**job.status, "observedGeneration": job.generation, "conditions": kept}
    left = _time_to_live(job, new, now)
    if left is not None and left <= timedelta():
        return Plan(new, delete=(Ref.to(TRAINING_JOB, job.manifest),))
    return Plan(new, after=left)


def _time_to_live(job: Job, finished: Manifest, now: datetime) -> timedelta | None:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or "completionTime" not in finished:
        return None
    return max(parse_timestamp(finished["completionTime"]) + timedelta(seconds=ttl) - now, timedelta())
