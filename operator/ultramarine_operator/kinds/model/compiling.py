"""Progress of checking and compiling a version, given its Job, the Job's pods, and what is stored.

Without spec.compile a version is served natively at once, and compiled in the background if its format can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ultramarine.resources.base import DIGEST_PATTERN
from ultramarine.resources.model import Compile, version_number
from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import Manifest, controller_uid
from ultramarine_contract.version_records import CompileRecord

from ...shared import pods, waiting
from ...shared.conditions import Condition, find, is_true, parse_timestamp
from ...shared.plan import Platform, Seen
from ...shared.questions import Question, ReadText
from . import trust
from .manifests import DEADLINE_SECONDS, STORE, Version, compile_job, compile_job_name, compile_task

CONDITION = "Compiled"
COMPATIBLE, MISMATCH = "Compatible", "VersionMismatch"
COMPILED, COMPILING, FAILED, NOT_ASKED = "Compiled", "Compiling", "CompileFailed", "NotAsked"
SUPERSEDED = "Superseded"  # the one reason that is not the last word
VERDICTS = ("ParityFailed", "NotConvertible")  # the server image's own words
REFUSED = "CodeExecutionRefused"
# The server image's own words too: no server can load the model.
LOAD_ERRORS = (
    REFUSED,
    "DependencyMissing",
    "DigestMismatch",
    "FormatUnknown",
    "ModelCorrupt",
    "ModelInvalid",
    "ModelUnsupported",
    "SignatureInvalid",
    "SignatureMismatch",
)
TOLD_LINES, MAX_TOLD = 10, 2048  # lines of a log and characters, in a message
ENDED = (COMPILED, FAILED, *VERDICTS, *LOAD_ERRORS)
AUTOMATIC = Compile(to="onnx")
AUTOMATIC_FORMATS = frozenset({"sklearn", "xgboost", "lightgbm", "mlflow", "pickle", "joblib"})
HEAD_START = timedelta(seconds=10)  # of the servers of a new version, before its compiling takes processor time
LAST_WORDS = timedelta(seconds=1)
LONGEST_LAG = timedelta(seconds=20)
STORAGE_RETRY = timedelta(seconds=15)


@dataclass(frozen=True)
class Compilation:
    """The condition Compiled, the status' figures, what to apply, and when to look again.

    `mismatch` says which library's version saved the model, if the server has another.
    """

    condition: Condition
    figures: Manifest = field(default_factory=dict)
    apply: tuple[Manifest, ...] = ()
    after: timedelta | None = None
    mismatch: str = ""

    @property
    def under_way(self) -> bool:
        """True if more is to come of it."""
        return self.condition.reason == COMPILING

    @property
    def unloadable(self) -> bool:
        """True if no server can load the model."""
        return self.condition.reason in LOAD_ERRORS


def is_automatic(version: Version) -> bool:
    """True if the version is served natively until it is compiled, and whatever comes of that."""
    return version.spec.compile is None


def wish(version: Version) -> Compile | None:
    """Return what the version is compiled to; None if it stays as it is.

    A version that an operator without automatic compiling has judged stays as well: an upgrade restarts no server.
    """
    wanted = version.spec.compile
    if wanted is not None:
        return wanted if wanted.to != "none" else None
    judged = (find(version.status, CONDITION) or {}).get("reason") == NOT_ASKED
    return AUTOMATIC if version.spec.format.name in AUTOMATIC_FORMATS and not judged else None


def told(version: Version) -> Compilation:
    """The verdict in the status, which is final unless it was a refusal of code that is allowed by now."""
    known = find(version.status, CONDITION)
    if wish(version) is None:
        return _not_asked(version, known)
    if known is None:
        return _under_way("its artifact is checked first")
    if _is_allowed_now(version, known):
        return _under_way("it is tried again, since it may run code now")
    condition = Condition(CONDITION, known.get("status") == "True", str(known["reason"]), str(known.get("message", "")))
    mismatch = str((find(version.status, COMPATIBLE) or {}).get("message", ""))
    return Compilation(condition, version.status.get("compiled") or {}, mismatch=mismatch)


def has_begun(version: Version) -> bool:
    """True if the artifact was found right, which comes before."""
    return (find(version.status, CONDITION) or {}).get("reason") in (COMPILING, *ENDED)


def questions(version: Version, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the verdict if no pod is left to tell it, and the API server why its Job has no pod."""
    wanted = wish(version)
    if wanted is None or told(version).condition.reason in ENDED or not has_begun(version):
        return ()
    job = _own_job(version, seen)
    if job is not None and waiting.lacks_pods(job):
        return (waiting.question(job),)
    if job is not None and (not ended(job, "Complete") or _record(own_pods(job, seen)) is not None):
        return ()
    return (_result(version, wanted, seen.platform),)


