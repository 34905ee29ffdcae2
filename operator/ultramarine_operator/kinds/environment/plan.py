"""Plan of an Environment: its builds, its use, and its end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ultramarine.resources.base import DIGEST_PATTERN
from ultramarine.resources.environment import EnvironmentStatus, Lock
from ultramarine_contract.common import EXIT_TRY_AGAIN, RESULT_NAME
from ultramarine_contract.environment_records import BuildRecord
from ultramarine_contract.meta import CONFIG_MAP, ENVIRONMENT, Manifest, Ref, controller_uid

from ...runs import Closing, Done, Failed, JobView, Lost, PodView, ResultReader, Unanswered, first_trouble, waiting
from ...shared import statuses
from ...shared.conditions import Condition, find, health, is_true, merge, parse_timestamp, timestamp
from ...shared.environments import LABEL_SHARED, remedy_of_failure, topic_of, topics_of
from ...shared.plan import Event, Plan, Platform, Seen
from ...shared.pods import statuses as container_statuses
from ...shared.questions import Question
from ...shared.states import is_over
from ...shared.statuses import cut
from .manifests import (
    BUILD,
    DEADLINE_SECONDS,
    SOURCE,
    STORE,
    TOOLS,
    Environment,
    authorities,
    authorities_name,
    build_job,
    build_job_name,
    delete_job,
    delete_job_name,
    prefix,
)

BUILT, BUILDING, UNUSED, DELETING, DELETION_FAILED = "Built", "Building", "Unused", "Deleting", "DeletionFailed"
TIMEOUT, RESULT_LOST, BUILD_FAILED = "BuildTimeout", "ResultLost", "BuildFailed"
REQUIREMENTS_MISSING = "RequirementsMissing"  # the reason that the builder reports
DECIDED = ("conditions", "observedGeneration", "state")  # again in each pass
FIRST_RETRY, MAX_RETRY = timedelta(minutes=1), timedelta(hours=1)  # pause after a transient failure
DELETE_RETRY = timedelta(minutes=5)
LOOK_AGAIN = timedelta(minutes=5)  # at the objects that use it: no edit reports the end of a run
FAILED_KEPT = timedelta(hours=1)  # a shared one that is unused: applied again, the same requirements may be built
NODE_FAILURES = ("StartError", "ContainerCannotRun", "PodFailed")  # the next attempt may not meet them
MAX_WORDS = 1600  # characters of a resolver's message, so that the remedy has room
REASON = re.compile("[A-Z][A-Za-z]{2,63}")
STEPS = {
    SOURCE: "the source is being fetched",
    TOOLS: "the builder is being copied",
    BUILD: "the packages are being resolved and installed",
    STORE: "the archive is being stored",
}


@dataclass(frozen=True)
class Progress:
    """Progress of the build: state, reason and message of the condition Ready, and changes of objects.

    `state` is Building, Ready, Failed or Deleting.
    """

    state: str
    reason: str
    message: str
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    after: timedelta | None = None


def questions(environment: Environment, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the result if no pod has it, and the API server why the Job has no pod."""
    status = statuses.former(environment, EnvironmentStatus, DECIDED)
    if not status.attempts or _is_built(status) or is_true(environment.status, "Failed"):
        return ()
    job = JobView.find(environment, build_job_name(environment, status.attempts), seen)
    return _reader(environment, seen.platform).questions(job)


def plan(environment: Environment, seen: Seen, now: datetime) -> Plan:
    """Build the environment once; delete it with its archive after a time without use."""
    status = statuses.former(environment, EnvironmentStatus, DECIDED)
    is_used = any(
        _uses(user, environment.name)
        for kind in ("TrainingJob", "Sweep", "OnlineEndpoint")
        for user in seen.others(kind)
    )
    status.unused_since = None if is_used else status.unused_since or timestamp(now)
    if (ending := _ending(environment, status, seen, now)) is not None:
        return ending
    progress = _progress(environment, status, seen, now)
    if progress.state == BUILDING:
        status.unused_since = None  # the time without use begins after the build
    else:
        progress = replace(progress, delete=(*progress.delete, *_superfluous(environment, seen)))
    left = _time_to_live(environment, status, progress, seen.platform, now)
    if left == timedelta():
        if not _is_built(status):  # nothing is stored
            return Plan(dict(environment.status), delete=(Ref.to(ENVIRONMENT, environment.manifest),))
        # Objects that come now see that it is going, before anything is deleted.
        going = Progress("Deleting", UNUSED, f"it is unused since {status.unused_since} and will be deleted")
        return _planned(environment, status, replace(going, after=timedelta()), now)
    looks = [progress.after, left, LOOK_AGAIN if is_used and _expires(environment) else None]
    after = min((look for look in looks if look is not None), default=None)
    return _planned(environment, status, replace(progress, after=after), now)


