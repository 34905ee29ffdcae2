"""Plans of a Model and of a ModelVersion, given what was seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ultramarine.resources.model import ModelSpec, ModelStatus, ModelVersionSpec, ModelVersionStatus, version_number
from ultramarine_contract.errors import counted, listed
from ultramarine_contract.formats import CODE_EXECUTING_FORMATS
from ultramarine_contract.meta import MODEL_VERSION, Manifest, Ref
from ultramarine_contract.score import score
from ultramarine_contract.trusted_types import remedy_for, untrusted

from ...runs import deleting
from ...shared import statuses
from ...shared.artifacts import FOUND, Artifact
from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.plan import Event, Obj, Plan, Platform, Seen
from ...shared.questions import ArtifactFacts, CheckArtifact, CheckMlflow, MlflowFacts, Question
from ...shared.statuses import cut
from . import compiling, trust
from .deleting import series_of
from .serving import named, server_of, versions_of

LOOK_AGAIN = timedelta(seconds=30)
READ_AGAIN = timedelta(minutes=5)  # what has another digest may have been read for it


def plan_model(model: Obj[ModelSpec], seen: Seen, now: datetime) -> Plan:
    """Count the versions, and check that every alias leads to one."""
    versions = {str(v["spec"]["version"]): v for v in versions_of(model, seen)}
    numbers = sorted(map(version_number, versions), reverse=True)
    ready = [n for n in numbers if is_true(versions[str(n)].get("status") or {}, "Ready")]
    broken = {alias: to for alias, to in model.spec.aliases.items() if to not in versions}
    if broken:
        which = ", ".join(f"{alias} -> {to}" for alias, to in sorted(broken.items()))
        there = listed(numbers, 20) or "none yet"
        message = f"spec.aliases leads to versions that do not exist: {which} (there are: {there})"
        conditions = (Condition("Ready", False, "VersionNotFound", message), *health(done=False, progress=message))
    else:
        conditions = (Condition("Ready", True, "AliasesResolved", counted(len(numbers), "version")),)
    latest = max([version_number(model.status.get("latestVersion")), *numbers])
    series = series_of(model, seen)
    deletion = deleting.deletion(series, seen, now)
    retired = [v for v in _retired(model, seen) if deleting.may_go(series, v, seen.platform)]
    status = ModelStatus(
        observed_generation=model.generation,
        versions=len(numbers) - len(retired),
        latest_version=str(latest) if latest else "",
        latest_ready_version=str(ready[0]) if ready else "",
        aliases=", ".join(f"{alias}={to}" for alias, to in sorted(model.spec.aliases.items())),
    )
    if deletion.artifacts:
        status.artifacts = [artifact.status for artifact in deletion.artifacts]
    former_conditions = model.status.get("conditions") or []
    merged = merge(former_conditions, (*conditions, *deletion.conditions), model.generation, now)
    names = ", ".join(sorted(version["metadata"]["name"] for version in retired))
    return Plan(
        {**statuses.dumped(status), "conditions": merged},
        apply=deletion.apply,
        delete=(*deletion.delete, *(Ref.to(MODEL_VERSION, version) for version in retired)),
        absent=deletion.absent,
        events=(
            *((Event("VersionsRetired", f"deleted by spec.retention: {names}"),) if retired else ()),
            *deletion.events,
        ),
        after=deletion.after,
    )


def _retired(model: Obj[ModelSpec], seen: Seen) -> list[Manifest]:
    """Return the versions that retention gives up: older than the newest ready ones, and not named anywhere."""
    if model.spec.retention is None:
        return []
    versions = [v for v in versions_of(model, seen) if not v["metadata"].get("deletionTimestamp")]
    ready = sorted(_number(v) for v in versions if is_true(v.get("status") or {}, "Ready"))
    kept = ready[-model.spec.retention.versions :]
    if len(kept) < model.spec.retention.versions:
        return []
    spared = {*model.spec.aliases.values(), *named(model, seen)}
    old = [v for v in versions if _number(v) < kept[0] and str(v["spec"]["version"]) not in spared]
    # A version of pods that are still to be replaced stays too.
    return [v for v in old if not server_of(model, str(v["spec"]["version"]), seen)]


def _number(version: Manifest) -> int:
    return version_number(version["spec"].get("version"))


def questions_version(version: Obj[ModelVersionSpec], seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the artifact until it is verified; the servers check it again at every load."""
    version = trust.permitted(version, seen)
    artifact = _artifact(version, seen.platform)
    if _refused(version.spec) or artifact.is_foreign:
        return ()
    return compiling.questions(version, seen) if _settled(version) else (_question(version, artifact),)