def compilation(version: Version, seen: Seen, now: datetime) -> Compilation:
    """Say how far it is, of a version whose artifact was found right."""
    wanted = wish(version)
    known = told(version)
    if wanted is None or known.condition.reason in ENDED:
        return known
    job = _own_job(version, seen)
    if job is None:
        # New, or its Job is gone: what that one has stored counts, and there is no need for another.
        return _stored(version, wanted, seen) or _to_begin(version, wanted, seen, now)
    own = own_pods(job, seen)
    if done := ended(job, "Complete"):
        record = _record(own)
        if record is not None:
            return _judged(record, version, wanted, seen.platform)
        if own and _is_fresh(done, now):
            # Jobs and pods are watched apart: the pod's last words may be a moment behind.
            return _under_way("its pod has ended; what that said last is awaited", LAST_WORDS)
        lost = "its Job has ended, and its verdict is nowhere to be found"
        return _stored(version, wanted, seen) or _failed(version, lost)
    if failure := ended(job, "Failed"):
        return _job_failed(version, job, failure, own, now)
    for pod in reversed(own):
        if (trouble := pods.trouble(pod)) is not None:
            return _under_way(trouble.message)
    if not own and (waited := waiting.without_pods(job, now)) is not None:
        refused = waiting.refusal(job, own, seen)
        if waited >= waiting.NO_POD or refused:
            return _under_way(waiting.no_pod(job, refused).message, waiting.sooner(None, refused))
        return replace(_at_work(version), after=waiting.NO_POD - waited)
    return _at_work(version)


def _to_begin(version: Version, wanted: Compile, seen: Seen, now: datetime) -> Compilation:
    """The Job; but an automatic one waits until servers have started, and is spared for what is not served."""
    if is_automatic(version):
        if not _is_current(version, seen):
            message = (
                "a newer version was there before this one was compiled; an endpoint or an alias that names this one "
                "has it compiled"
            )
            return Compilation(Condition(CONDITION, False, SUPERSEDED, message))
        ready = find(version.status, "Ready") or {}
        since = parse_timestamp(str(ready.get("lastTransitionTime"))) if ready.get("status") == "True" else now
        if now < since + HEAD_START:
            return replace(_at_work(version), after=since + HEAD_START - now)
    return replace(_at_work(version), apply=(compile_job(version, wanted, seen.platform),))


def _is_current(version: Version, seen: Seen) -> bool:
    """True if it is its Model's newest version, or an alias or an endpoint names it."""
    spec = version.spec
    model = trust.model_of(version.manifest, seen)
    newest = version_number(((model or {}).get("status") or {}).get("latestVersion"))
    if model is None or version_number(spec.version) >= newest:
        return True
    if spec.version in map(str, ((model.get("spec") or {}).get("aliases") or {}).values()):
        return True
    for endpoint in seen.others("OnlineEndpoint"):
        wanted = (deployment.get("model") for deployment in endpoint["spec"].get("deployments") or [])
        served = ((endpoint.get("status") or {}).get("deployments")) or []
        if f"{spec.model}@{spec.version}" in wanted or any(d.get("modelVersion") == version.name for d in served):
            return True
    return False


def _is_allowed_now(version: Version, known: Manifest) -> bool:
    return known.get("reason") == REFUSED and version.spec.allow_code_execution


def _not_asked(version: Version, known: Manifest | None) -> Compilation:
    if known is not None and known.get("reason") == NOT_ASKED:
        return Compilation(Condition(CONDITION, False, NOT_ASKED, str(known.get("message", ""))))
    if version.spec.compile is not None:
        message = "spec.compile.to is none"
    else:
        message = f"models of format {version.spec.format.name} are served as they are"
    return Compilation(Condition(CONDITION, False, NOT_ASKED, message))