def _uses(user: Manifest, name: str) -> bool:
    """True if an object refers to an Environment and may still make pods."""
    if topic_of(name) not in topics_of(user):
        return False
    return user["kind"] == "OnlineEndpoint" or not is_over(user.get("status") or {})


# ---- Build


def _is_built(status: EnvironmentStatus) -> bool:
    return bool(status.uri and status.digest)


def _progress(environment: Environment, status: EnvironmentStatus, seen: Seen, now: datetime) -> Progress:
    """Return the progress of the build, and write its result into `status`."""
    if _is_built(status):
        ready = find(environment.status, "Ready") or {}
        return _built(status, str(ready.get("message")) if ready.get("reason") == BUILT else "")
    failed = find(environment.status, "Failed") or {}
    if failed.get("status") == "True":
        return Progress("Failed", str(failed.get("reason")), str(failed.get("message")))
    is_first = not status.attempts
    status.attempts = max(status.attempts, 1)
    job = JobView.find(environment, build_job_name(environment, status.attempts), seen)
    reader = _reader(environment, seen.platform)
    if job is None:
        # The Job of an earlier pass may be gone; what it has stored counts.
        stored = Lost("") if is_first else reader.stored(seen)
        if isinstance(stored, Unanswered):
            message = f"the storage is asked for the result: {stored.message}"
            return Progress(BUILDING, BUILDING, message, after=stored.after)
        if isinstance(stored, Done):
            return _result(stored.record, environment, status, seen.platform)
        new, pem = build_job(environment, status.attempts, seen.platform), authorities(environment, seen.platform)
        message = f"Job {new['metadata']['name']} is being created"
        return Progress(BUILDING, BUILDING, message, apply=(pem, new) if pem is not None else (new,))
    match reader.outcome(job, seen, now):
        case Done(record):
            return _result(record, environment, status, seen.platform)
        case Failed() as failure:
            return _failed(failure, environment, status, job, now)
        case Lost(message):
            return _retried(RESULT_LOST, f"the build has ended without a result: {message}", status, job, now)
        case Closing() | Unanswered() as early:
            return Progress(BUILDING, BUILDING, "the build has ended; its result is awaited", after=early.after)
    return _at_work(environment.name, job, seen, now)


def _at_work(name: str, job: JobView, seen: Seen, now: datetime) -> Progress:
    if (trouble := first_trouble(reversed(job.pods))) is not None:
        return Progress(BUILDING, trouble.reason, trouble.message)
    if not job.pods and (waited := waiting.without_pods(job, now)) is not None:
        refused = waiting.refusal(job, seen)
        if waited >= waiting.MAX_NO_POD or refused:
            trouble = waiting.no_pod(job, refused)
            return Progress(BUILDING, trouble.reason, trouble.message, after=waiting.sooner(None, refused))
        return Progress(BUILDING, BUILDING, _awaited(job), after=waiting.MAX_NO_POD - waited)
    begun = [
        STEPS[str(status.get("name"))]
        for pod in job.pods
        for status in container_statuses(pod.manifest)
        if {"running", "terminated"} & (status.get("state") or {}).keys() and status.get("name") in STEPS
    ]
    if not begun:
        return Progress(BUILDING, BUILDING, _awaited(job))
    log = f"its log: ultramarine logs environment/{name}"
    return Progress(BUILDING, BUILDING, f"{begun[-1]} by pod {job.pods[-1].name}; {log}")


def _awaited(job: JobView) -> str:
    return f"the pod of Job {job.name} is awaited"


def _reader(environment: Environment, platform: Platform) -> ResultReader[BuildRecord]:
    return ResultReader(BuildRecord.from_json, prefix(environment, platform) + RESULT_NAME, container=STORE)


