"""Compiling of a version: its progress and its outcome, given its Job, the Job's pods, and the storage.

Without spec.compile a version is served natively at once, and compiled in the background if its format can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ultramarine.resources.base import DIGEST_PATTERN
from ultramarine.resources.model import Compile, Compiled, ModelVersionStatus, version_number
from ultramarine_contract import common as contract
from ultramarine_contract.errors import counted
from ultramarine_contract.meta import Manifest
from ultramarine_contract.version_records import CompileRecord

from ... import runs
from ...runs import Closing, Done, Failed, JobView, Lost, ResultReader, Unanswered, waiting
from ...runs.serverjobs import DEADLINE_SECONDS
from ...shared import pods, statuses
from ...shared.conditions import Condition, find, parse_timestamp
from ...shared.plan import Platform, Seen
from ...shared.questions import Question
from ...shared.statuses import cut
from . import trust
from .manifests import STORE, Version, compile_job, compile_job_name, compile_task

CONDITION = "Compiled"
COMPATIBLE, MISMATCH = "Compatible", "VersionMismatch"
COMPILED, COMPILING, FAILED, NOT_ASKED = "Compiled", "Compiling", "CompileFailed", "NotAsked"
SUPERSEDED = "Superseded"  # the only reason that is not final
NOT_CONVERTIBLE = "NotConvertible"
VERDICTS = ("ParityFailed", NOT_CONVERTIBLE)  # reasons of the server image
REFUSED, DEPENDENCY_MISSING = "CodeExecutionRefused", "DependencyMissing"
# Reasons of the server image too: no server can load the model.
LOAD_ERRORS = (
    REFUSED,
    DEPENDENCY_MISSING,
    "DigestMismatch",
    "FormatUnknown",
    "ModelCorrupt",
    "ModelInvalid",
    "ModelUnsupported",
    "SignatureInvalid",
    "SignatureMismatch",
)
MAX_LINES, MAX_MESSAGE = 10, 2048  # lines of a log and characters, in a message
ENDED = (COMPILED, FAILED, *VERDICTS, *LOAD_ERRORS)
AUTOMATIC = Compile(to="onnx")
AUTOMATIC_FORMATS = frozenset({"sklearn", "xgboost", "lightgbm", "mlflow", "pickle", "joblib"})
HEAD_START = timedelta(seconds=10)  # of the servers of a new version, before its compiling takes processor time


@dataclass(frozen=True)
class Compilation:
    """The condition Compiled, the status' figures, what to apply, and when to look again.

    `mismatch` says which library's version saved the model, if the server has another. `requirements` are those of a
    model whose packages the server lacks.
    """

    condition: Condition
    figures: Compiled | None = None
    apply: tuple[Manifest, ...] = ()
    after: timedelta | None = None
    mismatch: str = ""
    requirements: tuple[str, ...] = ()

    @property
    def under_way(self) -> bool:
        """True if more is to come of it."""
        return self.condition.reason == COMPILING

    @property
    def is_final(self) -> bool:
        """True if it stays; a compiled model whose figures were damaged in the status is looked up again."""
        is_whole = self.figures is not None and self.figures.uri and self.figures.digest
        return self.condition.reason in ENDED and bool(is_whole or self.condition.reason != COMPILED)

    @property
    def unloadable(self) -> bool:
        """True if no server can load the model."""
        return self.condition.reason in LOAD_ERRORS


def is_automatic(version: Version) -> bool:
    """True if the version is served natively until it is compiled, and whatever comes of that."""
    return version.spec.compile is None


def wish(version: Version) -> Compile | None:
    """Return what the version is compiled to; None if it stays as it is.

    A version that an operator without automatic compiling has left alone stays as well: an upgrade restarts no server.
    """
    settings = version.spec.compile
    if settings is not None:
        return settings if settings.to != "none" else None
    was_left = (find(version.status, CONDITION) or {}).get("reason") == NOT_ASKED
    return AUTOMATIC if version.spec.format.name in AUTOMATIC_FORMATS and not was_left else None


def former(version: Version) -> Compilation:
    """Return the outcome in the status, which is final unless it came of code that is allowed by now."""
    condition = find(version.status, CONDITION)
    if wish(version) is None:
        return _not_asked(version, condition)
    if condition is None:
        return _under_way("its artifact is checked first")
    if condition.get("reason") in (REFUSED, DEPENDENCY_MISSING) and version.spec.allow_code_execution:
        return _under_way("it is tried again, since it may run code now")
    outcome = (condition.get("status") == "True", str(condition["reason"]), str(condition.get("message", "")))
    mismatch = str((find(version.status, COMPATIBLE) or {}).get("message", ""))
    figures = statuses.former(version, ModelVersionStatus, without=version.status.keys() - {"compiled"}).compiled
    return Compilation(Condition(CONDITION, *outcome), figures, mismatch=mismatch)


def has_begun(version: Version) -> bool:
    """True if the artifact was found right, which comes before."""
    return (find(version.status, CONDITION) or {}).get("reason") in (COMPILING, *ENDED)


def questions(version: Version, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the verdict if no pod has it, and the API server why its Job has no pod."""
    settings = wish(version)
    if settings is None or former(version).is_final or not has_begun(version):
        return ()
    return _reader(version, settings, seen.platform).questions(_own_job(version, seen))