def _at_work(version: Version) -> Compilation:
    meanwhile = ", which is served natively meanwhile" if is_automatic(version) else ""
    return _under_way(f"Job {compile_job_name(version)} compiles it and compares the answers{meanwhile}")


def _under_way(message: str, after: timedelta | None = None) -> Compilation:
    return Compilation(Condition(CONDITION, False, COMPILING, message), after=after)


def _failed(version: Version, message: str) -> Compilation:
    what = "the native model is served" if is_automatic(version) else "to try again register it as another version"
    return Compilation(Condition(CONDITION, False, FAILED, f"{message}; {what}"))


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
    if record.load_error:
        reason = record.load_error if record.load_error in LOAD_ERRORS else "ModelInvalid"
        return Compilation(Condition(CONDITION, False, reason, record.message))
    mismatch = record.mismatch[:512]
    figures: Manifest = {"rows": record.rows, "rowsFrom": record.rows_from[:256], "opset": record.opset}
    if record.worst_relative_error >= 0:
        figures["worstRelativeError"] = record.worst_relative_error
    if 0 <= record.label_agreement <= 1:
        figures["labelAgreement"] = record.label_agreement
    if record.reason:
        reason = record.reason if record.reason in VERDICTS else FAILED
        message = f"{record.message}; {_served(version, wanted, reason)}"
        return Compilation(Condition(CONDITION, False, reason, message), figures, mismatch=mismatch)
    # Anybody who may write where results are stored could say that it lies elsewhere.
    prefix = compile_task(version, wanted, platform).prefix
    if not record.uri.startswith(prefix) or len(record.uri) > 2048 or not re.match(DIGEST_PATTERN, record.digest):
        return _failed(version, f"its verdict names a compiled model that does not lie below {prefix}")
    figures |= {"uri": record.uri, "digest": record.digest, "bytes": record.bytes}
    message = f"{record.rows} rows were compared ({record.rows_from[:256]})"
    return Compilation(Condition(CONDITION, True, COMPILED, message), figures, mismatch=mismatch)


def _served(version: Version, wanted: Compile, reason: str) -> str:
    """Say what is served of a version that is not compiled, and what its author can do."""
    if is_automatic(version):
        return "the native model is served"
    what = "the native model is served" if wanted.on_failure == "ServeNative" else "spec.compile.onFailure is Fail"
    if reason == "ParityFailed":
        return f"{what}; for another verdict register it again with wider limits in spec.compile.parity"
    return f"{what}; to be spared this register it with spec.compile.to none"


def _job_failed(
    version: Version, job: Manifest, failure: Manifest, own_pods: list[Manifest], now: datetime
) -> Compilation:
    if failure.get("reason") == "DeadlineExceeded":
        waits = [trouble.message for pod in own_pods if (trouble := pods.trouble(pod)) is not None]
        if not own_pods and not waiting.has_failed(job):
            waits = [waiting.no_pod(job).message]
        message = f"it was not compiled within {DEADLINE_SECONDS} seconds"
        return _failed(version, "; ".join([message, *waits[:1]]))
    failures = pods.failures(own_pods)
    if not failures and _is_fresh(failure, now):
        return _under_way("its Job has failed; what its pod said last is awaited", LAST_WORDS)
    causes = [pod for pod in failures if not pods.is_disrupted(pod)] or failures
    if not causes:
        return _failed(version, str(failure.get("message") or "its Job has failed, and its pods are gone"))
    verdict = pods.verdict(causes[-1])
    if verdict.reason in LOAD_ERRORS:  # what is stored is not what was registered: servers will say the same
        return Compilation(Condition(CONDITION, False, verdict.reason, verdict.message))
    # No field of a version sets these limits, so the usual hint to raise them does not help.
    if verdict.reason in (pods.OUT_OF_MEMORY, pods.EVICTED):
        return _failed(version, verdict.message)
    # The log goes with the pod, minutes later.
    lines = verdict.tail.strip().splitlines()[-TOLD_LINES:] if verdict.reason == "ContainerFailed" else []
    told = f"{verdict.message}; its log ended with: {' | '.join(map(str.strip, lines))}" if lines else verdict.sentence
    return _failed(version, told[:MAX_TOLD])