def plan_version(version: Obj[ModelVersionSpec], seen: Seen, now: datetime) -> Plan:
    """Return if the version can be served, and otherwise the reason."""
    version = trust.permitted(version, seen)
    spec, artifact = version.spec, _artifact(version, seen.platform)
    after: timedelta | None = None
    size = int(version.status.get("bytes") or 0)
    without = version.status.keys() - {"requirements"}
    lines = list(statuses.former(version, ModelVersionStatus, without).requirements)
    compiled = compiling.former(version)
    if refusal := _refused(spec):
        state, condition = "Refused", Condition("Ready", False, compiling.REFUSED, refusal)
    elif artifact.is_foreign:
        remedy = f"copy the model to below {artifact.own}, and register that"
        message = f"spec.uri {spec.uri} is not this namespace's to read; {remedy}"
        state, condition = "Refused", Condition("Ready", False, "AccessDenied", message)
    else:
        if _settled(version):
            state, condition = "Ready", _found_before(version, artifact, size)
        else:
            answer = seen.answers.get(_question(version, artifact))
            state, condition = artifact.assess(answer)
            lines = list(answer.requirements) if isinstance(answer, MlflowFacts) else lines
            mismatch = condition.reason == "DigestMismatch"
            after = None if condition.status else READ_AGAIN if mismatch else LOOK_AGAIN
            size = answer.bytes if isinstance(answer, ArtifactFacts) else size
        if condition.status:
            compiled = compiling.compilation(version, seen, now)
            state, condition = _with(compiled, version, condition)
            after = compiled.after
    lines = list(compiled.requirements) or lines
    stuck = condition.message if state in ("Refused", "Invalid") else ""
    shown = health(done=condition.status is True, failed=stuck, progress=condition.message)
    compatible = _compatible(compiled)
    of_compiling = (compiled.condition,) if _shows_compiling(version, condition, compiled) else ()
    status = ModelVersionStatus(observed_generation=version.generation, state=state, bytes=size)
    if metrics := score(spec.lineage.metrics):
        status.score = metrics
    status.compiled = compiled.figures
    if lines:
        status.requirements = cut(ModelVersionStatus, requirements=lines)["requirements"]
    status.code_execution = trust.shown(version, seen, now)
    conditions = (condition, *of_compiling, *compatible, *shown)
    merged = merge(version.status.get("conditions") or [], conditions, version.generation, now)
    events = _events(version, condition, compiled.condition, *compatible)
    return Plan({**statuses.dumped(status), "conditions": merged}, apply=compiled.apply, events=events, after=after)


def _with(compiled: compiling.Compilation, version: Obj[ModelVersionSpec], ready: Condition) -> tuple[str, Condition]:
    """Return the state of a version whose artifact is verified.

    One that asks for compiling is not ready before that has ended, well or not: an endpoint that follows it would
    roll twice. One that no server can load is not ready, so that @latest does not lead to it.
    """
    settings, outcome = version.spec.compile, compiled.condition
    if compiled.unloadable:
        state = "Refused" if outcome.reason == compiling.REFUSED else "Invalid"
        return state, Condition("Ready", False, outcome.reason, outcome.message)
    if compiling.is_automatic(version) or settings is None:
        return "Ready", ready
    if compiled.under_way:
        return "Compiling", Condition("Ready", False, compiling.COMPILING, outcome.message)
    if settings.on_failure == "Fail" and not outcome.status and outcome.reason != compiling.NOT_ASKED:
        return "Invalid", Condition("Ready", False, outcome.reason, outcome.message)
    return "Ready", ready