def compilation(version: Version, seen: Seen, now: datetime) -> Compilation:
    """Return the progress of a version whose artifact was found right."""
    settings = wish(version)
    before = former(version)
    if settings is None or before.is_final:
        return before
    job, reader = _own_job(version, seen), _reader(version, settings, seen.platform)
    # Without a Job it is new, or its Job is gone: what that one has stored counts, and no other Job is needed.
    outcome = reader.outcome(job, seen, now) if job else reader.stored(seen)
    match outcome:
        case Done(record):
            return _verdict(record, version, settings, seen.platform)
        case Unanswered() if outcome.was_asked and before.condition.reason == COMPILED:
            return replace(before, after=outcome.after)
        case Unanswered(message) if outcome.was_asked:
            return _under_way(f"its verdict is asked of the storage: {message}", outcome.after)
        case Closing():
            return _under_way("its Job has ended; the last message of its pod is awaited", outcome.after)
        case Lost() | Unanswered() if job:
            return _failed(version, "its Job has ended, and its verdict is nowhere to be found")
        case Failed() if job:
            return _job_failed(version, job, outcome)
    if job is None:
        return _to_begin(version, settings, seen, now)
    if (trouble := runs.first_trouble(reversed(job.pods))) is not None:
        return _under_way(trouble.message)
    if not job.pods and (waited := waiting.without_pods(job, now)) is not None:
        refused = waiting.refusal(job, seen)
        if waited >= waiting.MAX_NO_POD or refused:
            return _under_way(waiting.no_pod(job, refused).message, waiting.sooner(None, refused))
        return replace(_at_work(version), after=waiting.MAX_NO_POD - waited)
    return _at_work(version)


def _to_begin(version: Version, settings: Compile, seen: Seen, now: datetime) -> Compilation:
    """Return the Job to make; an automatic one waits until servers have started, if any serves the version."""
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
    return replace(_at_work(version), apply=(compile_job(version, settings, seen.platform),))


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
        models = (deployment.get("model") for deployment in endpoint["spec"].get("deployments") or [])
        served = ((endpoint.get("status") or {}).get("deployments")) or []
        if f"{spec.model}@{spec.version}" in models or any(d.get("modelVersion") == version.name for d in served):
            return True
    return False


def _not_asked(version: Version, condition: Manifest | None) -> Compilation:
    if condition is not None and condition.get("reason") == NOT_ASKED:
        return Compilation(Condition(CONDITION, False, NOT_ASKED, str(condition.get("message", ""))))
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


def _own_job(version: Version, seen: Seen) -> JobView | None:
    return JobView.find(version, compile_job_name(version), seen)


