"""How far the compiling of a version is, given its Job, the Job's pods, and what is stored."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ...shared import contract, pods
from ...shared.conditions import Condition, find, is_true, parse_timestamp
from ...shared.errors import StorageError
from ...shared.meta import Manifest, controller_uid
from ...shared.plan import Platform, Question, ReadText, Seen
from ...shared.schema import DIGEST_PATTERN
from ...shared.version_records import CompileRecord
from .manifests import DEADLINE_SECONDS, STORE, Version, compile_job, compile_job_name, compile_task
from .schema import Compile

CONDITION = "Compiled"
COMPILED, COMPILING, FAILED, NOT_ASKED = "Compiled", "Compiling", "CompileFailed", "NotAsked"
VERDICTS = ("ParityFailed", "NotConvertible")  # the server image's own words
ENDED = (COMPILED, FAILED, *VERDICTS)
LAST_WORDS = timedelta(seconds=1)
LONGEST_LAG = timedelta(seconds=20)
STORAGE_RETRY = timedelta(seconds=15)


@dataclass(frozen=True)
class Compilation:
    """The condition Compiled, the status' figures, what to apply, and when to look again."""

    condition: Condition
    figures: Manifest = field(default_factory=dict)
    apply: tuple[Manifest, ...] = ()
    after: timedelta | None = None

    @property
    def under_way(self) -> bool:
        """Whether more is to come of it."""
        return self.condition.reason == COMPILING


def told(version: Version) -> Compilation:
    """What the status says already: what has ended once is never judged anew."""
    known = find(version.status, CONDITION)
    if known is None or version.spec.compile is None:
        return _not_asked() if version.spec.compile is None else _under_way("its artifact is checked first")
    condition = Condition(CONDITION, known.get("status") == "True", str(known["reason"]), str(known.get("message", "")))
    return Compilation(condition, version.status.get("compiled") or {})


def has_begun(version: Version) -> bool:
    """Whether the artifact was found right, which comes before."""
    return (find(version.status, CONDITION) or {}).get("reason") in (COMPILING, *ENDED)