def _compatible(compiled: compiling.Compilation) -> tuple[Condition, ...]:
    """Return a warning if another version of its library saved the model than the servers have."""
    if not compiled.mismatch:
        return ()
    return (Condition(compiling.COMPATIBLE, False, compiling.MISMATCH, compiled.mismatch),)


def _events(version: Obj[ModelVersionSpec], *new: Condition) -> tuple[Event, ...]:
    """Return an event for each condition with another reason than before, and each reason once."""
    events: dict[str, Event] = {}
    background = compiling.is_automatic(version)
    for condition in new:
        before = (find(version.status, condition.type) or {}).get("reason")
        untold = {before, compiling.NOT_ASKED}
        quiet = condition.status or condition.reason == compiling.COMPILING
        if background and condition.type == compiling.CONDITION:
            untold |= {compiling.COMPILING, compiling.SUPERSEDED}
            quiet = True
        if condition.reason not in untold:
            event = Event(condition.reason, condition.message, "Normal" if quiet else "Warning")
            events.setdefault(condition.reason, event)
    return tuple(events.values())


def _refused(spec: ModelVersionSpec) -> str:
    """Return why no server loads it without permission, and the remedy; empty if one does."""
    types = untrusted(spec.format.untrusted_types)  # by the operator's list, which may be longer than the trainer's was
    if spec.allow_code_execution or not (types or spec.format.name in CODE_EXECUTING_FORMATS):
        return ""
    if types:
        what, instead = f"it holds types that are not known to be safe: {', '.join(types)}", "store it as ONNX"
    else:
        what = f"loading the format {spec.format.name} runs code of its maker's choice"
        instead = "save the model as .skops or .onnx"
    permission = (
        f"if you trust its maker, run `ultramarine models trust {spec.model}@{spec.version}`, which sets "
        "spec.allowCodeExecution, or set spec.trust.allowCodeExecution of "
        f"Model {spec.model} for all of its versions, or {instead}"
    )
    return f"{what}; {remedy_for(types, permission)}"


def _artifact(version: Obj[ModelVersionSpec], platform: Platform) -> Artifact:
    return Artifact(version.namespace, version.spec.uri, version.spec.digest, platform)


def _question(version: Obj[ModelVersionSpec], artifact: Artifact) -> CheckArtifact:
    """Return the question for the facts of an artifact; of an MLflow folder its texts are read, too."""
    is_mlflow = version.spec.format.name == "mlflow" and artifact.is_folder and artifact.is_readable
    return CheckMlflow(artifact.uri) if is_mlflow else artifact.question


def _shows_compiling(version: Obj[ModelVersionSpec], ready: Condition, compiled: compiling.Compilation) -> bool:
    """True if the status has Compiled: if asked for, it appears once the artifact is verified, and stays."""
    begun = ready.status is True or ready.reason == compiling.COMPILING or compiling.has_begun(version)
    return begun or not compiled.under_way


def _settled(version: Obj[ModelVersionSpec]) -> bool:
    """True if the artifact was verified once: neither its uri nor its digest can change since."""
    ready = find(version.status, "Ready")
    return (ready is not None and ready.get("reason") == FOUND.reason) or compiling.has_begun(version)


def _found_before(version: Obj[ModelVersionSpec], artifact: Artifact, size: int) -> Condition:
    """Return the condition of the pass that verified the artifact, also if compiling has changed it since."""
    former = find(version.status, "Ready") or {}
    same = former.get("reason") == FOUND.reason and former.get("message")
    return replace(FOUND, message=str(same or artifact.verified(size)))