def _reader(version: Version, settings: Compile, platform: Platform) -> ResultReader[CompileRecord]:
    uri = compile_task(version, settings, platform).prefix + contract.RESULT_NAME
    return ResultReader(CompileRecord.from_json, uri, container=STORE)


def _verdict(record: CompileRecord, version: Version, settings: Compile, platform: Platform) -> Compilation:
    if record.load_error == DEPENDENCY_MISSING and version.spec.allow_code_execution:
        how = "in an environment of its requirements.txt" if record.requirements else "with its packages in environment"
        message = f"the server image cannot load it: {record.message}; a deployment {how} can"
        condition = Condition(CONDITION, False, NOT_CONVERTIBLE, message[:MAX_MESSAGE])
        return Compilation(condition, requirements=record.requirements)
    if record.load_error:
        reason = record.load_error if record.load_error in LOAD_ERRORS else "ModelInvalid"
        return Compilation(Condition(CONDITION, False, reason, record.message))
    mismatch = record.mismatch[:512]
    figures = cut(Compiled, rows=record.rows, rows_from=record.rows_from, opset=record.opset)
    if record.worst_relative_error >= 0:
        figures["worst_relative_error"] = record.worst_relative_error
    if 0 <= record.label_agreement <= 1:
        figures["label_agreement"] = record.label_agreement
    if record.reason:
        reason = record.reason if record.reason in VERDICTS else FAILED
        message = f"{record.message}; {_served(version, settings, reason)}"
        return Compilation(Condition(CONDITION, False, reason, message), Compiled(**figures), mismatch=mismatch)
    # Any writer of the folder with results could say that it lies elsewhere.
    prefix = compile_task(version, settings, platform).prefix
    if not record.uri.startswith(prefix) or len(record.uri) > 2048 or not re.match(DIGEST_PATTERN, record.digest):
        return _failed(version, f"its verdict names a compiled model that does not lie below {prefix}")
    figures |= {"uri": record.uri, "digest": record.digest, "bytes": record.bytes}
    message = f"compared {counted(record.rows, 'row')} ({figures['rows_from']})"
    return Compilation(Condition(CONDITION, True, COMPILED, message), Compiled(**figures), mismatch=mismatch)


def _served(version: Version, settings: Compile, reason: str) -> str:
    """Describe what is served of a version that is not compiled, and what its author can do."""
    if is_automatic(version):
        return "the native model is served"
    what = "the native model is served" if settings.on_failure == "ServeNative" else "spec.compile.onFailure is Fail"
    if reason == "ParityFailed":
        return f"{what}; for another verdict register it again with wider limits in spec.compile.parity"
    return f"{what}; to be spared this register it with spec.compile.to none"


def _job_failed(version: Version, job: JobView, failed: Failed) -> Compilation:
    if failed.missed_deadline:
        trouble = runs.first_trouble(job.pods)
        if not job.pods and not job.failed:
            trouble = waiting.no_pod(job)
        message = f"it was not compiled within {DEADLINE_SECONDS} seconds"
        return _failed(version, f"{message}; {trouble.message}" if trouble else message)
    if not failed.causes:
        return _failed(version, failed.message)
    verdict = failed.causes[-1].verdict
    if verdict.reason in LOAD_ERRORS:  # what is stored is not what was registered: servers will say the same
        return Compilation(Condition(CONDITION, False, verdict.reason, verdict.message))
    # No field of a version sets these limits, so the usual hint to raise them does not help.
    if verdict.reason in (pods.OUT_OF_MEMORY, pods.EVICTED):
        return _failed(version, verdict.message)
    # The log goes with the pod, minutes later.
    lines = verdict.tail.strip().splitlines()[-MAX_LINES:] if verdict.reason == "ContainerFailed" else []
    log = " | ".join(map(str.strip, lines))
    message = f"{verdict.message}; its log ended with: {log}" if lines else verdict.sentence
    return _failed(version, message[:MAX_MESSAGE])
