"""What is true of a Model, and of a ModelVersion, given what was seen. Neither has children."""

from __future__ import annotations

from datetime import datetime, timedelta

from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.errors import StorageError
from ...shared.formats import CODE_EXECUTING_FORMATS
from ...shared.meta import Manifest
from ...shared.plan import ArtifactFacts, CheckArtifact, Event, Obj, Plan, Platform, Question, Seen
from .schema import ModelSpec, ModelVersionSpec, version_number

LOOK_AGAIN = timedelta(seconds=30)


def plan_model(model: Obj[ModelSpec], seen: Seen, now: datetime) -> Plan:
    """Count the versions, and say of every alias whether it leads anywhere."""
    versions = {
        str(v["spec"]["version"]): v for v in seen.others("ModelVersion") if (v.get("spec") or {}).get("version")
    }
    numbers = sorted(map(version_number, versions), reverse=True)
    ready = [n for n in numbers if is_true(versions[str(n)].get("status") or {}, "Ready")]
    told = version_number(model.status.get("latestVersion"))
    broken = {alias: to for alias, to in model.spec.aliases.items() if to not in versions}
    if broken:
        which = ", ".join(f"{alias} -> {to}" for alias, to in sorted(broken.items()))
        there = ", ".join(map(str, numbers[:20])) or "none yet"
        message = f"spec.aliases leads to versions that do not exist: {which} (there are: {there})"
        conditions = (Condition("Ready", False, "VersionNotFound", message), *health(done=False, progress=message))
    else:
        conditions = (Condition("Ready", True, "AliasesResolved", f"{len(numbers)} versions"),)
    latest = max([told, *numbers])
    status: Manifest = {
        "observedGeneration": model.generation,
        "versions": len(numbers),
        "latestVersion": str(latest) if latest else "",
        "latestReadyVersion": str(ready[0]) if ready else "",
        "aliases": ", ".join(f"{alias}={to}" for alias, to in sorted(model.spec.aliases.items())),
        "conditions": merge(model.status.get("conditions") or [], conditions, model.generation, now),
    }
    return Plan(status)


def questions_version(version: Obj[ModelVersionSpec], seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the artifact until it was found to be right; the servers check it again at every load."""
    if _settled(version) or _refused(version.spec) or _foreign(version, seen.platform):
        return ()
    return (CheckArtifact(version.spec.uri),)


def plan_version(version: Obj[ModelVersionSpec], seen: Seen, now: datetime) -> Plan:
    """Say whether the version can be served, and if not, why."""
    spec = version.spec
    after = None
    size = int(version.status.get("bytes") or 0)
    if _refused(spec):
        state, condition = (
            "Refused",
            Condition(
                "Ready",
                False,
                "CodeExecutionRefused",
                f"loading the format {spec.format.name} runs code of its maker's choice; if you trust them, set "
                "spec.allowCodeExecution to true, or save the model as .skops or .onnx",
            ),
        )
    elif _foreign(version, seen.platform):
        own = f"s3://{seen.platform.storage_bucket}/{version.namespace}/"
        message = (
            f"spec.uri {spec.uri} is not this namespace's to read; copy the model to below {own}, and register that"
        )
        state, condition = "Refused", Condition("Ready", False, "AccessDenied", message)
    elif _settled(version):
        state, condition = (
            "Ready",
            Condition(
                "Ready", True, "ArtifactFound", "stored completely; the servers check its content when they load it"
            ),
        )
    else:
        answer = seen.answers.get(CheckArtifact(spec.uri))
        state, condition = _judge(spec, answer)
        after = None if condition.status else LOOK_AGAIN
        size = answer.bytes if isinstance(answer, ArtifactFacts) else size
    stuck = condition.message if state in ("Refused", "Invalid") else ""
    shown = health(done=condition.status is True, failed=stuck, progress=condition.message)
    status: Manifest = {
        "observedGeneration": version.generation,
        "state": state,
        "bytes": size,
        "conditions": merge(version.status.get("conditions") or [], (condition, *shown), version.generation, now),
    }
    before = (find(version.status, "Ready") or {}).get("reason")
    events: tuple[Event, ...] = ()
    if condition.reason != before:
        events = (Event(condition.reason, condition.message, "Normal" if condition.status else "Warning"),)
    return Plan(status, events=events, after=after)


def _refused(spec: ModelVersionSpec) -> bool:
    return spec.format.name in CODE_EXECUTING_FORMATS and not spec.allow_code_execution


def _foreign(version: Obj[ModelVersionSpec], platform: Platform) -> bool:
    """Whether the artifact lies where only the operator's own keys would find it: it must not ask for others."""
    bucket = f"s3://{platform.storage_bucket}/"
    mine = (f"{bucket}{version.namespace}/", f"{bucket}shared/")
    return platform.storage_confined and version.spec.uri.startswith(bucket) and not version.spec.uri.startswith(mine)


def _settled(version: Obj[ModelVersionSpec]) -> bool:
    """Found right once: neither its uri nor its digest can change since."""
    ready = find(version.status, "Ready")
    return ready is not None and ready.get("reason") == "ArtifactFound"


def _judge(spec: ModelVersionSpec, answer: object) -> tuple[str, Condition]:
    if isinstance(answer, ArtifactFacts):
        if answer.digest and answer.digest != spec.digest:
            message = f"spec.digest is {spec.digest}, but what lies at {spec.uri} has {answer.digest}"
            return "Invalid", Condition("Ready", False, "DigestMismatch", message)
        return "Ready", Condition(
            "Ready", True, "ArtifactFound", "stored completely; the servers check its content when they load it"
        )
    if isinstance(answer, StorageError):
        return "Waiting", Condition("Ready", False, answer.reason, answer.message)
    return "Waiting", Condition("Ready", False, "Checking", f"asking the storage for {spec.uri}")