def questions(version: Version, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the verdict only where no pod is left to tell it."""
    wanted = version.spec.compile
    if wanted is None or told(version).condition.reason in ENDED or not has_begun(version):
        return ()
    job = _own_job(version, seen)
    if job is not None and (not ended(job, "Complete") or _record(own_pods(job, seen)) is not None):
        return ()
    return (_result(version, wanted, seen.platform),)


def compilation(version: Version, seen: Seen, now: datetime) -> Compilation:
    """Say how far it is, of a version whose artifact was found right."""
    wanted = version.spec.compile
    known = told(version)
    if wanted is None or known.condition.reason in ENDED:
        return known
    job = _own_job(version, seen)
    if job is None:
        # New, or its Job is gone: what that one has stored counts, and there is no need for another.
        return _stored(version, wanted, seen) or Compilation(
            _at_work(version).condition, apply=(compile_job(version, wanted, seen.platform),)
        )
    own = own_pods(job, seen)
    if done := ended(job, "Complete"):
        record = _record(own)
        if record is not None:
            return _judged(record, version, wanted, seen.platform)
        if own and _is_fresh(done, now):
            # Jobs and pods are watched apart: the pod's last words may be a moment behind.
            return _under_way("its pod has ended; what that said last is awaited", LAST_WORDS)
        return _stored(version, wanted, seen) or _failed("its Job has ended, and its verdict is nowhere to be found")
    if failure := ended(job, "Failed"):
        return _job_failed(failure, own, now)
    for pod in reversed(own):
        if (trouble := pods.trouble(pod)) is not None:
            return _under_way(trouble.message)
    return _at_work(version)


def _not_asked() -> Compilation:
    return Compilation(Condition(CONDITION, False, NOT_ASKED, "spec.compile is not set"))


def _at_work(version: Version) -> Compilation:
    return _under_way(f"Job {compile_job_name(version)} compiles it and compares the answers")


def _under_way(message: str, after: timedelta | None = None) -> Compilation:
    return Compilation(Condition(CONDITION, False, COMPILING, message), after=after)


def _failed(message: str) -> Compilation:
    return Compilation(Condition(CONDITION, False, FAILED, f"{message}; to try again register it as another version"))


def _own_job(version: Version, seen: Seen) -> Manifest | None:
    job = seen.one("Job", compile_job_name(version))
    return job if job is not None and controller_uid(job) == version.uid else None


def own_pods(job: Manifest, seen: Seen) -> list[Manifest]:
    """The pods of a Job, by age."""
    own = [pod for pod in seen.of("Pod") if controller_uid(pod) == job["metadata"]["uid"]]
    return sorted(own, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def ended(job: Manifest, type: str) -> Manifest | None:
    """The condition by which a Job has ended that way, or nothing."""
    status = job.get("status") or {}
    return find(status, type) if is_true(status, type) else None


def _is_fresh(condition: Manifest, now: datetime) -> bool:
    since = condition.get("lastTransitionTime")
    return since is not None and abs(now - parse_timestamp(since)) < LONGEST_LAG


def _record(own_pods: list[Manifest]) -> CompileRecord | None:
    """The verdict as a pod told it, or nothing when no pod is left to tell."""
    for pod in own_pods:
        for status in pods.statuses(pod):
            ended = (status.get("state") or {}).get("terminated") or {}
            if status.get("name") == STORE and ended.get("exitCode") == 0:
                try:
                    return CompileRecord.from_json(str(ended.get("message") or ""))
                except ValueError:
                    return None
    return None


def _result(version: Version, wanted: Compile, platform: Platform) -> ReadText:
    return ReadText(compile_task(version, wanted, platform).prefix + contract.RESULT_NAME)


def _stored(version: Version, wanted: Compile, seen: Seen) -> Compilation | None:
    """What the storage says; nothing where it has no verdict, or was not asked for one."""
    answer = seen.answers.get(_result(version, wanted, seen.platform))
    if isinstance(answer, StorageError) and answer.reason not in ("ObjectNotFound", "TooLarge"):
        return _under_way(f"its verdict is asked of the storage: {answer.message}", STORAGE_RETRY)
    if not isinstance(answer, str):
        return None
    try:
        return _judged(CompileRecord.from_json(answer), version, wanted, seen.platform)
    except ValueError:
        return None


def _judged(record: CompileRecord, version: Version, wanted: Compile, platform: Platform) -> Compilation:
    figures: Manifest = {"rows": record.rows, "rowsFrom": record.rows_from[:256], "opset": record.opset}
    if record.worst_relative_error >= 0:
        figures["worstRelativeError"] = record.worst_relative_error
    if 0 <= record.label_agreement <= 1:
        figures["labelAgreement"] = record.label_agreement
    if record.reason:
        reason = record.reason if record.reason in VERDICTS else FAILED
        served = (
            "the native model is served" if wanted.on_failure == "ServeNative" else "spec.compile.onFailure is Fail"
        )
        return Compilation(Condition(CONDITION, False, reason, f"{record.message}; {served}"), figures)
    # Anybody who may write where results are stored could say that it lies elsewhere.
    prefix = compile_task(version, wanted, platform).prefix
    if not record.uri.startswith(prefix) or len(record.uri) > 2048 or not re.match(DIGEST_PATTERN, record.digest):
        return _failed(f"its verdict names a compiled model that does not lie below {prefix}")
    figures |= {"uri": record.uri, "digest": record.digest, "bytes": record.bytes}
    message = f"{record.rows} rows were compared ({record.rows_from[:256]})"
    return Compilation(Condition(CONDITION, True, COMPILED, message), figures)


def _job_failed(failure: Manifest, own_pods: list[Manifest], now: datetime) -> Compilation:
    if failure.get("reason") == "DeadlineExceeded":
        waits = [trouble.message for pod in own_pods if (trouble := pods.trouble(pod)) is not None]
        return _failed("; ".join([f"it was not compiled within {DEADLINE_SECONDS} seconds", *waits[:1]]))
    failures = pods.failures(own_pods)
    if not failures and _is_fresh(failure, now):
        return _under_way("its Job has failed; what its pod said last is awaited", LAST_WORDS)
    causes = [pod for pod in failures if not pods.is_disrupted(pod)] or failures
    said = str(failure.get("message") or "its Job has failed, and its pods are gone")
    return _failed(pods.verdict(causes[-1]).sentence if causes else said)