def _result(record: BuildRecord, environment: Environment, status: EnvironmentStatus, platform: Platform) -> Progress:
    """Write a result into `status`. A result that does not lie below the prefix is another program's."""
    if record.reason:
        return _final(record.reason, record.message)
    place = prefix(environment, platform)
    is_ours = all(uri.startswith(place) and len(uri) <= 2048 for uri in (record.uri, record.lock))
    if not is_ours or not re.match(DIGEST_PATTERN, record.digest):
        return _final(BUILD_FAILED, f"its result names files that do not lie below {place}")
    status.uri, status.digest = record.uri, record.digest
    status.bytes, status.unpacked_bytes = record.bytes, record.unpacked_bytes
    status.size = f"{-(-record.bytes // 2**20)}Mi"
    status.python_version = cut(EnvironmentStatus, python_version=record.python)["python_version"]
    status.lock = Lock(uri=record.lock, packages=record.packages)
    status.build_seconds = round(record.seconds)
    return _built(status, f"{record.packages} packages, {status.size}{f'; {record.message}' if record.message else ''}")


def _built(status: EnvironmentStatus, message: str) -> Progress:
    return Progress("Ready", BUILT, message or f"its archive has {status.size}")


def _failed(
    failure: Failed, environment: Environment, status: EnvironmentStatus, job: JobView, now: datetime
) -> Progress:
    """Assess a failed attempt: another one follows unless it would fail in the same way."""
    if failure.missed_deadline:
        former = find(environment.status, "Ready") or {}
        if former.get("reason") not in (BUILDING, None):  # its pod never ran
            return _retried(str(former["reason"]), str(former.get("message")), status, job, now)
        message = f"it was not built within {DEADLINE_SECONDS} seconds; require fewer packages, or packages with wheels"
        return _final(TIMEOUT, message)
    if not failure.causes:
        return _retried(BUILD_FAILED, failure.message, status, job, now)
    pod = failure.causes[-1]
    verdict = pod.verdict
    if (record := _record(pod)) is not None:
        reason, message = record.reason, record.message
        if reason == REQUIREMENTS_MISSING:
            message = _missing_requirements(environment) or message
    else:
        lines = verdict.tail.strip().splitlines()[-5:] if verdict.reason == "ContainerFailed" else []
        log = f"; its log ended with: {' | '.join(map(str.strip, lines))}" if lines else ""
        reason, message = verdict.reason, f"{verdict.sentence}{log}"
    if reason in NODE_FAILURES or EXIT_TRY_AGAIN in (end.exit_code for end in pod.ends):
        return _retried(reason, message, status, job, now)
    return _final(reason, message)


def _missing_requirements(environment: Environment) -> str:
    """Name the ConfigMap and the key that should have the requirements, with the remedy; empty without a ConfigMap."""
    python = environment.spec.python
    if (selected := python.requirements_from) is not None:
        name, key = selected.config_map.name, selected.config_map.key
    elif (file := python.requirements_file) is not None and file.source.config_map is not None:
        name, key = file.source.config_map.name, file.path
    else:
        return ""
    return f"ConfigMap {name} in {environment.namespace} does not exist or has no key {key}; create it with this key"


def _record(pod: PodView) -> BuildRecord | None:
    """Return the record of a container that failed; None without one."""
    for end in pod.ends:
        if end.exit_code:
            try:
                record = BuildRecord.from_json(end.message)
            except ValueError:
                continue
            return record if record.reason else None
    return None


def _final(reason: str, message: str) -> Progress:
    reason = reason if REASON.fullmatch(reason) else BUILD_FAILED
    return Progress("Failed", reason, message[:MAX_WORDS])


def _retried(reason: str, message: str, status: EnvironmentStatus, job: JobView, now: datetime) -> Progress:
    """Return the pause after a transient failure, or the step to the next attempt."""
    pause = min(FIRST_RETRY * 2 ** min(status.attempts - 1, 10), MAX_RETRY)
    left = parse_timestamp(job.end(now)) + pause - now
    reason = reason if REASON.fullmatch(reason) else BUILD_FAILED
    message = f"attempt {status.attempts}: {message}"
    if left > timedelta():
        return Progress(BUILDING, reason, f"{message}; the next attempt follows by itself", after=left)
    status.attempts += 1
    return Progress(BUILDING, reason, f"{message}; the next attempt begins", delete=(job.ref,), after=timedelta())


# ---- End


def _expires(environment: Environment) -> bool:
    return environment.spec.ttl_seconds_after_unused is not None or _is_shared(environment)


def _is_shared(environment: Environment) -> bool:
    return (environment.manifest["metadata"].get("labels") or {}).get(LABEL_SHARED) == "true"


def _time_to_live(
    environment: Environment, status: EnvironmentStatus, progress: Progress, platform: Platform, now: datetime
) -> timedelta | None:
    """Return the rest of its time without use; None if it is used or stays."""
    seconds = environment.spec.ttl_seconds_after_unused
    if status.unused_since is None or not _expires(environment):
        return None
    if seconds is not None:
        ttl = timedelta(seconds=seconds)
    elif not platform.environments.unused_days:
        return None
    else:
        ttl = FAILED_KEPT if progress.state == "Failed" else timedelta(days=platform.environments.unused_days)
    return max(parse_timestamp(status.unused_since) + ttl - now, timedelta())


def _ending(environment: Environment, status: EnvironmentStatus, seen: Seen, now: datetime) -> Plan | None:
    """Return the next step of a deletion; None if none is under way."""
    reason = (find(environment.status, "Ready") or {}).get("reason")
    job = JobView.find(environment, delete_job_name(environment), seen)
    has_begun = job is not None or reason in (DELETING, DELETION_FAILED)
    if not has_begun and (reason != UNUSED or status.unused_since is None):
        return None  # or used again before anything was deleted
    if job is not None and job.complete:
        return Plan(dict(environment.status), delete=(Ref.to(ENVIRONMENT, environment.manifest),))
    name = delete_job_name(environment)
    step = Progress("Deleting", DELETING, f"Job {name} deletes {prefix(environment, seen.platform)}")
    if job is None:
        step = replace(step, apply=(delete_job(environment, seen.platform),))
    elif job.failure is not None:
        causes = job.causes or job.failures
        message = f"{step.message}: {causes[-1].verdict.sentence if causes else f'Job {name} failed'}"
        left = parse_timestamp(job.end(now)) + DELETE_RETRY - now
        again = {"after": left} if left > timedelta() else {"delete": (job.ref,), "after": timedelta()}
        step = replace(step, reason=DELETION_FAILED, message=message, **again)
    elif (trouble := first_trouble(reversed(job.pods))) is not None:
        step = replace(step, message=f"{step.message}: {trouble.message}")
    return _planned(environment, status, step, now)


def _superfluous(environment: Environment, seen: Seen) -> Iterable[Ref]:
    """Yield what only builds need."""
    pem = seen.child(CONFIG_MAP.kind, authorities_name(environment))
    if pem is not None and controller_uid(pem) == environment.uid:
        yield Ref.to(CONFIG_MAP, pem)


# ---- Status


def _planned(environment: Environment, status: EnvironmentStatus, progress: Progress, now: datetime) -> Plan:
    is_ready, has_failed = progress.state == "Ready", progress.state == "Failed"
    remedy = f"; {remedy_of_failure(environment.manifest)}" if has_failed else ""
    former = environment.status.get("conditions") or []
    message = progress.message
    if has_failed and not message.endswith(remedy):
        message += remedy
    conditions = [
        Condition("Accepted", True, "Valid"),
        Condition("Ready", is_ready, progress.reason, message),
        *([Condition("Failed", True, progress.reason, message)] if has_failed else []),
        *health(done=is_ready or has_failed, failed=message if has_failed else "", progress=message),
    ]
    document = {
        **{name: value for name, value in statuses.dumped(status).items() if value not in ("", {}, [])},
        "observedGeneration": environment.generation,
        "state": progress.state,
        "conditions": merge(former, conditions, environment.generation, now),
    }
    return Plan(
        document,
        apply=progress.apply,
        delete=progress.delete,
        events=tuple(_events(environment, progress, message)),
        after=progress.after,
    )


def _events(environment: Environment, progress: Progress, message: str) -> Iterable[Event]:
    if (find(environment.status, "Ready") or {}).get("reason") != progress.reason:
        is_normal = progress.reason in (BUILT, BUILDING, UNUSED, DELETING)
        yield Event(progress.reason, message, "Normal" if is_normal else "Warning")
